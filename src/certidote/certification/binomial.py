"""Bounds on a vote share, and tests between vote counts, from a fixed number of independent votes."""

import math
import warnings

import numpy as np
from jaxtyping import Float64, Int64
from scipy import special, stats

from certidote.types import ABSTAIN

SMALLEST_ALPHA = 1e-100
"""Below this, floating point cannot check a bound on a vote share."""

EXCESS = 1e-6
"""By how much, relative to alpha, rounding may raise the failure probability of a bound."""


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless alpha is a failure probability in (0, 1/2) that bounds can be computed for."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha={alpha} is not a failure probability; give a number in (0, 0.5), such as 0.001")
    if alpha < SMALLEST_ALPHA:
        raise ValueError(
            f"alpha={alpha:g}, what each single bound may fail with, is below {SMALLEST_ALPHA:g}, where bounds cannot be computed "
            "reliably; give a larger alpha, such as 0.001"
        )


def check_counts(successes: Int64[np.ndarray, "..."], trials: int) -> None:
    """Raises ValueError unless there is at least 1 trial and every count lies in 0 to `trials`."""
    if trials < 1:
        raise ValueError(f"trials={trials}; a bound needs at least 1 draw")
    if successes.size and (successes.min() < 0 or successes.max() > trials):
        raise ValueError(f"counts from {successes.min()} to {successes.max()} among {trials} trials; 0 to {trials} are possible")


def lower_confidence_bound(successes: Int64[np.ndarray, "n"], trials: int, alpha: float) -> Float64[np.ndarray, "n"]:
    """Clopper-Pearson lower bound on a success probability.

    For every true p, the bound exceeds p with probability at most `alpha` (but for `EXCESS`, rounding), separately for each entry. The number of trials must
    have been fixed before the counts were seen: looking at a running count and stopping voids it.

    Args:
        successes: (n,) counts, 0 <= successes <= trials.
        trials: number of independent draws behind each count, at least 1.
        alpha: failure probability, in (0, 0.5).
    Returns: (n,) bounds in [0, 1); 0 where successes is 0.
    Raises: ValueError if a count exceeds `trials` or is negative, or `alpha` is outside its range.
    Source: Clopper and Pearson (1934). One-sided, as smoothing certificates need (Cohen et al. 2019, section 3.2.2).
    """
    check_alpha(alpha)
    check_counts(successes, trials)
    bounds = np.zeros(successes.shape, dtype=np.float64)
    some = successes > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what overflows is found by the check
        quantiles = stats.beta.ppf(alpha, successes[some], trials - successes[some] + 1)
        bounds[some] = _checked(quantiles, successes[some], trials, alpha)
    return bounds


def _checked(
    bounds: Float64[np.ndarray, "n"], successes: Int64[np.ndarray, "n"], trials: int, alpha: float
) -> Float64[np.ndarray, "n"]:
    """The bounds where that many successes have probability at most alpha under them, and safe ones where that cannot be shown.

    Quantiles go wrong on the unsafe side for few successes at small alpha. There the union bound over which trials succeed,
    P[X >= k] <= (trials choose k) p^k, gives p in closed form.
    """
    tails = stats.binom.logsf(successes - 1, trials, bounds)
    shown = tails <= math.log(alpha) + math.log1p(EXCESS)
    ways = special.gammaln(trials + 1) - special.gammaln(successes + 1) - special.gammaln(trials - successes + 1)
    union = np.exp((math.log(alpha) - ways) / successes) * (1 - 1e-9)
    return np.where(shown, bounds, np.minimum(bounds, union))


def upper_confidence_bound(successes: Int64[np.ndarray, "n"], trials: int, alpha: float) -> Float64[np.ndarray, "n"]:
    """Clopper-Pearson upper bound: one minus the lower bound on the probability of failure. 1 where all trials succeeded."""
    check_counts(successes, trials)
    return 1 - lower_confidence_bound(trials - successes, trials, alpha)


def predict(counts: Int64[np.ndarray, "n_test classes"], alpha: float) -> Int64[np.ndarray, "n_test"]:
    """The most likely class where the votes leave no doubt about it, else ABSTAIN. No radius, fewer votes needed.

    For every vote distribution, a class that is not the most likely one is returned with probability at most `alpha`, separately
    for each row. The number of votes must have been fixed before they were seen.

    Args:
        counts: votes for each class; those of failed members are missing and do no harm.
        alpha: failure probability, in (0, 0.5).
    Source: Cohen et al. 2019, Predict: a two-sided binomial test of the two largest counts (Hung and Fithian 2019).
    """
    check_alpha(alpha)
    ordered = np.sort(counts, axis=1)
    first, second = ordered[:, -1], ordered[:, -2]
    p_value = np.minimum(1.0, 2 * stats.binom.sf(first - 1, first + second, 0.5))
    return np.where(p_value <= alpha, counts.argmax(axis=1), ABSTAIN).astype(np.int64)


def minimum_trials(alpha: float) -> int:
    """The least number of draws whose unanimous vote has a lower bound above 1/2: fewer can never certify anything."""
    check_alpha(alpha)
    trials = max(1, math.floor(math.log(alpha) / math.log(0.5)) - 1)
    while alpha ** (1 / trials) <= 0.5:
        trials += 1
    return trials
