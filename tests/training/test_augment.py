"""Augmentation against loops over single images, and on a device without values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from certidote.attacks.shifts import Shifts
from certidote.data.digits import load_digits
from certidote.streams import Key
from certidote.training.augment import Augmentation
from certidote.training.pooled import PooledTrainer, trainer_for
from certidote.training.recipe import RECIPES, Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import Lineage, View

CPU = torch.device("cpu")
PLAIN = Recipe(architecture="cnn-32-64", epochs=3, learning_rate=0.1)
IMAGES = torch.rand(40, 3, 9, 7, generator=torch.Generator().manual_seed(0))


def augmenting(**changes: object) -> Recipe:
    return PLAIN.model_copy(update=changes)


@pytest.mark.parametrize("crop", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_each_image_is_a_window_of_its_reflected_self(crop: int, flip: bool) -> None:
    recipe = augmenting(crop=crop, flip=flip)
    augmentation = Augmentation.drawn(recipe, 40, Key(1), CPU)
    if augmentation is None:
        assert not crop
        assert not flip
        return
    rows = torch.tensor([5, 0, 39, 17, 17])
    for epoch in range(3):
        made = augmentation(IMAGES[rows], epoch, rows)
        for image, row in zip(made, rows.tolist(), strict=True):
            down, right = augmentation.shifts[epoch, row].tolist()
            wanted = pad(IMAGES[row], (crop, crop, crop, crop), mode="reflect") if crop else IMAGES[row]
            wanted = wanted[:, crop - down : crop - down + 9, crop - right : crop - right + 7]
            assert torch.equal(image, wanted.flip(2) if augmentation.mirrored[epoch, row] else wanted)


def subpixel(shifts: list[list[float]], mirrored: bool = False) -> Augmentation:
    """Of one epoch, with these shifts."""
    moved = torch.tensor([shifts])
    return Augmentation(moved.floor().long(), moved - moved.floor(), torch.full(moved.shape[:2], mirrored))


def test_fractions_of_a_pixel_shift_a_ramp_exactly() -> None:
    height, width = torch.arange(9.0)[:, None], torch.arange(7.0)
    ramp = torch.stack([height + 10 * width, 3 - 2 * height + width]).unsqueeze(0)
    for down, right in ((0.5, 0.0), (-0.25, 0.75), (1.5, -1.125), (0.0, -0.5)):
        for mirrored in (False, True):
            moved = subpixel([[down, right]], mirrored)(ramp, 0, torch.tensor([0]))[0]
            moved = moved.flip(2) if mirrored else moved
            wanted = torch.stack([height - down + 10 * (width - right), 3 - 2 * (height - down) + width - right])
            torch.testing.assert_close(moved[:, 2:7, 2:5], wanted[:, 2:7, 2:5])  # all that reflections do not reach


def test_whole_shifts_are_the_same_with_fractions_of_zero() -> None:
    augmentation = Augmentation.drawn(augmenting(crop=3, flip=True), 40, Key(1), CPU)
    assert augmentation is not None
    rows = torch.tensor([5, 0, 39, 17])
    zero = replace(augmentation, fractions=torch.zeros(3, 40, 2))
    assert torch.equal(zero(IMAGES[rows], 1, rows), augmentation(IMAGES[rows], 1, rows))


def test_fractions_shift_as_the_attacks_see_it() -> None:
    """Against `grid_sample`, reflections included."""
    augmentation = Augmentation.drawn(augmenting(crop=6, subpixel=True, flip=True), 40, Key(1), CPU)
    assert augmentation is not None
    assert augmentation.fractions is not None
    rows = torch.arange(40)
    moved = augmentation.shifts[2] + augmentation.fractions[2]
    offsets = moved / torch.tensor([9, 7]) * torch.where(augmentation.mirrored[2], -1, 1)[:, None] ** torch.tensor([0, 1])
    wanted = Shifts(border="reflection").moved(IMAGES, offsets, augmentation.mirrored[2])
    torch.testing.assert_close(augmentation(IMAGES, 2, rows), wanted, rtol=0, atol=1e-5)
    assert moved.abs().max() <= 6
    assert (moved.min() < -5).item()
    assert (moved.max() > 5).item()
    drawn = (moved.flatten() + 6) / 12
    counts = np.bincount((drawn * 4).long().numpy(), minlength=4)
    assert ((counts - 20) ** 2 / 20).sum() < 16.3, "chi-squared with 3 degrees of freedom: false alarm 1 in 1,000"


@pytest.mark.parametrize("subpixel", [False, True])
def test_images_keep_their_place_in_memory(subpixel: bool) -> None:
    augmentation = Augmentation.drawn(augmenting(crop=2, subpixel=subpixel), 40, Key(1), CPU)
    assert augmentation is not None
    for form in (torch.contiguous_format, torch.channels_last):
        made = augmentation(IMAGES.contiguous(memory_format=form), 0, torch.arange(40))
        assert made.is_contiguous(memory_format=form)


def test_coins_are_fair_and_the_member_s_own() -> None:
    recipe = augmenting(crop=2, flip=True, epochs=4)
    first, again, other = (Augmentation.drawn(recipe, 5_000, key, CPU) for key in (Key(1), Key(1), Key(2)))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first.shifts, again.shifts)
    assert not torch.equal(first.shifts, other.shifts)
    assert not torch.equal(first.shifts[0], first.shifts[1]), "every epoch draws anew"
    counts = np.bincount((first.shifts.flatten() + 2).numpy(), minlength=5)
    expected = first.shifts.numel() / 5
    assert ((counts - expected) ** 2 / expected).sum() < 18.5, "chi-squared with 4 degrees of freedom: false alarm 1 in 1,000"
    assert abs(float(first.mirrored.float().mean()) - 0.5) < 3.3 * 0.5 / first.mirrored.numel() ** 0.5


def test_it_runs_where_the_images_are_and_never_waits() -> None:
    augmentation = Augmentation.drawn(augmenting(crop=2, flip=True), 40, Key(1), torch.device("meta"))
    assert augmentation is not None
    rows = torch.arange(10, device="meta")
    assert augmentation(IMAGES[:10].to("meta"), 1, rows).device.type == "meta"


def test_a_member_learns_from_augmented_images() -> None:
    data = load_digits("train")
    view = View(data.pixels(), data.labels, 10, Lineage())
    weights = {}
    for name, recipe in {
        "plain": PLAIN,
        "shifted": augmenting(crop=1),
        "again": augmenting(crop=1),
        "mirrored": augmenting(flip=True),
        "between": augmenting(crop=1, subpixel=True),
    }.items():
        weights[name] = next(PooledTrainer(recipe).fit([view], [Key(1)], Key(2)).member(0).parameters())
    assert torch.equal(weights["shifted"], weights["again"])
    assert not torch.equal(weights["plain"], weights["shifted"])
    assert not torch.equal(weights["plain"], weights["mirrored"])
    assert not torch.equal(weights["shifted"], weights["between"])


def test_who_trains_what() -> None:
    mlp = RECIPES["mlp"].model_copy(update={"flip": True})
    assert isinstance(trainer_for(RECIPES["mlp"]), StackedTrainer)
    assert isinstance(trainer_for(mlp), PooledTrainer)
    with pytest.raises(ValueError, match="leave out crop and flip"):
        StackedTrainer(mlp)


def test_bad_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="crop=40; give a whole number of pixels from 0 to 32"):
        Recipe.from_json({"architecture": "cnn-32-64", "epochs": 1, "learning_rate": 0.1, "crop": 40})
    with pytest.raises(ValueError, match="subpixel=True shifts by fractions of a pixel, up to crop, but crop=0; raise crop"):
        Recipe.from_json({"architecture": "cnn-32-64", "epochs": 1, "learning_rate": 0.1, "subpixel": True})
    data = load_digits("train")
    view = View(data.pixels(), data.labels, 10, Lineage())
    with pytest.raises(ValueError, match="crop=8 pixels on images of 8x8"):
        PooledTrainer(augmenting(crop=8)).fit([view], [Key(1)], Key(2))
