"""Conversions between budgets: each one checked against what it claims, each one that does not follow refused."""

import itertools

import numpy as np
import pytest

from certidote.certification import budgets
from certidote.certification.threats import k_max
from certidote.types import ABSTAIN, CountCertificate, Unit


def counted(unit: Unit, *radii: int) -> CountCertificate:
    labels = np.array([ABSTAIN if radius < 0 else 0 for radius in radii])
    return CountCertificate(labels, np.array(radii), unit)


SYMMETRIC = counted("samples inserted or removed", -1, 0, 1, 2, 7)
IN_PLACE = counted("images altered in place", -1, 0, 1, 2, 7)
PIXELS = counted("pixels altered in place", -1, 0, 1, 2, 7)
FLIPS = counted("labels flipped", -1, 0, 1, 2, 7)
FEATURES = counted("images altered in few features", -1, 0, 1, 2, 7)


def test_a_substitution_costs_two_where_insertions_are_counted_and_one_in_place() -> None:
    assert budgets.altered_in_place(SYMMETRIC).tolist() == [-1, 0, 0, 1, 3]
    assert budgets.labels_flipped(SYMMETRIC).tolist() == [-1, 0, 0, 1, 3]
    assert budgets.altered_by_at_most(SYMMETRIC, 1 / 255, "linf").tolist() == [-1, 0, 0, 1, 3]
    assert budgets.inserted_or_removed(SYMMETRIC).tolist() == [-1, 0, 1, 2, 7]
    for convert in (budgets.altered_in_place, budgets.labels_flipped):
        assert convert(IN_PLACE).tolist() == [-1, 0, 1, 2, 7]
    assert budgets.altered_in_place(PIXELS).tolist() == [-1, 0, 1, 2, 7]
    assert budgets.altered_by_at_most(IN_PLACE, 0.5, "l2").tolist() == [-1, 0, 1, 2, 7]
    assert budgets.inserted_or_removed(IN_PLACE, stable_names=True).tolist() == [-1, 0, 1, 2, 7]
    assert budgets.labels_flipped(FLIPS).tolist() == [-1, 0, 1, 2, 7]


def test_what_does_not_follow_is_refused_with_the_reason() -> None:
    refused = [
        (lambda: budgets.altered_in_place(FLIPS), "says nothing about altered pixels"),
        (lambda: budgets.altered_by_at_most(FLIPS, 0.1, "l2"), "says nothing about altered pixels"),
        (lambda: budgets.altered_in_place(FEATURES), "limits how many features"),
        (lambda: budgets.labels_flipped(FEATURES), "whether a label is one of the few features"),
        (lambda: budgets.inserted_or_removed(IN_PLACE), "shifts the row numbers of others"),
        (lambda: budgets.labels_flipped(PIXELS), "parts were made by label"),
        (lambda: budgets.inserted_or_removed(PIXELS, stable_names=True), "holds for a fixed number of samples"),
        (lambda: budgets.inserted_or_removed(FLIPS), "holds for a fixed number of samples"),
        (lambda: budgets.inserted_or_removed(FEATURES), "holds for a fixed number of samples"),
        (lambda: budgets.frobenius_of_count(IN_PLACE, levels=None), "every image may move by a little"),
        (lambda: budgets.frobenius_of_count(FLIPS, levels=255), "says nothing about altered pixels"),
        (lambda: budgets.altered_by_at_most(IN_PLACE, 0.0, "l2"), "bound > 0"),
        (lambda: budgets.frobenius_of_count(IN_PLACE, levels=0), "at least 1 step"),
    ]
    for convert, reason in refused:
        with pytest.raises(ValueError, match=reason):
            convert()


def test_whole_numbered_pixels_turn_a_count_into_a_norm() -> None:
    """All changes of a set of 3 images of 1 pixel and 2 levels: below the norm, no more images than certified can have changed."""
    for k in range(3):
        radius = budgets.frobenius_of_count(counted("images altered in place", k), levels=2)[0]
        smallest = np.inf
        for change in itertools.product((-2, -1, 0, 1, 2), repeat=3):
            norm, altered = np.linalg.norm(np.array(change) / 2), np.count_nonzero(change)
            if norm < radius:
                assert altered <= k
            if altered == k + 1:
                smallest = min(smallest, norm)
        assert radius == pytest.approx(smallest, rel=1e-8)
        assert radius < smallest
    assert budgets.frobenius_of_count(counted("images altered in place", -1), levels=255)[0] == 0
    halved = budgets.frobenius_of_count(SYMMETRIC, levels=255)
    assert halved[4] == pytest.approx(2 / 255)


def test_an_image_altered_in_any_way_moves_every_pixel_by_at_most_one() -> None:
    radii = np.array([0.0, 0.5, 8.0, 8.1, 30.0])
    assert budgets.altered_under_frobenius(radii, 64, 500).tolist() == [-1, 0, 0, 1, 14]
    assert np.array_equal(
        budgets.altered_under_frobenius(radii, 64, 500, epsilon=0.25, norm="l2"), k_max(radii, 0.25, "l2", 64, 500)
    )
