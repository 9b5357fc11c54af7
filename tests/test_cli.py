"""The command line as a user meets it: one clear line and status 2 for bad input, nothing half-written, results where promised."""

import csv
import errno
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import certidote
from certidote import cli, verbs
from certidote.verbs.choices import command_line
from commands import run

SMALL = ("--models", "40", "--n0", "10", "--workers", "0", "--dtype", "float32", "--denoiser", "none", "--sigma", "0.5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    certified = verbs.certify("digits", out=out, sigma=0.5, models=40, n0=10, denoiser="none", seed=3, workers=0, dtype="float32")
    assert isinstance(certified, verbs.Certified)
    assert certified.proved
    return out


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "ledger.sqlite", "certificate.json", "pictures.json", "certified_accuracy.csv", "images.csv", "certified_accuracy.svg", "threats.svg", "report.html",
    }  # fmt: skip
    record = json.loads((finished / "certificate.json").read_text())
    assert record["n"] == 40
    assert record["n0"] == 10
    assert record["root_source"] == "given"
    assert any("reproduction" in item["evidence"] for item in record["assumptions"])
    rows = list(csv.DictReader((finished / "images.csv").read_text().splitlines()))
    assert len(rows) == 400
    best = max(float(row["radius"]) for row in rows)
    assert best == pytest.approx(record["results"]["cap"], rel=1e-12)
    correct = np.mean([row["label"] == row["true"] for row in rows])
    assert record["results"]["certified_accuracy"][0] == [0.0, pytest.approx(correct)]


def test_the_same_command_goes_on_and_another_is_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "images.csv").read_text()
    assert run(monkeypatch, "certify", "digits", *SMALL, "--out", str(finished)) == 0
    assert (finished / "images.csv").read_text() == before
    capsys.readouterr()
    assert run(monkeypatch, "certify", "digits", *SMALL[2:], "--models", "41", "--out", str(finished)) == 2
    error = capsys.readouterr().err
    assert "holds a run with scheme.n=40, but this command asks for scheme.n=41" in error
    assert run(monkeypatch, "certify", "digits", *SMALL, "--seed", "4", "--out", str(finished)) == 2
    assert "leave the seed out to go on" in capsys.readouterr().err
    assert (finished / "images.csv").read_text() == before


def one_class(folder: Path) -> Path:
    np.savez(folder / "one.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros(4, np.int64))
    return folder / "one.npz"


def with_nan(folder: Path) -> Path:
    images = np.zeros((4, 8, 8), np.float32)
    images[2, 0, 0] = np.nan
    np.savez(folder / "nan.npz", images=images, labels=np.array([0, 1, 0, 1]))
    return folder / "nan.npz"


def label_out_of_range(folder: Path) -> Path:
    labels, names = np.array([0, 1, 2, 7]), np.array(["a", "b", "c"])
    np.savez(folder / "label.npz", images=np.zeros((4, 8, 8), np.uint8), labels=labels, class_names=names)
    return folder / "label.npz"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("digits", "--sigma", "0.5", "--models", "9"), "at least 10 are needed"),
        (("digits", "--sigma", "99"), "exceeds this denoiser's sigma_max"),
        (("digits", "--sigma", "0"), "adds no noise"),
        (("digits", "--alpha", "0.9"), "not a failure probability"),
        (("digits", "--denoiser", "digitz"), "unknown denoiser 'digitz'"),
        (("digits", "--recipe", "resnet"), "unknown recipe 'resnet'"),
        (("digits", "--dtype", "float64"), "unknown dtype 'float64'"),
        (("digits", "--device", "tpu"), "unknown device 'tpu'; choose cpu or cuda (which GPUs: set CUDA_VISIBLE_DEVICES)"),
        (("digitz",), "digits"),
        (("/nonexistent/folder",), "/nonexistent/folder"),
        (("digits:training",), "training"),
        ((one_class, "--test", "digits"), "class"),
        ((with_nan, "--test", "digits"), "NaN"),
        ((label_out_of_range, "--test", "digits"), "7"),
        ((empty_folder, "--test", "digits"), "empty"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or "-".join(getattr(v, "__name__", str(v)) for v in value)[:40],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: tuple[object, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(argument(tmp_path)) if callable(argument) else str(argument) for argument in arguments]
    out = tmp_path / "run"
    assert run(monkeypatch, "certify", *given, "--out", str(out), "--workers", "0") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected.lower() in error.lower()
    assert len(error.strip().splitlines()) == 1
    assert not out.exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("certify digits --models abc", "--models abc: give a whole number; 'certidote certify --help' explains it"),
        ("train digits --out x --sigma=high", "--sigma high: give a number; 'certidote train --help' explains it"),
        ("certify digits --out x --seed 1.5", "--seed 1.5: give a whole number; 'certidote certify --help' explains it"),
        ("certify digits", "--out is missing; 'certidote certify --help' says what to give"),
        ("certify", "DATA is missing; 'certidote certify --help' says what to give"),
        ("certify digits --out", "option '--out' requires an argument; 'certidote --help' says what there is"),
        ("certify digits --out x --modells 3", "no such option: --modells; did you mean --models?"),
        ("certify digits --out x --zzz", "no such option: --zzz; 'certidote certify --help' says what there is"),
        ("nosuchverb", "no such command 'nosuchverb'; 'certidote --help' says what there is"),
        ("data nosuch", "no such command 'nosuch'; 'certidote data --help' says what there is"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    arguments: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments.split()) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: {expected}\n")


def test_help_is_shown_to_whom_it_is_due(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status in (((), 2), (("data",), 2), (("--help",), 0), (("certify", "--help"), 0)):
        assert run(monkeypatch, *arguments) == status
        said = capsys.readouterr()
        assert (said.err if status else said.out).lstrip().startswith("Usage: certidote")


def test_an_error_of_the_system_says_where_and_what_to_do(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_numpy = "32000 requested and 20352 written"
    for error, said, advice in (
        (OSError(errno.EROFS, "Read-only"), "Read-only", "this disk can only be read: give a place on another one"),
        (OSError(errno.EIO, "Input/output"), "Input/output", "see to it"),
        (OSError(of_numpy), f"the disk took a part of it only ({of_numpy})", "free space"),
    ):

        def fail(descriptor: int, error: OSError = error) -> None:
            raise error

        monkeypatch.setattr("certidote.data.atomic.os.fsync", fail)
        assert run(monkeypatch, "report", str(finished)) == 2
        assert capsys.readouterr().err == (
            f"error: {finished / 'certified_accuracy.svg'}: {said}; none of 3 files was written, and what was there is "
            f"unchanged; {advice} and run the same command again\n"
        )


def test_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "certify", "digits", *SMALL, "--out", str(tmp_path / "run"), "--dry-run") == 0
    assert "50 models (10 select, 40 are counted) on 500 images" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_train_saves_a_loadable_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from certidote.data.digits import load_digits
    from certidote.training.model_dir import load_model

    assert run(monkeypatch, "train", "digits", "--out", str(tmp_path / "model"), "--dtype", "float32") == 0
    assert "no defense" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}
    test = load_digits("test")
    accuracy = float((load_model(tmp_path / "model")(test.pixels()).argmax(1) == test.labels).float().mean())
    assert accuracy > 0.9
    assert run(monkeypatch, "train", "digits", "--out", str(tmp_path / "model")) == 2
    assert "--force" in capsys.readouterr().err


def test_a_trained_denoiser_comes_with_its_psnr_and_with_what_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("certidote.diffusion.fit.CLOSED_FORM_VALUES", 63)
    (tmp_path / "tiny.toml").write_text("steps = 2\n[architecture]\nchannels = 1\npatch = 2\nwidths = [8]\nblocks = [1]\n")
    recipe, out = str(tmp_path / "tiny.toml"), str(tmp_path / "denoiser")
    assert run(monkeypatch, "denoiser", "train", "digits:trusted", "--recipe", recipe, "--out", out, "--dtype", "float32") == 0
    said = capsys.readouterr().out
    assert "  network: PSNR on 90 held-out images " in said
    assert "  wiener: PSNR on 90 held-out images " in said
    assert (
        "  kernel was not measured: an image of 1x8x8 has 64 values, and beyond 63 the distances to 5,000 training images" in said
    )
    assert "At sigma 0.1, 0.25, 0.5, 1 this network does worse than wiener: train longer.\n" in said
    assert "linear-mmse is not in this table: an image of 1x8x8" in (tmp_path / "denoiser" / "card.md").read_text()
    assert set(certidote.denoiser_info(out)["validation"]["omitted"]) == {"linear-mmse", "kernel"}
    monkeypatch.setattr("certidote.diffusion.fit.CLOSED_FORM_VALUES", 64)
    assert run(monkeypatch, "denoiser", "train", "digits:trusted", "--recipe", recipe, "--out", out, "--force") == 0
    advice = "train longer, or give --denoiser linear-mmse:IMAGES, which needs no training."
    assert f"this network does worse than linear-mmse: {advice}\n" in capsys.readouterr().out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_earlier_results_whole_and_the_same_command_goes_on(
    finished: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "run"
    shutil.copytree(finished, out)
    (out / "report.html").write_text("older")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    os.truncate(filler, filler.stat().st_size - 64 * 1_024)  # enough for the ledger's journal, and for some of the files
    assert run(monkeypatch, "certify", "digits", *SMALL, "--out", str(out)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device; none of 7 files was written, and what was there is unchanged" in error
    assert f"all votes are safe in {out / 'ledger.sqlite'}; free space and run the same command again" in error
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    del before["ledger.sqlite"], after["ledger.sqlite"]
    assert after == before
    assert run(monkeypatch, "report", str(out)) == 2
    assert "none of 3 files was written" in capsys.readouterr().err
    filler.unlink()
    assert run(monkeypatch, "certify", "digits", *SMALL, "--out", str(out)) == 0
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("stopped", ["empty ledger", "no ledger"])
def test_a_run_killed_at_the_very_start_goes_on(
    stopped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    if stopped == "empty ledger":
        (out / "ledger.sqlite").touch()
        assert run(monkeypatch, "status", str(out)) == 2
        assert "its run stopped before it began; start it again" in capsys.readouterr().err
    command = ("certify", "digits", "--models", "12", "--n0", "2", "--workers", "0", "--denoiser", "none", "--out", str(out))
    assert run(monkeypatch, *command) == 0
    assert (out / "report.html").is_file()


def test_a_disk_that_is_full_at_the_very_start(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    numbers = ("--models", "12", "--n0", "2", "--workers", "0", "--denoiser", "none")
    command = ("certify", "digits", *numbers, "--out", str(small_disk / "run"))
    assert run(monkeypatch, *command) == 2
    assert "the disk is full" in capsys.readouterr().err
    filler.unlink()
    assert run(monkeypatch, *command) == 0


def test_report_refuses_what_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "report", str(tmp_path)) == 2
    assert "holds no certificate.json" in capsys.readouterr().err
    (tmp_path / "certificate.json").write_text("{")
    assert run(monkeypatch, "report", str(tmp_path)) == 2
    assert "is damaged" in capsys.readouterr().err


def test_every_command_is_a_public_function_with_the_same_parameters() -> None:
    for name in certidote.__all__:
        assert callable(getattr(certidote, name))
    commands = {command.callback.__doc__ for group in cli.groups().values() for command in group.registered_commands}
    assert commands == {getattr(verbs, name).__doc__ for name in certidote._VERBS}
    for command in cli.groups()[""].registered_commands:
        verb = next(getattr(verbs, n) for n in certidote._VERBS if getattr(verbs, n).__doc__ == command.callback.__doc__)
        shown = list(inspect.signature(command.callback).parameters)
        assert shown == [p for p in inspect.signature(verb).parameters if p not in cli.HIDDEN]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; import certidote.cli; certidote.cli.groups(); "
        "print(sorted({'torch', 'diffusers', 'matplotlib', 'sklearn', 'scipy', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------- long and shared runs


def test_one_certificate_from_two_machines(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prepared once, copied, done in two parts, merged: the certificate of one undisturbed run."""
    prepared, first, second, merged = (str(tmp_path / name) for name in ("prepared", "first", "second", "merged"))
    assert run(monkeypatch, "certify", "digits", *SMALL, "--seed", "3", "--prepare", "--out", prepared) == 0
    assert "No certificate yet: 0 of 50 models have voted" in capsys.readouterr().out
    shutil.copytree(prepared, first)
    shutil.copytree(prepared, second)
    assert run(monkeypatch, "certify", "digits", *SMALL, "--members", "0:21", "--out", first) == 0
    assert "No certificate yet: 21 of 50 models have voted; interim certified accuracy" in capsys.readouterr().out
    assert run(monkeypatch, "certify", "digits", *SMALL, "--members", "0:22", "--out", first) == 2
    assert "was assigned members 0:21, but this command asks for 0:22" in capsys.readouterr().err
    assert run(monkeypatch, "certify", "digits", *SMALL, "--members", "21:50", "--out", second) == 0
    assert run(monkeypatch, "merge", first, first, "--out", merged) == 2
    assert "give each machine its own --members" in capsys.readouterr().err
    assert not Path(merged).exists(), "nothing half-written"
    assert run(monkeypatch, "merge", first, second, "--out", merged) == 0
    assert "Merged: 50 of 50 models have voted" in capsys.readouterr().out
    assert run(monkeypatch, "certify", "digits", *SMALL, "--progress", "json", "--out", merged) == 0
    assert [json.loads(line)["done"] for line in capsys.readouterr().err.splitlines()] == [50, 50]
    assert (Path(merged) / "images.csv").read_text() == (finished / "images.csv").read_text()
    assert run(monkeypatch, "status", merged) == 0
    shown = capsys.readouterr().out
    assert "proved      yes" in shown
    assert "computed    members 21 to 49 on cpu" in shown
    assert "configured  scheme.sigma = 0.5" in shown


def test_a_run_that_was_told_to_stop_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("certify", "digits", *SMALL, "--seed", "3", "--out", str(tmp_path / "run"))
    assert run(monkeypatch, *command, "--until", "20", "--progress", "quiet") == 0
    said = capsys.readouterr()
    assert "No certificate yet: 20 of 50 models have voted" in said.out
    assert said.err == ""
    assert not (tmp_path / "run" / "certificate.json").exists()
    assert run(monkeypatch, "status", str(tmp_path / "run")) == 0
    assert "stage       stopped" in capsys.readouterr().out
    assert run(monkeypatch, *command) == 0
    assert (tmp_path / "run" / "images.csv").read_text() == (finished / "images.csv").read_text()


def test_a_model_that_raises_stops_the_run_with_its_traceback_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from certidote.training.stacked import StackedTrainer

    def broken(*given: object) -> None:
        raise ValueError("made to fail")

    monkeypatch.setattr(StackedTrainer, "fit", broken)
    assert run(monkeypatch, "certify", "digits", *SMALL, "--progress", "quiet", "--out", str(tmp_path / "run")) == 2
    assert "error: members 0 to 31 failed: ValueError: made to fail" in capsys.readouterr().err
    assert run(monkeypatch, "status", str(tmp_path / "run")) == 0
    assert 'raise ValueError("made to fail")' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--engine", "slurm"), "unknown engine 'slurm'; choose local or ray"),
        (("--address", "local"), "are for a Ray cluster; add --engine ray"),
        (("--engine", "ray", "--workers", "2"), "--workers 2 is for --engine local"),
        (("--timeout", "0"), "give seconds > 0"),
        (("--members", "9:3"), "such as 0:550"),
        (("--members", "0:2000"), "no range within the 1100 members"),
        (("--until", "soon"), "give a time such as 30m"),
        (("--until", "decided"), "add --bound anytime"),
        (("--progress", "loud"), "choose auto, bar, lines, json or quiet"),
    ],
)
def test_options_of_long_runs_are_checked_before_anything_is_written(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "certify", "digits", "--dtype", "float32", "--out", str(tmp_path / "run"), *arguments) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("program", "recorded"),
    [
        ("/opt/venv/bin/certidote", "certidote certify 'my data' --out run"),
        ("/opt/site-packages/certidote/cli.py", "certidote certify 'my data' --out run"),
        ("/home/me/cli.py", "called from cli.py"),
        ("", "called from Python"),
    ],
)
def test_records_hold_the_command_line_where_there_is_one(program: str, recorded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [program, "certify", "my data", "--out", "run"])
    assert command_line() == recorded


def test_defenses_are_listed_with_costs_where_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"format": "certidote replay", "models": 1, "recipe": {}, "data": {"digest": ""}, "finished": 1}
    for name, seconds in (("none", 2.0), ("dpa", 3.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**base, "defense_name": name, "seconds_of_workers": seconds}))
    assert run(monkeypatch, "defenses", "--records", str(tmp_path)) == 0
    said = capsys.readouterr().out
    blocks = {block.splitlines()[0]: block for block in said.replace("\n  ", "\t").splitlines()}
    named = {head.split("\t")[0]: head for head in blocks}
    from certidote.defenses.catalogue import FACTS, VARIANTS

    assert list(named) == [*FACTS, *VARIANTS]
    assert "measured: 1.5 times one plain model (kept replays)" in named["dpa"]
    assert "times one plain model for 20 models (digits, one core)" in named["bagflip"]
    assert "not measured" in named["certidote certify --model M --pretrained-trusted"]
    assert "unit: images altered in one feature" in named["bagflip"]
    assert all("source " in each and "against " in each for each in named.values())
