import json
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from certidote.results.summary import average_radius, certified_accuracy, curve, median_radius, wilson
from certidote.streams import Key
from certidote.types import ABSTAIN, Certificate


def certificate(labels, radii):
    n = len(labels)
    return Certificate(
        labels=np.array(labels, dtype=np.int64),
        radii=np.array(radii, dtype=np.float64),
        lower_bounds=np.full(n, 0.6),
        top_counts=np.full(n, 90, dtype=np.int64),
        sigma=0.25,
        n0=10,
        n=100,
        failed=0,
        alpha=0.001,
        alpha_each=0.001,
        statement="per test image",
        claim="",
        assumptions=(),
        bound="clopper-pearson",
        cap=1.0,
    )


def truth(*labels):
    return np.array(labels, dtype=np.int64)


def random_case(case):
    """A certificate with ties, zeros, wrong answers and abstentions, and the true classes."""
    draw = (Key(4) / "case" / case).numpy()
    n = int(draw.integers(1, 40))
    labels = draw.integers(-1, 3, n)
    radii = np.where(labels == ABSTAIN, 0.0, draw.integers(0, 8, n) / 7)
    return certificate(labels, radii), draw.integers(0, 3, n)


# ----------------------------------------------------------------------------------------------------------------- wilson


@pytest.mark.parametrize("trials", [1, 2, 7, 100, 10_000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_wilson_ends_are_where_the_score_test_begins_to_reject(trials, level):
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        low, high = wilson(successes, trials, level)

        def statistic(p, successes=successes):  # squared score, minus the level's quantile, times the variance
            return (successes - trials * p) ** 2 - scipy.stats.chi2.ppf(level, 1) * trials * p * (1 - p)

        rate, tiny = successes / trials, 1e-9  # beside 0 and 1, where the squared score is 0 whatever the data
        expected_low = scipy.optimize.brentq(statistic, 0, min(rate, 1 - tiny), xtol=1e-15) if successes else 0.0
        expected_high = scipy.optimize.brentq(statistic, max(rate, tiny), 1, xtol=1e-15) if successes < trials else 1.0
        assert low == pytest.approx(expected_low, abs=1e-11)
        assert high == pytest.approx(expected_high, abs=1e-11)
        assert 0 <= low <= rate <= high <= 1


@pytest.mark.parametrize("trials", [1, 3, 100, 12_345])
def test_wilson_agrees_with_scipy(trials):
    for successes in range(0, trials + 1, 1 + trials // 50):
        expected = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_edges_are_exact_and_mirrored():
    for trials in (1, 10, 997):
        assert wilson(0, trials)[0] == 0.0
        assert wilson(trials, trials)[1] == 1.0
        z2 = scipy.stats.norm.ppf(0.975) ** 2
        assert wilson(0, trials)[1] == pytest.approx(z2 / (trials + z2), rel=1e-12)
        for successes in range(trials + 1):
            low, high = wilson(successes, trials)
            assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_known_figures():
    assert wilson(0, 100)[1] == pytest.approx(0.037, abs=5e-4)
    assert wilson(100, 100)[0] == pytest.approx(0.963, abs=5e-4)


@pytest.mark.parametrize(
    ("successes", "trials", "level"), [(1, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0), (1, 5, 1), (1, 5, math.nan)]
)
def test_wilson_refuses(successes, trials, level):
    with pytest.raises(ValueError, match="give"):
        wilson(successes, trials, float(level))


# ------------------------------------------------------------------------------------------------------ certified accuracy


def test_certified_accuracy_is_strict_and_counts_abstentions_as_wrong():
    # right 0.5, right 0.2, wrong 0.9, abstained, right but radius 0
    some = certificate([0, 1, 2, ABSTAIN, 1], [0.5, 0.2, 0.9, 0.0, 0.0])
    found = certified_accuracy(some, truth(0, 1, 1, 0, 1), np.array([0.0, 0.1, 0.2, 0.3, 0.5, 0.9]))
    assert found.tolist() == [2 / 5, 2 / 5, 1 / 5, 1 / 5, 0, 0]


def test_certified_accuracy_equals_the_double_loop():
    wrong_order = np.array([0.9, 0.0, 1 / 7, 0.5, 3 / 7, 1.0, 2.0, math.inf])
    for case in range(200):
        some, labels = random_case(case)
        expected = [
            sum(a == t and r > radius for a, t, r in zip(some.labels, labels, some.radii, strict=True)) / len(labels)
            for radius in wrong_order
        ]
        assert certified_accuracy(some, labels, wrong_order).tolist() == expected


def test_an_abstention_is_wrong_even_for_an_unknown_label():
    assert certified_accuracy(certificate([ABSTAIN, 0], [0.3, 0.3]), truth(-1, 0), np.array([0.0])).tolist() == [0.5]


def test_the_curve_is_the_accuracy_between_and_at_every_step():
    for case in range(200):
        some, labels = random_case(case)
        steps = curve(some, labels)
        radius, accuracy = steps["radius"], steps["certified_accuracy"]
        assert radius[0] == 0
        assert accuracy[-1] == 0
        assert all(np.diff(radius) > 0)
        assert all(np.diff(accuracy) < 0)  # every step is one: none is superfluous
        for here, there, value in zip(radius, [*radius[1:], radius[-1] + 1], accuracy, strict=True):
            inside = np.array([here, (here + there) / 2, np.nextafter(there, 0)])
            assert certified_accuracy(some, labels, inside).tolist() == [value] * 3


def test_average_radius_is_the_area_under_the_curve():
    for case in range(200):
        some, labels = random_case(case)
        steps = curve(some, labels)
        area = np.sum(np.diff(steps["radius"]) * steps["certified_accuracy"][:-1])
        assert average_radius(some, labels) == pytest.approx(area, abs=1e-12)


def test_median_radius_counts_wrong_answers_as_zero():
    some = certificate([0, 1, 2, ABSTAIN, 1], [0.5, 0.2, 0.9, 0.0, 0.4])
    assert median_radius(some, truth(0, 1, 1, 0, 1)) == 0.2
    assert median_radius(some, truth(0, 1, 2, 0, 1)) == 0.4
    assert median_radius(certificate([0, 0], [0.1, 0.3]), truth(0, 0)) == pytest.approx(0.2)
    for case in range(200):
        some, labels = random_case(case)
        median = median_radius(some, labels)
        if median > 0:  # at least half of the images keep it, up to but excluding the median
            assert certified_accuracy(some, labels, np.array([np.nextafter(median, 0)]))[0] >= 0.5


def test_an_infinite_radius_never_leaves_the_curve():
    some = certificate([0, 0], [math.inf, 0.5])
    assert curve(some, truth(0, 0)) == {"radius": [0.0, 0.5], "certified_accuracy": [1.0, 0.5]}
    assert average_radius(some, truth(0, 0)) == math.inf


def test_everything_is_ready_for_json():
    some, labels = random_case(3)
    values = [curve(some, labels), average_radius(some, labels), median_radius(some, labels), wilson(3, 10)]
    assert json.loads(json.dumps(values, allow_nan=False))[0] == curve(some, labels)


def test_refusals():
    some = certificate([0, 1], [0.1, 0.2])
    for figure in (curve, average_radius, median_radius):
        with pytest.raises(ValueError, match="2 certificates but 3 true labels"):
            figure(some, truth(0, 1, 1))
        with pytest.raises(ValueError, match="negative or NaN radius"):
            figure(certificate([0], [math.nan]), truth(0))
        with pytest.raises(ValueError, match="at least 1"):
            figure(certificate([], []), truth())
    for radius in (-0.1, math.nan):
        with pytest.raises(ValueError, match="radii are at least 0"):
            certified_accuracy(some, truth(0, 1), np.array([0.0, radius]))
