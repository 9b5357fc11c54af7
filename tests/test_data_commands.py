"""`data info`, and --size and --skip-corrupt through the commands that take DATA."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import certidote
from certidote.data.tiny import tiny
from certidote.data.write import write_folder, write_npz
from certidote.streams import Key
from commands import run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve training and eight test images of 20x30 pixels, one training image of 40x30, one corrupt, some duplicates."""
    root = tmp_path / "photos"
    root.mkdir()
    write_folder(tiny(6, 2, (1, 20, 30), Key(1)), root / "train")
    write_folder(tiny(4, 2, (1, 20, 30), Key(2)), root / "test")
    first = sorted((root / "train" / "pattern-0").iterdir())[0]
    (root / "train" / "pattern-0" / "copy.png").write_bytes(first.read_bytes())
    (root / "train" / "pattern-1" / "wrong.png").write_bytes(first.read_bytes())
    (root / "test" / "pattern-0" / "leak.png").write_bytes(first.read_bytes())
    (root / "train" / "pattern-1" / "broken.png").write_bytes(b"junk")
    Image.fromarray(np.full((40, 30), 99, np.uint8)).save(root / "train" / "pattern-1" / "tall.png")
    return root


def test_info(photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = certidote.data_info(str(photos), size="16", skip_corrupt=True)
    train, test = found["splits"]
    assert (train["split"], train["images"], train["image_shape"]) == ("train", 15, [1, 16, 16])
    assert train["sizes"] == {"20x30": 14, "40x30": 1}, "as the files are"
    assert train["classes"] == {"pattern-0": 7, "pattern-1": 8}
    assert train["converted"] == {"resized": 15}
    assert [file["name"] for file in train["skipped"]] == ["train/pattern-1/broken.png"]
    assert {name: train["duplicates"][name] for name in ("groups", "extra", "across_classes")} == {
        "groups": 1, "extra": 2, "across_classes": 1,
    }  # fmt: skip
    assert train["duplicates"]["first"] == [["train/pattern-0/00.png", "train/pattern-0/copy.png", "train/pattern-1/wrong.png"]]
    assert test["duplicates"]["groups"] == 0
    assert found["shared"] == [{"of": "test", "in": "train", "images": 1, "first": ["test/pattern-0/leak.png"]}]
    assert train["digest"] == certidote.load(photos, size=16, skip_corrupt=True).digest()
    assert (found["refusals"], found["needs_size"]) == ([], False)
    assert run(monkeypatch, "data", "info", str(photos), "--size", "16", "--skip-corrupt") == 0
    said = capsys.readouterr().out
    for part in ("train: 15 gray images of 16x16", "pattern-0 7, pattern-1 8", "2 images repeat another one exactly (1 group, 1 of",
                 "left out: ", "1 image of test is also in train: test/pattern-0/leak.png", train["digest"],
                 "    14 of 20x30\n     1 of 40x30\n"):  # fmt: skip
        assert part in said
    assert "certify would refuse" not in said
    assert [part["split"] for part in certidote.data_info(str(photos), split="test")["splits"]] == ["test"]


def test_mixed_sizes_are_listed_and_everything_else_is_too(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same findings as of images that have one size, but for the digest, of which there are two kinds."""
    for number, sides in enumerate([(4, 30), (300, 500), (300, 500)]):
        gray = np.arange(sides[0] * sides[1], dtype=np.uint32).reshape(sides) % 251
        Image.fromarray(gray.astype(np.uint8)).save(photos / "train" / "pattern-1" / f"odd-{number}.png")
    found = certidote.data_info(str(photos), skip_corrupt=True)
    train, test = found["splits"]
    assert train["sizes"] == {"20x30": 14, "300x500": 2, "4x30": 1, "40x30": 1}
    assert next(iter(train["sizes"])) == "20x30", "the most frequent one first"
    assert (train["images"], train["image_shape"], train["channels"], train["digest"]) == (18, None, 1, None)
    assert train["classes"] == {"pattern-0": 7, "pattern-1": 11}
    assert ["train/pattern-1/odd-1.png", "train/pattern-1/odd-2.png"] in train["duplicates"]["first"]
    assert train["duplicates"]["extra"] == 3
    assert [file["name"] for file in train["skipped"]] == ["train/pattern-1/broken.png"]
    assert found["shared"] == [{"of": "test", "in": "train", "images": 1, "first": ["test/pattern-0/leak.png"]}]
    assert (test["image_shape"], found["needs_size"]) == ([1, 20, 30], True)
    assert run(monkeypatch, "data", "info", str(photos), "--skip-corrupt") == 0
    said = capsys.readouterr().out
    for part in ("train: 18 gray images of 4 sizes, 2 classes", "    14 of 20x30\n     2 of 300x500\n     1 of 4x30\n     1 of 40x30\n",
                 "test: 9 gray images of 20x30 pixels", "certify and sanitize need images of one size: give --size",
                 "certify would refuse this: ", train["surveyed_digest"]):  # fmt: skip
        assert part in said
    for verb in (certidote.certify, certidote.sanitize):
        with pytest.raises(ValueError, match="give --size"):
            verb(str(photos), out=photos.parent / "out", skip_corrupt=True)


def test_many_sizes_are_a_short_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, sides in (("ant", range(8, 20)), ("bee", range(12, 31))):
        (tmp_path / name).mkdir()
        for side in sides:
            Image.fromarray(np.zeros((side, 9), np.uint8)).save(tmp_path / name / f"{side}.png")
    assert run(monkeypatch, "data", "info", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "    2 of 12x9\n" in said
    assert "    11 of 11 other sizes" in said


def test_all_corrupt_files_are_listed(photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Up to a number of them; it is a failure unless they are to be left out."""
    for number in range(24):
        (photos / "test" / "pattern-1" / f"bad-{number:02}.png").write_bytes(b"junk")
    assert run(monkeypatch, "data", "info", str(photos), "--size", "16") == 2
    said, error = capsys.readouterr()
    assert error == "error: 25 corrupt files; repair or remove them, or leave such files out with --skip-corrupt\n"
    assert said.count("  corrupt: '") == 1 + 20
    for name in ("broken.png' is not a readable PNG", "bad-00.png", "bad-19.png", "corrupt: 4 more files, 24 in all", "digest "):
        assert name in said
    assert "bad-20.png" not in said
    assert "left out" not in said, "they were not to be"
    assert run(monkeypatch, "data", "info", str(photos), "--size", "16", "--skip-corrupt") == 0
    assert "24 corrupt files left out (--skip-corrupt)" in capsys.readouterr().out
    found = certidote.data_info(str(photos), size="16")
    assert [len(part["skipped"]) for part in found["splits"]] == [1, 24], "names in full for programs"


def test_what_certify_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A class missing in one part, one that lost its images, parts of different sizes: in the words of certify."""

    def refusals(data: Path) -> list[str]:
        assert run(monkeypatch, "data", "info", str(data), "--skip-corrupt") == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("certify would refuse this: ")]

    root = tmp_path / "photos"
    root.mkdir()
    write_folder(tiny(6, 3, (1, 9, 9), Key(1)), root / "train")
    write_folder(tiny(6, 2, (1, 9, 9), Key(2)), root / "test")
    (said,) = refusals(root)
    assert (
        "with test as test images, training and test set have different classes: 3 and 2, only the training set has 'pattern-2'"
        in said
    )
    with pytest.raises(ValueError, match="different classes: 3 and 2"):
        certidote.certify(str(root), out=tmp_path / "run", denoiser="none", models=2, n0=0)
    write_folder(tiny(6, 3, (1, 9, 9), Key(2)), root / "val")
    shutil.rmtree(root / "test")
    assert refusals(root) == []
    shutil.rmtree(root / "val")
    write_folder(tiny(6, 3, (1, 9, 10), Key(2)), root / "test")
    assert "(1, 9, 9), test images (1, 9, 10)" in refusals(root)[0]
    for file in (root / "train" / "pattern-2").iterdir():
        file.write_bytes(b"junk")
    lost, unlearned = refusals(root)
    assert "every image of class 'pattern-2' in" in lost
    assert "no training image has the label of class 'pattern-2', but 6 test images have" in unlearned
    np.savez(tmp_path / "from1.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.array([1, 2, 1, 2]))
    assert "no training image has the label of class '0'; add images" in refusals(tmp_path / "from1.npz")[0]


@pytest.mark.parametrize("form", ["npz", "zip", "parquet"])
def test_other_forms_of_data_are_surveyed_alike(tmp_path: Path, form: str) -> None:
    """Images that are too large for a data set, in each form that can hold them, have the findings of the folder."""
    images = tiny(3, 2, (3, 230, 240), Key(1))
    write_folder(images, tmp_path / "photos")
    whole = certidote.data_info(str(tmp_path / "photos"))["splits"][0]
    assert (whole["image_shape"], whole["digest"]) == ([3, 230, 240], None)
    if form == "npz":
        path = tmp_path / "photos.npz"
        write_npz(images, path)
    elif form == "zip":
        path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "photos"))
    else:
        path = parquet_of(tmp_path / "photos", tmp_path / "photos.parquet")
    (part,) = certidote.data_info(str(path))["splits"]
    same = ("images", "channels", "image_shape", "sizes")
    assert {name: part[name] for name in same} == {name: whole[name] for name in same}
    assert list(part["classes"].values()) == list(whole["classes"].values())
    assert part["duplicates"]["groups"] == whole["duplicates"]["groups"] == 0


def parquet_of(folder: Path, path: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    files = sorted(folder.glob("*/*"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [int(file.parent.name[-1]) for file in files]
    parquet.write_table(pyarrow.table({"image": images, "label": labels}), path)
    return path


def test_size_and_skipping_reach_every_command_and_record(photos: Path, tmp_path: Path) -> None:
    note = "15 images resized to 8x8 pixels"
    skipped = "1 corrupt file left out"
    common = {"size": "8", "skip_corrupt": True, "dtype": "float32", "seed": 1}
    certidote.train(str(photos), out=tmp_path / "model", recipe="mlp", **common)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["image_shape"] == [1, 8, 8]
    assert [each.startswith(start) for each, start in zip(config["data_notes"], (note, skipped), strict=True)] == [True, True]
    done = certidote.certify(
        str(photos),
        out=tmp_path / "run",
        models=10,
        n0=2,
        sigma=0.25,
        denoiser=f"linear-mmse:{photos}",
        recipe="mlp",
        workers=0,
        **common,
    )
    data, test = done.record["data"], done.record["test"]
    assert [each.startswith(start) for each, start in zip(data["notes"], (note, skipped), strict=True)] == [True, True]
    assert test["notes"][0].startswith("9 images resized to 8x8")
    assert "every budget and radius speaks of the resized pixels" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ValueError, match="size"):
        certidote.certify(str(photos), out=tmp_path / "run", models=10, n0=2, sigma=0.25, denoiser="none", recipe="mlp", workers=0,
                          **{**common, "size": "9"})  # fmt: skip
