"""Partition certificates against brute force over everything an attacker could do, not over the formula's own costs."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.stats

from certidote.certification.partition import (
    altered_images,
    cheapest_attack,
    frobenius_radius,
    part_rows,
    plurality,
    replaced_images,
    sum_radius,
)
from certidote.types import ABSTAIN
from oracles import linear_case

EPSILON = Fraction(1, 2)


def answer(votes: list[int], classes: int) -> int:
    return int(np.bincount([v for v in votes if v != ABSTAIN], minlength=classes).argmax())


def winning_subsets(votes: list[int], classes: int) -> list[tuple[int, ...]]:
    """Every set of parts with which an attacker, who may give them any vote, can change the answer."""
    honest, found = answer(votes, classes), set()
    for given in product([None, *range(classes)], repeat=len(votes)):
        result = [vote if forced is None else forced for vote, forced in zip(votes, given, strict=True)]
        if answer(result, classes) != honest:
            found.add(tuple(j for j, forced in enumerate(given) if forced is not None))
    return sorted(found)


def images_to_own(radius: Fraction, untrusted: int) -> float:
    """The fewest images, each moved by EPSILON, that make up a norm of `radius` in one part; counted up one by one."""
    return next((float(k) for k in range(untrusted + 1) if EPSILON**2 * k >= radius**2), np.inf)


def random_part_votes(generator: np.random.Generator) -> tuple[list[int], list[Fraction], list[int], int]:
    parts, classes = int(generator.integers(1, 6)), int(generator.integers(2, 5))
    votes = generator.integers(ABSTAIN, classes, size=parts) if generator.random() < 0.7 else generator.integers(0, 2, size=parts)
    votes = [int(v) for v in votes]
    # Multiples of a quarter: ties among radii, and R^2 / EPSILON^2 is whole for every second one.
    radii = [Fraction(0) if v == ABSTAIN else Fraction(int(generator.integers(1, 7)), 4) for v in votes]
    untrusted = [int(generator.integers(0, 9)) for _ in votes]
    return votes, radii, untrusted, classes


def test_every_threat_equals_brute_force_over_attacks() -> None:
    generator = np.random.default_rng(0)
    zero = infinite = 0
    for _ in range(150):
        votes, radii, untrusted, classes = random_part_votes(generator)
        subsets = winning_subsets(votes, classes)
        images = [images_to_own(r, k) for r, k in zip(radii, untrusted, strict=True)]
        anything = [0.0 if v == ABSTAIN else (1.0 if k else np.inf) for v, k in zip(votes, untrusted, strict=True)]
        norm = min(float(sum((radii[j] ** 2 for j in s), Fraction(0))) ** 0.5 for s in subsets)
        summed = min(float(sum((radii[j] for j in s), Fraction(0))) for s in subsets)
        moved, replaced = (min(sum(cost[j] for j in s) for s in subsets) for cost in (images, anything))
        v, r, u = np.array([votes]), np.array([radii], dtype=np.float64), np.array(untrusted)
        assert frobenius_radius(v, r, classes)[0] == pytest.approx(norm, rel=3e-9)
        assert sum_radius(v, r, classes)[0] == pytest.approx(summed, rel=3e-9)
        assert altered_images(v, r, u, classes, float(EPSILON))[0] == min(moved - 1, sum(untrusted))
        assert replaced_images(v, r, u, classes)[0] == min(replaced - 1, sum(untrusted))
        assert plurality(v, classes)[0] == answer(votes, classes)
        zero, infinite = zero + (norm == 0), infinite + (moved == np.inf)
    assert zero > 10, "cases in which abstaining parts decide"
    assert infinite > 3, "cases in which no part has images enough"


def test_six_parts_with_ties_and_abstentions() -> None:
    """The largest brute force: 4 classes, 6 parts."""
    votes = [2, 2, 2, 0, 1, ABSTAIN]
    radii = [Fraction(1), Fraction(2), Fraction(3), Fraction(1, 2), Fraction(3, 4), Fraction(0)]
    least = min(sum((radii[j] ** 2 for j in s), Fraction(0)) for s in winning_subsets(votes, 4))
    assert cheapest_attack(np.array([votes]), np.array([radii], dtype=np.float64) ** 2, 4)[0] == float(least)


def test_one_part_is_plain_smoothing() -> None:
    votes, radii = np.array([[3], [0], [ABSTAIN]]), np.array([[0.7], [1.5], [0.0]])
    assert frobenius_radius(votes, radii, 10) == pytest.approx([0.7, 1.5, 0.0], rel=2e-9)
    assert sum_radius(votes, radii, 10) == pytest.approx([0.7, 1.5, 0.0], rel=2e-9)


def test_costs_of_one_without_abstentions_give_deep_partition_aggregation() -> None:
    generator = np.random.default_rng(1)
    for classes, parts in ((2, 9), (4, 30), (10, 250)):
        votes = generator.choice(classes, size=(200, parts), p=generator.dirichlet(np.ones(classes)))
        least = cheapest_attack(votes, np.ones(votes.shape), classes)
        for row, w in zip(votes, least, strict=True):
            counts = np.bincount(row, minlength=classes)
            best = int(counts.argmax())
            rivals = [counts[c] + (c < best) for c in range(classes) if c != best]
            assert w - 1 == (counts[best] - max(rivals)) // 2


def test_attacks_on_an_exactly_solvable_learner_flip_at_the_radius_and_not_before() -> None:
    """Two classes, the linear learner in each of five parts: its radius is its distance to the boundary."""
    cases = [linear_case(seed=seed) for seed in range(5)]
    for wanted in ((0, 0, 0, 0, 0), (1, 1, 1, 0, 1), (0, 1, 0, 1, 0)):
        # Negating a part's labels negates its margin: every pattern of votes occurs.
        signs = [1 if vote == case.answer() else -1 for vote, case in zip(wanted, cases, strict=True)]
        margins = [sign * case.margin(case.pixels()) for sign, case in zip(signs, cases, strict=True)]
        slopes = [float(np.linalg.norm(case.weights())) for case in cases]
        radii = np.array([abs(m) / slope for m, slope in zip(margins, slopes, strict=True)])
        votes = [int(m > 0) for m in margins]
        assert tuple(votes) == wanted
        least = float(np.sqrt(cheapest_attack(np.array([votes]), radii[None] ** 2, 2)[0]))
        honest = answer(votes, 2)
        owned = min((s for s in winning_subsets(votes, 2)), key=lambda s: sum(radii[j] ** 2 for j in s))
        for factor, flips in ((1 - 1e-6, False), (1 + 1e-6, True)):
            pushed = [m - np.sign(m) * factor * radii[j] * slopes[j] * (j in owned) for j, m in enumerate(margins)]
            spent = factor * float(np.sqrt(sum(radii[j] ** 2 for j in owned)))
            assert spent == pytest.approx(factor * least, rel=1e-12)
            assert (answer([int(m > 0) for m in pushed], 2) != honest) == flips


def test_many_points_at_once_are_the_points_one_by_one() -> None:
    generator = np.random.default_rng(2)
    votes = generator.integers(ABSTAIN, 5, size=(1_203, 7))
    costs = np.where(votes == ABSTAIN, 0.0, generator.exponential(size=votes.shape))
    together = cheapest_attack(votes, costs, 5)
    for i in range(0, 1_203, 97):
        assert together[i] == cheapest_attack(votes[[i]], costs[[i]], 5)[0]


def test_parts_are_disjoint_equal_and_share_the_trusted_rows() -> None:
    permutation = np.random.default_rng(3).permutation(50)
    parts = part_rows(50, (4, 9), 7, permutation)
    untrusted = [set(rows) - {4, 9} for rows in parts]
    assert set.union(*untrusted) == set(range(50)) - {4, 9}
    assert sum(map(len, untrusted)) == 48
    assert {len(rows) for rows in untrusted} == {6, 7}
    assert all({4, 9} <= set(rows) for rows in parts)
    with pytest.raises(ValueError, match="parts=49 of 50 images, 48 of them untrusted; give 1 to 48 parts"):
        part_rows(50, (4, 9), 49, permutation)


def test_costs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="negative or NaN"):
        cheapest_attack(np.array([[0]]), np.array([[np.nan]]), 2)
    with pytest.raises(ValueError, match="abstaining part has a cost"):
        cheapest_attack(np.array([[ABSTAIN]]), np.array([[1.0]]), 2)


def test_radius_grows_like_the_root_of_half_the_gap() -> None:
    radius = float(scipy.stats.norm.ppf(0.9))
    for parts in (1, 3, 11, 101):
        unanimous, radii = np.zeros((1, parts), dtype=np.int64), np.full((1, parts), radius)
        assert frobenius_radius(unanimous, radii, 2)[0] == pytest.approx(radius * (parts // 2 + 1) ** 0.5, rel=1e-8)
