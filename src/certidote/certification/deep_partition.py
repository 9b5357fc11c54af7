"""Deep Partition Aggregation: every model sees one part of the training set, so a unit of the budget buys one vote.

Exact for an attacker who may rewrite whole models: one unit more than the radius always has an attack on the votes.
"""

import numpy as np
from jaxtyping import Int64

from certidote.types import CountCertificate, Unit


def certify_deep_partition(counts: Int64[np.ndarray, "n_test classes"], *, unit: Unit) -> CountCertificate:
    """How many parts an attacker may own without changing the plurality.

    The smallest gap to a rival c, `N_y - N_c - [c < y]`, shrinks by at most 2 with each part, and the answer stands while it is at
    least 0: `r = min over c of floor(gap / 2)`. Models that failed vote for nobody; owning one closes the gap by 1 only.

    Args:
        counts: votes for each class; ties go to the lowest class index.
        unit: what buys one part. That depends on how parts are made: by content, "samples inserted or removed"; by a stable place or
            name, "images altered in place"; where parts ignore labels and only labels may change, "labels flipped".
    Raises: ValueError for negative counts, fewer than 2 classes, or a unit that does not count parts.
    Source: Levine and Feizi 2021, theorem 1.
    """
    check_unit(unit)
    if counts.shape[1] < 2 or (counts.size and counts.min() < 0):
        raise ValueError(
            f"counts of shape {counts.shape} with minimum {counts.min(initial=0)}; expected counts of at least 2 classes"
        )
    rows, classes = np.arange(len(counts)), np.arange(counts.shape[1])
    labels = counts.argmax(axis=1).astype(np.int64)
    gaps = counts[rows, labels][:, None] - counts - (classes < labels[:, None])
    gaps[rows, labels] = np.iinfo(np.int64).max
    return CountCertificate(labels, gaps.min(axis=1) // 2, unit)


def check_unit(unit: Unit) -> None:
    """Raises ValueError if one unit does not touch one part, bucket or slot."""
    if unit == "images altered in few features":
        raise ValueError(
            f"unit {unit!r} is BagFlip's; a vote over parts counts samples inserted or removed, images altered in place, or labels flipped"
        )
