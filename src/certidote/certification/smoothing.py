"""The certificate of data-set smoothing: from vote counts to a radius around the training set.

g(D) is the most likely prediction when Gaussian noise is added to every training pixel before anything else happens. If its
probability is at least p_A, and that of every other class at most p_B, then no training set D' with
||D' - D||_F < sigma / 2 * (Phi^-1(p_A) - Phi^-1(p_B)) has another most likely prediction. With p_B = 1 - p_A that is
sigma * Phi^-1(p_A).
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from certidote.certification.bounds import Bound, level, probability_bounds
from certidote.types import ABSTAIN, Ballots

ROUND_DOWN = 1 - 1e-9
"""Radii are shrunk by this factor before they are used or printed, so that floating point never rounds a claim up."""


def radius(lower_bounds: Float64[np.ndarray, "n"], sigma: float) -> Float64[np.ndarray, "n"]:
    """Certified Frobenius radius of a class with probability at least `lower_bounds`; 0 where that is at most 1/2.

    Args:
        lower_bounds: (n,) lower bounds on the top class's probability, in [0, 1).
        sigma: noise std, [0, 1] pixel units.
    Returns: (n,) radii in [0, 1] pixel units over all pixels of the training set, rounded down.
    Source: paper, section 3.2; Cohen et al. 2019, theorem 1, with p_B = 1 - p_A.
    Differs from the paper: the norm is Euclidean over the whole training set, which covers every set whose per-image l2 norms
        sum to less than the radius (the paper's definition) and more.
    """
    return np.where(lower_bounds > 0.5, sigma * stats.norm.ppf(np.maximum(lower_bounds, 0.5)) * ROUND_DOWN, 0.0)


def two_sided_radius(
    lower_bounds: Float64[np.ndarray, "n"], upper_bounds: Float64[np.ndarray, "n"], sigma: float
) -> Float64[np.ndarray, "n"]:
    """Certified Frobenius radius from both bounds; never below `radius`, and 0 where p_A <= p_B.

    Args:
        lower_bounds: (n,) lower bounds p_A on the answer's probability, in [0, 1).
        upper_bounds: (n,) upper bounds p_B on that of every other class, at most 1 - p_A.
        sigma: noise std, [0, 1] pixel units.
    Source: Cohen et al. 2019, theorem 1.
    """
    proved = lower_bounds > upper_bounds
    gap = stats.norm.ppf(np.where(proved, lower_bounds, 0.5)) - stats.norm.ppf(np.where(proved, upper_bounds, 0.5))
    return np.maximum(radius(lower_bounds, sigma), np.where(proved, sigma / 2 * gap * ROUND_DOWN, 0.0))


def radius_cap(
    sigma: float, n: int, alpha: float, bound: Bound = "clopper-pearson", num_classes: int = 2, separate: bool = True
) -> float:
    """The radius of a unanimous vote of n members: no test image can have a larger one.

    Args:
        alpha: failure probability of one test image's certificate.
        num_classes, separate: as in `bounds.level`.
    """
    counts = np.zeros((1, 2), dtype=np.int64)
    counts[0, 0] = n
    each = level(bound, alpha, num_classes, separate)
    return float(two_sided_radius(*probability_bounds(bound, counts, np.zeros(1, dtype=np.int64), n, each), sigma)[0])


def certify_votes(
    ballots: Ballots, members: range, n0: int, sigma: float, alpha: float, bound: Bound = "clopper-pearson"
) -> tuple[Int64[np.ndarray, "n_test"], Float64[np.ndarray, "n_test"], Float64[np.ndarray, "n_test"], Int64[np.ndarray, "n_test"]]:
    """`certify_counts` of consecutive members: the first n0 of them select, all others are counted, so that none does both.

    Args:
        members: whose votes are used; all others are ignored.
        n0: selecting members, 0 to let the counted votes select.
    Raises: ValueError as `certify_counts`, if there are no such members, or none would be counted.
    """
    if members.step != 1 or not members.start >= 0 or members.stop > len(ballots):
        raise ValueError(f"members {members} are not consecutive members of the {len(ballots)} that voted")
    if not 0 <= n0 < len(members):
        raise ValueError(f"n0={n0} of {len(members)} members select the answer; at least 1 of them must be left to be counted")
    cut = members.start + n0
    selection = ballots.counts(members.start, cut) if n0 else None
    return certify_counts(selection, ballots.counts(cut, members.stop), members.stop - cut, sigma, alpha, bound)


def certify_counts(
    selection: Int64[np.ndarray, "n_test classes"] | None,
    estimation: Int64[np.ndarray, "n_test classes"],
    n: int,
    sigma: float,
    alpha: float,
    bound: Bound = "clopper-pearson",
) -> tuple[Int64[np.ndarray, "n_test"], Float64[np.ndarray, "n_test"], Float64[np.ndarray, "n_test"], Int64[np.ndarray, "n_test"]]:
    """Select a class, bound its probability by the counted votes, and turn the bound into a radius.

    Counts alone cannot show whether a selecting member was counted again, unless there are then more votes than counted members:
    where ballots are at hand, use `certify_votes`, which cuts them itself.

    Args:
        selection: votes of the n0 selecting members; the most voted class is the candidate, ties to the smaller index. None: the
            counted votes select, at the stricter level of `bounds.level`.
        estimation: votes of the n counted members and of no selecting one. Failed members vote for nobody.
        n: counted members, failed ones included.
        sigma: noise std, [0, 1] pixel units.
        alpha: failure probability for each test image.
        bound: how the probability is bounded; fixed before any vote was seen.
    Returns: labels (ABSTAIN where nothing is proved), radii, lower bounds, and the candidates' counts.
    Raises: ValueError for a sigma that is no noise, or if a test image has more counted votes than there are counted members, as it
        has where selecting members are counted again.
    Source: paper, Algorithm 1; Cohen et al. 2019, Certify.
    """
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma={sigma} is no noise std; give a number > 0 ([0, 1] pixel units)")
    most = int(estimation.sum(axis=1).max(initial=0))
    if most > n:
        raise ValueError(
            f"{most} votes are counted for a test image, but there are n={n} counted members; the n0 members that select the answer must "
            "not be among them"
        )
    candidates = (estimation if selection is None else selection).argmax(axis=1)
    each = level(bound, alpha, estimation.shape[1], selection is not None)
    lower, upper = probability_bounds(bound, estimation, candidates, n, each)
    labels = np.where(lower > upper, candidates, ABSTAIN)
    hits = estimation[np.arange(len(estimation)), candidates]
    return labels.astype(np.int64), two_sided_radius(lower, upper, sigma), lower, hits.astype(np.int64)
