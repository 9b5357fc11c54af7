"""Pictures in a run's record: real ones, made after the votes, and without them the certificate is the same."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from certidote import certify, report
from certidote.data import load
from certidote.data.digits import load_digits
from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.defenses.partition import rows_of_parts
from certidote.streams import Key, normal_block
from certidote.verbs import Certified


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pictures") / "run"
    made = certify("digits", out=out, sigma=0.5, models=30, n0=10, denoiser="none", seed=3, workers=0, dtype="float32")
    assert isinstance(made, Certified)
    assert made.proved
    return out


def record_of(run: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((run / "certificate.json").read_text()) | json.loads((run / "pictures.json").read_text())


def levels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_the_gallery_shows_what_the_first_model_saw(run: Path) -> None:
    picture = record_of(run)["gallery"][0]
    assert [row["label"] for row in picture["rows"]] == ["original", "noised", "difference"], "no denoiser, nothing denoised"
    original, noised, difference = ([levels(png) for png in row["pngs"]] for row in picture["rows"])
    train = load_digits("train")
    noise = normal_block(Key(3) / "members" / 0 / "noise", range(500), (1, 8, 8))
    rows = [int(caption.split()[2].rstrip(",")) for caption in picture["captions"]]
    assert len(set(rows)) == 6
    for i, row in enumerate(rows):
        image = train.images[row, 0].numpy()
        assert np.array_equal(original[i], image)
        wanted = np.clip(image / 255 + 0.5 * noise[row, 0].numpy(), 0, 1) * 255
        assert np.abs(noised[i] - wanted).max() <= 0.501
        assert np.array_equal(difference[i], (noised[i].astype(int) - image) // 2 + 128)


def test_pictures_of_a_run_in_parts_are_of_the_first_model_s_part_and_name_trusted_images(tmp_path: Path) -> None:
    train, trusted = load_digits("train"), tuple(range(0, 500, 3))
    (tmp_path / "trusted.txt").write_text("\n".join(map(str, trusted)))
    made = certify(
        "digits", out=tmp_path / "run", sigma=0.5, models=14, n0=1, parts=2, denoiser="none", seed=3, workers=0, dtype="float32",
        trusted=tmp_path / "trusted.txt",
    )  # fmt: skip
    assert isinstance(made, Certified)
    part = rows_of_parts(500, trusted, 2)[0]
    noise = normal_block(Key(3) / "members" / 0 / "noise", range(len(part)), (1, 8, 8))
    picture = made.pictures["gallery"][0]
    assert picture["title"] == f"Training images as the first model saw them ({len(part)} of 500: its part)"
    original, noised, _ = ([levels(png) for png in row["pngs"]] for row in picture["rows"])
    marked = []
    for i, caption in enumerate(picture["captions"]):
        row = int(caption.split()[2].rstrip(","))
        image, known = train.images[row, 0].numpy(), caption.endswith(" (trusted: no noise)")
        assert known == (row in trusted)
        assert np.array_equal(original[i], image)
        wanted = image / 255 + (0 if known else 0.5) * noise[part.index(row), 0].numpy()
        assert np.abs(noised[i] - np.clip(wanted, 0, 1) * 255).max() <= 0.501
        marked.append(known)
    assert set(marked) == {True, False}, "or this tests less than it should"


def test_examples_are_the_recorded_results(run: Path) -> None:
    record = record_of(run)
    per_image, test = record["per_image"], load_digits("test")
    assert {each["kind"] for each in record["examples"]} >= {"certified", "abstained"}
    for each in record["examples"]:
        row = each["test_image"]
        assert each["radius"] == per_image["radius"][row]
        assert each["true"] == str(per_image["true"][row])
        assert each["label"] == (None if per_image["label"][row] < 0 else str(per_image["label"][row]))
        assert np.array_equal(levels(each["png"]), test.images[row, 0].numpy())
        if each["label"] is not None:
            assert dict(each["top"])[each["label"]] == per_image["top_count"][row]


def test_without_pictures_the_certificate_is_the_same_and_no_image_is_kept(run: Path, tmp_path: Path) -> None:
    private = certify(
        "digits",
        out=tmp_path / "run",
        sigma=0.5,
        models=30,
        n0=10,
        denoiser="none",
        seed=3,
        workers=0,
        dtype="float32",
        gallery=False,
    )
    assert isinstance(private, Certified)
    shown = record_of(run)
    for name in ("per_image", "results", "claim", "config_digest", "votes_digest"):
        assert private.record[name] == shown[name]
    assert private.pictures["gallery"] == []
    assert {each["png"] for each in private.pictures["examples"]} == {""}
    assert "data:image" not in (tmp_path / "run" / "report.html").read_text()


def test_names_of_test_files_are_shown_with_pictures_only(tmp_path: Path) -> None:
    """File names may be as private as what is on the pictures: without a gallery they are in no file that is handed on."""
    (tmp_path / "photos").mkdir()
    for split, key in (("train", Key(1)), ("test", Key(2))):
        write_folder(tiny(8, 2, (1, 8, 8), key), tmp_path / "photos" / split)
    common = {"sigma": 0.5, "models": 20, "n0": 5, "denoiser": "none", "seed": 3, "workers": 0, "dtype": "float32"}
    shown, hidden = tmp_path / "shown", tmp_path / "hidden"
    certify(str(tmp_path / "photos"), out=shown, **common)
    certify(str(tmp_path / "photos"), out=hidden, gallery=False, **common)
    names = load(tmp_path / "photos", "test").names
    assert names is not None
    kept = record_of(shown)["examples"]
    assert kept
    assert all(each["name"] == names[each["test_image"]] for each in kept)
    page = (shown / "report.html").read_text()
    assert all(f"Test image {each['test_image']}, {each['name']}" in page for each in kept)
    for name in ("report.html", "pictures.json", "certificate.json", "images.csv"):
        assert "test/pattern" not in (hidden / name).read_text()
    assert report(shown, gallery=False).notes
    assert "test/pattern" not in (shown / "report.html").read_text()
    assert report(hidden, gallery=False).notes == ()


def test_a_report_can_leave_them_out_and_the_record_keeps_them(run: Path) -> None:
    record, page = (run / "certificate.json").read_bytes(), (run / "report.html").read_bytes()
    assert b"data:image/png" in page
    report(run, gallery=False)
    assert b"data:image" not in (run / "report.html").read_bytes()
    assert (run / "certificate.json").read_bytes() == record
    report(run)
    assert (run / "report.html").read_bytes() == page
