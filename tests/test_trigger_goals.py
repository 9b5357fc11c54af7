"""Triggers: where they are pasted and what they leave alone; and what a poison may hold under one that may be seen."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config

from certidote.streams import Key
from certidote.types import Budget, BudgetExceeded, Goal, ImageDataset, Norm, Poison, Target, Trigger
from false_alarms import assert_rate_is

SHAPE = (2, 6, 7)


def pictures(seed: int, count: int = 5) -> torch.Tensor:
    """Any levels, a third of them at the ends of the range."""
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, 256, (count, *SHAPE))
    levels[generator.random(levels.shape) < 1 / 6] = 0
    levels[generator.random(levels.shape) < 1 / 6] = 255
    return torch.from_numpy(levels.astype("uint8"))


def trigger(seed: int, place: tuple[int, int] | None, amplitude: float = 1.0, size: tuple[int, int] = (2, 3)) -> Trigger:
    generator = np.random.default_rng(seed)
    black_or_white = generator.integers(0, 2, (2, *size)) * 255
    patch = generator.integers(0, 256, (2, *size)) if amplitude == 1 else black_or_white
    mask = generator.random(size) < 0.6
    mask[0, 0] = True
    return Trigger(torch.from_numpy(patch.astype("uint8")), torch.from_numpy(mask), place, 0, 1, amplitude)


def stamped_slowly(goal: Trigger, images: torch.Tensor, key: Key) -> torch.Tensor:
    """Pixel by pixel, in whole numbers and Python's own arithmetic."""
    found = images.clone()
    for row, (top, left) in enumerate(goal.places(len(images), SHAPE, key).tolist()):
        for channel, y, x in product(range(2), range(goal.mask.shape[0]), range(goal.mask.shape[1])):
            if goal.mask[y, x]:
                level, base = int(goal.patch[channel, y, x]), int(images[row, channel, top + y, left + x])
                if goal.amplitude < 1:
                    level = min(max(round(base + (1 if level else -1) * 255 * goal.amplitude), 0), 255)
                found[row, channel, top + y, left + x] = level
    return found


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    place=st.one_of(st.none(), st.tuples(st.integers(0, 4), st.integers(0, 4))),
    amplitude=st.sampled_from([1.0, 0.5, 16 / 255, 0.003, 0.999]),
)
def test_stamping_equals_a_loop_over_pixels(seed: int, place: tuple[int, int] | None, amplitude: float) -> None:
    goal, images = trigger(seed, place, amplitude), pictures(seed)
    before, patch = images.clone(), goal.patch.clone()
    stamped = goal.stamped(images, Key(seed))
    assert stamped.dtype == torch.uint8
    assert torch.equal(stamped, stamped_slowly(goal, images, Key(seed)))
    assert torch.equal(images, before)
    assert torch.equal(goal.patch, patch)


def test_no_image_is_stamped_where_there_is_none() -> None:
    for place in (None, (0, 0)):
        assert trigger(0, place).stamped(pictures(0)[:0], Key(0)).shape == (0, *SHAPE)


def test_a_fixed_place_may_touch_every_border() -> None:
    images = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    for top, left in product((0, 4), (0, 4)):
        goal = Trigger(torch.full((2, 2, 3), 9, dtype=torch.uint8), torch.ones(2, 3, dtype=torch.bool), (top, left), None, 1)
        expected = images.clone()
        expected[:, :, top : top + 2, left : left + 3] = 9
        assert torch.equal(goal.stamped(images, Key(0)), expected)


def test_drawn_places_are_uniform_over_all_that_fit_and_their_own_for_each_image() -> None:
    """5 x 5 places; a range that is one short, or one place for all images, shows."""
    goal, count = trigger(0, None), 5_000
    places = goal.places(count, SHAPE, Key(3))
    for top, left in product(range(5), range(5)):
        assert_rate_is(int((places == torch.tensor([top, left])).all(1).sum()), count, 1 / 25)
    assert torch.equal(places, goal.places(count, SHAPE, Key(3)))
    assert not torch.equal(places, goal.places(count, SHAPE, Key(4)))
    assert trigger(0, None, size=(6, 7)).places(3, SHAPE, Key(0)).tolist() == [[0, 0]] * 3


def test_patches_that_do_not_lie_inside_the_image_are_refused() -> None:
    for place in ((5, 0), (0, 5), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=rf"a patch of \(2, 2, 3\) does not fit at \({place[0]}, {place[1]}\) on images of"):
            trigger(0, place).stamped(pictures(0), Key(0))
    with pytest.raises(ValueError, match=r"a patch of \(2, 7, 3\) does not fit anywhere on images of \(2, 6, 7\); give a smaller"):
        trigger(0, None, size=(7, 3)).stamped(pictures(0), Key(0))
    with pytest.raises(
        ValueError, match=r"a patch of \(2, 2, 3\) does not fit at \(0, 0\) on images of \(1, 6, 7\); .* as many ch"
    ):
        trigger(0, (0, 0)).stamped(pictures(0)[:, :1], Key(0))


def test_triggers_that_mean_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    goal = trigger(0, (0, 0))
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # whoever uses the library has no checks of shapes
    with pytest.raises(
        ValueError, match=r"a mask of shape \(3, 3\) with 9 pixels for a patch of \(2, 2, 3\); give a patch \(c, s, t"
    ):
        replace(goal, mask=torch.ones(3, 3, dtype=torch.bool))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"with 0 pixels .* at least one of them true"):
        replace(goal, mask=torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"the adversarial label 1 is the true label; choose another class to aim for"):
        replace(goal, true_label=1)
    for amplitude in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match=rf"amplitude={amplitude}; give a number above 0, at most 1"):
            replace(goal, amplitude=amplitude)
    grey = torch.full((2, 2, 3), 128, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r"amplitude=0.5 with a patch that is not black and white .* or amplitude=1, which overwri"
    ):
        replace(goal, patch=grey, amplitude=0.5)
    grey[:, goal.mask] = 255  # what is not pasted may have any level
    replace(goal, patch=grey, amplitude=0.5)


def verified(bases: torch.Tensor, images: torch.Tensor, goal: Goal, budget: Budget) -> None:
    """The poisons take all rows of class 1; a row of class 0 is there because data sets have two classes."""
    train = ImageDataset(torch.cat([bases, bases[:1]]), torch.tensor([1] * len(bases) + [0]), ("a", "b"))
    Poison(torch.arange(len(bases)), images, goal, budget).verify(train)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_visible_trigger_costs_nothing_at_any_strength(norm: Norm) -> None:
    """Black and white trigger in full, added at any amplitude; a patch of any levels in full."""
    bases = pictures(1)
    for amplitude in (1.0, 0.7, 0.2, 1 / 255):
        goal = trigger(2, (3, 1), amplitude)
        images = goal.stamped(bases, Key(0))
        assert not torch.equal(images, bases)
        verified(bases, images, goal, Budget(5, norm, 0.0, visible_trigger=True))
        with pytest.raises(BudgetExceeded, match=rf"a poison moved by 0.\d+ in {norm}" if norm == "linf" else "a poison moved by"):
            verified(bases, images, goal, Budget(5, norm, 0.0))


def test_what_lies_under_a_visible_trigger_is_not_free() -> None:
    """One pixel: base 100, patch 40. Levels 40 to 100 are trigger; beyond them epsilon counts, in both directions."""
    bases = torch.full((1, 1, 1, 2), 100, dtype=torch.uint8)
    goal = Trigger(torch.full((1, 1, 1), 40, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.bool), (0, 1), 0, 1)
    budget = Budget(1, "linf", 10 / 255, visible_trigger=True)
    for level in range(256):
        images = torch.tensor([100, level], dtype=torch.uint8).view(1, 1, 1, 2)
        if 30 <= level <= 110:
            verified(bases, images, goal, budget)
        else:
            beyond = max(40 - level, level - 100) / 255
            with pytest.raises(BudgetExceeded, match=rf"moved by {beyond:.6f} in linf, but epsilon is 0.039216"):
                verified(bases, images, goal, budget)


def test_the_rest_of_the_image_counts_in_full() -> None:
    """Beside the trigger, under a hole of its mask, and in both norms together with what lies under it."""
    bases = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    goal = Trigger(torch.zeros(1, 1, 2, dtype=torch.uint8), torch.tensor([[True, False]]), (0, 0), 0, 1)
    for pixel in ((0, 1), (1, 0), (1, 1)):
        images = goal.stamped(bases, Key(0))
        images[0, 0, pixel[0], pixel[1]] = 111
        with pytest.raises(BudgetExceeded, match=r"moved by 0.043137 in linf"):
            verified(bases, images, goal, Budget(1, "linf", 10 / 255, visible_trigger=True))
    images = torch.tensor([104, 100, 103, 100], dtype=torch.uint8).view(1, 1, 2, 2)
    verified(bases, images, goal, Budget(1, "l2", 5 / 255, visible_trigger=True))
    with pytest.raises(BudgetExceeded, match=r"moved by 0.019608 in l2"):
        verified(bases, images, goal, Budget(1, "l2", 4.9 / 255, visible_trigger=True))


def test_only_triggers_in_a_fixed_place_can_be_seen() -> None:
    bases, budget = pictures(0), Budget(5, "linf", 0.1, visible_trigger=True)
    with pytest.raises(
        BudgetExceeded, match=r"visible trigger, but the goal has no trigger but one target image; give a trigger wi"
    ):
        verified(bases, bases, Target(bases[0], 0, 1, 0), budget)
    with pytest.raises(
        BudgetExceeded, match=r"visible trigger, but the goal has a trigger without a fixed place; give a trigger wi"
    ):
        verified(bases, bases, trigger(0, None), budget)
