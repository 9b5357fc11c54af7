import math

import numpy as np
import pytest
import scipy.stats

from certidote.certification.binomial import lower_confidence_bound, minimum_trials
from false_alarms import assert_rate_at_most


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


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -0.1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="is not a failure probability"):
        lower_confidence_bound(np.array([1]), 10, alpha)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 10 are possible"):
        lower_confidence_bound(np.array([11]), 10, 0.01)
    with pytest.raises(ValueError, match="at least 1 draw"):
        lower_confidence_bound(np.array([0]), 0, 0.01)
