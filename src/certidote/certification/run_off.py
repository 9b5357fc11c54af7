"""Run-Off Election: plurality picks two finalists, then every model votes again between these two, by its ranking of them.

An attacker wins in one of two ways: the winner does not reach the final, because two classes pass it; or it meets a class in the
final that beats it there and, to get there, passed the other finalist. The radius is one less than the cheaper way.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Integer

from certidote.certification.deep_partition import check_unit
from certidote.certification.finite_aggregation import UNREACHABLE, check_spread, chunks, fewest, reached
from certidote.certification.rankings import check_model_ids, check_ranks, counts_of, first_choices
from certidote.types import CountCertificate, Unit

Votes = Int64[np.ndarray, "..."]


def certify_run_off(
    ranks: Integer[np.ndarray, "models n_test classes"], *, model_ids: Sequence[int], unit: Unit
) -> CountCertificate:
    """Run-Off Election over models that each see one part of the training set.

    One part narrows the gaps of two classes to the winner p by (2, 1) or (1, 2), so two classes at gaps a and b pass it with
    `T(a, b) = max(ceil(a/2), ceil(b/2), ceil((a+b)/3))` parts. To meet c in the final and lose, c must pass the other finalist s and
    win the run-off; each needs half its gap, and the larger need is a lower bound on both.

    Args:
        ranks: row j is the model of part j: places of the classes, all equal for a model that failed. For several models on each
            part (DPA*), rank `rankings.summed_logits`.
        model_ids: the number of the part behind each row, as recorded with its ballot: 0, 1, ... in this order.
        unit: what buys one part, as in `certify_deep_partition`.
    Returns: a lower bound on the exact radius, seldom below it. With two classes this is Deep Partition Aggregation.
    Raises: ValueError if a model is missing, twice there or out of order, or a ranking is no permutation.
    Source: Rezaei et al. 2023, theorem 3.3 and appendix; the closed form of T is ours, equal to their recursion.
    """
    check_unit(unit)
    check_model_ids(model_ids, len(ranks))
    check_ranks(ranks)
    classes = ranks.shape[2]
    labels, radii = [], []
    for chunk in chunks(ranks, classes):
        counts, winner, other, margins = _election(chunk)
        columns = np.arange(chunk.shape[1])
        gaps = np.stack([np.maximum(counts[winner, columns] - counts[c] + (c > winner), 0) for c in range(classes)])
        gaps[winner, columns] = UNREACHABLE
        gaps.sort(axis=0)
        cost = passed_by_two(gaps[0], gaps[1])  # T grows with both gaps, so the two nearest classes are the cheapest
        for c in range(classes):
            enter = np.where(c == other, 0, np.maximum(counts[other, columns] - counts[c] + (c > other), 0))
            beat = np.maximum(margins[c] + (c > winner), 0)
            cost = np.where(c == winner, cost, np.minimum(cost, np.maximum(-(-enter // 2), -(-beat // 2))))
        labels.append(winner)
        radii.append(cost - 1)
    return CountCertificate(np.concatenate(labels), np.concatenate(radii), unit)


def certify_run_off_finite_aggregation(
    ranks: Integer[np.ndarray, "models n_test classes"],
    *,
    model_ids: Sequence[int],
    parts: int,
    shifts: Sequence[int],
    unit: Unit,
) -> CountCertificate:
    """Run-Off Election over the models of Finite Aggregation: every need is met greedily by the buckets with the most power.

    Args:
        ranks, model_ids, unit: as for `certify_run_off`; here another order of the rows would be no certificate.
        parts, shifts: as for `certify_finite_aggregation`.
    Returns: a lower bound on the exact radius, in buckets.
    Raises: ValueError as those two do.
    Source: Rezaei et al. 2023, section 4.2.
    """
    check_unit(unit)
    check_model_ids(model_ids, len(ranks))
    check_ranks(ranks)
    check_spread(len(ranks), parts, shifts)
    classes, copies = ranks.shape[2], len(shifts)
    labels, radii = [], []
    for chunk in chunks(ranks, classes):
        counts, winner, other, margins = _election(chunk)
        votes, columns = first_choices(chunk), np.arange(chunk.shape[1])
        hits = np.stack([reached(votes == c, shifts) for c in range(classes)])
        of_winner, of_other = hits[winner, :, columns].T, hits[other, :, columns].T
        gaps = np.stack([counts[winner, columns] - counts[c] + (c > winner) for c in range(classes)])
        alone = np.stack([fewest(gaps[c], copies + of_winner - hits[c]) for c in range(classes)])
        cost = np.full(len(columns), UNREACHABLE)
        for c in range(classes):
            for b in range(c):
                both = fewest(gaps[c] + gaps[b], copies + 2 * of_winner - hits[c] - hits[b])
                found = np.maximum(np.maximum(alone[c], alone[b]), both)
                cost = np.where((c == winner) | (b == winner), cost, np.minimum(cost, found))
            enter = fewest(counts[other, columns] - counts[c] + (c > other), copies + of_other - hits[c])
            beat = fewest(margins[c] + (c > winner), copies + reached(_preference(chunk, winner, c), shifts))
            cost = np.where(c == winner, cost, np.minimum(cost, np.maximum(np.where(c == other, 0, enter), beat)))
        labels.append(winner)
        radii.append(cost - 1)
    return CountCertificate(np.concatenate(labels), np.concatenate(radii), unit)


def passed_by_two(a: Int64[np.ndarray, "..."], b: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """T(a, b): the fewest parts that close two gaps when each part closes them by (2, 1) or (1, 2)."""
    return np.maximum(np.maximum(-(-a // 2), -(-b // 2)), -(-(a + b) // 3))


def _election(ranks: Integer[np.ndarray, "models n_test classes"]) -> tuple[Votes, Votes, Votes, Votes]:
    """Round-one votes (classes, n_test), the winner and the other finalist (n_test,), and by how many votes the winner is
    preferred to each class (classes, n_test)."""
    classes = ranks.shape[2]
    counts = counts_of(first_choices(ranks), classes)
    finalists = np.sort(np.argsort(-counts, axis=1, kind="stable")[:, :2], axis=1)
    low, high = finalists[:, 0], finalists[:, 1]
    lead = _preference(ranks, low, high).sum(axis=0)
    winner, other = np.where(lead >= 0, low, high), np.where(lead >= 0, high, low)
    margins = np.stack([_preference(ranks, winner, c).sum(axis=0) for c in range(classes)])
    return np.ascontiguousarray(counts.T), winner.astype(np.int64), other.astype(np.int64), margins


def _preference(
    ranks: Integer[np.ndarray, "models n_test classes"], a: Int64[np.ndarray, "n_test"], b: Int64[np.ndarray, "n_test"] | int
) -> Int64[np.ndarray, "models n_test"]:
    """1 where a model prefers class a, -1 where it prefers b, 0 where it has no preference."""
    columns = np.arange(ranks.shape[1])
    return np.sign(ranks[:, columns, b].astype(np.int64) - ranks[:, columns, a].astype(np.int64))
