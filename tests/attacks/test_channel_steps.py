"""Convex and Bullseye Polytope take one step for all channels, or one for each, as their originals do on normalized pixels."""

import pytest
import torch

from certidote.attacks import ATTACKS
from certidote.attacks.crafting import CIFAR10_STEPS
from certidote.streams import Key
from certidote.types import Knowledge, Poison, Task
from fixtures_attacks import Linear, small_task

each_polytope = pytest.mark.parametrize("name", ["convex-polytope", "bullseye-polytope"])


def colored(channels: int = 3) -> Task:
    """Away from black and white, so that a step is not cut short."""
    return small_task(4, levels=(96, 160), channels=channels)


def crafted(name: str, step_size: float | tuple[float, ...], steps: int, task: Task | None = None) -> Poison:
    task = task or colored()
    return ATTACKS[name](task, Knowledge((Linear(0, task.train.images[0].numel(), 6),)), Key(0), steps=steps, step_size=step_size)


def levels(poison: Poison) -> torch.Tensor:
    """(m, c, h, w) how far each pixel moved, of 255."""
    return (poison.images.int() - colored().train.images[poison.indices].int()).abs()


@each_polytope
def test_equal_steps_are_one_step_to_the_last_bit(name: str) -> None:
    single = crafted(name, 0.011, 25)
    for step_size in ((0.011, 0.011, 0.011), (0.011,)):
        equal = crafted(name, step_size, 25)
        assert torch.equal(equal.images, single.images)
        assert equal.objective == single.objective


@each_polytope
def test_the_first_step_moves_each_channel_by_its_own_size(name: str) -> None:
    """Adam's first step is its size along the gradient's sign, so that every pixel of a poison with a gradient moves by just that."""
    moved = levels(crafted(name, (3 / 255, 9 / 255, 20 / 255), 1))
    in_use = moved.flatten(1).any(1)
    assert int(in_use.sum()) >= (4 if name == "bullseye-polytope" else 2)
    expected = torch.tensor([3, 9, 20], dtype=torch.int32).view(3, 1, 1)
    assert bool((moved[in_use] == expected).all())


def test_the_originals_steps_on_cifar10_are_0_04_of_normalized_pixels() -> None:
    assert [round(255 * step, 2) for step in CIFAR10_STEPS] == [2.06, 2.03, 2.05]  # of 255 levels


@each_polytope
@pytest.mark.parametrize(
    ("step_size", "message"),
    [
        ((0.01, 0.02), r"^2 step sizes for images of 3 channels; give one, or one for each channel$"),
        ((), r"^0 step sizes for images of 3 channels; give one, or one for each channel$"),
        ((0.01, 0.0, 0.02), r"^steps=2, step_size=\(0.01, 0.0, 0.02\); both must be positive, and step_size, in \[0, 1\] pixel units"),
        ((0.01, 1.5, 0.02), r"at most 1 \(16/255 for 16 levels\)$"),
        ((0.01, float("nan"), 0.02), r"step_size=\(0.01, nan, 0.02\); both must be positive"),
    ],
)  # fmt: skip
def test_steps_that_fit_no_channels_are_refused(name: str, step_size: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        crafted(name, step_size, 2)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"^3 step sizes for images of 1 channels"):
        crafted(name, CIFAR10_STEPS, 2, colored(1))
