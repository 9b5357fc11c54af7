"""Weights kept with their block, answers about new images, and ONNX files that vote as we do."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certidote import cli, verbs
from certidote.data.digits import load_digits
from certidote.engine.jobs import Job
from certidote.engine.ledger import Ledger
from certidote.engine.weights import CHUNK, WeightStore, poll
from certidote.streams import Key
from certidote.training.kept import MemberSlot
from certidote.training.model_dir import load_model
from certidote.training.models import build
from certidote.verbs.choices import transformed_test

RUN = {"sigma": 0.5, "models": 60, "n0": 10, "denoiser": "none", "seed": 3, "workers": 0, "dtype": "float32"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deployment") / "run"
    verbs.certify("digits", out=out, keep_weights=True, **RUN)  # type: ignore[arg-type]
    return out


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "weights").iterdir()}


def moved(run: Path, to: Path) -> Path:
    """A copy of a run that a test may change."""
    import shutil

    return Path(shutil.copytree(run, to))


def save_png(images: torch.Tensor, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for row, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{row:03d}.png")
    return folder


# ----------------------------------------------------------------------------------------------------------------- weights


def test_every_block_has_its_file(run: Path) -> None:
    assert set(files(run)) == {"00000-00031.safetensors", "00032-00063.safetensors", "00064-00069.safetensors"}


def test_kept_weights_give_the_committed_votes(run: Path) -> None:
    test = load_digits("test")
    with Ledger(run / "ledger.sqlite") as ledger:
        votes, failed = poll(WeightStore(run), ledger.kept(), MemberSlot("mlp-128", (1, 8, 8), 10), test.images[:90])
        stored = np.frombuffer(ledger._db.execute("SELECT votes FROM blocks WHERE first = 32").fetchone()[0], dtype=np.uint8)
    assert not failed.any()
    # Rounding may differ between batch shapes, so two nearly equal logits may swap: none in 3,000 votes would be worth a look.
    assert (votes[32:64] != stored.reshape(32, 400)[:, :90]).sum() <= 1


def test_an_answer_does_not_depend_on_the_images_beside_it(run: Path) -> None:
    images = load_digits("test").images[: CHUNK + 3]
    with Ledger(run / "ledger.sqlite") as ledger:
        kept = ledger.kept()[-1:]
    slot = MemberSlot("mlp-128", (1, 8, 8), 10)
    together = poll(WeightStore(run), kept, slot, images)[0]
    for row in (0, CHUNK, CHUNK + 2):
        assert np.array_equal(poll(WeightStore(run), kept, slot, images[row : row + 1])[0][:, 0], together[:, row])


def test_after_a_kill_files_are_those_of_committed_members(run: Path, tmp_path: Path) -> None:
    """A kill between writing a file and committing its block leaves a file; one before leaves a block to do."""
    broken = moved(run, tmp_path / "run")
    with Ledger(broken / "ledger.sqlite") as ledger:
        for table in ("blocks", "weights"):
            ledger._db.execute(f"DELETE FROM {table} WHERE first = 32")
    (broken / "weights" / "00032-00063.safetensors").write_bytes(b"of a block that was never committed")
    (broken / "weights" / "00096-00127.safetensors").write_bytes(b"of no block at all")
    verbs.certify("digits", out=broken, keep_weights=True, **RUN)  # type: ignore[arg-type]
    assert files(broken) == files(run)
    with Ledger(broken / "ledger.sqlite") as ledger:
        assert [kept.job for kept in ledger.kept()] == ledger.jobs() == [Job(0, 32), Job(32, 64), Job(64, 70)]


def test_a_run_started_without_weights_gets_them_later_and_says_so_until_then(run: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    verbs.certify("digits", out=later, **RUN)  # type: ignore[arg-type]
    before = (later / "images.csv").read_text()
    with pytest.raises(ValueError, match=r"holds no weights; run the same 'certidote certify' again with --keep-weights"):
        verbs.predict(later, "digits:test")
    verbs.certify("digits", out=later, keep_weights=True, **RUN)  # type: ignore[arg-type]
    assert files(later) == files(run)
    assert (later / "images.csv").read_text() == before


def test_members_that_come_out_otherwise_keep_their_votes_and_get_no_weights(run: Path, tmp_path: Path) -> None:
    other = moved(run, tmp_path / "run")
    with Ledger(other / "ledger.sqlite") as ledger:
        votes = bytearray(ledger._db.execute("SELECT votes FROM blocks WHERE first = 0").fetchone()[0])
        votes[17] = (votes[17] + 1) % 10
        ledger._db.execute("UPDATE blocks SET votes = ? WHERE first = 0", (bytes(votes),))
        ledger._db.execute("DELETE FROM weights WHERE first = 0")
    with pytest.raises(ValueError, match="members 0 to 31, trained again for their weights, vote otherwise"):
        verbs.certify("digits", out=other, keep_weights=True, **RUN)  # type: ignore[arg-type]
    with Ledger(other / "ledger.sqlite") as ledger:
        assert ledger._db.execute("SELECT votes FROM blocks WHERE first = 0").fetchone()[0] == bytes(votes)
        assert [kept.job.first for kept in ledger.kept()] == [32, 64]


def test_damaged_and_missing_weights_are_named(run: Path, tmp_path: Path) -> None:
    damaged = moved(run, tmp_path / "run")
    path = damaged / "weights" / "00032-00063.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    picture = save_png(255 - load_digits("test").images[:1], tmp_path / "new")
    with pytest.raises(ValueError, match=r"00032-00063.safetensors is damaged: its SHA-256"):
        verbs.predict(damaged, str(picture))
    path.unlink()
    with pytest.raises(ValueError, match=r"00032-00063.safetensors cannot be read"):
        verbs.predict(damaged, str(picture))


def test_the_plan_says_what_the_disk_must_hold(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = verbs.certify("digits", out=tmp_path / "run", keep_weights=True, dry_run=True, **RUN)  # type: ignore[arg-type]
    assert isinstance(plan, verbs.Plan)
    parameters = 64 * 128 + 128 + 128 * 10 + 10
    expected = 70 * 4 * parameters
    assert any(f"weights: {expected / 1e6:.1f} MB in" in line for line in plan.lines)
    assert 0 <= sum(map(len, files(run).values())) - expected < 0.05 * expected, "the rest is headers"
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": expected - 1})())
    with pytest.raises(ValueError, match="leave out --keep-weights"):
        verbs.certify("digits", out=tmp_path / "run", keep_weights=True, **RUN)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------------------- predict


def test_test_images_get_exactly_their_certificate(run: Path, tmp_path: Path) -> None:
    """From PNG files of the run's test images in another order: answer, votes, bound and radius as certified."""
    record = json.loads((run / "certificate.json").read_text())["per_image"]
    order = np.random.default_rng(0).permutation(400)
    result = verbs.predict(run, str(save_png(load_digits("test").images[order], tmp_path / "pictures")))
    assert [row["test_image"] for row in result.rows] == order.tolist()
    assert [-1 if row["answer"] is None else int(row["answer"]) for row in result.rows] == [record["label"][i] for i in order]
    assert [row["radius"] for row in result.rows] == [record["radius"][i] for i in order]
    assert [row["lower_bound"] for row in result.rows] == [record["lower_bound"][i] for i in order]
    assert [row["votes"] for row in result.rows] == [record["top_count"][i] for i in order]
    assert any(row["answer"] is None for row in result.rows), "some abstain, or this tests less than it should"


def test_new_images_are_answered_by_the_kept_members(run: Path, tmp_path: Path) -> None:
    """Counts equal those of members loaded and asked one by one, written out the slow way."""
    images = load_digits("test").images[:6].flip(3)
    result = verbs.predict(run, str(save_png(images, tmp_path / "new")), out=tmp_path / "answers.json")
    votes = []
    with Ledger(run / "ledger.sqlite") as ledger:
        for kept in ledger.kept():
            slot = MemberSlot("mlp-128", (1, 8, 8), 10)
            votes += [
                model(images.float() / 255).argmax(1).numpy()
                for model in slot.holding(WeightStore(run).read(kept), kept.job.last - kept.job.first, "")
            ]
    votes = np.stack(votes)
    for i, row in enumerate(result.rows):
        counts = np.bincount(votes[10:, i], minlength=10)
        assert list(row["counts"].values()) == counts.tolist()
        candidate = np.bincount(votes[:10, i], minlength=10).argmax()
        assert row["votes"] == counts[candidate]
        assert row["test_image"] is None
    written = json.loads((tmp_path / "answers.json").read_text())
    assert written["images"] == list(result.rows)
    assert any("had not seen the models" in item for item in written["assumptions"])


def test_an_alpha_chosen_now_is_said(run: Path) -> None:
    usual, looser = verbs.predict(run, "digits:test"), verbs.predict(run, "digits:test", alpha=0.05)
    assert all(a["radius"] <= b["radius"] for a, b in zip(usual.rows, looser.rows, strict=True))
    assert max(row["radius"] for row in looser.rows) > max(row["radius"] for row in usual.rows)
    assert any("alpha 0.05 was chosen without knowledge of any votes" in item for item in looser.assumptions)
    assert not any("was chosen without" in item for item in usual.assumptions)
    assert "probability at least 1 - 0.05" in looser.claim


def test_csv_has_a_column_for_each_class(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    result = verbs.predict(run, "digits:test", out=out)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [float(row["radius"]) for row in rows] == [row["radius"] for row in result.rows]
    assert [int(row["count of 7"]) for row in rows] == [row["counts"]["7"] for row in result.rows]


@pytest.mark.parametrize("form", ["file", "folder", "class folders", "npz", "npz without labels"])
def test_forms_of_images(run: Path, tmp_path: Path, form: str) -> None:
    images = load_digits("test").images[:4]
    place = tmp_path / "images"
    if form == "file":
        place = save_png(images[:1], place) / "000.png"
    elif form == "folder":
        save_png(images, place)
    elif form == "class folders":
        save_png(images[:2], place / "a")
        save_png(images[2:], place / "b")
    else:
        place = tmp_path / "images.npz"
        arrays = {"images": images[:, 0].numpy()} | ({"labels": np.array([0, 1, 0, 1])} if form == "npz" else {})
        np.savez(place, **arrays)
    rows = verbs.predict(run, str(place)).rows
    assert [row["test_image"] for row in rows] == list(range(1 if form == "file" else 4))


def color(folder: Path) -> Path:
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "color.png")
    return folder


def large(folder: Path) -> Path:
    return save_png(torch.zeros(1, 1, 16, 16, dtype=torch.uint8), folder)


def mixed(folder: Path) -> Path:
    save_png(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), folder / "a")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "loose.png")
    return folder


def text(folder: Path) -> Path:
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    return folder / "notes.txt"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (color, "is in color, but the classifier takes gray images"),
        (large, "images of shape 1x16x16, but the models of"),
        (mixed, "holds both images ('loose.png') and folders ('a')"),
        (text, "is no image file"),
        (lambda folder: folder / "nothing", "there is no file or folder"),
        (lambda folder: folder.mkdir() or folder, "is empty; give an image file, a folder of images, an .npz file"),
    ],
)
def test_images_that_do_not_fit_are_one_line(
    run: Path, tmp_path: Path, make: object, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make(tmp_path / "images")  # type: ignore[operator]
    monkeypatch.setattr("sys.argv", ["certidote", "predict", str(run), str(place)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_a_transform_leaves_the_names_and_notes_of_test_images() -> None:
    named = replace(load_digits("test").subset(range(3)), names=("a.png", "b.png", "c.png"), notes=("resized to 8x8",))
    passed, _ = transformed_test(named, "ownmodels:mirrored", named.image_shape)
    assert passed.names == named.names
    assert passed.notes == ("resized to 8x8", "test images passed through the function ownmodels:mirrored")
    assert torch.equal(passed.images, named.images.flip(-1))


def test_other_sizes_corrupt_files_and_hostile_names(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_png(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), tmp_path / "images")
    (folder / "000.png").rename(folder / "a\x1b[31m.png")
    (folder / "broken.png").write_bytes(b"nothing")
    answers = tmp_path / "answers.json"

    def said(*options: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["certidote", "predict", str(run), str(folder), *options])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        streams = capsys.readouterr()
        return int(stop.value.code or 0), streams.out + streams.err

    code, text = said()
    assert code == 2
    assert "broken.png" in text
    assert "leave such files out with --skip-corrupt" in text
    code, text = said("--skip-corrupt")
    assert code == 2
    assert "but the models of" in text
    assert "give --size 8x8 to resize them" in text
    code, text = said("--skip-corrupt", "--size", "8")
    assert code == 0
    assert "2 images, " in text
    assert "\x1b" not in text
    assert "a\\x1b[31m.png: " in text
    assert "left out: " in text
    assert "broken.png" in text
    assert said("--skip-corrupt", "--size", "8", "--out", str(answers))[0] == 0
    assert [each["name"] for each in json.loads(answers.read_text())["skipped"]] == ["broken.png"]


def test_names_of_files_are_no_formulas_in_tables(run: Path, tmp_path: Path) -> None:
    folder = save_png(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), tmp_path / "images")
    (folder / "000.png").rename(folder / "=HYPERLINK(1).png")
    out = tmp_path / "answers.csv"
    verbs.predict(run, str(folder), out=out)
    assert out.read_text().splitlines()[1].startswith("'=HYPERLINK(1).png,")


def test_own_code_from_certify_to_predict(tmp_path: Path) -> None:
    own = {"model": "ownmodels:small", "test_transform": "ownmodels:mirrored"}
    run, recipe = tmp_path / "run", tmp_path / "brief.toml"
    recipe.write_text('architecture = "cnn-32-64"\nepochs = 1\nlearning_rate = 0.1\n')
    certified = verbs.certify(
        "digits", out=run, sigma=0.5, models=12, n0=2, denoiser="none", workers=1, dtype="float32", recipe=str(recipe),
        keep_weights=True, **own,  # type: ignore[arg-type]
    )  # fmt: skip
    assert isinstance(certified, verbs.Certified)
    assert certified.record["test"]["notes"] == ["test images passed through the function ownmodels:mirrored"]
    texts = [item["text"] for item in certified.record["assumptions"]]
    assert any("code of the architecture" in text for text in texts)
    assert any("test transform was made without" in text for text in texts)
    for missing, expected in (
        ("model", "has the model 'ownmodels:small', which is code"),
        ("test_transform", "has the test transform"),
    ):
        with pytest.raises(ValueError, match=expected):
            verbs.predict(run, "digits:test", **{name: value for name, value in own.items() if name != missing})
    rows = verbs.predict(run, "digits:test", **own).rows
    assert [row["radius"] for row in rows] == certified.record["per_image"]["radius"]
    with pytest.raises(ValueError, match="holds a run with"):
        verbs.certify("digits", out=run, sigma=0.5, models=12, n0=2, denoiser="none", dtype="float32", model="ownmodels:small")


# ------------------------------------------------------------------------------------------------------------------ export


def onnx_answers(path: Path, images: torch.Tensor) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images.numpy()}), strict=True))


def test_an_exported_vote_counts_as_we_do(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'certidote[onnx]'")
    exported = verbs.export(run, stack=True, out=tmp_path / "vote.onnx")
    assert exported.members == 70
    answers = onnx_answers(tmp_path / "vote.onnx", load_digits("test").pixels())
    with Ledger(run / "ledger.sqlite") as ledger:
        stored = [
            np.frombuffer(row[0], dtype=np.uint8).reshape(-1, 400)
            for row in ledger._db.execute("SELECT votes FROM blocks ORDER BY first")
        ]
    votes = np.concatenate(stored)
    counts = np.stack([(votes == c).sum(0) for c in range(10)], axis=1)
    assert (answers["counts"].sum(1) == 70).all()
    assert np.abs(answers["counts"] - counts).sum() <= 4, "two of 28,000 votes may be nearly tied"
    assert np.array_equal(answers["label"], answers["counts"].argmax(1))


def test_an_exported_member_answers_as_it_does(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'certidote[onnx]'")
    recipe = tmp_path / "brief.toml"
    recipe.write_text('architecture = "cnn-32-64"\nepochs = 1\nlearning_rate = 0.1\n')
    verbs.train("digits", out=tmp_path / "model", recipe=str(recipe), model="ownmodels:small", dtype="float32", seed=0)
    with pytest.raises(ValueError, match="which is code"):
        verbs.export(tmp_path / "model", member=0, out=tmp_path / "member.onnx")
    verbs.export(tmp_path / "model", member=0, out=tmp_path / "member.onnx", model="ownmodels:small")
    images = load_digits("test").pixels()[:33]
    with torch.no_grad():
        wanted = load_model(tmp_path / "model", "ownmodels:small")(images)
    answers = onnx_answers(tmp_path / "member.onnx", images)
    np.testing.assert_allclose(answers["logits"], wanted.numpy(), rtol=1e-3, atol=1e-4)
    assert np.array_equal(answers["label"], wanted.argmax(1).numpy())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"out": Path("x.onnx")}, "give either --member NUMBER or --stack"),
        ({"out": Path("x.onnx"), "member": 0, "stack": True}, "give either"),
        ({"out": Path("x.bin"), "stack": True}, "ends in .onnx"),
        ({"out": Path("nowhere/x.onnx"), "stack": True}, "does not exist; create it first"),
        ({"out": Path("x.onnx"), "member": 70}, "has members 0 to 69"),
    ],
)
def test_wrong_exports_are_refused(run: Path, arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        verbs.export(run, **arguments)  # type: ignore[arg-type]
    assert not Path("x.onnx").exists()


def test_a_missing_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx and onnxscript; install the extra: pip install 'certidote\[onnx\]'"):
        verbs.export(run, stack=True, out=Path("x.onnx"))


def test_a_slot_refuses_other_members() -> None:
    from safetensors.torch import save

    slot = MemberSlot("mlp-128", (1, 8, 8), 10)
    other = {f"0.{name}": value for name, value in build("mlp-128", (1, 9, 9), 10, Key(0)).state_dict().items()}
    with pytest.raises(ValueError, match="FILE is damaged: weight 'hidden.weight'"):
        next(slot.holding(save(other), 1, "FILE"))
    with pytest.raises(ValueError, match="should hold 1 members"):
        next(slot.holding(save({"1.head.bias": torch.zeros(10)}), 1, "FILE"))
    with pytest.raises(ValueError, match="FILE is damaged"):
        next(slot.holding(b"no archive", 1, "FILE"))
