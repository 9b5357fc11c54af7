"""Wrong options are refused in one line before any work is done, whatever the command."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from certidote import cli, verbs
from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.streams import Key
from certidote.verbs.choices import input_paths


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with status 2 and one line on standard error, which it returns."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["certidote", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.startswith("error: ")
        assert len(error.strip().splitlines()) == 1
        return error

    return run


@pytest.mark.parametrize(
    "command",
    [
        ("certify", "digits"),
        ("certify", "digits", "--dry-run"),
        ("train", "digits"),
        ("denoiser", "train", "digits"),
        ("sanitize", "digits"),
        ("merge", "a", "b"),
        ("demo",),
        ("threat-map", "--workers", "0"),
        ("data", "fetch", "cifar10"),
    ],
    ids="-".join,
)
def test_a_file_where_a_directory_should_be(command: tuple[str, ...], refused: Callable[..., str], tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.write_text("a letter")
    for out in (place, place / "below"):
        error = refused(*command, "--out", out)
        assert "Errno" not in error
        assert str(place) in error
    assert place.read_text() == "a letter"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_directory_where_a_file_should_be(command: str, refused: Callable[..., str], tmp_path: Path) -> None:
    name = "answers.csv" if command == "predict" else "vote.onnx"
    (tmp_path / name).mkdir()
    given = [tmp_path / "run", "images"] if command == "predict" else [tmp_path / "run", "--stack"]
    assert "it is a directory; give the name of a file" in refused(command, *given, "--out", tmp_path / name)
    assert "its folder does not exist; create it first" in refused(command, *given, "--out", tmp_path / "nowhere" / name)


@pytest.mark.parametrize("models", [(), ("--models", 12, "--n0", 2)], ids=["many models", "few models"])
def test_more_parts_than_images_is_the_reason_given(
    models: tuple[object, ...], refused: Callable[..., str], tmp_path: Path
) -> None:
    error = refused("certify", "digits", "--parts", 501, *models, "--out", tmp_path / "run")
    assert "parts=501 of 500 images, 500 of them untrusted; give 1 to 500 parts" in error


def test_the_demo_refuses_too_few_models_before_its_attack(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("certidote.story.attack_part", lambda *given, **options: pytest.fail("the attack ran"))
    error = refused("demo", "--models", 9, "--workers", 0, "--dtype", "float32", "--out", tmp_path / "demo")
    assert "n=9 models can never certify anything" in error
    assert "at least 10 are needed" in error
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("minutes", [0, -1])
def test_no_time_to_train_a_denoiser_is_said_before_images_are_read(
    minutes: int, refused: Callable[..., str], tmp_path: Path
) -> None:
    error = refused("denoiser", "train", "/nonexistent", "--minutes", minutes, "--out", tmp_path / "denoiser")
    assert f"minutes={minutes}; give a time above 0 to train for, or leave it out for all steps" in error


def test_a_number_of_processes_says_what_0_and_nothing_mean(refused: Callable[..., str], tmp_path: Path) -> None:
    expected = "workers=-1; give a number of processes, 0 for this process, or leave it out for "
    for command in (("certify", "digits"), ("demo",)):
        assert f"{expected}one for each core" in refused(*command, "--workers", -1, "--out", tmp_path / "run")
    assert f"{expected}this process" in refused("verify", "certificate.json", tmp_path, "--workers", -1)
    expected = "workers=-2; give a number of processes, 0 (this process, on one core) or -1 (one process for each core)"
    assert expected in refused("sanitize", "digits", "--workers", -2, "--out", tmp_path / "set")


def test_a_model_directory_is_exported_without_saying_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verbs.train("digits", out=tmp_path / "model", dtype="float32", seed=0)
    monkeypatch.setattr("certidote.training.onnx_export.require_onnx", lambda: None)
    written: list[Path] = []
    monkeypatch.setattr("certidote.training.onnx_export.member_proto", lambda *given: None)
    monkeypatch.setattr("certidote.training.onnx_export.write_onnx", lambda proto, out: written.append(out))
    for member in (None, 0):
        assert verbs.export(tmp_path / "model", member=member, out=tmp_path / "member.onnx").members == 1
    assert written == [tmp_path / "member.onnx"] * 2
    monkeypatch.setattr("certidote.training.model_dir.load_model", lambda *given: pytest.fail("loaded before options were checked"))
    for wrong in ({"stack": True}, {"member": 1}):
        with pytest.raises(ValueError, match="holds one model; leave out --stack and --member, or give a run directory"):
            verbs.export(tmp_path / "model", out=tmp_path / "other.onnx", **wrong)  # type: ignore[arg-type]


CROP = 'architecture = "cnn-32-64"\nepochs = 2\nlearning_rate = 0.1\ncrop = 8\n'
VGG = 'architecture = "vgg-11"\nepochs = 2\nlearning_rate = 0.1\n'


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (CROP, "crop=8 pixels on images of 8x8; give a recipe whose crop is below the image's side"),
        (VGG, "architecture 'vgg-11' does not fit: images of 8x8 pixels are too small to be halved five times; use at least 32x32"),
    ],
    ids=["crop", "vgg-11"],
)
@pytest.mark.parametrize("command", [("certify",), ("certify", "--dry-run"), ("train",), ("plan",)], ids="-".join)
def test_recipes_that_do_not_fit_the_images(
    command: tuple[str, ...], recipe: str, expected: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "own.toml").write_text(recipe)
    out = () if command == ("plan",) else ("--out", tmp_path / "run")
    error = refused(command[0], "digits", *command[1:], "--recipe", tmp_path / "own.toml", "--dtype", "float32", *out)
    assert expected in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["cuda:1", "cudax", "tpu", "CPU"])
@pytest.mark.parametrize(
    "command",
    [("certify",), ("certify", "--engine", "ray"), ("train",), ("sanitize",), ("denoiser", "train"), ("plan",)],
    ids="-".join,
)
def test_devices_go_by_two_names(device: str, command: tuple[str, ...], refused: Callable[..., str], tmp_path: Path) -> None:
    out = () if command == ("plan",) else ("--out", tmp_path / "run")
    error = refused(*command, "digits", "--device", device, *out)
    assert f"unknown device {device!r}; choose cpu or cuda (which GPUs: set CUDA_VISIBLE_DEVICES)" in error
    assert list(tmp_path.iterdir()) == []


def test_a_driver_of_a_cluster_needs_no_gpu(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plan = verbs.certify(
        "digits", out=tmp_path / "run", engine="ray", device="cuda", dtype="float32", denoiser="none", dry_run=True
    )
    assert isinstance(plan, verbs.Plan)
    assert "torch finds no CUDA device here" in refused("certify", "digits", "--device", "cuda", "--out", tmp_path / "run")


def test_what_only_another_machine_can_draw_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("certidote.verbs.certification.computes_here", lambda device: False)
    run = verbs.certify("digits", out=tmp_path / "run", models=10, n0=2, denoiser="none", workers=0, dtype="float32")
    assert isinstance(run, verbs.Certified)
    assert run.pictures["gallery"] == []
    assert run.pictures["examples"]


def test_a_place_where_no_directory_can_be_made(refused: Callable[..., str]) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("this system has no /proc")
    options = ("--models", 12, "--n0", 2, "--workers", 0, "--denoiser", "none", "--dtype", "float32")
    error = refused("certify", "digits", *options, "--out", "/proc/certidote")
    assert error == "error: --out /proc/certidote: this directory cannot be made (No such file or directory); give another place\n"


def test_a_disk_that_can_only_be_read(refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path)
    for command in (("certify", "digits"), ("train", "digits"), ("threat-map",), ("demo",)):
        assert f"nothing can be written into {tmp_path} (a read-only disk" in refused(*command, "--out", tmp_path / "a" / "b")
    assert f"nothing can be written into {tmp_path} (a read-only disk" in refused(
        "predict", tmp_path / "run", "images", "--out", tmp_path / "answers.csv"
    )
    error = refused("denoiser", "train", "digits:trusted", "--out", tmp_path / "a")
    assert f"nothing can be written into '{tmp_path}' (a read-only disk" in error


def test_training_does_not_begin_with_test_images_of_a_class_without_training_images(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("certidote.training.stacked.StackedTrainer.fit", lambda *given: pytest.fail("a model was trained"))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
    labels = np.append(np.arange(9) % 4, 9)
    np.savez(tmp_path / "photos.npz", x_train=pixels[:40], y_train=np.arange(40) % 4, x_test=pixels[40:], y_test=labels)
    expected = "no training image has the label of class '9', but 1 test image has: nothing can be learned about that"
    for command in ("certify", "train"):
        assert expected in refused(
            command, tmp_path / "photos.npz", "--dtype", "float32", "--denoiser", "none", "--out", tmp_path / "r"
        )
    assert expected in refused("plan", tmp_path / "photos.npz", "--dtype", "float32", "--denoiser", "none")


def test_results_are_never_written_into_the_images(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command would take them for images. A name of the catalogue is no folder, whatever lies there."""
    photos = tmp_path / "photos"
    write_folder(tiny(3, 2, (1, 8, 8), Key(1)), photos)
    before = sorted(photos.rglob("*"))
    for command in (("certify",), ("train",), ("denoiser", "train"), ("sanitize",)):
        for out in (photos / "new", photos / "pattern-0" / "new"):
            assert "lies inside the input" in refused(*command, photos, "--out", out)
    for command in (("certify",), ("sanitize",)):
        assert "is the input itself, which is never written to" in refused(*command, photos, "--out", photos)
    for part in (f"{photos}#4", f"{photos}:train", f"{photos}:train#4"):
        assert "lies inside the input" in refused("certify", part, "--out", photos / "new")
        assert "lies inside the input" in refused("train", "digits", "--denoiser", f"linear-mmse:{part}", "--out", photos / "new")
    for denoiser in (f"kernel:{photos}@5", f"{photos}@5"):
        assert "lies inside the input" in refused("train", "digits", "--denoiser", denoiser, "--out", photos / "new")
    for name in ("digits@3", "digits@home"):  # no name of data
        write_folder(tiny(3, 2, (1, 8, 8), Key(1)), tmp_path / name)
        assert "lies inside the input" in refused("train", tmp_path / name, "--out", tmp_path / name / "new")
        monkeypatch.chdir(tmp_path)
        assert "lies inside the input" in refused("train", name, "--test", "digits", "--out", f"{name}/new")
    for options in (("--denoiser", f"linear-mmse:{photos}"), ("--test", photos)):
        for command in ("certify", "train"):
            assert "lies inside the input" in refused(command, "digits", *options, "--out", photos / "new")
    for answers in (photos / "answers.csv", photos / "pattern-0" / "answers.json"):
        assert "lies inside the input" in refused("predict", tmp_path, photos, "--out", answers)
    picture = next(photos.rglob("*.png"))
    assert "--out" in refused("predict", tmp_path, picture, "--out", picture)
    assert sorted(photos.rglob("*")) == before
    for folder in ("digits", "C", "C#"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    assert input_paths("C#") == [tmp_path / "C#"]
    assert input_paths("digits#100", "linear-mmse:digits") == []
    verbs.certify("digits", out=Path("digits"), denoiser="none", models=10, n0=2, workers=0, dtype="float32")
