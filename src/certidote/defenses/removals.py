"""What a filter removed, where it is known which images are poisons: from a finished filter's rows, or by asking a trainer again."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from certidote.defenses.filtered import FilteredTrainer
from certidote.streams import Key
from certidote.training.dropping import Dropping
from certidote.training.head import HeadTrainer
from certidote.training.pooled import PooledTrainer
from certidote.types import Json, Trainer, View


@dataclass(frozen=True)
class Removal:
    """How many images of each kind went and stayed. Positive means poison."""

    removed_poisons: int
    removed_clean: int
    kept_poisons: int
    kept_clean: int

    @property
    def precision(self) -> float | None:
        """Share of poisons among the removed images; None if none were removed."""
        removed = self.removed_poisons + self.removed_clean
        return self.removed_poisons / removed if removed else None

    @property
    def recall(self) -> float | None:
        """Share of the poisons that were removed; None if there are none."""
        poisons = self.removed_poisons + self.kept_poisons
        return self.removed_poisons / poisons if poisons else None

    def to_json(self) -> Json:
        return {
            "removed_poisons": self.removed_poisons,
            "removed_clean": self.removed_clean,
            "kept_poisons": self.kept_poisons,
            "kept_clean": self.kept_clean,
            "precision": self.precision,
            "recall": self.recall,
        }


def removal(kept: Int64[Tensor, "kept"], images: int, poisons: Int64[Tensor, "p"]) -> Removal:
    """Compare what was kept of so many images with the true rows of the poisons.

    Raises: ValueError if a row does not exist or is given twice.
    """
    marks = []
    for name, rows in (("kept", kept), ("poisoned", poisons)):
        mark = torch.zeros(images, dtype=torch.bool)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < images:
            raise ValueError(f"{name} rows {int(rows.min())} to {int(rows.max())}, but {images} images have rows 0 to {images - 1}")
        mark[rows.cpu()] = True
        if int(mark.sum()) != len(rows):
            raise ValueError(f"{len(rows) - int(mark.sum())} {name} rows are given twice; give each row once")
        marks.append(mark)
    stay, bad = marks
    counts = (~stay & bad, ~stay & ~bad, stay & bad, stay & ~bad)
    return Removal(*(int(mark.sum()) for mark in counts))


def filters(trainer: Trainer) -> bool:
    """Whether a trainer leaves images out: then `kept_by` can say which."""
    return isinstance(trainer, FilteredTrainer) or (
        isinstance(trainer, PooledTrainer | HeadTrainer) and trainer.dropping is not None
    )


def kept_by(trainer: Trainer, views: Sequence[View], keys: Sequence[Key], common: Key) -> list[Int64[Tensor, "kept"] | None]:
    """The rows of each view that its member learns from, at last, ascending; None where the model diverged before it could be said.

    A filter that judges finished models trains these again, one that judges as models learn trains the members themselves again.

    Args and errors as `fit`.
    Raises: TypeError if the trainer leaves no images out.
    """
    if isinstance(trainer, FilteredTrainer):
        return trainer.kept(views, keys, common)
    if not isinstance(trainer, PooledTrainer | HeadTrainer) or trainer.dropping is None:
        raise TypeError(f"a {type(trainer).__name__} without a filter learns from all images; there is nothing to be said about it")
    found: list[Tensor | None] = []
    for view, key in zip(views, keys, strict=True):
        watched, twin = _Watched(trainer.dropping, torch.ones(len(view.labels), dtype=torch.bool)), copy.copy(trainer)
        twin.dropping = watched
        failed = bool(twin.fit([view], [key], common).failed[0])
        found.append(None if failed else watched.last.nonzero().flatten())
    return found


@dataclass
class _Watched:
    """What a `Dropping` decided last."""

    dropping: Dropping
    last: Bool[Tensor, "n"]

    def due(self, epoch: int, epochs: int) -> bool:
        return self.dropping.due(epoch, epochs)

    def kept(self, errors: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"], kept: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
        self.last = self.dropping.kept(errors, labels, kept)
        return self.last

    def describe(self) -> Json:
        return self.dropping.describe()
