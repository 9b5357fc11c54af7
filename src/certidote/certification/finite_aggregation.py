"""Finite Aggregation: samples fall into K buckets, and each bucket trains d of the K models, chosen by fixed shifts.

A unit of the budget buys one bucket, and with it d votes; but the models that the buckets reach overlap, and a bucket whose models
do not support the answer buys little. The bound adds up the best buckets as if they did not overlap.
"""

import random
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64, Integer

from certidote.certification.deep_partition import check_unit
from certidote.certification.rankings import check_model_ids, check_votes, counts_of
from certidote.types import CountCertificate, Unit

UNREACHABLE = np.iinfo(np.int64).max // 4
CHUNK_CELLS = 1 << 21
"""Numbers of one intermediate array: test images are worked on in chunks, in constant memory."""


def certify_finite_aggregation(
    votes: Integer[np.ndarray, "models n_test"],
    *,
    model_ids: Sequence[int],
    num_classes: int,
    parts: int,
    shifts: Sequence[int],
    unit: Unit,
) -> CountCertificate:
    """How many buckets an attacker may own without changing the plurality.

    Bucket h reaches the models m(h) = h + shifts (mod K). Owning it narrows the gap between the answer y and a rival c by at most
    `D_c(h) = sum over j in m(h) of 1 + [v_j = y] - [v_j = c]`; the r largest must not exceed `N_y - N_c - [c < y]`.

    Args:
        votes: row j is model j; NOBODY for a model that failed.
        model_ids: the number of the model behind each row, as recorded with its ballot: 0, 1, ... in this order. In another order the
            bound is no certificate.
        num_classes: votes are below it.
        parts: k, the inverse share of the data that one model sees; there are k * d models.
        shifts: the d shifts that the models were trained with, as recorded with them.
        unit: what buys one bucket.
    Returns: a lower bound on the exact radius; with one shift it is Deep Partition Aggregation's, which is exact.
    Raises: ValueError if a model is missing, twice there or out of order, the models are not parts * len(shifts), shifts repeat or are
        out of range, or a vote is no class.
    Source: Wang et al. 2022, theorem 1.
    """
    check_unit(unit)
    check_model_ids(model_ids, len(votes))
    check_votes(votes, num_classes)
    check_spread(len(votes), parts, shifts)
    labels, radii = [], []
    for chunk in chunks(votes, num_classes):
        counts = counts_of(chunk, num_classes).T
        answers = counts.argmax(axis=0)
        columns = np.arange(chunk.shape[1])
        hits = np.stack([reached(chunk == c, shifts) for c in range(num_classes)])
        support = len(shifts) + hits[answers, :, columns].T
        needed = np.full(len(columns), UNREACHABLE)
        for c in range(num_classes):
            gaps = counts[answers, columns] - counts[c] + (c > answers)
            needed = np.where(c == answers, needed, np.minimum(needed, fewest(gaps, support - hits[c])))
        labels.append(answers)
        radii.append(needed - 1)
    return CountCertificate(np.concatenate(labels).astype(np.int64), np.concatenate(radii).astype(np.int64), unit)


def check_spread(models: int, parts: int, shifts: Sequence[int]) -> None:
    """Raises ValueError unless parts * len(shifts) models were trained by distinct shifts in 0..models-1."""
    if parts < 1 or not shifts or models != parts * len(shifts):
        raise ValueError(
            f"{models} models, but k={parts} and d={len(shifts)} shifts make {parts * len(shifts)}; give the k and the shifts that the "
            "models were trained with"
        )
    if len(set(shifts)) != len(shifts) or min(shifts) < 0 or max(shifts) >= models:
        raise ValueError(
            f"shifts {list(shifts)} are not {len(shifts)} distinct numbers from 0 to {models - 1}; give the recorded ones"
        )


def published_shifts(parts: int, copies: int) -> tuple[int, ...]:
    """The shifts that the code published with Finite Aggregation draws; record them with the models, since Python may draw others.

    A public constant, not a draw of ours: it is needed to certify votes recorded by that code.
    """
    return tuple(random.Random(1000000207).sample(range(parts * copies), copies))


def chunks(votes: Integer[np.ndarray, "models n_test *rest"], num_classes: int) -> Iterator[np.ndarray]:
    """The test images in chunks small enough for one array of models x images x classes."""
    size = max(1, CHUNK_CELLS // (len(votes) * num_classes))
    for start in range(0, votes.shape[1], size):
        yield votes[:, start : start + size]


def reached(quantity: np.ndarray, shifts: Sequence[int]) -> Int64[np.ndarray, "buckets n_test"]:
    """Sum of a quantity of models, (models, n_test), over the models that each bucket reaches."""
    numbers = quantity.astype(np.int64)
    return sum((np.roll(numbers, -shift, axis=0) for shift in shifts), np.zeros_like(numbers))


def fewest(needs: Int64[np.ndarray, "n_test"], powers: Int64[np.ndarray, "buckets n_test"]) -> Int64[np.ndarray, "n_test"]:
    """The least number of buckets whose powers (each at least 0) add up to the need; UNREACHABLE if all together do not."""
    sums = np.cumsum(-np.sort(-powers, axis=0), axis=0)
    numbers = np.where(needs > 0, (sums < needs).sum(axis=0, dtype=np.int64) + 1, 0)
    return np.where(needs > sums[-1], np.where(needs > 0, UNREACHABLE, 0), numbers)
