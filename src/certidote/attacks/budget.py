"""The constraint set of one poison: a ball around its base image, cut by the box [0, 1]. Everything here is in pixel space.

`project`, used after every step of an attack, is the exact Euclidean projection onto that set. `quantize` stores the result in
8 bits without leaving the set. `Poison.verify` is the last word on both.
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from certidote.ascent import project
from certidote.types import Budget

__all__ = ["SLACK", "project", "quantize"]

SLACK = 1 + 1e-12
"""Relative tolerance of `Poison.verify`: what the 8-bit levels are counted against."""


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
