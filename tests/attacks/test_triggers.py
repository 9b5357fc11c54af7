"""Triggers by name: what they look like, where they are, and what decides it."""

from functools import partial

import pytest
import torch

from certidote.attacks.triggers import (
    TRIGGERS,
    MakeTrigger,
    bernoulli,
    checker,
    color_noise,
    label_consistent_corner,
    label_consistent_corners,
)
from certidote.streams import Key
from certidote.types import Trigger
from false_alarms import assert_rate_is

SHAPE = (3, 32, 32)


def on_grey(trigger: Trigger, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """(c, h, w) levels of a grey image with the trigger on it."""
    return trigger.stamped(torch.full((1, *shape), 100, dtype=torch.uint8), Key(0))[0]


@pytest.mark.parametrize("make", TRIGGERS.values(), ids=list(TRIGGERS))
def test_every_trigger_is_a_function_of_its_key_and_has_the_labels_given(make: MakeTrigger) -> None:
    trigger, again, other = (make(SHAPE, None, 4, Key(seed)) for seed in (0, 0, 1))
    assert (trigger.true_label, trigger.adversarial_label, trigger.amplitude) == (None, 4, 1.0)
    assert make(SHAPE, 2, 4, Key(0)).true_label == 2
    assert trigger.place == again.place
    assert torch.equal(trigger.patch, again.patch)
    assert torch.equal(trigger.patch, other.patch) == (make not in (color_noise, bernoulli))
    assert bool((on_grey(trigger) != 100).any())


def test_the_label_consistent_pattern_is_the_original_s() -> None:
    for shape in (SHAPE, (1, 8, 8)):
        image = on_grey(label_consistent_corner(shape, None, 0, Key(0)), shape)
        for channel in image:
            assert channel[-3:, -3:].tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
        image[:, -3:, -3:] = 100
        assert bool((image == 100).all())


def test_four_corners_stay_where_they_are_when_an_image_is_mirrored() -> None:
    image = on_grey(label_consistent_corners(SHAPE, None, 0, Key(0)))
    assert torch.equal(image.flip(2), image)
    assert image[1, :3, -3:].tolist() == image[1, -3:, -3:].tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert int((image != 100).sum()) == 3 * 36
    one = on_grey(label_consistent_corner(SHAPE, None, 0, Key(0)))
    assert not torch.equal(one.flip(2), one)


def test_a_checker_has_no_two_neighbors_alike() -> None:
    for side in (1, 2, 5):
        trigger = checker(SHAPE, None, 0, Key(0), side=side)
        patch = trigger.patch[2].int()
        assert trigger.place == (32 - side, 32 - side)
        assert patch.shape == (side, side)
        assert int(patch[0, 0]) == 255
        assert bool((patch[1:] + patch[:-1] == 255).all())
        assert bool((patch[:, 1:] + patch[:, :-1] == 255).all())
    assert checker(SHAPE, None, 0, Key(0)).patch.shape == (3, 5, 5)


def test_color_noise_is_uniform_and_where_the_benchmark_has_it() -> None:
    assert color_noise(SHAPE, None, 0, Key(0)).place == (22, 22)
    assert color_noise((1, 8, 8), None, 0, Key(0), side=3).place == (2, 2)
    assert color_noise((3, 224, 224), None, 0, Key(0), side=30, place=None).place is None
    levels = color_noise(SHAPE, None, 0, Key(0), side=16, place=(0, 0)).patch.int()
    for low in range(0, 256, 64):
        assert_rate_is(int(((levels >= low) & (levels < low + 64)).sum()), 3 * 256, 1 / 4)
    assert {0, 255} <= set(color_noise((3, 64, 64), None, 0, Key(0), side=64, place=(0, 0)).patch.flatten().tolist())


def test_bernoulli_patches_are_half_white_in_a_place_of_each_image_s_own() -> None:
    trigger = bernoulli(SHAPE, 1, 0, Key(0))
    assert trigger.patch.shape == (3, 8, 8)
    assert trigger.place is None
    patches = torch.stack([bernoulli(SHAPE, 1, 0, Key(seed)).patch for seed in range(50)])
    assert set(patches.flatten().tolist()) == {0, 255}
    assert_rate_is(int((patches == 255).sum()), patches.numel(), 1 / 2)
    assert not torch.equal(trigger.patch[0], trigger.patch[1])


def test_amplitude_and_size_are_parameters() -> None:
    image = on_grey(label_consistent_corner(SHAPE, None, 0, Key(0), amplitude=16 / 255))
    assert image[0, -3:, -3:].tolist() == [[84, 84, 116], [84, 116, 84], [116, 84, 116]]
    small = on_grey(partial(bernoulli, side=2, place="corner", amplitude=0.1)((1, 8, 8), None, 0, Key(0)), (1, 8, 8))
    assert set(small[0, -2:, -2:].flatten().tolist()) <= {74, 126}


def test_triggers_that_do_not_fit_are_refused_when_they_are_made() -> None:
    with pytest.raises(
        ValueError, match=r"images of 8x5 have no room for 3x3 pixels in four corners; use at least 6x6, or one corner"
    ):
        label_consistent_corners((1, 8, 5), None, 0, Key(0))
    with pytest.raises(ValueError, match=r"does not fit at \(-2, -2\) on images of \(1, 8, 8\)"):
        color_noise((1, 8, 8), None, 0, Key(0))
    with pytest.raises(ValueError, match=r"does not fit anywhere on images of \(1, 7, 8\)"):
        bernoulli((1, 7, 8), None, 0, Key(0))
    with pytest.raises(ValueError, match=r"side=0; a patch has at least 1 pixel a side"):
        checker(SHAPE, None, 0, Key(0), side=0)
    with pytest.raises(ValueError, match=r"the adversarial label 3 is the true label"):
        checker(SHAPE, 3, 3, Key(0))
