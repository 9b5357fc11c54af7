"""Options of another type than an attack takes are one clear ValueError, whichever attack it is and whether or not types are checked."""

import inspect
from typing import Any

import pytest

from certidote.attacks import ATTACKS, TOGETHER
from certidote.attacks.ranges import Count, CountOrNone, Length, PixelStep, PixelSteps, numbers_checked
from certidote.scenarios.crafting import options_of
from certidote.types import Budget


@numbers_checked
def example(
    task: str, *, steps: Count = 1, step_size: PixelStep | PixelSteps = 0.1, longest: Length | None = None, flip: bool = False,
    retrains: CountOrNone = 0, loss: str = "",
) -> tuple[Any, ...]:  # fmt: skip
    """An attack that checks nothing."""
    return task, steps, step_size, longest, flip, retrains, loss


def test_what_fits_goes_through() -> None:
    assert example("task", steps=3, step_size=(0.1, 0.2), longest=2, flip=True) == ("task", 3, (0.1, 0.2), 2, True, 0, "")
    assert example("task", step_size=1, longest=None)[2:4] == (1, None)
    assert list(options_of(example)) == ["steps", "step_size", "longest", "flip", "retrains", "loss"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("steps", 2.5, r"steps=2.5; give a whole number"),
        ("steps", "3", r"steps='3'; give a whole number"),
        ("steps", True, r"steps=True; give a whole number"),
        ("retrains", 1.5, r"retrains=1.5; give a whole number"),
        ("step_size", "0.1", r"step_size='0.1'; give a number or a tuple of numbers"),
        ("step_size", (0.1, "0.2"), r"step_size=\(0.1, '0.2'\); give a number or a tuple of numbers"),
        ("longest", (0.1,), r"longest=\(0.1,\); give a number or None"),
        ("flip", 1, r"flip=1; give True or False"),
    ],
)
def test_what_does_not_fit_is_named(option: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}$"):
        example("task", **{option: value})


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_refuses_a_broken_number_of_steps(name: str) -> None:
    function: Any = TOGETHER.get(ATTACKS[name], ATTACKS[name])
    for option in ("steps", "step_size"):
        if option in inspect.signature(function).parameters:
            with pytest.raises(ValueError, match=f"^{option}='many'; give a "):
                function(None, None, None, **{option: "many"})


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [
        (float("nan"), r"epsilon=nan is not a number; give one in \[0, 1\] pixel units, such as 16 / 255"),
        (300 / 255, r"epsilon=1.17\d* is outside \[0, 1\] pixel units; it is at most 1.0 \(255/255\)"),
        (300.0, r"epsilon=300.0 is outside \[0, 1\] pixel units; it is at most 1.0 \(255/255\)"),
        (16.0, r"epsilon=16.0 is outside \[0, 1\] pixel units; for 16 of 255 levels give 16/255"),
    ],
)
def test_an_epsilon_out_of_range_gets_the_hint_that_fits(epsilon: float, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}$"):
        Budget(5, "linf", epsilon)
