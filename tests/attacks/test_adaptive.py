"""What an attacker sees through a defense: its draws, however many sets of images and draws go through it in one call."""

import pytest
import torch

from certidote.attacks.adaptive import average, draws_together, seen
from certidote.diffusion.denoiser import load
from certidote.diffusion.through import ThroughDenoiser
from certidote.streams import Key
from certidote.types import Images

SIZES = (3, 1, 2)


def some_parts(side: int = 8) -> list[Images]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 1, side, side, generator=generator) for size in SIZES]


KEYS = [Key(7) / "part" / number for number in range(len(SIZES))]


class Doubled:
    """Takes one set of images at a time; its draws differ by their key."""

    draws = 3

    def __call__(self, images: Images, key: Key) -> Images:
        return 2 * images + int(key.path[-1])


@pytest.mark.parametrize(
    ("images", "pixels", "together"), [(10, 64, 25), (200, 64, 1), (8, 1_024, 4), (25, 1_024, 1), (300, 1_024, 1)]
)
def test_few_small_images_go_through_together_and_large_ones_by_themselves(images: int, pixels: int, together: int) -> None:
    assert draws_together(images, pixels) == together


@pytest.mark.parametrize("draws", [5, 50], ids=["in one call", "in two"])
def test_every_part_has_the_noise_of_its_own_key_in_every_draw(draws: int) -> None:
    """Noise only, so that it can be seen; 42 draws of 6 images go through together."""
    defense, parts = ThroughDenoiser(load("none"), 0.1, draws), [0.5 + 0 * part for part in some_parts()]
    groups = [list(group) for group in seen(parts, defense, KEYS)]
    assert [len(group) for group in groups] == ([5] if draws == 5 else [42, 8])
    shown = [draw for group in groups for draw in group]
    for number, draw in enumerate(shown):
        expected = torch.cat([defense(part, key / number) for part, key in zip(parts, KEYS, strict=True)])
        assert torch.equal(draw, expected)
    assert len({float(draw[0, 0, 0, 0]) for draw in shown}) == draws


def test_a_defense_that_takes_one_set_at_a_time_is_asked_for_each() -> None:
    shown = [draw for group in seen(some_parts(), Doubled(), KEYS) for draw in group]
    assert len(shown) == 3
    for number, draw in enumerate(shown):
        assert torch.equal(draw, 2 * torch.cat(some_parts()) + number)


def test_without_a_defense_images_are_seen_as_they_are() -> None:
    ((shown,),) = seen(some_parts(), None, KEYS)
    assert torch.equal(shown, torch.cat(some_parts()))


def test_average_is_the_mean_over_draws_and_its_gradient_that_of_one_graph() -> None:
    """Against autograd through everything at once, with the exact linear denoiser; `value` learns the number of the draw."""
    defense, parts = ThroughDenoiser(load("digits-linear-mmse"), 0.5, 50), some_parts()
    weight = torch.rand(50, 1, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def value(images: Images, draw: int) -> torch.Tensor:
        return (weight[draw] * images).square().sum((1, 2, 3))

    values, gradient = average(parts, defense, KEYS, value)
    leaf = torch.cat(parts).requires_grad_()
    sets = torch.split(leaf, SIZES)
    each = [value(torch.cat([defense(part, key / draw) for part, key in zip(sets, KEYS, strict=True)]), draw) for draw in range(50)]
    expected = torch.stack(each).mean(0)
    torch.testing.assert_close(values, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), [leaf])[0], rtol=1e-4, atol=1e-6)


def test_noise_of_zero_shows_the_images_themselves() -> None:
    for group in seen(some_parts(), ThroughDenoiser(load("digits"), 0.0, 2), KEYS):
        assert all(torch.equal(draw, torch.cat(some_parts())) for draw in group)
