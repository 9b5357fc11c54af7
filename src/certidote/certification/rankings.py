"""From recorded logits to class rankings and votes, with one rule for ties: of equals, the lowest class index wins.

A ranking is stored as places: `ranks[..., c]` is 0 if c is the model's first choice, 1 if it is the second. A model that failed has no
preferences; its vote is `NOBODY` and all its places are equal.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Integer, UInt

NOBODY = -1
"""The vote of a model that failed."""


def ranks_of(logits: Float[np.ndarray, "... classes"]) -> UInt[np.ndarray, "... classes"]:
    """The place of each class, 0 for the largest logit; of equal logits the lower class index comes first."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    places = np.arange(logits.shape[-1], dtype=np.uint8 if logits.shape[-1] <= 256 else np.uint16)
    ranks = np.empty(logits.shape, dtype=places.dtype)
    np.put_along_axis(ranks, order, np.broadcast_to(places, logits.shape), axis=-1)
    return ranks


def recorded_ranks(
    logits: Float[np.ndarray, "models n_test classes"], model_ids: Sequence[int]
) -> UInt[np.ndarray, "models n_test classes"]:
    """Rankings of models whose logits were recorded elsewhere.

    Args:
        logits: raw logits; softmax scores may have ties that the logits do not.
        model_ids: the number of the model behind each row of `logits`; must be 0, 1, ..., in this order, because Finite Aggregation
            reads a row's place as its model's number.
    Raises: ValueError if a model is missing, twice there or out of order, or a logit is NaN or infinite.
    """
    check_model_ids(model_ids, len(logits))
    check_finite(logits)
    return ranks_of(logits)


def check_finite(logits: Float[np.ndarray, "models n_test classes"]) -> None:
    """Raises ValueError if a model has a logit that ranks nothing."""
    broken = ~np.isfinite(logits).all(axis=(1, 2))
    if broken.any():
        raise ValueError(
            f"model {int(broken.argmax())} has a logit that is NaN or infinite, which ranks nothing; record it as a failed model"
        )


def check_model_ids(model_ids: Sequence[int], models: int) -> None:
    """Raises ValueError unless the ids are 0, 1, ..., models - 1 in this order."""
    ids = [int(i) for i in model_ids]
    if ids == list(range(models)):
        return
    expected = f"expected 0 to {models - 1}, each once and in order"
    missing = sorted(set(range(models)) - set(ids))
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ValueError(f"model {twice[0]} has more than one ballot; {expected}. A rerun must not replace or join a ballot")
    if len(ids) != models or missing:
        raise ValueError(
            f"{len(ids)} model numbers for {models} ballots, {missing[:3]} missing; {expected}. Skipped models void the vote"
        )
    wrong = next(place for place, i in enumerate(ids) if place != i)
    raise ValueError(f"ballot {wrong} comes from model {ids[wrong]}; {expected}. Sort ballots by model number, not by file name")


def check_ranks(ranks: Integer[np.ndarray, "models n_test classes"]) -> None:
    """Raises ValueError unless every ranking is a permutation of 0..classes-1, or all equal (a model that failed)."""
    models, n_test, classes = ranks.shape
    if models < 1 or n_test < 1 or classes < 2:
        raise ValueError(f"rankings of shape {ranks.shape}; expected at least 1 model, 1 test image and 2 classes")
    ordered = np.sort(ranks, axis=2)
    if not ((ordered == np.arange(classes)).all(axis=2) | (ordered[..., 0] == ordered[..., -1])).all():
        raise ValueError(f"some rankings are no permutation of 0 to {classes - 1}; make them with ranks_of or recorded_ranks")


def check_votes(votes: Integer[np.ndarray, "models n_test"], num_classes: int) -> None:
    """Raises ValueError unless every vote is a class or NOBODY."""
    if 0 in votes.shape or num_classes < 2:
        raise ValueError(
            f"votes of shape {votes.shape} for {num_classes} classes; expected at least 1 model, 1 test image, 2 classes"
        )
    low, high = int(votes.min()), int(votes.max())
    if low < NOBODY or high >= num_classes:
        bad = low if low < NOBODY else high
        raise ValueError(f"a vote for class {bad}; expected 0 to {num_classes - 1}, or {NOBODY} for a model that failed")


def first_choices(ranks: Integer[np.ndarray, "models n_test classes"]) -> Int64[np.ndarray, "models n_test"]:
    """The vote that each ranking casts."""
    return np.where(ranks.min(axis=2) == ranks.max(axis=2), NOBODY, ranks.argmin(axis=2)).astype(np.int64)


def votes_with_failures(
    votes: Integer[np.ndarray, "models n_test"], failed: Bool[np.ndarray, "models"]
) -> Int64[np.ndarray, "models n_test"]:
    """Recorded votes, with NOBODY for the models that failed."""
    return np.where(failed[:, None], NOBODY, votes.astype(np.int64))


def counts_of(votes: Integer[np.ndarray, "models n_test"], num_classes: int) -> Int64[np.ndarray, "n_test classes"]:
    """Votes for each test image and class."""
    return np.stack([(votes == c).sum(axis=0, dtype=np.int64) for c in range(num_classes)], axis=1)


def summed_logits(
    logits: Float[np.ndarray, "models n_test classes"], model_ids: Sequence[int], copies: int
) -> Float64[np.ndarray, "parts n_test classes"]:
    """One vote from several models of the same part (DPA*): their logits added.

    Args:
        logits: models part * copies + 0, ..., part * copies + copies - 1 are the differently seeded ones of that part.
        model_ids: as for `recorded_ranks`; in another order a sum would depend on several parts.
        copies: models of each part.
    Returns: sums in float64, in the order of the copies. They depend on one part each, so certificates count parts.
    Raises: ValueError as `recorded_ranks` does, or if the models are no whole number of parts.
    Source: Rezaei et al. 2023, DPA*.
    """
    check_model_ids(model_ids, len(logits))
    check_finite(logits)
    if copies < 1 or len(logits) % copies:
        raise ValueError(f"{len(logits)} models cannot be {copies} for each part; the number of models must be parts x copies")
    sums = np.zeros((len(logits) // copies, *logits.shape[1:]), dtype=np.float64)
    for copy in range(copies):
        sums += logits[copy::copies]
    return sums
