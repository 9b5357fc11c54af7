"""The anytime bounds by exact probabilities: a recursion over all paths of (n, k), up to where the bound first excludes the truth."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats

from certidote.certification.anytime import anytime_lower_bound, confidence_sequence, log_martingale, minimum_anytime_trials
from certidote.certification.binomial import lower_confidence_bound

Excluded = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(counts, trials) -> whether the bound lies above the true probability; if for some count, then for all larger ones."""


def ville(p: float, alpha: float, one_sided: bool = True) -> Excluded:
    def excluded(k: np.ndarray, n: np.ndarray) -> np.ndarray:
        return (log_martingale(k, n, p, one_sided=one_sided) >= -np.log(alpha)) & (k > n * p)

    return excluded


def crossings(excluded: Excluded, steps: int) -> np.ndarray:
    """(steps,) the least count that excludes the truth after 1, 2, ... trials; trials + 1 if none does."""
    n = np.arange(1, steps + 1)
    low, high = np.zeros(steps, dtype=np.int64), n + 1
    while (low < high).any():
        middle = np.minimum((low + high) // 2, n)
        yes = excluded(middle, n)
        high = np.where((low < high) & yes, middle, high)
        low = np.where((low < high) & ~yes, middle + 1, low)
    return high


def chance_of_ever_missing(p: float, upper: np.ndarray, lower: np.ndarray | None = None) -> float:
    """P[the count of right votes ever reaches `upper`, or falls to `lower`], exactly, by recursion over (n, k)."""
    missed, first, alive = 0.0, 0, np.ones(1)  # alive[i]: probability of first + i right votes and no miss so far
    for n, top in enumerate(upper, start=1):
        alive = np.append(alive * (1 - p), 0.0)
        alive[1:] += alive[:-1] * (p / (1 - p)) if p < 1 else 0.0
        over = max(0, first + len(alive) - int(top))
        if over:
            missed += alive[-over:].sum()
            alive = alive[:-over]
        bottom = -1 if lower is None else int(lower[n - 1])
        # What lies far below the mean (at most 1e-20 in all) counts as missed, to keep the array short.
        under = max(0, max(bottom, int(n * p - 14 * np.sqrt(n * p * (1 - p)) - 30)) + 1 - first)
        missed += alive[:under].sum()
        alive, first = alive[under:], first + under
    return missed


def test_reference_values_of_a_unanimous_vote() -> None:
    unanimous = np.array([1_000])
    assert scipy.stats.norm.ppf(anytime_lower_bound(unanimous, 1_000, 0.001))[0] == pytest.approx(2.41, abs=5e-3)
    assert scipy.stats.norm.ppf(lower_confidence_bound(unanimous, 1_000, 0.001))[0] == pytest.approx(2.46, abs=5e-3)
    # Two-sided it can be solved by hand: where all votes are right, M_n(p) = B(n + 1/2, 1/2) / (pi p^n).
    by_hand = (0.001 * scipy.special.beta(1_000.5, 0.5) / np.pi) ** (1 / 1_000)
    assert confidence_sequence(unanimous, 1_000, 0.001)[0][0] == pytest.approx(by_hand, rel=1e-12)
    assert scipy.stats.norm.ppf(by_hand) == pytest.approx(2.30, abs=6e-3)


def test_recursion_agrees_with_counting_all_paths() -> None:
    p, steps = 0.4, 12
    upper = crossings(ville(p, 0.2), steps)
    paths = (np.arange(2**steps)[:, None] >> np.arange(steps)) & 1
    counts = paths.cumsum(axis=1)
    weights = p ** counts[:, -1] * (1 - p) ** (steps - counts[:, -1])
    brute_force = weights[(counts >= upper).any(axis=1)].sum()
    assert brute_force > 0.01
    assert chance_of_ever_missing(p, upper) == pytest.approx(brute_force, rel=1e-12)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.55, 0.8, 0.95, 0.999])
def test_exact_coverage_at_all_times_up_to_ten_thousand(p: float) -> None:
    upper = crossings(ville(p, 0.001), 10_000)
    for n in (1, 7, 30, 100, 999, 10_000):  # the bound itself lies above p exactly from the crossing on
        count = int(upper[n - 1])
        around = np.array([max(count - 1, 0), min(count, n)])
        bounds = anytime_lower_bound(around, n, 0.001)
        assert bounds[0] <= p
        assert count > n or bounds[1] > p
    missed = chance_of_ever_missing(p, upper)
    assert missed <= 0.001
    assert missed > 0.0001, "a bound that never misses would be far too weak, or the recursion broken"


def test_the_same_recursion_catches_peeking_at_clopper_pearson() -> None:
    def excluded(k: np.ndarray, n: np.ndarray) -> np.ndarray:
        return scipy.stats.binom.sf(k - 1, n, 0.5) < 0.001

    upper = crossings(excluded, 3_000)
    assert lower_confidence_bound(upper[[999]], 1_000, 0.001)[0] > 0.5 >= lower_confidence_bound(upper[[999]] - 1, 1_000, 0.001)[0]
    assert chance_of_ever_missing(0.5, upper) == pytest.approx(0.020, abs=1e-3)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.9])
def test_exact_coverage_of_the_two_sided_sequence(p: float) -> None:
    upper = crossings(ville(p, 0.001, one_sided=False), 4_000)
    lower = np.arange(1, 4_001) - crossings(ville(1 - p, 0.001, one_sided=False), 4_000)
    for n in (200, 4_000):
        low, high = confidence_sequence(np.array([lower[n - 1], lower[n - 1] + 1, upper[n - 1] - 1, upper[n - 1]]), n, 0.001)
        assert (high < p).tolist() == [True, False, False, False]
        assert (low > p).tolist() == [False, False, False, True]
    assert 0.0002 < chance_of_ever_missing(p, upper, lower) <= 0.001


def test_selecting_by_the_counted_votes_costs_half_of_alpha_at_all_times() -> None:
    """Two classes at exactly 1/2: whichever leads, nothing may be certified."""
    missed = []
    for level in (0.0005, 0.001):
        upper = crossings(ville(0.5, level), 10_000)
        missed.append(chance_of_ever_missing(0.5, upper, np.arange(1, 10_001) - upper))
    assert missed[0] <= 0.001 < missed[1]


def test_the_smallest_probability_that_is_not_excluded_is_found() -> None:
    """One-sided, M falls with p up to k/n, so that bisection finds its only crossing."""
    for n in (1, 2, 3, 10, 100, 1_000, 10_000):
        for k in np.unique(np.linspace(1, n, 40).astype(np.int64)):
            grid = k / n * np.unique(np.concatenate([np.linspace(0, 1, 500), np.logspace(-6, 0, 500)]))[1:-1]
            assert np.all(np.diff(log_martingale(np.full(1, k), n, grid, one_sided=True)) < 0)


def test_bounds_grow_with_the_count_and_are_rounded_down() -> None:
    counts = np.arange(301)
    for bounds in (anytime_lower_bound(counts, 300, 0.01), confidence_sequence(counts, 300, 0.01)[0]):
        assert bounds[0] == 0
        assert np.all(np.diff(bounds) > 0)
        assert np.all(bounds[1:] < counts[1:] / 300)
    one_sided = anytime_lower_bound(counts, 300, 0.01)[1:]
    assert np.all(log_martingale(counts[1:], 300, one_sided, one_sided=True) >= -np.log(0.01))
    assert np.all(one_sided <= lower_confidence_bound(counts, 300, 0.01)[1:]), (
        "what holds at all times is never above one fixed time"
    )
    shuffled = np.random.default_rng(0).permutation(np.repeat(counts, 3))
    assert np.array_equal(anytime_lower_bound(shuffled, 300, 0.01), anytime_lower_bound(counts, 300, 0.01)[shuffled])


@pytest.mark.parametrize("alpha", [0.4, 0.05, 0.001, 0.0005, 1e-9])
def test_minimum_is_where_a_unanimous_vote_first_counts(alpha: float) -> None:
    n = minimum_anytime_trials(alpha)
    assert anytime_lower_bound(np.array([n]), n, alpha)[0] > 0.5
    assert n == 1 or anytime_lower_bound(np.array([n - 1]), n - 1, alpha)[0] <= 0.5


def test_impossible_values_are_refused() -> None:
    for bound in (anytime_lower_bound, confidence_sequence):
        with pytest.raises(ValueError, match="0 to 10 are possible"):
            bound(np.array([11]), 10, 0.01)
        with pytest.raises(ValueError, match="not a failure probability"):
            bound(np.array([1]), 10, 0.5)
