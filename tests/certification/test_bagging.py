"""Bagging and BagFlip in exact rationals, against enumerated worlds."""

import itertools
import math
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import linprog

from certidote.certification.bagflip import (
    bagflip_radius,
    certify_bagflip,
    highest_probability,
    lowest_probability,
    step_distribution,
)
from certidote.certification.bagging import bagging_radius, certify_bagging, probability_bounds
from certidote.types import ABSTAIN

HALF = Fraction(1, 2)


def scanned(p_a: Fraction, p_b: Fraction, n: int, k: int) -> int:
    """The inequality as it stands in the paper, for r = 0, 1, ... until it fails."""
    r = -1
    while r < n and p_a - p_b > 2 * (1 - (1 - Fraction(r + 1, n)) ** k):
        r += 1
    return r


def test_bagging_radius_is_where_the_inequality_fails() -> None:
    generator = np.random.default_rng(0)
    for _ in range(400):
        n, k = int(generator.integers(1, 60)), int(generator.integers(1, 40))
        p_a = Fraction(int(generator.integers(0, 1_001)), 1_000)
        p_b = min(Fraction(int(generator.integers(0, 1_001)), 1_000), 1 - p_a)
        radius = bagging_radius(p_a, p_b, num_samples=n, bag_size=k)
        assert radius == scanned(p_a, p_b, n, k)
        assert (radius >= 0) == (p_a > p_b)
        if 0 <= radius < n:
            closed_form = n * (1 - (1 - float(p_a - p_b) / 2) ** (1 / k))
            assert abs(radius + 1 - closed_form) <= 1 + 1e-9
    assert bagging_radius(Fraction(3, 4), Fraction(1, 4), num_samples=4, bag_size=1) == 0, (
        "r = 1 meets the bound exactly, not strictly"
    )


def test_published_scale_of_bagging() -> None:
    p_a = Fraction(1e-8 ** (1 / 1_000))
    assert bagging_radius(p_a, 1 - p_a, num_samples=50_000, bag_size=1_000) == 32, "a unanimous vote at alpha 1e-7 / 10 classes"
    assert float(p_a) == pytest.approx(0.982, abs=5e-4)


def test_certified_bagging_uses_one_bound_for_each_side() -> None:
    counts = np.array([[1_000, 0, 0], [400, 350, 250], [990, 10, 0], [0, 990, 10], [0, 0, 0]])
    found = certify_bagging(counts, 1_000, num_samples=500, bag_size=20, alpha=0.001)
    assert found.unit == "images altered in place"
    assert found.alpha == 0.001
    assert found.labels.tolist() == [0, ABSTAIN, 0, 1, ABSTAIN]
    assert found.radii[1] == found.radii[4] == -1
    assert found.radii[2] == found.radii[3] < found.radii[0]
    p_a, p_b = probability_bounds(1_000, 0, 1_000, 3, 0.001)
    assert float(p_a) == pytest.approx((0.001 / 5) ** (1 / 1_000), abs=1e-8)
    assert float(p_b) == pytest.approx(1 - float(p_a), abs=1e-8)
    assert found.radii[0] == scanned(p_a, p_b, 500, 20)


def test_bounds_fail_together_no_more_often_than_alpha() -> None:
    """Three classes, all counts of 30 votes: the chance that any class other than the likeliest is certified, or with too much."""
    trials, alpha = 30, 0.1
    bounds = {
        (a, b): probability_bounds(a, b, trials, 3, alpha) for a in range(trials + 1) for b in range(min(a, trials - a) + 1) if a
    }
    for truth in ((0.5, 0.5, 0.0), (0.4, 0.35, 0.25), (0.6, 0.3, 0.1), (0.34, 0.33, 0.33), (0.9, 0.05, 0.05)):
        chance = 0.0
        for x in range(trials + 1):
            for y in range(trials + 1 - x):
                counts = [x, y, trials - x - y]
                top = counts.index(max(counts))
                p_a, p_b = bounds[tuple(sorted(counts, reverse=True)[:2])]
                others = max(p for c, p in enumerate(truth) if c != top)
                if p_a > p_b and float(p_a - p_b) > truth[top] - others + 1e-12:
                    ways = math.comb(trials, x) * math.comb(trials - x, y)
                    chance += ways * truth[0] ** x * truth[1] ** y * truth[2] ** counts[2]
        assert chance <= alpha


# ------------------------------------------------------------------------------------------------------------- BagFlip


def world(altered: tuple[int, ...], n: int, k: int, keep: Fraction, levels: int, features: int) -> dict[object, Fraction]:
    """Every bag of k noised samples with its probability. All values are 0, except those of altered samples, which are 1."""
    flip = (1 - keep) / levels
    sample: dict[object, Fraction] = defaultdict(Fraction)
    for i in range(n):
        start = 1 if i in altered else 0
        for vector in itertools.product(range(levels + 1), repeat=features):
            chance = Fraction(1, n)
            for value in vector:
                chance *= keep if value == start else flip
            sample[i, vector] += chance
    bags: dict[object, Fraction] = {}
    for bag in itertools.product(sample, repeat=k):
        bags[bag] = math.prod((sample[each] for each in bag), start=Fraction(1))
    return bags


SMALL = [
    (2, 1, 1, 1, 1),
    (3, 2, 1, 1, 1),
    (2, 1, 2, 2, 1),
    (2, 2, 1, 2, 1),
    (3, 2, 2, 1, 2),
    (1, 1, 4, 1, 1),
    (1, 1, 3, 3, 1),
    (2, 1, 4, 1, 1),
]


@pytest.mark.parametrize(("n", "k", "features", "levels", "r"), SMALL)
def test_steps_are_distributed_as_in_the_enumerated_world(n: int, k: int, features: int, levels: int, r: int) -> None:
    keep = Fraction(4, 5)
    clean, modified = world((), n, k, keep, levels, features), world(tuple(range(r)), n, k, keep, levels, features)
    ratio = keep * levels / (1 - keep)
    expected: dict[int, Fraction] = defaultdict(Fraction)
    for bag, chance in clean.items():
        step = next(t for t in range(-features * k, features * k + 1) if modified[bag] * ratio**t == chance)
        expected[step] += chance
    assert step_distribution(r, num_samples=n, bag_size=k, keep=keep, levels=levels, features=features) == dict(expected)


@pytest.mark.parametrize(("n", "k", "features", "levels", "r"), SMALL[:4])
def test_neyman_pearson_bounds_equal_the_linear_program(n: int, k: int, features: int, levels: int, r: int) -> None:
    keep = Fraction(7, 10)
    clean, modified = world((), n, k, keep, levels, features), world(tuple(range(r)), n, k, keep, levels, features)
    before, after = (np.array([float(side[bag]) for bag in clean]) for side in (clean, modified))
    steps = step_distribution(r, num_samples=n, bag_size=k, keep=keep, levels=levels, features=features)
    ratio = keep * levels / (1 - keep)
    for p in (Fraction(1, 20), Fraction(1, 3), Fraction(3, 5), Fraction(99, 100), Fraction(1)):
        for sign, bound in ((1, lowest_probability), (-1, highest_probability)):
            solved = linprog(sign * after, A_eq=before[None], b_eq=[float(p)], bounds=(0, 1))
            assert sign * solved.fun == pytest.approx(float(bound(p, steps, ratio)), abs=1e-9)


def test_a_changed_test_input_adds_its_features_once() -> None:
    settings = {"num_samples": 5, "bag_size": 3, "keep": Fraction(4, 5), "levels": 2, "features": 2}
    plain, triggered = step_distribution(2, **settings), step_distribution(2, **settings, trigger="test input")
    one = step_distribution(1, num_samples=1, bag_size=1, keep=Fraction(4, 5), levels=2, features=2)
    expected: dict[int, Fraction] = defaultdict(Fraction)
    for (a, p), (b, q) in itertools.product(plain.items(), one.items()):
        expected[a + b] += p * q
    assert triggered == dict(expected)
    assert sum(triggered.values()) == 1


def test_bagflip_radius_is_monotone_and_honest() -> None:
    settings = {"num_samples": 200, "bag_size": 10, "keep": Fraction(3, 5), "levels": 1, "features": 1}
    p_a = Fraction(9, 10)
    radius = bagflip_radius(p_a, 1 - p_a, **settings)
    assert radius > 0
    assert bagflip_radius(Fraction(95, 100), Fraction(5, 100), **settings) >= radius
    assert bagflip_radius(p_a, 1 - p_a, **settings | {"keep": Fraction(9, 10)}) <= radius
    assert bagflip_radius(p_a, 1 - p_a, **settings | {"bag_size": 20}) <= radius
    assert bagflip_radius(p_a, 1 - p_a, **settings | {"features": 2}) <= radius
    assert bagflip_radius(p_a, 1 - p_a, **settings, trigger="test input") <= radius
    assert bagflip_radius(HALF, HALF, **settings) == -1
    assert bagflip_radius(HALF + Fraction(1, 1_000), HALF - Fraction(1, 1_000), **settings) >= 0
    # Only few features: never less than bagging alone, which gives every altered sample up for lost.
    for p in (Fraction(60, 100), Fraction(9, 10), Fraction(99, 100)):
        for keep in (Fraction(6, 10), Fraction(99, 100)):
            lost = bagging_radius(p, 1 - p, num_samples=200, bag_size=10)
            assert bagflip_radius(p, 1 - p, **settings | {"keep": keep}) >= lost


def test_many_features_bring_bagflip_down_to_bagging() -> None:
    p = Fraction(9, 10)
    settings = {"num_samples": 100, "bag_size": 5, "keep": Fraction(9, 10), "levels": 1}
    assert bagflip_radius(p, 1 - p, features=40, **settings) == bagging_radius(p, 1 - p, num_samples=100, bag_size=5)


def test_certified_bagflip_abstains_where_nothing_follows() -> None:
    settings = {"num_samples": 500, "bag_size": 20, "keep": Fraction(4, 5), "levels": 2, "features": 1, "alpha": 0.001}
    found = certify_bagflip(np.array([[1_000, 0, 0], [400, 350, 250]]), 1_000, **settings)
    assert found.unit == "images altered in few features"
    assert found.labels.tolist() == [0, ABSTAIN]
    assert found.radii[0] > certify_bagging(np.array([[1_000, 0, 0]]), 1_000, num_samples=500, bag_size=20, alpha=0.001).radii[0]
    assert found.radii[1] == -1


def test_numbers_out_of_range_are_refused() -> None:
    settings = {"num_samples": 10, "bag_size": 2, "levels": 2, "features": 1}
    for keep in (Fraction(1), Fraction(1, 4)):
        with pytest.raises(ValueError, match=r"is outside \[1/3, 1\)"):
            bagflip_radius(HALF, HALF, keep=keep, **settings)
    with pytest.raises(ValueError, match="levels=0"):
        bagflip_radius(HALF, HALF, keep=HALF, **settings | {"levels": 0})
    with pytest.raises(ValueError, match="num_samples=0"):
        bagging_radius(HALF, HALF, num_samples=0, bag_size=3)
    with pytest.raises(ValueError, match="probabilities lie in"):
        bagging_radius(Fraction(3, 2), HALF, num_samples=5, bag_size=3)
    with pytest.raises(ValueError, match="at most 10 votes"):
        certify_bagging(np.array([[9, 9]]), 10, num_samples=5, bag_size=3, alpha=0.01)
    with pytest.raises(ValueError, match="not a failure probability"):
        certify_bagging(np.array([[9, 1]]), 10, num_samples=5, bag_size=3, alpha=0.7)
