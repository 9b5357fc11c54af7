"""What differential privacy of a training proves against poisons: a changed set changes no probability of an answer by much.

A training is (epsilon, delta)-private if for any two sets that differ in one sample, inserted or removed, and any set S of outcomes,
P[M(D) in S] <= exp(epsilon) P[M(D') in S] + delta. Sets that differ in k samples follow from k such steps. The statement is about the
probability of an answer over the coins of training, so what is certified is the plurality of many trainings; one private model
carries no guarantee for any image.

Source: Ma, Zhu and Hsu (2019), "Data poisoning against differentially-private learners", and the group privacy of Dwork and Roth (2014).
"""

import math
import warnings
from bisect import bisect_left
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float64, Int64

from certidote.certification.bagging import certify_pairs
from certidote.types import CountCertificate

ROUNDING = 1e-9
"""Relative margin by which one side of a comparison must exceed the other."""

LARGEST_USEFUL = 10.0
"""No use is made of a larger epsilon: to certify one altered image, more than exp(20) trainings would have to be counted."""

MOST_MODELS = 1_000_000
"""No larger vote is looked at when it is asked how many models a certificate would need."""


def require_opacus() -> None:
    """Raises: ValueError that names the extra if opacus is not installed."""
    if find_spec("opacus") is None:
        raise ValueError("differential privacy is accounted for by opacus; install the extra: pip install 'certidote[dp]'")


def spent_epsilon(noise: float, sampling_rate: float, steps: int, delta: float) -> float:
    """Epsilon at this delta of steps that each add Gaussian noise to a sum over a Poisson sample, for one inserted or removed sample.

    Args:
        noise: std of the noise as a share of the largest norm of one sample's gradient; 0 gives infinity.
        sampling_rate: chance of each sample to be in a step, independently, in (0, 1].
        steps: at least 1.
        delta: in (0, 1).
    Raises: ValueError for numbers out of range, or without opacus.
    Source: Renyi accounting of opacus (Mironov et al. 2019). An upper bound, close for epsilon below about 10.
    """
    if not noise >= 0 or not 0 < sampling_rate <= 1 or steps < 1 or not 0 < delta < 1:
        raise ValueError(
            f"noise={noise:g}, sampling_rate={sampling_rate:g}, steps={steps}, delta={delta:g}; give noise of at least 0, a rate in (0, 1], "
            "at least 1 step and a delta in (0, 1)"
        )
    require_opacus()
    if noise == 0:
        return math.inf
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise, sampling_rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another order would give a smaller epsilon: an upper bound it is all the same
        return float(accountant.get_epsilon(delta))


def group_delta(epsilon: float, delta: float, changes: int) -> float:
    """delta of a group of so many samples, whose epsilon is `changes` times as large: delta (e^(k epsilon) - 1) / (e^epsilon - 1).

    Returns: infinity where that is too large for a number.
    """
    check_privacy(epsilon, delta)
    if delta == 0 or changes == 0:
        return 0.0
    if epsilon == 0:
        return changes * delta
    try:
        return delta * math.expm1(changes * epsilon) / math.expm1(epsilon)
    except OverflowError:
        return math.inf


def least_cost(cost: float, most: float, epsilon: float, delta: float, changes: int) -> float:
    """What an attacker cannot bring the expected cost of the learned model below by changing so many samples.

    Args:
        cost: J, expected over the coins of training on the set as it is, in [0, most].
        most: c, the largest cost of any model.
        changes: k, samples inserted or removed.
    Source: Ma et al. (2019), theorem 3, for costs that are not negative: max(0, e^(-k epsilon) (J + c d) - c d), d = delta / (e^epsilon - 1).
    """
    check_privacy(epsilon, delta)
    if not 0 <= cost <= most:
        raise ValueError(f"cost={cost:g}, most={most:g}; give an expected cost of at least 0 and at most the largest one")
    if epsilon == 0:
        return max(0.0, cost - changes * most * delta)
    rest = most * delta / math.expm1(epsilon)
    return max(0.0, math.exp(-changes * epsilon) * (cost + rest) - rest)


def private_radius(
    lower: Float64[np.ndarray, "n"], upper: Float64[np.ndarray, "n"], epsilon: float, delta: float, num_samples: int
) -> Int64[np.ndarray, "n"]:
    """How many samples may be inserted or removed without the likeliest answer changing. One altered image counts as two.

    Certified for k where e^(-k epsilon) (p_A - delta_k) > e^(k epsilon) p_B + delta_k.

    Args:
        lower, upper: (n,) bounds p_A on the probability of the answer and p_B on that of every other class, over the coins of training.
        epsilon, delta: of one training, for one sample inserted or removed.
        num_samples: of the training set; no more are counted.
    Returns: (n,) counts from -1 (not the likeliest answer for sure) to num_samples.
    """
    check_privacy(epsilon, delta)
    radii = np.full(len(lower), -1, dtype=np.int64)
    open_rows = np.ones(len(lower), dtype=bool)
    for changes in range(num_samples + 1):
        group, exponent = group_delta(epsilon, delta, changes), changes * epsilon
        if exponent > 700 or group >= 1:
            break
        left, right = math.exp(-exponent) * (lower - group), math.exp(exponent) * upper + group
        open_rows &= left > right * (1 + ROUNDING)
        if not open_rows.any():
            break
        radii[open_rows] = changes
    return radii


def certify_private(
    counts: Int64[np.ndarray, "n_test classes"], trials: int, *, epsilon: float, delta: float, num_samples: int, alpha: float
) -> CountCertificate:
    """How many training images may be altered without the likeliest answer of a private training changing.

    An altered image is one removed and one inserted. The set keeps its size, which trainers that divide by it must be told anyway.

    Args:
        counts: votes of independent trainings; those that failed are counted in `trials` and vote for nobody.
        trials: trainings, fixed before their votes were seen.
        epsilon, delta: of one training, for one sample inserted or removed. Epsilon is finite.
        num_samples: of the training set.
        alpha: failure probability for each test image.
    Returns: unit "images altered in place": each of them may change in any way, its label included.
    Raises: ValueError for numbers out of range.
    """
    check_privacy(epsilon, delta)
    if not math.isfinite(epsilon):
        raise ValueError(f"epsilon={epsilon}; nothing follows from a training that promises nothing")

    def altered(p_a: Fraction, p_b: Fraction) -> int:
        (changes,) = private_radius(np.array([float(p_a)]), np.array([float(p_b)]), epsilon, delta, 2 * num_samples)
        return int(changes) // 2  # and -1 stays -1

    return certify_pairs(counts, trials, alpha, "images altered in place", altered)


def certifiable(models: int, classes: int, *, epsilon: float, delta: float, num_samples: int, alpha: float) -> int:
    """The most altered images that so many trainings can certify, if all of them agree; -1 if they cannot even certify the answer."""
    unanimous = np.zeros((1, classes), dtype=np.int64)
    unanimous[0, 0] = models
    found = certify_private(unanimous, models, epsilon=epsilon, delta=delta, num_samples=num_samples, alpha=alpha)
    return int(found.radii[0])


def models_needed(classes: int, *, epsilon: float, delta: float, num_samples: int, alpha: float) -> int | None:
    """The fewest trainings that certify one altered image if all of them agree; None if `MOST_MODELS` do not."""

    def too_few(models: int) -> bool:
        return certifiable(models, classes, epsilon=epsilon, delta=delta, num_samples=num_samples, alpha=alpha) < 1

    if epsilon > LARGEST_USEFUL or too_few(MOST_MODELS):
        return None
    return bisect_left(range(1, MOST_MODELS), True, key=lambda models: not too_few(models)) + 1


def privacy_statement(epsilon: float, delta: float) -> str:
    """What such a training promises, in words."""
    size = f"epsilon {epsilon:.3g} at delta {delta:g} for one inserted or removed image"
    if epsilon > LARGEST_USEFUL:
        return f"{size}: no guarantee (beyond {LARGEST_USEFUL:g} nothing can be proved about any answer)"
    return f"{size}; a guarantee about the plurality of many such trainings, none about one model"


def check_privacy(epsilon: float, delta: float) -> None:
    """Raises ValueError unless epsilon is at least 0 and delta is in [0, 1)."""
    if not epsilon >= 0 or not 0 <= delta < 1:
        raise ValueError(f"epsilon={epsilon:g}, delta={delta:g}; give an epsilon of at least 0 and a delta in [0, 1)")
