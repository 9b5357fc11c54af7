"""DPA, Finite Aggregation and Run-Off Election against every possible attack on few models."""

from functools import partial

import numpy as np
import pytest

from certidote.certification.deep_partition import certify_deep_partition
from certidote.certification.finite_aggregation import certify_finite_aggregation, published_shifts, reached
from certidote.certification.rankings import NOBODY, counts_of, first_choices, ranks_of, recorded_ranks, summed_logits
from certidote.certification.run_off import certify_run_off, certify_run_off_finite_aggregation, passed_by_two
from exhaustive import all_states, exact_radii, orders_of, plurality, ranks_of_states, run_off, single, spread, votes_of_states

IN_PLACE = "images altered in place"


@pytest.mark.parametrize(("models", "classes"), [(1, 2), (4, 2), (5, 3), (6, 3), (5, 4)])
def test_deep_partition_is_exact_ties_and_failed_models_included(models: int, classes: int) -> None:
    sayings = [*range(classes), NOBODY]
    answers = all_states(sayings, models, partial(plurality, classes=classes))
    found = certify_deep_partition(counts_of(votes_of_states(sayings, models), classes), unit=IN_PLACE)
    assert np.array_equal(found.labels, answers.ravel())
    assert np.array_equal(found.radii, exact_radii(answers, single(models)).ravel())
    assert found.radii.max() <= models // 2


def test_relabelling_classes_moves_the_radius_by_at_most_one() -> None:
    counts = np.random.default_rng(0).integers(0, 8, size=(5_000, 4))
    for order in ([1, 0, 2, 3], [3, 2, 1, 0], [1, 2, 3, 0]):
        moved = certify_deep_partition(np.ascontiguousarray(counts[:, order]), unit=IN_PLACE).radii
        difference = moved - certify_deep_partition(counts, unit=IN_PLACE).radii
        assert np.abs(difference).max() == 1


@pytest.mark.parametrize(
    ("parts", "shifts", "classes"),
    [(6, (0,), 3), (3, (0, 1), 3), (4, (0, 3), 3), (2, (0, 1, 3), 3), (4, (1, 6), 2), (3, (5, 2), 3)],
)
def test_finite_aggregation_never_exceeds_the_best_attack(parts: int, shifts: tuple[int, ...], classes: int) -> None:
    models = parts * len(shifts)
    answers = all_states(range(classes), models, partial(plurality, classes=classes))
    votes = votes_of_states(range(classes), models)
    found = certify_finite_aggregation(votes, num_classes=classes, parts=parts, shifts=shifts, unit=IN_PLACE)
    exact = exact_radii(answers, spread(models, shifts)).ravel()
    assert np.array_equal(found.labels, answers.ravel())
    assert (found.radii >= 0).all()
    assert (found.radii <= exact).all()
    assert (found.radii == exact).mean() > 0.9
    gap_radius = certify_deep_partition(counts_of(votes, classes), unit=IN_PLACE).radii // len(shifts)
    assert (found.radii >= gap_radius).all(), "never below the bound that divides the gap"


def test_finite_aggregation_with_failed_models_never_exceeds_the_best_attack() -> None:
    sayings = [0, 1, 2, NOBODY]
    answers = all_states(sayings, 6, partial(plurality, classes=3))
    found = certify_finite_aggregation(votes_of_states(sayings, 6), num_classes=3, parts=3, shifts=(0, 2), unit=IN_PLACE)
    assert np.array_equal(found.labels, answers.ravel())
    assert (found.radii <= exact_radii(answers, spread(6, (0, 2))).ravel()).all()


def test_one_shift_is_deep_partition() -> None:
    votes = np.random.default_rng(1).integers(0, 4, size=(31, 3_000))
    votes[3] = NOBODY
    finite = certify_finite_aggregation(votes, num_classes=4, parts=31, shifts=(7,), unit=IN_PLACE)
    deep = certify_deep_partition(counts_of(votes, 4), unit=IN_PLACE)
    assert np.array_equal(finite.labels, deep.labels)
    assert np.array_equal(finite.radii, deep.radii)


def test_columns_in_another_order_would_certify_too_much() -> None:
    votes, shifts = votes_of_states(range(2), 12), (0, 1, 2, 3)
    answers = all_states(range(2), 12, partial(plurality, classes=2))
    exact = exact_radii(answers, spread(12, shifts)).ravel()
    arguments = {"num_classes": 2, "parts": 3, "shifts": shifts, "unit": IN_PLACE}
    assert (certify_finite_aggregation(votes, **arguments).radii <= exact).all()
    shuffled = [4, 5, 7, 6, 2, 3, 10, 9, 11, 8, 1, 0]
    assert (certify_finite_aggregation(votes[shuffled], **arguments).radii > exact).any()
    with pytest.raises(ValueError, match="ballot 0 comes from model 4"):
        recorded_ranks(LOGITS[np.arange(12) % 4], shuffled)


def test_each_bucket_reaches_the_models_at_its_number_plus_a_shift() -> None:
    quantity, shifts = np.random.default_rng(8).integers(0, 9, size=(12, 5)), (0, 1, 5)
    expected = [[sum(quantity[(bucket + shift) % 12, test] for shift in shifts) for test in range(5)] for bucket in range(12)]
    assert reached(quantity, shifts).tolist() == expected


def test_published_shifts_are_those_of_the_published_code() -> None:
    assert published_shifts(50, 5) == (90, 22, 123, 242, 9)
    assert published_shifts(50, 16)[:8] == (363, 90, 492, 37, 157, 206, 304, 284)
    models_of = spread(250, published_shifts(50, 5))
    assert all(len(set(models)) == 5 for models in models_of)
    assert np.bincount(np.array(models_of).ravel()).tolist() == [5] * 250


@pytest.mark.parametrize(("models", "classes"), [(1, 3), (2, 3), (4, 3), (5, 3), (5, 2), (3, 4)])
def test_run_off_never_exceeds_the_best_attack(models: int, classes: int) -> None:
    answers = all_states(orders_of(classes), models, partial(run_off, classes=classes))
    found = certify_run_off(ranks_of_states(classes, models), unit=IN_PLACE)
    exact = exact_radii(answers, single(models)).ravel()
    assert np.array_equal(found.labels, answers.ravel())
    assert (found.radii >= 0).all()
    assert (found.radii <= exact).all()
    assert (found.radii == exact).mean() > 0.9


@pytest.mark.parametrize(
    ("parts", "shifts", "classes"), [(2, (0, 1), 3), (5, (2,), 3), (2, (1, 2), 3), (3, (0, 1), 2), (4, (0, 3), 2)]
)
def test_run_off_on_finite_aggregation_never_exceeds_the_best_attack(parts: int, shifts: tuple[int, ...], classes: int) -> None:
    models = parts * len(shifts)
    answers = all_states(orders_of(classes), models, partial(run_off, classes=classes))
    ranks = ranks_of_states(classes, models)
    found = certify_run_off_finite_aggregation(ranks, parts=parts, shifts=shifts, unit=IN_PLACE)
    exact = exact_radii(answers, spread(models, shifts)).ravel()
    assert np.array_equal(found.labels, answers.ravel())
    assert (found.radii >= 0).all()
    assert (found.radii <= exact).all()
    assert (found.radii == exact).mean() > 0.9
    if len(shifts) == 1:
        deep = certify_run_off(ranks, unit=IN_PLACE).radii
        assert (np.abs(found.radii - deep) <= 1).all()


def test_two_classes_need_no_run_off() -> None:
    logits = np.random.default_rng(2).integers(0, 3, size=(9, 4_000, 2)).astype(np.float64)
    ranks = ranks_of(logits)
    elected = certify_run_off(ranks, unit=IN_PLACE)
    plain = certify_deep_partition(counts_of(first_choices(ranks), 2), unit=IN_PLACE)
    assert np.array_equal(elected.labels, plain.labels)
    assert np.array_equal(elected.radii, plain.radii)


def test_a_majority_wins_the_run_off() -> None:
    ranks = ranks_of(np.random.default_rng(3).normal(size=(11, 5_000, 4)) + np.array([1.0, 0, 0, 0]))
    counts = counts_of(first_choices(ranks), 4)
    clear = counts.max(axis=1) > 11 / 2
    assert 1_000 < clear.sum() < 4_000
    assert np.array_equal(certify_run_off(ranks, unit=IN_PLACE).labels[clear], counts.argmax(axis=1)[clear])


def test_closed_form_of_two_gaps_equals_the_recursion() -> None:
    size = 301
    table = np.zeros((size, size), dtype=np.int64)
    for a in range(size):
        for b in range(size):
            if a or b:
                steps = ((2, 1), (1, 2))
                table[a, b] = 1 + min(table[max(a - x, 0), max(b - y, 0)] for x, y in steps)
    a, b = np.indices((size, size))
    assert np.array_equal(passed_by_two(a, b), table)


# ------------------------------------------------------------------------------------------------- fuzzing and relations


def test_a_hundred_thousand_ballots_full_of_ties() -> None:
    """Logits in {0, 1, 2}: no certificate is negative or larger than the best attack, found by trying all of them."""
    logits = np.random.default_rng(4).integers(0, 3, size=(5, 100_000, 3)).astype(np.float32)
    logits[2, :50_000] = 1.0
    ranks = ranks_of(logits)
    orders = orders_of(3)
    code = {9 * a + 3 * b + c: number for number, (a, b, c) in enumerate(orders[:-1])}
    codes = np.vectorize(code.get)(np.argsort(ranks, axis=2) @ np.array([9, 3, 1]))
    elected = certify_run_off(ranks, unit=IN_PLACE)
    answers = all_states(orders, 5, partial(run_off, classes=3))
    exact = exact_radii(answers, single(5))[tuple(codes)]
    assert np.array_equal(elected.labels, answers[tuple(codes)])
    assert elected.radii.min() == 0
    assert (elected.radii <= exact).all()
    votes = first_choices(ranks)
    answers = all_states(range(3), 5, partial(plurality, classes=3))
    deep = certify_deep_partition(counts_of(votes, 3), unit=IN_PLACE)
    assert np.array_equal(deep.labels, answers[tuple(votes)])
    assert np.array_equal(deep.radii, exact_radii(answers, single(5))[tuple(votes)])
    finite = certify_finite_aggregation(votes[:4], num_classes=3, parts=2, shifts=(0, 1), unit=IN_PLACE)
    answers = all_states(range(3), 4, partial(plurality, classes=3))
    assert finite.radii.min() == 0
    assert (finite.radii <= exact_radii(answers, spread(4, (0, 1)))[tuple(votes[:4])]).all()


def test_the_lowest_of_equal_logits_comes_first() -> None:
    logits = np.array([[[1.0, 2.0, 2.0, -1.0]], [[0.0, 0.0, 0.0, 0.0]], [[0.0, -0.0, -0.0, 1.0]]])
    assert ranks_of(logits).tolist() == [[[2, 0, 1, 3]], [[0, 1, 2, 3]], [[1, 2, 3, 0]]]
    assert first_choices(ranks_of(logits)).tolist() == [[1], [0], [3]]


def test_identical_copies_on_each_part_change_nothing() -> None:
    logits = np.random.default_rng(5).integers(0, 3, size=(7, 2_000, 4)).astype(np.float32)
    summed = summed_logits(np.repeat(logits, 3, axis=0), copies=3)
    assert np.array_equal(ranks_of(summed), ranks_of(logits))
    different = np.concatenate([logits[:1], logits[1:2]])
    assert np.array_equal(summed_logits(different, copies=2)[0], logits[0].astype(np.float64) + logits[1])
    with pytest.raises(ValueError, match="7 models cannot be 2 for each part"):
        summed_logits(logits, copies=2)


def test_chunks_of_test_images_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from certidote.certification import finite_aggregation

    ranks = ranks_of(np.random.default_rng(6).normal(size=(12, 70, 5)))
    arguments = {"parts": 4, "shifts": (0, 5, 7), "unit": IN_PLACE}
    whole = certify_run_off_finite_aggregation(ranks, **arguments).radii
    monkeypatch.setattr(finite_aggregation, "CHUNK_CELLS", 12 * 5 * 9)
    assert np.array_equal(certify_run_off_finite_aggregation(ranks, **arguments).radii, whole)


# ------------------------------------------------------------------------------------------------------------ refusals


LOGITS = np.random.default_rng(7).normal(size=(4, 3, 3))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((0, 1, 3, 2), "ballot 2 comes from model 3; expected 0 to 3, each once and in order"),
        ((0, 1, 1, 3), "model 1 has more than one ballot"),
        ((0, 1, 2), r"3 model numbers for 4 ballots, \[3\] missing"),
        ((0, 1, 2, 4), r"4 model numbers for 4 ballots, \[3\] missing"),
    ],
)
def test_ballots_that_are_not_one_of_each_model_in_order_are_refused(ids: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        recorded_ranks(LOGITS, ids)
    assert recorded_ranks(LOGITS, range(4)).shape == (4, 3, 3)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(broken: float) -> None:
    logits = LOGITS.copy()
    logits[2, 1, 0] = broken
    with pytest.raises(ValueError, match="model 2 has a logit that is NaN or infinite"):
        recorded_ranks(logits, range(4))


def test_other_bad_ballots_are_refused() -> None:
    votes = np.array([[0], [1], [2], [0], [1], [2]])
    with pytest.raises(ValueError, match=r"6 models, but k=2 and d=2 shifts make 4"):
        certify_finite_aggregation(votes, num_classes=3, parts=2, shifts=(0, 1), unit=IN_PLACE)
    with pytest.raises(ValueError, match="not 2 distinct numbers from 0 to 5"):
        certify_finite_aggregation(votes, num_classes=3, parts=3, shifts=(1, 1), unit=IN_PLACE)
    with pytest.raises(ValueError, match="not 2 distinct numbers from 0 to 5"):
        certify_finite_aggregation(votes, num_classes=3, parts=3, shifts=(1, 6), unit=IN_PLACE)
    with pytest.raises(ValueError, match="a vote for class 2; expected 0 to 1"):
        certify_finite_aggregation(votes, num_classes=2, parts=3, shifts=(0, 1), unit=IN_PLACE)
    with pytest.raises(ValueError, match="a vote for class -2"):
        certify_finite_aggregation(votes - 2, num_classes=2, parts=3, shifts=(0, 1), unit=IN_PLACE)
    with pytest.raises(ValueError, match="no permutation of 0 to 2"):
        certify_run_off(np.array([[[0, 1, 1]]], dtype=np.uint8), unit=IN_PLACE)
    with pytest.raises(ValueError, match="expected at least 1 model"):
        certify_run_off(np.zeros((0, 1, 3), dtype=np.uint8), unit=IN_PLACE)
    with pytest.raises(ValueError, match="expected counts of at least 2 classes"):
        certify_deep_partition(np.array([[3, -1]]), unit=IN_PLACE)
    with pytest.raises(ValueError, match="is BagFlip's"):
        certify_deep_partition(np.array([[3, 1]]), unit="images altered in few features")
