"""Projected gradient ascent, which makes images harder for a model: in attacks, and in adversarial training.

Source: Madry et al. (2018). Steps go along the sign of the gradient (linf) or the gradient divided by its norm (l2), each followed by
the exact projection onto the budget.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from certidote.attacks.budget import project
from certidote.streams import Key
from certidote.types import Budget, Images

Gradient = Callable[[Images, int], Images]
"""The gradient, by the images, of what is to grow; the second argument numbers the steps from 0."""


def ascend(bases: Images, gradient: Gradient, budget: Budget, *, start: Images, steps: int, step_size: float) -> Images:
    """The last iterate.

    Args:
        bases: (n, c, h, w) in [0, 1].
        gradient: of a sum over images, or of anything else: a step looks at each image's direction only.
        budget: its norm and epsilon; the number of poisons does not matter.
        start: where to begin, from `random_start` say; projected first.
        steps: of the ascent; 0 leaves the projected start.
        step_size: length of each in the budget's norm, [0, 1] pixel units.
    """
    images = project(start, bases, budget)
    for step in range(steps):
        found = gradient(images, step)
        if budget.norm == "linf":
            direction = found.sign()
        else:
            direction = found / found.flatten(1).norm(dim=1).clamp_min(torch.finfo(found.dtype).tiny).view(-1, 1, 1, 1)
        images = project(images + step_size * direction, bases, budget)
    return images


def random_start(bases: Images, budget: Budget, key: Key) -> Images:
    """Bases moved to a point drawn uniformly from the ball around each. It may lie outside [0, 1]: `ascend` projects it.

    Args:
        bases: (n, c, h, w).
        budget: norm and radius of the ball.
        key: decides the points.
    """
    generator, shape = key.numpy(), tuple(bases.shape)
    if budget.norm == "linf":
        moved = generator.uniform(-1, 1, size=shape)
    else:
        moved = generator.standard_normal(shape).reshape(len(bases), -1)
        length = generator.random((len(bases), 1)) ** (1 / max(moved.shape[1], 1))
        moved = (moved / np.linalg.norm(moved, axis=1, keepdims=True) * length).reshape(shape)
    return bases + budget.epsilon * _like(moved, bases)


def _like(numbers: np.ndarray, images: Images) -> Tensor:
    return torch.from_numpy(numbers).to(images)
