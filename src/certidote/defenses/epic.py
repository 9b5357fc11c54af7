"""EPIC: while a model learns, images whose gradients nobody shares are dropped for good."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from certidote.defenses.facility_location import greedy_medoids
from certidote.defenses.filtered import check_classes_left
from certidote.defenses.from_scratch import one_by_one
from certidote.training.head import HeadTrainer
from certidote.types import Json, Trainer

START, EVERY, STOP = 10 / 40, 2 / 40, 35 / 40
"""When images are judged, as shares of a training: the original's numbers for 40 epochs and budgets of 8/255."""


@dataclass(frozen=True)
class Epic:
    """Every few epochs, in each class: choose medoids of gradients, and drop those images that stand for nobody else: a `Dropping`.

    The gradient of an image is that of its loss by the logits, softmax - one-hot. Medoids are chosen by greedy facility location;
    every image belongs to the nearest one; an image that is alone with itself is dropped.

    Threat model: clean-label poisons of targeted attacks, which have to be effective and so lie in sparse regions of gradient space,
    alone. Certificate: none. Cost: about 1.1 to 1.3 plain trainings.

    Attributes:
        subset: share of the images of a class that become medoids, in (0, 1).
        start: the first epoch, from 0, before which images are judged, at least 1; None: a quarter of the training.
        every: epochs from one judgment to the next; None: a twentieth of the training.
        stop: from this epoch on nothing is dropped; None: seven eighths of the training.
    Raises: ValueError for a number out of range; in training, if a class would lose all of its images.
    Source: Yang, Liu and Mirzasoleiman (2022), algorithm 1, and its code: 40 epochs, subset 0.2, start 10, every 2.
    Differs from the code: logits are the model's own, biases included; similarity matrices are never in memory; a medoid that
        coincides with an earlier one belongs to that one's group, and is not dropped for having none of its own.
    """

    subset: float = 0.2
    start: int | None = None
    every: int | None = None
    stop: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.subset < 1:
            raise ValueError(f"subset={self.subset:g}; give a share of each class, above 0 and below 1")
        for name in ("start", "every", "stop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}; give a number of epochs, at least 1")

    def describe(self) -> Json:
        return {"epic": {"subset": self.subset, "start": self.start, "every": self.every, "stop": self.stop}}

    def due(self, epoch: int, epochs: int) -> bool:
        start = max(1, round(START * epochs)) if self.start is None else self.start
        every = max(1, round(EVERY * epochs)) if self.every is None else self.every
        stop = round(STOP * epochs) if self.stop is None else self.stop
        return start <= epoch < stop and (epoch - start) % every == 0

    def kept(self, errors: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"], kept: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """A training that has diverged is left alone: nothing of it will be used."""
        if not errors.isfinite().all():
            return kept
        left = kept.clone()
        for label in sorted(set(labels[kept].tolist())):
            rows = (kept & (labels == label)).nonzero().flatten()
            _, owner = greedy_medoids(errors[rows], max(1, round(self.subset * len(rows))))
            left[rows] = torch.bincount(owner)[owner] > 1
        check_classes_left(labels, left.nonzero().flatten(), "EPIC")
        return left


def epic_trainer(trainer: Trainer, epic: Epic) -> Trainer:
    """The same trainer, dropping images as it goes. Stacks of MLPs train one by one instead.

    Raises: TypeError if the trainer has no such hook.
    """
    twin = copy.copy(trainer if isinstance(trainer, HeadTrainer) else one_by_one(trainer, "epic"))
    twin.dropping = epic
    return twin
