"""`certify` with each bound, test input, trusted images and parts: what reaches the record, the report and the plan."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from certidote import cli, verbs
from certidote.data.digits import load_digits
from commands import run

SMALL = {"sigma": 0.5, "denoiser": "none", "workers": 0, "dtype": "float32", "recipe": "mlp"}


def certified(out: Path, **options: object) -> verbs.Certified:
    result = verbs.certify("digits", out=out, **(SMALL | options))  # type: ignore[arg-type]
    assert isinstance(result, verbs.Certified)
    assert result.proved
    assert json.loads((out / "certificate.json").read_text()) == result.record
    return result


def plan(**options: object) -> str:
    result = verbs.certify("digits", out=Path("never"), dry_run=True, **(SMALL | options))  # type: ignore[arg-type]
    assert isinstance(result, verbs.Plan)
    return "\n".join(result.lines)


def test_parts_and_trusted_images_through_to_the_report(tmp_path: Path) -> None:
    (tmp_path / "trusted.txt").write_text("\n".join(map(str, range(0, 500, 5))))
    run = certified(tmp_path / "run", parts=2, models=14, n0=3, trusted=tmp_path / "trusted.txt")
    record, results = run.record, run.record["results"]
    assert record["trusted"] == 100
    assert results["partition"]["parts"] == 2
    assert results["partition"]["images_in_a_part"] == 300, "half of the untrusted images, and all trusted ones"
    assert max(threat["max_k"] for threat in results["threats"]) <= 400
    assert results["partition"]["replaced_images"]["max_k"] == 1, "two parts, one of which one image spoils"
    radii = np.array(record["per_image"]["radius"])
    assert 0 < radii.max() <= results["cap"]
    assert "lower_bound" not in (tmp_path / "run" / "images.csv").read_text().splitlines()[0]
    report = (tmp_path / "run" / "report.html").read_text()
    for text in ("2 disjoint ones with models of their own", "100 trusted images: the attacker cannot have touched them"):
        assert text in report


def test_anytime_bound_and_joint_certificate_through_to_the_report(tmp_path: Path) -> None:
    run = certified(tmp_path / "run", bound="anytime", n0=0, models=24, test_input="noised-denoised", sigma_x=0.1)
    record = run.record
    assert (record["bound"], record["test_input"], record["sigma_x"]) == ("anytime", "noised-denoised", 0.1)
    assert (record["n0"], record["n"]) == (0, 24)
    report = (tmp_path / "run" / "report.html").read_text()
    for text in (
        "anytime-valid",
        "24, counted and selecting the answer",
        "noise of std 0.1, one draw for each model",
        "of the test image",
    ):
        assert text in report


def test_plans() -> None:
    assert "50 models (10 select, 40 are counted) on 500 images" in plan(models=40, n0=10)
    several = plan(models=40, n0=0, bound="multi-class", parts=3)
    assert "120 models (all 40 select and are counted, for each of 3 parts)" in several
    assert "40 models of each part can certify at alpha 0.000333333" in several
    assert "noise of std 0.5, one draw for each model" in plan(models=40, test_input="noised-denoised")
    alone, together = (plan(models=40, bound=bound) for bound in ("clopper-pearson", "anytime"))
    assert "(anytime bound)" in together
    assert alone.split("0.001: ")[1][:6] > together.split("0.001: ")[1][:6]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--bound", "hoeffding"), "unknown bound 'hoeffding'; choose one of: clopper-pearson, multi-class, anytime"),
        (("--bound", "anytime", "--models", "11"), "with the anytime bound: even a unanimous vote stays below 1/2; at least 12"),
        (("--test-input", "blurred"), "unknown test input 'blurred'; choose one of: clean, denoised, noised-denoised"),
        (("--sigma-x", "0.3"), "needs test input noised-denoised"),
        (("--sigma-x", "0", "--test-input", "noised-denoised"), "adds no noise to test images"),
        (("--parts", "0"), "parts=0; give at least 2"),
        (("--parts", "501"), "parts=501 of 500 images"),
        (("--parts", "2", "--bound", "anytime"), "does not go with parts"),
        (("--trusted", "/nonexistent/list"), "cannot be read"),
    ],
)
def test_options_that_make_no_sense_are_one_line_and_leave_nothing(
    flags: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(
        sys, "argv", ["certidote", "certify", "digits", "--sigma", "0.5", "--out", str(out), "--workers", "0", *flags]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_noise_goes_on_the_images_themselves_not_on_transformed_ones(tmp_path: Path) -> None:
    given = {"sigma": 0.5, "models": 20, "n0": 5, "denoiser": "none", "test_transform": "ownmodels:mirrored"}
    with pytest.raises(ValueError, match="the certificate would speak of changes of transformed images"):
        verbs.certify("digits", out=tmp_path / "run", test_input="noised-denoised", **given)
    assert not (tmp_path / "run").exists()
    assert verbs.certify("digits", out=tmp_path / "run", dry_run=True, **given)


@pytest.mark.filterwarnings("default")
def test_trusted_images_of_one_class_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, in the plan, and in the record; the run goes on."""
    rows = tmp_path / "trusted.txt"
    labels = load_digits("train").labels
    rows.write_text("\n".join(map(str, (labels == 3).nonzero()[:40, 0].tolist())))
    command = ("certify", "digits", "--sigma", "0.5", "--models", "11", "--n0", "1", "--denoiser", "none", "--trusted", str(rows))
    warning = "40 of the 40 trusted images are of class '3', where about 4 would be if they were taken from all alike: models learn"
    assert run(monkeypatch, *command, "--out", str(tmp_path / "run"), "--dry-run") == 0
    said = capsys.readouterr()
    assert warning in said.out
    assert said.err == ""
    whole = (*command, "--out", str(tmp_path / "run"), "--workers", "0", "--progress", "quiet", "--recipe", "mlp")
    assert run(monkeypatch, *whole) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"note: {warning}")
    assert len(said.err.splitlines()) == 1
    record = json.loads((tmp_path / "run" / "certificate.json").read_text(encoding="utf-8"))
    assert record["data"]["notes"][-1].startswith(warning)
