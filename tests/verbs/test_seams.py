"""Where two features meet: bounds, parts, trusted images and resizing on their way through certify, merge, verify, predict and status."""

import json
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certidote import cli, verbs
from certidote.data.tiny import tiny
from certidote.diffusion.denoiser import PACKAGED
from certidote.engine.ledger import Ledger
from certidote.reporting.words import length
from certidote.results.record import rows_digest
from certidote.streams import Key
from certidote.types import digest_of

MEMBERS = 45
SMALL = {"sigma": 0.5, "n0": 5, "models": MEMBERS - 5, "denoiser": "none", "workers": 0, "dtype": "float32", "seed": 3}
TRUSTED = (1, 4, 6, 7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training and a test set small enough that a model takes milliseconds, a brief recipe, and a list of trusted images."""
    folder = tmp_path_factory.mktemp("data")
    train, test = tiny(12, 3, (1, 8, 8), Key(1)), tiny(7, 3, (1, 8, 8), Key(2))
    arrays = {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}
    np.savez(
        folder / "set.npz",
        **{name: tensor.squeeze(1).numpy() if name[0] == "x" else tensor.numpy() for name, tensor in arrays.items()},
    )
    (folder / "brief.toml").write_text('architecture = "mlp-128"\nepochs = 2\nlearning_rate = 0.1\n')
    (folder / "trusted.txt").write_text("\n".join(map(str, TRUSTED)))
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most runs here are about numbers: drawing their figures would take longer than training their models."""
    monkeypatch.setattr("certidote.verbs.reports.shown", lambda *given: {})


def certify(data: Path, out: Path, **options: Any) -> Any:
    return verbs.certify(str(data / "set.npz"), out=out, **(SMALL | {"recipe": str(data / "brief.toml")} | options))


def certified(data: Path, out: Path, **options: Any) -> verbs.Certified:
    made = certify(data, out, **options)
    assert isinstance(made, verbs.Certified)
    assert made.proved
    return made


def verified(run: Path, **options: Any) -> list[str]:
    result = verbs.verify(run / "certificate.json", run, **options)
    assert [each.text for each in result.findings if each.verdict == "wrong"] == []
    return [each.text for each in result.findings]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["certidote", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# ------------------------------------------------------------------------------------------------------------ anytime runs


def trained_again_among(run: Path) -> int:
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        return ledger.get("retrained")["among"]


@pytest.mark.usefixtures("undrawn")
def test_an_anytime_run_is_verified_where_it_stopped_and_after_it_went_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["certidote", "certify", "first"])
    stopped = certified(data, run, bound="anytime", until="25").record
    assert (stopped["n0"], stopped["n"], stopped["command"]) == (5, 20, "certidote certify first")
    assert "earlier" not in stopped
    assert "members 0 to 24 of 45 have voted, without a gap" in " ".join(verified(run))
    assert trained_again_among(run) == 25
    monkeypatch.setattr(sys, "argv", ["certidote", "certify", "second"])
    monkeypatch.setattr("certidote.results.audit.versions", lambda: {"torch": "of the second"})
    whole = certified(data, run, bound="anytime").record
    assert (whole["n"], whole["command"], whole["versions"]) == (40, "certidote certify second", {"torch": "of the second"})
    told = {"command": "certidote certify first", "versions": stopped["versions"], "workers": 0, "members": 25}
    assert whole["earlier"] == [told]
    assert trained_again_among(run) == 45, "one of all members is trained again, not only of those that had voted first"
    assert "members 0 to 44 have voted" in " ".join(verified(run))
    before = (run / "certificate.json").read_bytes()
    monkeypatch.setattr(sys, "argv", ["certidote", "certify", "third"])
    certified(data, run, bound="anytime")
    assert (run / "certificate.json").read_bytes() == before, "nobody voted since: the record stands"


def shared(data: Path, folder: Path, **options: Any) -> tuple[Path, Path]:
    """One certificate in two parts: the first has members 0 to 24."""
    certify(data, folder / "first", prepare=True, **options)
    shutil.copytree(folder / "first", folder / "second")
    certify(data, folder / "first", members="0:25", **options)
    certify(data, folder / "second", members="25:45", **options)
    return folder / "first", folder / "second"


@pytest.mark.usefixtures("undrawn")
def test_anytime_machines_may_certify_alone_and_together_in_either_order(data: Path, tmp_path: Path) -> None:
    whole = certified(data, tmp_path / "whole", bound="anytime").record
    first, second = shared(data, tmp_path, bound="anytime")
    assert json.loads((first / "certificate.json").read_text())["n"] == 20
    verified(first)
    assert not (second / "certificate.json").exists(), "its members come after a gap"
    with Ledger(first / "ledger.sqlite", read_only=True) as ledger:
        retrained = ledger.get("retrained")
    assert retrained is not None
    for name, order in (("forward", [first, second]), ("backward", [second, first])):
        out = tmp_path / name
        assert verbs.merge(order, out=out).voted == MEMBERS
        with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
            assert ledger.get("retrained") == retrained
        made = certified(data, out, bound="anytime").record
        for field in ("per_image", "results", "claim", "votes_digest"):
            assert made[field] == whole[field]
        verified(out)


@pytest.mark.usefixtures("undrawn")
def test_an_anytime_bound_is_refused_for_mixed_numerics(data: Path, tmp_path: Path) -> None:
    first, second = shared(data, tmp_path, bound="anytime")
    database = sqlite3.connect(second / "ledger.sqlite")
    told = json.loads(database.execute("SELECT numerics FROM parts").fetchone()[0]) | {"processor": "another"}
    database.execute("UPDATE parts SET numerics = ?", (json.dumps(told),))
    database.commit()
    database.close()
    verbs.merge([first, second], out=tmp_path / "merged")
    with pytest.raises(ValueError, match=r"mixes numerics .*another.*, for which the anytime bound is not proved"):
        certify(data, tmp_path / "merged", bound="anytime")
    assert not (tmp_path / "merged" / "certificate.json").exists()


# ------------------------------------------------------------------------------------------------- trained again, predicted


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("option", ["size", "trusted", "parts", "denoiser"])
def test_members_are_trained_again_as_the_run_trained_them(option: str, data: Path, tmp_path: Path) -> None:
    given = {"size": "12", "trusted": data / "trusted.txt", "parts": 2, "denoiser": "auto@3"}[option]
    record = certified(data, tmp_path / "run", **{option: given}).record
    assert record["data"]["image_shape"] == ([1, 12, 12] if option == "size" else [1, 8, 8])
    if option == "denoiser":  # named so that it can be made again
        assert (record["denoiser"]["name"], record["conditioning"]) == ("digits@3", "3 steps, sigma 0.5000, 0.1414, 0.0400")
    again = [text for text in verified(tmp_path / "run", rerun=4) if "trained again, cast all 21 votes" in text]
    assert len(again) == 4


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("steps", "now"), [("", "moved"), ("@3", "moved"), ("@3", "moved@3")])
def test_a_denoiser_that_moved_is_found_with_the_steps_of_the_run(steps: str, now: str, data: Path, tmp_path: Path) -> None:
    shutil.copytree(PACKAGED / "digits", tmp_path / "mine")
    certified(data, tmp_path / "run", denoiser=f"{tmp_path / 'mine'}{steps}")
    (tmp_path / "mine").rename(tmp_path / "moved")
    again = [text for text in verified(tmp_path / "run", rerun=1, denoiser=str(tmp_path / now)) if "trained again" in text]
    assert "cast all 21 votes" in again[0]


def test_trusted_images_are_named_by_a_digest_that_verify_checks(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = certified(data, run, trusted=data / "trusted.txt").record
    assert record["trusted_rows_digest"] == rows_digest(TRUSTED) == digest_of({"rows": list(TRUSTED)})
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.get("config")["trusted"] == {"images": 4, "digest": record["trusted_rows_digest"]}
    assert "trusted images and denoiser are those fixed before" in " ".join(verified(run))
    assert record["trusted_rows_digest"] in (run / "report.html").read_text()
    database = sqlite3.connect(run / "ledger.sqlite")
    database.execute("UPDATE meta SET value = replace(value, '[1, 4, 6, 7]', '[1, 4, 6, 8]') WHERE name = 'subject'")
    database.commit()
    database.close()
    found = [each.text for each in verbs.verify(run / "certificate.json", run).findings if each.verdict == "wrong"]
    assert "its configuration names 4 trusted images" in found[0]
    assert "trusted_rows_digest is" in found[1]


@pytest.mark.usefixtures("undrawn")
def test_predict_speaks_of_the_trusted_images_of_its_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    record = certified(data, run, trusted=data / "trusted.txt", keep_weights=True, sigma=1.8).record
    result = verbs.predict(run, str(data / "set.npz"))
    assert [row["radius"] for row in result.rows] == record["per_image"]["radius"]
    assert "no change of training pixels outside the 4 trusted images" in result.claim
    assert any("4 trusted images: the attacker cannot have touched them" in text for text in result.assumptions)
    abstaining = [row["answer"] is None for row in result.rows]
    assert 0 < sum(abstaining) < len(abstaining), "or what is printed tests less than it should"
    assert command(monkeypatch, "predict", run, data / "set.npz") == 0
    lines = capsys.readouterr().out.splitlines()
    for line, row in zip(lines, result.rows, strict=False):
        expected = "" if row["answer"] is None else f", radius {length(row['radius'])}"
        assert line.endswith(f"({row['votes']} of 40 votes{expected})")


@pytest.mark.usefixtures("undrawn")
def test_a_run_in_parts_is_counted_whole_and_not_exported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    certified(data, run, parts=2, keep_weights=True)
    found = verbs.status(run)
    assert (found.stage, found.voted, found.assigned, found.members) == ("certified", 90, 90, 90)
    monkeypatch.setattr("certidote.training.onnx_export.require_onnx", lambda: None)
    for what in ({"stack": True}, {"member": 0}):
        with pytest.raises(ValueError, match="was run with --parts; predict and export take runs in one part"):
            verbs.export(run, out=tmp_path / "vote.onnx", **what)  # type: ignore[arg-type]
    assert command(monkeypatch, "status", run) == 0
    shown = capsys.readouterr().out
    assert "models      90 of 90 have voted" in shown
    assert f"numpy {np.__version__}" in next(
        line for line in shown.splitlines() if line.startswith("computed    members 0 to 89 on cpu, ")
    )


# ------------------------------------------------------------------------------------------------------- what a record amounts to


def test_where_nothing_is_certified_nobody_says_certified(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = [
        "--n0",
        5,
        "--models",
        12,
        "--denoiser",
        "none",
        "--workers",
        0,
        "--dtype",
        "float32",
        "--seed",
        3,
        "--progress",
        "quiet",
    ]
    given += ["--recipe", data / "brief.toml", "--sigma", 300, "--out", run]
    assert command(monkeypatch, "certify", data / "set.npz", *given) == 0
    said = capsys.readouterr().out
    record = json.loads((run / "certificate.json").read_text())
    assert record["results"]["abstained"] == 21, "noise this strong leaves nothing to agree about"
    assert "Nothing certified: certified accuracy at radius 0 is 0%" in said
    assert "No test image carries a certificate" in said
    page = (run / "report.html").read_text()
    assert 'class="verdict unproved">Nothing certified<' in page
    for text in (said, page):
        assert "keep their correct answer" not in text


def test_report_draws_and_leaves_the_evidence_alone(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    record = certified(data, run).record
    (run / "certificate.json").write_text(json.dumps(record))  # the same record, written by somebody else
    for name in ("images.csv", "pictures.json"):
        (run / name).write_text((run / name).read_text() + "\n")
    kept = {path.name: path.read_bytes() for path in run.iterdir()}
    drawn = {"report.html", "certified_accuracy.svg", "threats.svg"}
    for name in drawn:
        (run / name).unlink()
    assert verbs.report(run).out == run / "report.html"
    assert {path.name: path.read_bytes() for path in run.iterdir()} == kept
    (run / "images.csv").unlink()
    verbs.report(run)
    assert not (run / "images.csv").exists()
