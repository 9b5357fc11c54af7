"""Bagging: every model learns from a bag of samples drawn with replacement, which few altered samples are likely to miss.

Exact arithmetic throughout: bounds on probabilities enter as fractions, and a radius is certified by an inequality of integers.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from jaxtyping import Int64
from scipy import stats

from certidote.certification.binomial import check_alpha, lower_confidence_bound
from certidote.types import ABSTAIN, CountCertificate, Unit

OUTWARD = Fraction(1, 10**9)
"""Bounds that were computed in floating point are moved outward by this share before they enter a proof."""


def certify_bagging(
    counts: Int64[np.ndarray, "n_test classes"], trials: int, *, num_samples: int, bag_size: int, alpha: float
) -> CountCertificate:
    """How many training samples may be modified without changing the most likely vote of a bagged model.

    Args:
        counts: votes of independently bagged models; models that failed are counted in `trials` and vote for nobody.
        trials: models, fixed before their votes were seen.
        num_samples: in the training set; their number does not change.
        bag_size: draws with replacement for each model.
        alpha: failure probability for each test image.
    Returns: unit "images altered in place": each of them may change in any way, its label included.
    Raises: ValueError for numbers out of range.
    Source: Jia et al. 2021, without their rounding of probabilities to multiples of 1/n^k (which could only help).
    """
    check_bags(num_samples, bag_size)
    return certify_pairs(
        counts,
        trials,
        alpha,
        "images altered in place",
        lambda a, b: bagging_radius(a, b, num_samples=num_samples, bag_size=bag_size),
    )


def bagging_radius(p_a: Fraction, p_b: Fraction, *, num_samples: int, bag_size: int) -> int:
    """The largest r with `p_a - p_b > 2 (1 - (1 - r/n)^k)`; -1 if not even r = 0 satisfies it.

    With probability (1 - r/n)^k a bag misses all r modified samples, so no probability moves by more than the rest.

    Args:
        p_a: lower bound on the top class's probability.
        p_b: upper bound on every other class's.
        num_samples: n.
        bag_size: k.
    """
    check_bags(num_samples, bag_size)
    check_probabilities(p_a, p_b)
    wanted = (2 - p_a + p_b) * num_samples**bag_size

    def certified(r: int) -> bool:
        return 2 * (num_samples - r) ** bag_size > wanted

    return largest(certified, num_samples)


def top_two(
    counts: Int64[np.ndarray, "n_test classes"], trials: int, alpha: float
) -> tuple[Int64[np.ndarray, "n_test"], Int64[np.ndarray, "n_test 2"]]:
    """The most voted class, and the counts of it and of the runner-up, checked.

    Raises: ValueError if counts are negative or exceed the trials, there are fewer than 2 classes, or alpha is no probability.
    """
    check_alpha(alpha)
    if counts.shape[1] < 2 or trials < 1 or (counts.size and (counts.min() < 0 or counts.sum(axis=1).max() > trials)):
        raise ValueError(
            f"counts of shape {counts.shape} among {trials} trials; expected at least 2 classes and at most {trials} votes"
        )
    labels = counts.argmax(axis=1).astype(np.int64)
    return labels, np.ascontiguousarray(np.sort(counts, axis=1)[:, :-3:-1])


def probability_bounds(top: int, second: int, trials: int, classes: int, alpha: float) -> tuple[Fraction, Fraction]:
    """A lower bound on the probability of the most voted class and an upper bound on that of any other, together at level alpha.

    Clopper-Pearson bounds at alpha / (classes + 2) each, since the class is chosen from the counted votes; the upper bound is capped
    at what the lower one leaves.

    Source: certificate with several classes (Cohen et al. 2019, appendix). Differs from Jia et al. 2021 and Zhang et al. 2022, who
        spend alpha / classes on each bound.
    """
    each = alpha / (classes + 2)
    p_a = Fraction(float(lower_confidence_bound(np.array([top]), trials, each)[0])) * (1 - OUTWARD)
    upper = 1.0 if second == trials else float(stats.beta.ppf(1 - each, second + 1, trials - second))
    return p_a, min(Fraction(upper) * (1 + OUTWARD), 1 - p_a)


def certify_pairs(
    counts: Int64[np.ndarray, "n_test classes"],
    trials: int,
    alpha: float,
    unit: Unit,
    radius_of: Callable[[Fraction, Fraction], int],
) -> CountCertificate:
    """One exact computation for each pair of counts that occurs."""
    labels, pairs = top_two(counts, trials, alpha)
    distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
    found = [radius_of(*probability_bounds(int(top), int(second), trials, counts.shape[1], alpha)) for top, second in distinct]
    radii = np.array(found, dtype=np.int64)[inverse.ravel()]
    return CountCertificate(np.where(radii < 0, ABSTAIN, labels), radii, unit, alpha)


def largest(certified: Callable[[int], bool], most: int) -> int:
    """The largest r in 0..most that is certified, -1 if none is; whatever is certified for r is certified for less."""
    if not certified(0):
        return -1
    low, step = 0, 1
    while low + step <= most and certified(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if certified(middle) else (low, middle)
    return low


def check_bags(num_samples: int, bag_size: int) -> None:
    if num_samples < 1 or bag_size < 1:
        raise ValueError(f"num_samples={num_samples}, bag_size={bag_size}; give at least 1 of each")


def check_probabilities(p_a: Fraction, p_b: Fraction) -> None:
    if not (0 <= p_a <= 1 and 0 <= p_b <= 1):
        raise ValueError(f"p_a={float(p_a)}, p_b={float(p_b)}; bounds on probabilities lie in [0, 1]")
