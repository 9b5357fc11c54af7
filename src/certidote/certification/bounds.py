"""The three ways to bound a class's probability from vote counts, at the levels that make the whole statement fail with alpha.

Whichever bound is used is fixed before the first member trains. The answer comes from separate selecting votes, or from the counted
votes themselves at a stricter level:

| bound | answer from separate votes | answer from the counted votes |
|---|---|---|
| clopper-pearson, anytime | alpha | alpha / 2 |
| multi-class | alpha / 2 for each bound used | alpha / (K + 2) for each bound |

Why alpha / 2 is enough for every K: a class with probability p <= 1/2 gets a bound above 1/2 with at most 2 p times the chance that it
has at p = 1/2 (where the bound rises above 1/2 it leads by at least one vote, and the likelihood ratio of p against 1/2 is then at most
2 p), and the p of all classes sum to 1. For multi-class bounds from separate votes only two need to hold: the lower bound of the
answer and the upper bound of the true runner-up, whichever it is. From the counted votes these are K lower bounds (any class may be
chosen), and the upper bounds of the best and the second best class.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64, Int64

from certidote.certification.anytime import anytime_lower_bound, minimum_anytime_trials
from certidote.certification.binomial import check_alpha, lower_confidence_bound, minimum_trials, upper_confidence_bound

Bound = Literal["clopper-pearson", "multi-class", "anytime"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)


def check_bound(bound: str) -> Bound:
    """The name, if it is one of `BOUNDS`.

    Raises: ValueError otherwise.
    """
    for known in BOUNDS:
        if bound == known:
            return known
    raise ValueError(f"unknown bound {bound!r}; choose one of: {', '.join(BOUNDS)}")


def level(bound: Bound, alpha: float, num_classes: int, separate: bool) -> float:
    """What each single bound may fail with, so that the certificate of one test image fails with probability at most alpha.

    Args:
        alpha: failure probability of one test image's certificate, in (0, 0.5).
        num_classes: K, at least 2.
        separate: whether the answer is selected by votes that are not counted.
    """
    check_alpha(alpha)
    if bound == "multi-class":
        return alpha / 2 if separate else alpha / (num_classes + 2)
    return alpha if separate else alpha / 2


def minimum_models(bound: Bound, alpha: float, num_classes: int, separate: bool) -> int:
    """The least number of counted votes that can certify anything: with fewer, even a unanimous vote proves nothing.

    Args: as `level`.
    """
    each = level(bound, alpha, num_classes, separate)
    return minimum_anytime_trials(each) if bound == "anytime" else minimum_trials(each)


def probability_bounds(
    bound: Bound, counts: Int64[np.ndarray, "n_test classes"], candidates: Int64[np.ndarray, "n_test"], n: int, each: float
) -> tuple[Float64[np.ndarray, "n_test"], Float64[np.ndarray, "n_test"]]:
    """A lower bound on each candidate's probability, and an upper bound on that of every other class.

    Args:
        counts: counted votes for each class; failed members vote for nobody.
        candidates: the selected class of each test image.
        n: counted members, failed ones included. Fixed beforehand unless `bound` is "anytime".
        each: level of each single bound, from `level`.
    Returns: (n_test,) lower bounds p_A and (n_test,) upper bounds p_B <= 1 - p_A. The candidate is proved where p_A > p_B.
    """
    rows = np.arange(len(counts))
    hits = counts[rows, candidates]
    if bound == "anytime":
        lower = anytime_lower_bound(hits, n, each)
        return lower, 1 - lower
    lower = lower_confidence_bound(hits, n, each)
    if bound == "clopper-pearson":
        return lower, 1 - lower
    rivals = counts.copy()
    rivals[rows, candidates] = -1
    return lower, np.minimum(1 - lower, upper_confidence_bound(rivals.max(axis=1), n, each))
