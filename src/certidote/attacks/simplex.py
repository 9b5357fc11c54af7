"""The point of a convex hull that is nearest to a target: least squares on the simplex, many problems at once.

With A the points minus the target, coefficients c minimize f(c) = c^T G c / 2 on the simplex, G = A A^T: a problem in as many unknowns
as there are points, whatever the dimension. The Frank-Wolfe gap <c, G c> - min_j (G c)_j bounds f(c) - min f from above, so it is both
certificate and stop rule.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

TOLERANCE = 1e-4
"""Largest gap of a finished problem, relative to its objective."""

NEGLIGIBLE = 1e-8
"""Largest gap of a finished problem whose target lies in the hull, relative to the largest squared distance of a point to it."""


@dataclass(frozen=True, eq=False)
class HullPoint:
    """Coefficients of the nearest points of hulls, and how good they are.

    Attributes:
        coefficients: (..., p) at least 0, their sum 1.
        objective: (...) half the squared distance to the target.
        gap: (...) no coefficients have an objective smaller than `objective - gap`.
    """

    coefficients: Float64[Tensor, "*batch p"]
    objective: Float64[Tensor, "*batch"]
    gap: Float64[Tensor, "*batch"]


def project_onto_simplex(values: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch p"]:
    """The Euclidean projection of each row onto {c >= 0, sum c = 1}, exactly.

    Source: Held, Wolfe and Crowder (1974): the entries shrink by one threshold, found among the sorted ones.
    """
    ordered = values.sort(dim=-1, descending=True).values
    counts = torch.arange(1, values.shape[-1] + 1, dtype=values.dtype, device=values.device)
    thresholds = (ordered.cumsum(-1) - 1) / counts
    support = (ordered > thresholds).sum(-1, keepdim=True)
    return (values - thresholds.gather(-1, support - 1)).clamp_min(0)


def gram(points: Float[Tensor, "*batch p d"], target: Float[Tensor, "*batch d"]) -> Float64[Tensor, "*batch p p"]:
    """G of the problem. In float64: the residual of a target in the hull is a small difference of large numbers."""
    offsets = points.to(torch.float64) - target.to(torch.float64).unsqueeze(-2)
    return offsets @ offsets.transpose(-1, -2)


@torch.no_grad()
def nearest_in_hull(
    grams: Float64[Tensor, "*batch p p"], start: Float64[Tensor, "*batch p"] | None = None, *, max_steps: int = 10_000
) -> HullPoint:
    """Accelerated projected gradient with restarts; each problem stops by itself, so none depends on the others.

    Args:
        grams: from `gram`.
        start: coefficients to start from; None for equal ones.
        max_steps: after which unfinished problems are given back as they are, with their gap.
    Source: Beck and Teboulle (2009), the step being 1 over the top eigenvalue; restarts as O'Donoghue and Candes (2015).
    """
    best = grams.new_full(grams.shape[:-1], 1 / grams.shape[-1]) if start is None else start.clone()
    slope = _times(grams, best)  # G at `best`, at `ahead`: the only product with G in a step is at the new point
    floor = NEGLIGIBLE * grams.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    objective, gap = _quality(best, slope)
    done = gap <= TOLERANCE * objective + floor
    if max_steps and not bool(done.all()):  # from a warm start it mostly is, and eigenvalues are what costs time
        top = torch.linalg.eigvalsh(grams)[..., -1:].clamp_min(torch.finfo(grams.dtype).tiny)
        ahead, ahead_slope = best, slope
        momentum = torch.ones_like(top)
    for _ in range(max_steps):
        if bool(done.all()):
            break
        moved = project_onto_simplex(ahead - ahead_slope / top)
        moved_slope = _times(grams, moved)
        overshot = (ahead_slope * (moved - best)).sum(-1, keepdim=True) > 0
        following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        weight = torch.where(overshot, 0.0, (momentum - 1) / following)
        momentum = torch.where(overshot, 1.0, following)
        ahead = moved + weight * (moved - best)
        ahead_slope = moved_slope + weight * (moved_slope - slope)
        best, slope = torch.where(done, best, moved), torch.where(done, slope, moved_slope)
        objective, gap = _quality(best, slope)
        done = done | (gap <= TOLERANCE * objective + floor)
    return HullPoint(best, objective.squeeze(-1), gap.squeeze(-1))


def _times(grams: Float64[Tensor, "*batch p p"], values: Float64[Tensor, "*batch p"]) -> Float64[Tensor, "*batch p"]:
    return (grams @ values.unsqueeze(-1)).squeeze(-1)


def _quality(
    values: Float64[Tensor, "*batch p"], slope: Float64[Tensor, "*batch p"]
) -> tuple[Float64[Tensor, "*batch 1"], Float64[Tensor, "*batch 1"]]:
    """Objective and gap."""
    product = (values * slope).sum(-1, keepdim=True)
    return product / 2, product - slope.amin(-1, keepdim=True)
