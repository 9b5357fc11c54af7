"""DPA, Finite Aggregation and Run-Off Election against every possible attack on few models."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from certidote.certification.budgets import altered_in_place
from certidote.certification.deep_partition import certify_deep_partition
from certidote.certification.finite_aggregation import certify_finite_aggregation, published_shifts, reached
from certidote.certification.rankings import NOBODY, counts_of, first_choices, ranks_of, recorded_ranks, summed_logits
from certidote.certification.run_off import certify_run_off, certify_run_off_finite_aggregation, passed_by_two
from certidote.types import CountCertificate
from exhaustive import (
    all_states,
    can_change,
    exact_radii,
    orders_of,
    plurality,
    ranks_of_states,
    run_off,
    single,
    spread,
    votes_of_states,
)

IN_PLACE = "images altered in place"
BY_CONTENT = "samples inserted or removed"


def finite_aggregation(votes: np.ndarray, **given: Any) -> CountCertificate:
    return certify_finite_aggregation(votes, model_ids=range(len(votes)), unit=IN_PLACE, **given)


def run_off_single(ranks: np.ndarray) -> CountCertificate:
    return certify_run_off(ranks, model_ids=range(len(ranks)), unit=IN_PLACE)


def run_off_spread(ranks: np.ndarray, **given: Any) -> CountCertificate:
    return certify_run_off_finite_aggregation(ranks, model_ids=range(len(ranks)), unit=IN_PLACE, **given)


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
    found = finite_aggregation(votes, num_classes=classes, parts=parts, shifts=shifts)
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
    found = finite_aggregation(votes_of_states(sayings, 6), num_classes=3, parts=3, shifts=(0, 2))
    assert np.array_equal(found.labels, answers.ravel())
    assert (found.radii <= exact_radii(answers, spread(6, (0, 2))).ravel()).all()


def test_one_shift_is_deep_partition() -> None:
    votes = np.random.default_rng(1).integers(0, 4, size=(31, 3_000))
    votes[3] = NOBODY
    finite = finite_aggregation(votes, num_classes=4, parts=31, shifts=(7,))
    deep = certify_deep_partition(counts_of(votes, 4), unit=IN_PLACE)
    assert np.array_equal(finite.labels, deep.labels)
    assert np.array_equal(finite.radii, deep.radii)


def test_columns_in_another_order_would_certify_too_much() -> None:
    votes, shifts = votes_of_states(range(2), 12), (0, 1, 2, 3)
    answers = all_states(range(2), 12, partial(plurality, classes=2))
    exact = exact_radii(answers, spread(12, shifts)).ravel()
    arguments = {"num_classes": 2, "parts": 3, "shifts": shifts}
    assert (finite_aggregation(votes, **arguments).radii <= exact).all()
    shuffled = [4, 5, 7, 6, 2, 3, 10, 9, 11, 8, 1, 0]
    assert (finite_aggregation(votes[shuffled], **arguments).radii > exact).any()
    for certify in (
        lambda: certify_finite_aggregation(votes[shuffled], model_ids=shuffled, unit=IN_PLACE, **arguments),
        lambda: certify_run_off_finite_aggregation(RANKS[shuffled], model_ids=shuffled, parts=3, shifts=shifts, unit=IN_PLACE),
        lambda: certify_run_off(RANKS[shuffled], model_ids=shuffled, unit=IN_PLACE),
        lambda: summed_logits(LOGITS[np.arange(12) % 4][shuffled], shuffled, copies=4),
        lambda: recorded_ranks(LOGITS[np.arange(12) % 4], shuffled),
    ):
        with pytest.raises(ValueError, match="ballot 0 comes from model 4"):
            certify()


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


@pytest.mark.parametrize(("models", "classes"), [(1, 3), (2, 3), (4, 3), (6, 3), (5, 2), (4, 4)])
def test_run_off_never_exceeds_the_best_attack(models: int, classes: int) -> None:
    answers = all_states(orders_of(classes), models, partial(run_off, classes=classes))
    found = run_off_single(ranks_of_states(classes, models))
    exact = exact_radii(answers, single(models)).ravel()
    assert np.array_equal(found.labels, answers.ravel())
    assert (found.radii >= 0).all()
    assert (found.radii <= exact).all()
    assert (found.radii == exact).mean() > 0.9


def ranks_of_ballot(ballot: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """(models, 1, classes) places in one ballot of orders."""
    places = [[order.index(c) if order else classes for c in range(classes)] for order in ballot]
    return np.array(places, dtype=np.uint8)[:, None]


TIES = {
    # 0 has one vote, 2 has three: one voter of 2 who turns to 0 makes a tie, in which 0 comes first, meets 1, and wins in another tie.
    "other finalist": ([(1, 2, 0)] * 4 + [(2, 0, 1)] * 2 + [(2, 1, 0), (0, 1, 2)], 1, 6, (0, 2, 1)),
    # Everybody but their own voters prefers 2 to 0 and to 1; a voter of 2 who turns to 0 leaves 2 in a tie with 1, which comes first.
    "winner": ([(2, 0, 1)] * 3 + [(0, 2, 1)] * 2 + [(1, 2, 0)] * 2, 2, 0, (0, 1, 2)),
}
"""Elections lost to one turned ballot by a tie that is won by the lower class: ballots, winner, which ballot turns, to what."""


@pytest.mark.parametrize("passed", TIES)
def test_a_finalist_passed_in_a_tie_counts_as_passed(passed: str) -> None:
    """With fewer than seven models some other attack is always as cheap, so that trying all states shows nothing of this."""
    ballot, winner, turns, to = TIES[passed]
    assert run_off(ballot, 3) == winner
    assert run_off([*ballot[:turns], to, *ballot[turns + 1 :]], 3) != winner
    ranks = ranks_of_ballot(ballot, 3)
    for found in (run_off_single(ranks), run_off_spread(ranks, parts=len(ballot), shifts=(1,))):
        assert (found.labels.tolist(), found.radii.tolist()) == ([winner], [0])


@pytest.mark.parametrize(("models", "shifts"), [(7, ()), (8, ()), (9, ()), (8, (0, 3)), (9, (0, 1, 4))])
def test_no_attack_within_the_radius_on_more_models_than_all_states_could_be_tried(models: int, shifts: tuple[int, ...]) -> None:
    """Close elections of three classes; every attack with as many units as certified, up to two (one where units reach three models)."""
    generator = np.random.default_rng(models)
    orders, owned = orders_of(3), spread(models, shifts) if shifts else single(models)
    largest, tried = 1 if len(shifts) == 3 else 2, 0
    while tried < (10 if shifts else 40):
        likely = generator.dirichlet(np.full(len(orders) - 1, 2.0))
        ballot = [orders[i] for i in generator.choice(len(orders) - 1, size=models, p=likely)]
        ranks = ranks_of_ballot(ballot, 3)
        found = run_off_spread(ranks, parts=models // len(shifts), shifts=shifts) if shifts else run_off_single(ranks)
        radius = int(found.radii[0])
        assert found.labels[0] == run_off(ballot, 3)
        assert radius >= 0
        if 0 < radius <= largest:
            tried += 1
            assert not can_change(ballot, owned, radius, orders, partial(run_off, classes=3)), ballot


@pytest.mark.parametrize(
    ("parts", "shifts", "classes"), [(2, (0, 1), 3), (5, (2,), 3), (2, (1, 2), 3), (3, (0, 1), 2), (4, (0, 3), 2)]
)
def test_run_off_on_finite_aggregation_never_exceeds_the_best_attack(parts: int, shifts: tuple[int, ...], classes: int) -> None:
    models = parts * len(shifts)
    answers = all_states(orders_of(classes), models, partial(run_off, classes=classes))
    ranks = ranks_of_states(classes, models)
    found = run_off_spread(ranks, parts=parts, shifts=shifts)
    exact = exact_radii(answers, spread(models, shifts)).ravel()
    assert np.array_equal(found.labels, answers.ravel())
    assert (found.radii >= 0).all()
    assert (found.radii <= exact).all()
    assert (found.radii == exact).mean() > 0.9
    if len(shifts) == 1:
        deep = run_off_single(ranks).radii
        assert (np.abs(found.radii - deep) <= 1).all()


def test_two_classes_need_no_run_off() -> None:
    logits = np.random.default_rng(2).integers(0, 3, size=(9, 4_000, 2)).astype(np.float64)
    ranks = ranks_of(logits)
    elected = run_off_single(ranks)
    plain = certify_deep_partition(counts_of(first_choices(ranks), 2), unit=IN_PLACE)
    assert np.array_equal(elected.labels, plain.labels)
    assert np.array_equal(elected.radii, plain.radii)


def test_a_majority_wins_the_run_off() -> None:
    ranks = ranks_of(np.random.default_rng(3).normal(size=(11, 5_000, 4)) + np.array([1.0, 0, 0, 0]))
    counts = counts_of(first_choices(ranks), 4)
    clear = counts.max(axis=1) > 11 / 2
    assert 1_000 < clear.sum() < 4_000
    assert np.array_equal(run_off_single(ranks).labels[clear], counts.argmax(axis=1)[clear])


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


# --------------------------------------------------------------------------------------------------- a learner, not its votes


UNIVERSE = [(2, 0), (3, 0), (5, 0), (7, 0), (8, 0), (12, 0), (14, 0), (9, 1), (10, 1), (15, 1), (16, 1), (18, 1), (19, 1), (21, 1)]
"""Samples that may be in a training set: one pixel and a label. Its bucket follows from the pixel: from the content alone."""


def distances(pixels: np.ndarray, labels: np.ndarray, sets: np.ndarray, query: float) -> np.ndarray:
    """(sets, 2) distance of the query to the mean of each class in each training set; infinite for a class without samples."""
    found = np.full((len(sets), 2), np.inf)
    for c in range(2):
        chosen = sets & (labels == c)
        some = chosen.any(axis=1)
        found[some, c] = np.abs(chosen[some] @ pixels / chosen[some].sum(axis=1) - query)
    return found


def nearest_other_answer(answers: np.ndarray) -> np.ndarray:
    """For every training set (a number whose bits say which samples are in it), the fewest insertions and removals that lead to one
    with another answer; found by spreading from all sets of each answer, one sample at a time."""
    size = int(np.log2(len(answers)))
    nearest = np.full(len(answers), np.inf)
    for answer in np.unique(answers):
        reached_by_now = answers != answer
        for steps in range(1, size + 1):
            numbers = np.flatnonzero(reached_by_now)
            for bit in range(size):
                reached_by_now[numbers ^ (1 << bit)] = True
            fresh = reached_by_now & (answers == answer) & np.isinf(nearest)
            nearest[fresh] = steps
    return nearest


@pytest.mark.parametrize(
    ("parts", "shifts", "election"), [(5, (0,), False), (7, (0,), False), (5, (0,), True), (3, (0, 2), False), (3, (0, 2), True)]
)
def test_no_insertions_and_removals_within_the_radius_change_what_real_models_answer(
    parts: int, shifts: tuple[int, ...], election: bool
) -> None:
    """All 2^14 training sets that can be made from 14 samples: nearest-mean models, buckets by content, and every difference there is."""
    pixels, labels = (np.array(column) for column in zip(*UNIVERSE, strict=True))
    sets = (np.arange(1 << len(UNIVERSE))[:, None] >> np.arange(len(UNIVERSE))) & 1 == 1
    models = parts * len(shifts)
    beyond = 0
    for query in (8.5, 11.0, 13.0):
        seen = [np.isin(pixels % models, (model - np.array(shifts)) % models) for model in range(models)]
        ranks = ranks_of(-np.stack([distances(pixels, labels, sets & mask, query) for mask in seen]))
        if election:
            found = certify_run_off_finite_aggregation(ranks, model_ids=range(models), parts=parts, shifts=shifts, unit=BY_CONTENT)
        else:
            given = {"model_ids": range(models), "num_classes": 2, "parts": parts, "shifts": shifts, "unit": BY_CONTENT}
            found = certify_finite_aggregation(first_choices(ranks), **given)
        nearest = nearest_other_answer(found.labels)
        assert (found.radii < nearest).all()
        assert found.radii.max() >= 1
        beyond += int((found.radii + 1 == nearest).sum())
        # A substitution is a removal and an insertion.
        assert (2 * np.maximum(altered_in_place(found), 0) < nearest).all()
    assert beyond > 1_000, "one more than certified often is enough for a real attack"


# ------------------------------------------------------------------------------------------------- fuzzing and relations


def fuzzed(models: int, classes: int, tests: int, seed: int) -> np.ndarray:
    """Rankings from logits in {0, 1, 2}, ties everywhere; a third of the ballots have one model that cannot tell classes apart, a tenth
    one model that failed."""
    generator = np.random.default_rng(seed)
    logits = generator.integers(0, 3, size=(models, tests, classes)).astype(np.float32)
    logits[generator.integers(models, size=tests // 3), np.arange(tests // 3)] = 1.0
    ranks = ranks_of(logits)
    ranks[generator.integers(models, size=tests // 10), generator.permutation(tests)[: tests // 10]] = classes
    return ranks


def state_of(ranks: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    """Where the ballots' states are in `all_states` over `orders_of`."""
    orders = orders_of(classes)
    powers = classes ** np.arange(classes)
    numbers = {int(sum(order.index(c) * powers[c] for c in range(classes))): place for place, order in enumerate(orders[:-1])}
    table = np.full(int((classes * powers).sum()) + 1, len(orders) - 1)
    table[list(numbers)] = list(numbers.values())
    return tuple(table[ranks @ powers])


FUZZED = [(6, 2, (0, 1)), (7, 2, ()), (5, 3, ()), (6, 3, (0, 2)), (6, 3, (1, 2, 5)), (3, 4, (0,)), (1, 4, ())]
"""Models, classes, shifts of Finite Aggregation if they are spread."""


@pytest.mark.parametrize("certificate", ["plurality", "run-off"])
def test_a_hundred_thousand_ballots_full_of_ties(certificate: str) -> None:
    """No certificate is negative or larger than the best attack, which is found by trying all of them; nor is an answer another."""
    tests, tried, ties = 20_000, 0, 0
    for seed, (models, classes, shifts) in enumerate(FUZZED):
        ranks = fuzzed(models, classes, tests, seed)
        votes = first_choices(ranks)
        if certificate == "plurality":
            answers = all_states([*range(classes), NOBODY], models, partial(plurality, classes=classes))
            states = tuple(np.where(votes == NOBODY, classes, votes))
        else:
            answers, states = all_states(orders_of(classes), models, partial(run_off, classes=classes)), state_of(ranks, classes)
        exact = exact_radii(answers, spread(models, shifts) if shifts else single(models))[states]
        if shifts:
            given = {"parts": models // len(shifts), "shifts": shifts}
            spread_votes = partial(finite_aggregation, votes, num_classes=classes)
            found = spread_votes(**given) if certificate == "plurality" else run_off_spread(ranks, **given)
        elif certificate == "plurality":
            found = certify_deep_partition(counts_of(votes, classes), unit=IN_PLACE)
            assert np.array_equal(found.radii, exact)
        else:
            found = run_off_single(ranks)
        assert np.array_equal(found.labels, answers[states])
        assert found.radii.min() == 0
        assert (found.radii <= exact).all()
        counts = np.sort(counts_of(votes, classes), axis=1)
        tried, ties = tried + tests, ties + int((counts[:, -1] == counts[:, -2]).sum())
    assert tried >= 100_000
    assert ties > 20_000, "equal votes at the top"


def test_the_lowest_of_equal_logits_comes_first() -> None:
    logits = np.array([[[1.0, 2.0, 2.0, -1.0]], [[0.0, 0.0, 0.0, 0.0]], [[0.0, -0.0, -0.0, 1.0]]])
    assert ranks_of(logits).tolist() == [[[2, 0, 1, 3]], [[0, 1, 2, 3]], [[1, 2, 3, 0]]]
    assert first_choices(ranks_of(logits)).tolist() == [[1], [0], [3]]


def test_identical_copies_on_each_part_change_nothing() -> None:
    logits = np.random.default_rng(5).integers(0, 3, size=(7, 2_000, 4)).astype(np.float32)
    summed = summed_logits(np.repeat(logits, 3, axis=0), range(21), copies=3)
    assert np.array_equal(ranks_of(summed), ranks_of(logits))
    different = np.concatenate([logits[:1], logits[1:2]])
    assert np.array_equal(summed_logits(different, range(2), copies=2)[0], logits[0].astype(np.float64) + logits[1])
    with pytest.raises(ValueError, match="7 models cannot be 2 for each part"):
        summed_logits(logits, range(7), copies=2)


def test_chunks_of_test_images_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from certidote.certification import finite_aggregation

    ranks = ranks_of(np.random.default_rng(6).normal(size=(12, 70, 5)))
    arguments = {"parts": 4, "shifts": (0, 5, 7)}
    whole = run_off_spread(ranks, **arguments).radii
    monkeypatch.setattr(finite_aggregation, "CHUNK_CELLS", 12 * 5 * 9)
    assert np.array_equal(run_off_spread(ranks, **arguments).radii, whole)


# ------------------------------------------------------------------------------------------------------------ refusals


LOGITS = np.random.default_rng(7).normal(size=(4, 3, 3))
RANKS = ranks_of(np.random.default_rng(9).normal(size=(12, 3, 3)))


def certificates_of(logits: np.ndarray, ids: Sequence[int]) -> list[Callable[[], object]]:
    """Everything that certifies recorded ballots, as a call."""
    ranks = ranks_of(np.nan_to_num(logits))
    return [
        lambda: recorded_ranks(logits, ids),
        lambda: summed_logits(logits, ids, copies=2),
        lambda: certify_run_off(ranks, model_ids=ids, unit=IN_PLACE),
        lambda: certify_run_off_finite_aggregation(ranks, model_ids=ids, parts=2, shifts=(0, 1), unit=IN_PLACE),
        lambda: certify_finite_aggregation(
            first_choices(ranks), model_ids=ids, num_classes=3, parts=2, shifts=(0, 1), unit=IN_PLACE
        ),
    ]


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
    for certify in certificates_of(LOGITS, ids):
        with pytest.raises(ValueError, match=expected):
            certify()
    for certify in certificates_of(LOGITS, range(4)):
        assert certify() is not None


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(broken: float) -> None:
    logits = LOGITS.copy()
    logits[2, 1, 0] = broken
    for certify in certificates_of(logits, range(4))[:2]:  # the others take rankings
        with pytest.raises(ValueError, match="model 2 has a logit that is NaN or infinite"):
            certify()


def test_other_bad_ballots_are_refused() -> None:
    votes = np.array([[0], [1], [2], [0], [1], [2]])
    with pytest.raises(ValueError, match=r"6 models, but k=2 and d=2 shifts make 4"):
        finite_aggregation(votes, num_classes=3, parts=2, shifts=(0, 1))
    with pytest.raises(ValueError, match="not 2 distinct numbers from 0 to 5"):
        finite_aggregation(votes, num_classes=3, parts=3, shifts=(1, 1))
    with pytest.raises(ValueError, match="not 2 distinct numbers from 0 to 5"):
        finite_aggregation(votes, num_classes=3, parts=3, shifts=(1, 6))
    with pytest.raises(ValueError, match="a vote for class 2; expected 0 to 1"):
        finite_aggregation(votes, num_classes=2, parts=3, shifts=(0, 1))
    with pytest.raises(ValueError, match="a vote for class -2"):
        finite_aggregation(votes - 2, num_classes=2, parts=3, shifts=(0, 1))
    with pytest.raises(ValueError, match="no permutation of 0 to 2"):
        run_off_single(np.array([[[0, 1, 1]]], dtype=np.uint8))
    with pytest.raises(ValueError, match="expected at least 1 model"):
        run_off_single(np.zeros((0, 1, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="expected counts of at least 2 classes"):
        certify_deep_partition(np.array([[3, -1]]), unit=IN_PLACE)
    with pytest.raises(ValueError, match="is BagFlip's"):
        certify_deep_partition(np.array([[3, 1]]), unit="images altered in few features")
