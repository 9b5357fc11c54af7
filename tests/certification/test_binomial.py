import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from certidote.certification.binomial import lower_confidence_bound, minimum_trials
from certidote.defenses.smoothing import DenoisedSmoothing
from false_alarms import assert_rate_at_most
from oracles import IdentityDenoiser


@pytest.mark.parametrize("trials", [1, 7, 100, 1_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_bound_is_clopper_pearson_for_every_count(trials: int, alpha: float) -> None:
    counts = np.unique(np.linspace(0, trials, 41).astype(np.int64))
    bounds = lower_confidence_bound(counts, trials, alpha)
    for count, bound in zip(counts, bounds, strict=True):
        test = scipy.stats.binomtest(int(count), trials, alternative="greater")
        assert bound == pytest.approx(test.proportion_ci(1 - alpha, method="exact").low, rel=1e-9, abs=1e-300)
    assert bounds[0] == 0
    assert bounds[-1] == pytest.approx(alpha ** (1 / trials), rel=1e-12)
    assert np.all(np.diff(bounds) > 0)


def test_bound_solves_its_defining_equation() -> None:
    counts = np.arange(1, 41)
    for count, bound in zip(counts, lower_confidence_bound(counts, 40, 0.01), strict=True):
        tail = sum(math.comb(40, k) * bound**k * (1 - bound) ** (40 - k) for k in range(count, 41))
        assert tail == pytest.approx(0.01, rel=1e-9)


def exact_miss_probability(bounds: np.ndarray, trials: int, p: np.ndarray) -> np.ndarray:
    """P[bound(count) > p] for a binomial count, by summing over all counts."""
    pmf = scipy.stats.binom.pmf(np.arange(trials + 1)[None, :], trials, p[:, None])
    return (pmf * (bounds[None, :] > p[:, None])).sum(axis=1)


@pytest.mark.parametrize(("trials", "alpha"), [(10, 0.05), (100, 0.001), (1_000, 0.001)])
def test_exact_coverage_over_all_counts(trials: int, alpha: float) -> None:
    p = np.linspace(0.001, 0.999, 999)
    misses = exact_miss_probability(lower_confidence_bound(np.arange(trials + 1), trials, alpha), trials, p)
    assert misses.max() <= alpha * (1 + 1e-9)
    # The same check must catch the bound that textbooks print: the normal approximation misses far more often near p = 1.
    share = np.arange(trials + 1) / trials
    wald = share - scipy.stats.norm.isf(alpha) * np.sqrt(share * (1 - share) / trials)
    assert exact_miss_probability(wald, trials, p).max() > 10 * alpha


def test_bound_covers_near_one() -> None:
    successes = np.random.default_rng(0).binomial(1_000, 0.999, size=100_000)
    misses = int((lower_confidence_bound(successes, 1_000, 0.01) > 0.999).sum())
    assert_rate_at_most(misses, 100_000, 0.01)


@pytest.mark.parametrize(("alpha", "expected"), [(0.001, 10), (0.05, 5), (0.25, 3), (0.49, 2), (0.001 / 400, 19)])
def test_minimum_trials_is_where_a_unanimous_vote_first_counts(alpha: float, expected: int) -> None:
    assert minimum_trials(alpha) == expected
    assert lower_confidence_bound(np.array([expected]), expected, alpha)[0] > 0.5
    assert lower_confidence_bound(np.array([expected - 1]), expected - 1, alpha)[0] <= 0.5


def test_known_thresholds_at_one_in_a_thousand() -> None:
    for trials, hits in ((1_000, 550), (100, 66), (20, 18), (10, 10)):
        assert lower_confidence_bound(np.array([hits]), trials, 0.001)[0] > 0.5
        assert lower_confidence_bound(np.array([hits - 1]), trials, 0.001)[0] <= 0.5


def exact_tail(count: int, trials: int, p: float) -> Fraction:
    share = Fraction(p)
    return sum((math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(count, trials + 1)), start=Fraction(0))


@pytest.mark.parametrize("alpha", [1e-3, 1e-20, 1e-50, 1e-80, 1e-100])
def test_small_alphas_do_not_take_the_bound_to_the_unsafe_side(alpha: float) -> None:
    counts = np.arange(1, 41)
    for count, bound in zip(counts.tolist(), lower_confidence_bound(counts, 40, alpha).tolist(), strict=True):
        assert exact_tail(count, 40, bound) <= Fraction(alpha) * Fraction(1 + 2e-6), (count, bound)
        assert exact_tail(count, 40, bound * 1.2) > Fraction(alpha), "and is not far on the safe side"
    # A million draws: few successes, where the first terms of the tail outweigh all others, as sums of logarithms.
    few = np.arange(1, 30)
    for count, bound in zip(few.tolist(), lower_confidence_bound(few, 10**6, alpha).tolist(), strict=True):
        terms = [
            math.lgamma(10**6 + 1)
            - math.lgamma(k + 1)
            - math.lgamma(10**6 - k + 1)
            + k * math.log(bound)
            + (10**6 - k) * math.log1p(-bound)
            for k in range(count, count + 200)
        ]
        tail = max(terms) + math.log(math.fsum(math.exp(term - max(terms)) for term in terms))
        assert tail <= math.log(alpha) + 2e-6, (count, bound)


def test_alphas_too_small_to_compute_with_are_refused() -> None:
    for alpha in (1e-101, 1e-250, 5e-324):
        with pytest.raises(ValueError, match="below 1e-100, where bounds cannot be computed reliably; give a larger alpha"):
            lower_confidence_bound(np.array([700_000]), 10**6, alpha)
        with pytest.raises(ValueError, match="below 1e-100"):
            DenoisedSmoothing(IdentityDenoiser(), 0.5, 10, 10**6, alpha)
    with pytest.raises(ValueError, match="alpha=1e-101, what each single bound may fail with, is below 1e-100"):
        DenoisedSmoothing(IdentityDenoiser(), 0.5, 10, 10**6, 1e-99, simultaneous=True, num_tests=100)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -0.1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="is not a failure probability"):
        lower_confidence_bound(np.array([1]), 10, alpha)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 10 are possible"):
        lower_confidence_bound(np.array([11]), 10, 0.01)
    with pytest.raises(ValueError, match="at least 1 draw"):
        lower_confidence_bound(np.array([0]), 0, 0.01)
