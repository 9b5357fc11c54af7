"""Bounds on a vote share that hold at every number of votes at once: looking, stopping and going on are all allowed.

Members are expensive, and runs are interrupted and resumed. For independent votes that are right with probability p, the
likelihood ratio of a Beta(1/2, 1/2) mixture of other probabilities against p,

    M_n(p) = B(1/2 + k, 1/2 + n - k) / (B(1/2, 1/2) p^k (1 - p)^(n - k)),    k right votes among n,

is a nonnegative martingale that starts at 1. By Ville's inequality it ever reaches 1/alpha with probability at most alpha, so the
p with M_n(p) < 1/alpha contain the true one for all n together. For a lower bound the mixture is cut to (p, 1), the only
probabilities that matter.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64
from scipy import special

from certidote.certification.binomial import check_alpha, check_counts

PRIOR = 0.5
"""Both parameters of the Beta mixture."""
HALVINGS = 60
"""Of the interval that holds a bound: what is left of it is below 1e-18."""


def anytime_lower_bound(successes: Int64[np.ndarray, "n"], trials: int, alpha: float) -> Float64[np.ndarray, "n"]:
    """Lower bound on a success probability that is valid at all numbers of trials simultaneously.

    For every true p, the chance that the bound exceeds p at any time, however often it is looked at, is at most `alpha`, separately
    for each entry. So its running maximum over time is a bound too.

    Args:
        successes: (n,) counts, 0 <= successes <= trials.
        trials: independent draws so far, at least 1; may depend on anything seen before.
        alpha: failure probability, in (0, 0.5).
    Returns: (n,) bounds in [0, 1), rounded down: the smallest p that is not excluded. 0 where successes is 0.
    Raises: ValueError as `binomial.lower_confidence_bound`.
    Source: Ville (1939) with a Beta(1/2, 1/2) mixture cut to (p, 1).
    """
    check_alpha(alpha)
    check_counts(successes, trials)
    return _for_distinct(successes, lambda counts: _first_not_excluded(counts, trials, alpha, one_sided=True))


def confidence_sequence(
    successes: Int64[np.ndarray, "n"], trials: int, alpha: float
) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """Two-sided interval for a success probability that is valid at all numbers of trials simultaneously.

    Args: as `anytime_lower_bound`; `alpha` is the chance that the interval ever misses, on either side.
    Returns: (n,) lower ends and (n,) upper ends, rounded outward.
    Raises: ValueError as `binomial.lower_confidence_bound`.
    Source: Ville (1939) with a Beta(1/2, 1/2) mixture.
    """
    check_alpha(alpha)
    check_counts(successes, trials)

    def low(counts: Int64[np.ndarray, "m"]) -> Float64[np.ndarray, "m"]:
        return _first_not_excluded(counts, trials, alpha, one_sided=False)

    return _for_distinct(successes, low), 1 - _for_distinct(trials - successes, low)


def log_martingale(
    successes: Int64[np.ndarray, "..."],
    trials: Int64[np.ndarray, "..."] | int,
    p: Float64[np.ndarray, "..."] | float,
    *,
    one_sided: bool,
) -> Float64[np.ndarray, "..."]:
    """log M_n(p) for 0 < p < 1; p is excluded once this reaches log(1/alpha). Arguments broadcast.

    Args:
        one_sided: cut the mixture to (p, 1), which excludes p only when there are more successes than it explains.
    """
    after, before = PRIOR + successes, PRIOR + trials - successes
    value = special.betaln(after, before) - special.betaln(PRIOR, PRIOR)
    value = value - special.xlogy(successes, p) - special.xlog1py(trials - successes, -p)
    if one_sided:
        with np.errstate(divide="ignore"):  # far above k/n nothing of the mixture is left: -inf, never excluded
            value = value + np.log(special.betaincc(after, before, p)) - np.log(special.betaincc(PRIOR, PRIOR, p))
    return np.asarray(value, dtype=np.float64)


def minimum_anytime_trials(alpha: float) -> int:
    """The least number of trials whose unanimous vote has an `anytime_lower_bound` above 1/2."""
    check_alpha(alpha)
    trials = 1
    while log_martingale(np.array([trials]), trials, 0.5, one_sided=True)[0] < -np.log(alpha):
        trials += 1
    return trials


def _for_distinct(
    counts: Int64[np.ndarray, "n"], bound: Callable[[Int64[np.ndarray, "m"]], Float64[np.ndarray, "m"]]
) -> Float64[np.ndarray, "n"]:
    """`bound` worked out once for each distinct count: thousands of test images share a few hundred counts."""
    distinct, place = np.unique(counts, return_inverse=True)
    return bound(distinct)[place.reshape(counts.shape)]


def _first_not_excluded(counts: Int64[np.ndarray, "m"], trials: int, alpha: float, *, one_sided: bool) -> Float64[np.ndarray, "m"]:
    """The smallest p with M_n(p) < 1/alpha, from below, by bisection.

    M falls from infinity at p = 0 to at most 1 at p = k/n: two-sided because its logarithm is convex there, one-sided as the tests
    check count by count.
    """
    threshold = -np.log(alpha)
    low, high = np.zeros(len(counts)), counts / trials
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        inside = (middle > low) & (middle < high)
        excluded = inside & (log_martingale(counts, trials, np.where(inside, middle, 0.5), one_sided=one_sided) >= threshold)
        low = np.where(excluded, middle, low)
        high = np.where(inside & ~excluded, middle, high)
    return low
