"""Projected gradient ascent in a ball around images, which makes them harder for a model: in attacks, and in adversarial training.

Source: Madry et al. (2018). Steps go along the sign of the gradient (linf) or the gradient divided by its norm (l2), each followed by
the exact projection onto the ball and the box [0, 1].
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from certidote.streams import Key
from certidote.types import Budget, Images

Gradient = Callable[[Images, int], Images]
"""The gradient, by the images, of what is to grow; the second argument numbers the steps from 0."""


def project(images: Float[Tensor, "n c h w"], bases: Float[Tensor, "n c h w"], budget: Budget) -> Float[Tensor, "n c h w"]:
    """The nearest point of each image within `epsilon` of its base and inside [0, 1].

    linf: the set is an interval per pixel, so clipping is exact. l2: the minimizer is clip(base + t * (image - base), 0, 1) for
    the largest t <= 1 that keeps the norm; t is found exactly, between two sorted breakpoints, in float64.

    Args:
        images: (n, c, h, w) candidates, any values.
        bases: (n, c, h, w) base images, in [0, 1].
        budget: `norm` and `epsilon`, [0, 1] pixel units.
    Returns: (n, c, h, w), dtype of `images`.
    """
    if budget.norm == "linf":
        return images.clamp(min=(bases - budget.epsilon).clamp_min(0), max=(bases + budget.epsilon).clamp_max(1))
    start = bases.to(torch.float64).flatten(1)
    step = images.to(torch.float64).flatten(1) - start
    scale = _l2_scale(step.abs(), torch.where(step > 0, 1 - start, start), budget.epsilon)
    return (start + scale * step).clamp_(0, 1).to(images.dtype).view_as(images)


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
        direction = found.sign() if budget.norm == "linf" else _unit(found)
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


def _l2_scale(step: Float[Tensor, "n d"], room: Float[Tensor, "n d"], epsilon: float) -> Float[Tensor, "n 1"]:
    """Largest t in [0, 1] with ||min(t * step, room)|| <= epsilon, for each row; `step` and `room` are magnitudes."""
    length = torch.linalg.vector_norm(step, dim=1, keepdim=True).clamp_min(torch.finfo(step.dtype).tiny)
    scale = (epsilon / length).clamp_max(1)
    stopped = (scale * step > room).any(1)  # few images reach the box before the ball ends; only they pay for the sorting
    if bool(stopped.any()):
        scale[stopped] = _l2_scale_at_box(step[stopped], room[stopped], epsilon)
    return scale


def _l2_scale_at_box(step: Float[Tensor, "n d"], room: Float[Tensor, "n d"], epsilon: float) -> Float[Tensor, "n 1"]:
    """`_l2_scale` where pixels stop at the box: between the breakpoints room / step, where one more does, the squared norm is a
    quadratic in t."""
    breakpoints, order = torch.where(step > 0, room / step, torch.inf).sort(1)
    step, room = step.gather(1, order), room.gather(1, order)
    stopped = torch.nn.functional.pad(room.square().cumsum(1), (1, 0))[:, :-1]  # pixels already at the box, before each breakpoint
    moving = step.square().flip(1).cumsum(1).flip(1)
    reached = torch.where(moving > 0, stopped + breakpoints.square() * moving, torch.inf)
    segment = (reached < epsilon**2).sum(1, keepdim=True).clamp_max(step.shape[1] - 1)
    spare, slope = epsilon**2 - stopped.gather(1, segment), moving.gather(1, segment)
    scale = torch.where(slope > 0, (spare / slope).clamp_min(0).sqrt(), torch.inf)
    inside = torch.minimum(step, room).square().sum(1, keepdim=True) <= epsilon**2  # t = 1: only the box acts
    return torch.where(inside, 1.0, scale.clamp_max(1))


def _unit(vectors: Images) -> Images:
    """Each image's divided by its l2 norm, which tiny ones reach too; zeros stay."""
    tiny = torch.finfo(vectors.dtype).tiny
    for order in (torch.inf, 2):  # the largest entry first, lest its square underflow
        length = torch.linalg.vector_norm(vectors.flatten(1), ord=order, dim=1)
        vectors = vectors / length.clamp_min(tiny).view(-1, 1, 1, 1)
    return vectors


def _like(numbers: np.ndarray, images: Images) -> Tensor:
    return torch.from_numpy(numbers).to(images)
