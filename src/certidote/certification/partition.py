"""The certificate of partitioned smoothing: from one smoothed vote and one radius for each part to the cheapest attack on their plurality.

The training set is cut into q disjoint parts, each smoothed by itself; nothing passes between them. The answer is the plurality c* of the
parts' ideal votes, ties to the smaller class. To make it c' instead, an attacker must close

    gap = n_c* - n_c' + [c' > c*];

a vote for c* that he turns into one for c' closes 2, any other vote closes 1. Turning the vote of part j costs him w_j, which depends
on the threat; a part without a certified vote costs him nothing.
"""

import numpy as np
from jaxtyping import Float64, Int64

from certidote.certification.smoothing import ROUND_DOWN
from certidote.types import ABSTAIN

CHUNK = 1_000
"""Test points worked on together."""


def plurality(votes: Int64[np.ndarray, "points parts"], num_classes: int) -> Int64[np.ndarray, "points"]:
    """The most frequent certified vote, ties to the smaller class; parts that ABSTAIN count for no class."""
    return np.stack([(votes == c).sum(axis=1) for c in range(num_classes)], axis=1).argmax(axis=1).astype(np.int64)


def cheapest_attack(
    votes: Int64[np.ndarray, "points parts"], costs: Float64[np.ndarray, "points parts"], num_classes: int
) -> Float64[np.ndarray, "points"]:
    """The least total cost at which the parts' plurality can become another class, for each test point.

    W = min over rivals c' != c* (also those without votes) of W(c'), with
    W(c') = min over a of A(a) + B(max(0, gap - 2 a)),
    A and B the prefix sums of the sorted costs of the votes for c* and of those for third classes or none, infinite past their ends.

    Args:
        votes: (points, parts) certified votes; ABSTAIN where a part has none.
        costs: (points, parts) cost of turning each vote, at least 0, or infinite; 0 where the part abstains.
        num_classes: K, at least 2.
    Returns: (points,) W; 0 where the plurality is not certified at all, infinite where no attack is possible.
    Raises: ValueError for negative or NaN costs, or an abstaining part with a cost.
    """
    if not (costs >= 0).all():
        raise ValueError("a cost is negative or NaN; costs are at least 0")
    if (costs[votes == ABSTAIN] != 0).any():
        raise ValueError("an abstaining part has a cost; the attacker sets its vote at cost 0")
    chunks = range(0, len(votes), CHUNK)
    parts = [_cheapest(votes[first : first + CHUNK], costs[first : first + CHUNK], num_classes) for first in chunks]
    return np.concatenate(parts) if parts else np.zeros(0)


def _cheapest(
    votes: Int64[np.ndarray, "points parts"], costs: Float64[np.ndarray, "points parts"], num_classes: int
) -> Float64[np.ndarray, "points"]:
    order = costs.argsort(axis=1, kind="stable")
    votes, costs = np.take_along_axis(votes, order, axis=1), np.take_along_axis(costs, order, axis=1)
    counts = np.stack([(votes == c).sum(axis=1) for c in range(num_classes)], axis=1)
    best = counts.argmax(axis=1)[:, None]
    lead = np.take_along_axis(counts, best, axis=1)
    flipped = np.arange((int(lead.max()) + 2) // 2 + 1)[
        None
    ]  # more flips of votes for c* than close the largest gap need not be tried
    own = _prefix_sums(votes == best, costs)
    least = np.full(len(votes), np.inf)
    for rival in range(num_classes):
        gap = lead - counts[:, [rival]] + (rival > best)
        rest = _prefix_sums((votes != best) & (votes != rival), costs)
        others = np.minimum(np.maximum(gap - 2 * flipped, 0), rest.shape[1] - 1)
        total = own[:, np.minimum(flipped[0], own.shape[1] - 1)] + np.take_along_axis(rest, others, axis=1)
        least = np.where(best[:, 0] == rival, least, np.minimum(least, total.min(axis=1)))
    return least


def _prefix_sums(mask: np.ndarray, costs: Float64[np.ndarray, "points parts"]) -> Float64[np.ndarray, "points sums"]:
    """(points, parts + 2): sum of the first 0, 1, 2, ... masked costs of each row; infinite past their number."""
    sums = np.full((len(costs), costs.shape[1] + 2), np.inf)
    sums[:, 0] = 0
    rank, running = mask.cumsum(axis=1), np.where(mask, costs, 0.0).cumsum(axis=1)
    rows, places = np.nonzero(mask)
    sums[rows, rank[rows, places]] = running[rows, places]
    return sums


# ----------------------------------------------------------------------------------------------------------------- threats


def frobenius_radius(
    votes: Int64[np.ndarray, "points parts"], radii: Float64[np.ndarray, "points parts"], num_classes: int
) -> Float64[np.ndarray, "points"]:
    """The plurality is the same for every change whose Euclidean norm over the whole training set is below this; rounded down."""
    return np.sqrt(cheapest_attack(votes, radii**2, num_classes)) * ROUND_DOWN


def sum_radius(
    votes: Int64[np.ndarray, "points parts"], radii: Float64[np.ndarray, "points parts"], num_classes: int
) -> Float64[np.ndarray, "points"]:
    """The same for every change whose per-image l2 norms sum to less than this (the paper's radius); rounded down."""
    return cheapest_attack(votes, radii, num_classes) * ROUND_DOWN


def altered_images(
    votes: Int64[np.ndarray, "points parts"],
    radii: Float64[np.ndarray, "points parts"],
    untrusted: Int64[np.ndarray, "parts"],
    num_classes: int,
    image_norm: float,
) -> Int64[np.ndarray, "points"]:
    """The most images that may each move by `image_norm` in l2, wherever they are: the same answer for every k up to this.

    Part j falls once `image_norm * sqrt(k_j) >= R_j`, which costs ceil(R_j^2 / image_norm^2) of its untrusted images.

    Returns: (points,) counts from -1 (nothing certified) to the number of untrusted images.
    """
    needed = np.ceil((radii * ROUND_DOWN / image_norm) ** 2)
    return _whole(cheapest_attack(votes, np.where(needed > untrusted, np.inf, needed), num_classes), untrusted)


def replaced_images(
    votes: Int64[np.ndarray, "points parts"],
    radii: Float64[np.ndarray, "points parts"],
    untrusted: Int64[np.ndarray, "parts"],
    num_classes: int,
) -> Int64[np.ndarray, "points"]:
    """The most images that may be replaced altogether, labels included: each costs the attacker one part with a certified vote.

    Returns: as `altered_images`.
    """
    whole = np.where(untrusted > 0, 1.0, np.inf)
    return _whole(cheapest_attack(votes, np.where(radii > 0, whole, 0.0), num_classes), untrusted)


def _whole(least: Float64[np.ndarray, "points"], untrusted: Int64[np.ndarray, "parts"]) -> Int64[np.ndarray, "points"]:
    return np.minimum(least - 1, untrusted.sum()).astype(np.int64)


def part_sizes(untrusted: int, parts: int) -> Int64[np.ndarray, "parts"]:
    """How many untrusted images each part of `part_rows` has."""
    return np.array([len(range(part, untrusted, parts)) for part in range(parts)], dtype=np.int64)


def part_rows(num_images: int, trusted: tuple[int, ...], parts: int, permutation: Int64[np.ndarray, "m"]) -> list[list[int]]:
    """The rows of each part: untrusted ones dealt out in the order of `permutation`, trusted ones in every part.

    Nothing that an attacker can change decides where an image goes.

    Args:
        permutation: of all row numbers, a constant.
    Raises: ValueError if a part would have no untrusted image.
    """
    known = set(trusted)
    dealt = [int(row) for row in permutation if int(row) not in known]
    if not 1 <= parts <= len(dealt):
        raise ValueError(f"parts={parts} of {num_images} images, {len(dealt)} of them untrusted; give 1 to {len(dealt)} parts")
    return [sorted([*dealt[part::parts], *trusted]) for part in range(parts)]
