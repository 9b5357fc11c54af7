"""The constraint set of one poison: a ball around its base image, cut by the box [0, 1]. Everything here is in pixel space.

`project` is the exact Euclidean projection onto that set, used after every step of an attack. `quantize` stores the result in
8 bits without leaving the set. `Poison.verify` is the last word on both.
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from certidote.types import Budget

SLACK = 1 + 1e-12
"""Relative tolerance of `Poison.verify`: what the 8-bit levels are counted against."""


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


def quantize(images: Float[Tensor, "n c h w"], bases: UInt8[Tensor, "n c h w"], budget: Budget) -> UInt8[Tensor, "n c h w"]:
    """8-bit images near `images` that keep the budget exactly.

    linf: round to the nearest level, then clip to the whole levels that epsilon allows. l2: round to the nearest level; where
    that leaves the ball, pull back by one level those pixels that were rounded outwards, cheapest first in squared error per
    squared norm won. All of them pulled back is truncation towards the base, which is always inside.

    Args:
        images: (n, c, h, w) in [0, 1]; projected first, so any values are accepted.
        bases: (n, c, h, w) base images as stored.
        budget: `norm` and `epsilon`, [0, 1] pixel units.
    Returns: (n, c, h, w) uint8 images that `Poison.verify` accepts.
    """
    exact = project(images.to(torch.float64), bases.to(torch.float64) / 255, budget)  # float32 bases would be 1e-5 levels off
    step = (exact * 255 - bases).flatten(1)
    radius = budget.epsilon * 255 * SLACK
    if budget.norm == "linf":
        rounded = step.round().clamp(-math.floor(radius), math.floor(radius))
    else:
        rounded = step.sign() * _round_inside_ball(step.abs(), radius)
    return (bases + rounded.view_as(exact)).clamp(0, 255).to(torch.uint8)


def _l2_scale(step: Float[Tensor, "n d"], room: Float[Tensor, "n d"], epsilon: float) -> Float[Tensor, "n 1"]:
    """Largest t in [0, 1] with ||min(t * step, room)|| <= epsilon, for each row; `step` and `room` are magnitudes.

    The squared norm is a quadratic in t between the breakpoints room / step, where one more pixel stops at the box.
    """
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


def _round_inside_ball(step: Float[Tensor, "n d"], radius: float) -> Float[Tensor, "n d"]:
    """Whole numbers near magnitudes `step`, each row of norm at most `radius`."""
    rounded = step.round()
    outwards = rounded > step
    error = torch.where(outwards, (rounded - 1 - step).square() - (rounded - step).square(), torch.inf)
    gain = torch.where(outwards, 2 * rounded - 1, 0)
    order = (error / gain.clamp_min(1)).argsort(1)
    excess = rounded.square().sum(1, keepdim=True) - radius**2
    won_before = torch.nn.functional.pad(gain.gather(1, order).cumsum(1), (1, 0))[:, :-1]
    pulled = torch.zeros_like(outwards).scatter(1, order, won_before < excess)
    return rounded - (pulled & outwards).to(rounded.dtype)
