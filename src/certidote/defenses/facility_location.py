"""Greedy facility location: the few points that stand for all, each chosen so that it brings the most points nearer."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

BLOCK_NUMBERS = 1 << 19
"""Distances in memory at once, about."""
LOOKED_AT = 32
"""Candidates whose gains are computed together; the more, the fewer calls, and the more of them in vain."""


def greedy_medoids(points: Float[Tensor, "n d"], count: int) -> tuple[Int64[Tensor, "m"], Int64[Tensor, "n"]]:
    """Greedy maximization of facility location: each next medoid is the point that lowers the sum of distances to the nearest most.

    A gain can only shrink as medoids are added, so a point is looked at again only while its last known gain is the largest (lazy
    evaluation); the result is that of looking at all of them every time, in which the lower row wins ties.

    Args:
        points: Euclidean distances between them count, computed in float64, a block at a time.
        count: medoids wanted, 1 to n.
    Returns: medoids in the order of their choice, fewer than `count` if every point coincides with one already; and for each point
        which of them, from 0, is nearest, the earliest of several.
    Raises: ValueError if `count` is out of range.
    Source: Minoux (1978), lazy evaluation; Mirzasoleiman et al. (2020), facility location of gradients. Greedy is within 1 - 1/e of
        the best choice of as many.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"{count} medoids of {len(points)} points; give 1 to {len(points)}")
    points = points.double()
    totals = torch.cat([_apart(points, some).sum(0) for some in _blocks(torch.arange(len(points), device=points.device))])
    chosen = [int(totals.argmin())]
    nearest, owner = _apart(points, points.new_tensor(chosen, dtype=torch.int64))[:, 0], torch.zeros_like(totals, dtype=torch.int64)
    gains = torch.full_like(totals, torch.inf)  # upper bounds; exact where looked at since the last choice
    gains[chosen] = -torch.inf
    while len(chosen) < count:
        best = _largest_gain(points, nearest, gains)
        if not gains[best] > 0:
            break
        apart = _apart(points, points.new_tensor([best], dtype=torch.int64))[:, 0]
        owner[apart < nearest] = len(chosen)
        nearest = torch.minimum(nearest, apart)
        chosen.append(best)
        gains[best] = -torch.inf
    return torch.tensor(chosen, device=points.device), owner


def _largest_gain(points: Float64[Tensor, "n d"], nearest: Float64[Tensor, "n"], gains: Float64[Tensor, "n"]) -> int:
    """The row of largest gain, the lowest of several; replaces bounds in `gains` by exact gains where it has to look."""
    stale = gains > -torch.inf
    while True:
        best = int(gains.argmax())
        if not stale[best]:
            return best
        bounds = torch.where(stale, gains, -torch.inf)
        some = bounds.topk(min(LOOKED_AT, int(stale.sum()))).indices
        if bool(bounds[some].isinf().all()):  # never looked at: all of them will have to be
            some = stale.nonzero().flatten()
        for block in _blocks(some, len(points)):
            gains[block] = (nearest[:, None] - _apart(points, block)).clamp_(min=0).sum(0)
        stale[some] = False


def _blocks(rows: Int64[Tensor, "m"], height: int = 0) -> tuple[Int64[Tensor, "b"], ...]:
    return torch.split(rows, max(1, BLOCK_NUMBERS // (height or len(rows))))


def _apart(points: Float64[Tensor, "n d"], rows: Int64[Tensor, "b"]) -> Float64[Tensor, "n b"]:
    """Distances of all points to these; exactly 0 between equal ones."""
    return torch.cdist(points, points[rows], compute_mode="donot_use_mm_for_euclid_dist")
