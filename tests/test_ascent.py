"""Projected ascent: the step it takes, the ball it keeps, the points it starts from. The projection is tested with the budgets."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from certidote.ascent import ascend, random_start
from certidote.streams import Key
from certidote.types import Budget, Norm

BASES = torch.full((2, 1, 2, 2), 0.5)
DIRECTION = torch.tensor([[3.0, -4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1e-30]]).view(2, 1, 2, 2)


def test_one_step_goes_along_the_sign_or_the_normalized_gradient() -> None:
    signs = ascend(BASES, lambda images, step: DIRECTION, Budget(1, "linf", 0.3), start=BASES, steps=1, step_size=0.1)
    torch.testing.assert_close(signs - BASES, 0.1 * DIRECTION.sign())
    unit = ascend(BASES, lambda images, step: DIRECTION, Budget(1, "l2", 0.3), start=BASES, steps=1, step_size=0.1)
    torch.testing.assert_close((unit - BASES)[0], 0.1 * DIRECTION[0] / 5)
    torch.testing.assert_close((unit - BASES)[1], 0.1 * DIRECTION[1] * 1e30)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_function_is_brought_to_its_largest_value(norm: Norm) -> None:
    """In linf the corner of the ball, in l2 epsilon along the gradient; images with no gradient stay."""
    slope = torch.tensor([[3.0, -4.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    seen = []

    def gradient(images: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(step)
        return slope

    best = ascend(BASES, gradient, Budget(1, norm, 0.2), start=BASES, steps=9, step_size=0.05)
    wanted = slope.sign() if norm == "linf" else slope / 30**0.5
    torch.testing.assert_close(best - BASES, 0.2 * wanted)
    assert seen == list(range(9))


def test_no_steps_leave_the_projected_start() -> None:
    start = BASES + torch.tensor([0.7, -0.7, 0.1, 0.0]).view(1, 1, 2, 2)
    found = ascend(BASES, lambda images, step: DIRECTION, Budget(1, "linf", 0.6), start=start, steps=0, step_size=1.0)
    torch.testing.assert_close(found, (BASES + torch.tensor([0.5, -0.5, 0.1, 0.0]).view(1, 1, 2, 2)))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_uniform_in_the_ball(norm: Norm) -> None:
    """The radius to the power of the dimension is uniform, and every quadrant is as likely (false alarm 1e-6 each)."""
    bases = torch.full((20_000, 1, 1, 2), 0.5, dtype=torch.float64)
    moved = ((random_start(bases, Budget(1, norm, 0.25), Key(0)) - bases) / 0.25).view(-1, 2).numpy()
    radius = np.abs(moved).max(1) if norm == "linf" else np.sqrt((moved**2).sum(1))
    assert kstest(radius**2, "uniform").pvalue > 1e-6
    angle = (np.arctan2(moved[:, 1], moved[:, 0]) / (2 * np.pi)) % 0.25 * 4  # both balls look alike after a quarter turn
    assert abs(((np.arctan2(moved[:, 1], moved[:, 0]) + np.pi) // (np.pi / 2) == 1).mean() - 0.25) < 0.02
    if norm == "l2":
        assert kstest(angle, "uniform").pvalue > 1e-6
    again = random_start(bases, Budget(1, norm, 0.25), Key(0))
    assert torch.equal(again, random_start(bases, Budget(1, norm, 0.25), Key(0)))
    assert not torch.equal(again, random_start(bases, Budget(1, norm, 0.25), Key(1)))
