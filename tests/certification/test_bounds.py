"""The levels of all bounds by enumeration: every possible outcome of 40 votes, its exact probability, and whether the claim is false."""

from collections.abc import Callable
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from certidote.certification.binomial import predict
from certidote.certification.bounds import BOUNDS, Bound, check_bound, level, minimum_models, probability_bounds
from certidote.certification.smoothing import certify_counts, radius, radius_cap, two_sided_radius
from certidote.types import ABSTAIN

N, ALPHA = 40, 0.05


FAILING = 3
"""Up to this many classes, members may fail too (one more category); with more, all vote."""


@cache
def all_counts(classes: int) -> np.ndarray:
    """Every way in which N members vote for the classes or (with few classes) fail."""
    parts = classes + (classes <= FAILING)
    bars = np.array(list(combinations(range(N + parts - 1), parts - 1)))
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), N + parts - 1)], axis=1)
    return (np.diff(edges, axis=1) - 1)[:, :classes]


def shares(classes: int) -> np.ndarray:
    """A grid of class probabilities with ties and extremes, with few classes also with some chance to fail, and random ones."""
    steps = 20 if classes == 2 else 10
    grid = np.stack(np.meshgrid(*[np.arange(steps + 1)] * classes), axis=-1).reshape(-1, classes)
    grid = grid[(grid.sum(axis=1) == steps) | ((classes <= FAILING) & (grid.sum(axis=1) <= steps) & (grid.sum(axis=1) > 0))]
    return np.concatenate([grid / steps, np.random.default_rng(classes).dirichlet(np.ones(classes), size=50)])


@cache
def probabilities(classes: int) -> np.ndarray:
    """(shares, outcomes) multinomial probability of each outcome, the rest of the votes failing."""
    counts, p = all_counts(classes), shares(classes)
    every = np.concatenate([counts, N - counts.sum(axis=1, keepdims=True)], axis=1)
    ways = scipy.special.gammaln(N + 1) - scipy.special.gammaln(every + 1).sum(axis=1)
    logs = np.log(np.maximum(np.concatenate([p, np.maximum(1 - p.sum(axis=1, keepdims=True), 0)], axis=1), 1e-300))
    return np.exp(ways + logs @ every.T)


def true_radius(p: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Radius within which `answer` stays the most likely class of the worst case with these probabilities; 0 if it is not now."""
    rival = np.array([np.delete(p, c).max() for c in range(len(p))])
    best = p > rival
    gap = (scipy.special.ndtri(p[best]) - scipy.special.ndtri(rival[best])) / 2
    radii = np.zeros(len(p))
    radii[best] = gap
    return radii[answer]


def worst_chance_of_a_false_claim(classes: int, certified: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> float:
    answers, radii = certified(all_counts(classes))
    claims = zip(shares(classes), probabilities(classes), strict=True)
    return max(float(chances[radii > true_radius(p, answers)].sum()) for p, chances in claims)


def from_counts(bound: Bound, each: float) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Answers from the counted votes, every bound at level `each`."""

    def certified(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answers = counts.argmax(axis=1)
        return answers, two_sided_radius(*probability_bounds(bound, counts, answers, N, each), 1.0)

    return certified


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("bound", BOUNDS)
def test_false_claims_are_as_rare_as_alpha(bound: Bound, classes: int) -> None:
    assert probabilities(classes).sum(axis=1) == pytest.approx(1)

    def counted(outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels, radii, _, _ = certify_counts(None, outcomes, N, 1.0, ALPHA, bound)
        assert np.array_equal(labels == ABSTAIN, radii == 0)
        return np.maximum(labels, 0), radii

    assert 0 < worst_chance_of_a_false_claim(classes, counted) <= ALPHA
    selection = np.eye(classes, dtype=np.int64)
    for answer in (0, classes - 1):  # whatever class other votes selected

        def separate(outcomes: np.ndarray, answer: int = answer) -> tuple[np.ndarray, np.ndarray]:
            chosen = np.repeat(selection[[answer]], len(outcomes), axis=0)
            labels, radii, _, _ = certify_counts(chosen, outcomes, N, 1.0, ALPHA, bound)
            return np.maximum(labels, answer), radii

        assert 0 < worst_chance_of_a_false_claim(classes, separate) <= ALPHA


def test_the_enumeration_catches_levels_that_are_not_divided() -> None:
    for bound in ("clopper-pearson", "multi-class"):
        assert worst_chance_of_a_false_claim(2, from_counts(bound, ALPHA)) > ALPHA, "no halving"

    def two_level(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The upper bound of the wrong class: the rival with the fewest votes."""
        answers = counts.argmax(axis=1)
        lower, _ = probability_bounds("multi-class", counts, answers, N, ALPHA / 5)
        upper = scipy.stats.beta.ppf(1 - ALPHA / 5, counts.min(axis=1) + 1, N - counts.min(axis=1))
        return answers, two_sided_radius(lower, np.minimum(1 - lower, upper), 1.0)

    assert worst_chance_of_a_false_claim(3, two_level) > ALPHA


def test_choosing_by_counts_at_one_half_needs_the_halving() -> None:
    """Exact at n = 1,000: at p = (1/2, 1/2) no answer may be certified."""
    hits = np.arange(1_001)
    outcomes = np.stack([hits, 1_000 - hits], axis=1)
    pmf = scipy.stats.binom.pmf(hits, 1_000, 0.5)
    labels = certify_counts(None, outcomes, 1_000, 1.0, 0.001)[0]
    assert 0 < pmf[labels != ABSTAIN].sum() <= 0.001
    lower, upper = probability_bounds("clopper-pearson", outcomes, outcomes.argmax(axis=1), 1_000, 0.001)
    assert pmf[lower > upper].sum() > 0.001


def test_prediction_names_a_wrong_class_as_rarely_as_alpha() -> None:
    for classes in (2, 3, 4):
        counts = all_counts(classes)
        labels = predict(counts, ALPHA)
        assert 0 < (labels == ABSTAIN).mean() < 1
        worst = 0.0
        for p, chances in zip(shares(classes), probabilities(classes), strict=True):
            best = np.flatnonzero(p == p.max())
            wrong = (labels != ABSTAIN) & ((len(best) > 1) | (labels != best[0]))
            worst = max(worst, float(chances[wrong].sum()))
        assert 0 < worst <= ALPHA
    # Its p-value is scipy's two-sided test of the two largest counts.
    for first, second in ((30, 10), (26, 13), (21, 19), (20, 20), (6, 0), (5, 0)):
        p_value = scipy.stats.binomtest(first, first + second, 0.5).pvalue
        counts = np.array([[second, first, 0]], dtype=np.int64)
        assert (predict(counts, 0.04)[0] == 1) == (p_value <= 0.04)


def test_multi_class_gains_where_rivals_share_the_rest() -> None:
    spread = np.array([[600, 100, 100, 100, 100]])
    alone = np.array([[600, 400, 0, 0, 0]])
    selection = np.array([[1, 0, 0, 0, 0]])
    plain = certify_counts(selection, spread, 1_000, 1.0, 0.001)[1][0]
    assert certify_counts(selection, spread, 1_000, 1.0, 0.001, "multi-class")[1][0] > 2 * plain
    assert (
        certify_counts(selection, alone, 1_000, 1.0, 0.001, "multi-class")[1][0]
        < certify_counts(selection, alone, 1_000, 1.0, 0.001)[1][0]
    )
    # An answer without a majority can be proved, which p_B = 1 - p_A never can.
    minority = np.array([[400, 150, 150, 150, 150]])
    assert certify_counts(selection, minority, 1_000, 1.0, 0.001)[0][0] == ABSTAIN
    assert certify_counts(selection, minority, 1_000, 1.0, 0.001, "multi-class")[0][0] == 0


def test_radius_of_both_bounds() -> None:
    lower, upper = np.array([0.8, 0.4, 0.4, 0.0]), np.array([0.1, 0.3, 0.4, 1.0])
    expected = (scipy.stats.norm.ppf([0.8, 0.4]) - scipy.stats.norm.ppf([0.1, 0.3])) * 0.7 / 2
    radii = two_sided_radius(lower, upper, 0.7)
    assert radii[:2] == pytest.approx(expected, rel=1e-8)
    assert np.all(radii[:2] < expected)
    assert radii[2:].tolist() == [0, 0]
    p = np.linspace(0, 1, 1_001)[:-1]
    assert two_sided_radius(p, 1 - p, 0.7) == pytest.approx(radius(p, 0.7), rel=1e-12)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("classes", [2, 10])
def test_minimum_models_and_cap(bound: Bound, separate: bool, classes: int) -> None:
    needed = minimum_models(bound, 0.001, classes, separate)
    for n in (needed - 1, needed, 200):
        unanimous = np.zeros((1, classes), dtype=np.int64)
        unanimous[0, 1] = n
        label, radii, _, _ = certify_counts(unanimous if separate else None, unanimous, n, 0.5, 0.001, bound)
        assert (label[0] == 1) == (n >= needed)
        assert radii[0] == radius_cap(0.5, n, 0.001, bound, classes, separate)


def test_known_levels_and_minima() -> None:
    assert [level(bound, 0.01, 10, True) for bound in BOUNDS] == [0.01, 0.005, 0.01]
    assert [level(bound, 0.012, 10, False) for bound in BOUNDS] == [0.006, 0.001, 0.006]
    assert [minimum_models(bound, 0.001, 10, True) for bound in BOUNDS] == [10, 11, 12]
    with pytest.raises(ValueError, match="unknown bound 'hoeffding'; choose one of: clopper-pearson, multi-class, anytime"):
        check_bound("hoeffding")
