"""The model card says what the record says; a time budget becomes a number of steps."""

import dataclasses

import pytest

from certidote.data.digits import load_digits
from certidote.diffusion.card import card_text
from certidote.diffusion.denoiser import load
from certidote.diffusion.fit import DenoiserRecipe, within_minutes
from certidote.diffusion.network import Architecture

QUICK = DenoiserRecipe(steps=3_000, batch=4, architecture=Architecture(1, 2, (8,), (1,)))


def test_the_card_holds_digests_and_every_psnr() -> None:
    denoiser = load("digits")
    text = card_text(denoiser)
    assert denoiser.card.digest in text
    assert denoiser.card.trained_on in text
    validation = denoiser.card.details["validation"]
    for row, sigma in enumerate(validation["sigmas"]):
        figures = " | ".join(f"{values[row]:.2f}" for values in validation["psnr"].values())
        assert f"| {sigma:g} | {figures} |" in text


def test_a_time_budget_limits_steps_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0] * 3)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))  # two steps take one second
    data = load_digits("trusted")
    assert within_minutes(data, QUICK, 2, "float32", "cpu") == dataclasses.replace(QUICK, steps=240)
    assert within_minutes(data, QUICK, 60, "float32", "cpu") == QUICK
    with pytest.raises(ValueError, match="minutes=0.1 is enough for 12 training steps of 4 images"):
        within_minutes(data, QUICK, 0.1, "float32", "cpu")
    with pytest.raises(ValueError, match="give a time above 0"):
        within_minutes(data, QUICK, 0, "float32", "cpu")


def test_where_few_steps_fit_batches_are_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 minutes are 240 steps of 256 images; at 64 images 960, still below 1,000; at 32 they are timed again: 1,200."""
    clock = iter([100.0, 101.0, 200.0, 200.2])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    recipe = dataclasses.replace(QUICK, steps=3_000, batch=256)
    found = within_minutes(load_digits("trusted"), recipe, 2, "float32", "cpu")
    assert found.batch == 32
    assert found.steps == pytest.approx(1_200, abs=1)
