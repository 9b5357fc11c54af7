"""Victims that do not start afresh on the sanitized set: the paper's two ways to win accuracy back, for replays.

In-domain: the first epochs on the set as it is, poisons and all, the rest on what the defense makes of it. Such a model is no function of the
noised set, so that no certificate applies: what it resists is measured. Out of the domain: from weights that were learned on images which
no attacker could touch; certificates stay what they are.
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from certidote.defenses.from_scratch import one_by_one
from certidote.defenses.one_shot import OneShot
from certidote.defenses.plain import PlainTraining
from certidote.scenarios.victims import as_it_is, view_of
from certidote.streams import Key
from certidote.training.head import HeadTrainer
from certidote.training.model_dir import state_of
from certidote.training.pooled import PooledTrainer
from certidote.training.stacked import StackedTrainer
from certidote.training.warm import WarmStart
from certidote.types import (
    Ballots,
    Certificate,
    CountCertificate,
    ImageDataset,
    Json,
    Lineage,
    Prediction,
    Scheme,
    Trainer,
    Unproved,
    Untrusted,
    View,
)


@dataclass(frozen=True)
class RawThenSanitized:
    """Members that see the set twice: as it is, and, in the second half of the rows, as the defense makes it."""

    defense: Scheme

    @property
    def members(self) -> int:
        return self.defense.members

    @property
    def device(self) -> str:
        return str(getattr(self.defense, "device", "cpu"))

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        raw = view_of(data, as_it_is, key, "fresh", self.device)
        made = self.defense.view(data, member, key)
        images, labels = torch.cat([raw.images, made.images]), torch.cat([raw.labels, made.labels])
        noised = made.lineage
        lineage = replace(raw.lineage, sigma=noised.sigma, draws=noised.draws, denoiser=noised.denoiser, start=noised.start)
        return View(images, labels, made.num_classes, lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        return self.defense.aggregate(ballots)

    def certify(self, ballots: Ballots) -> Certificate | CountCertificate | Unproved:
        return Unproved(("models learned from the untrusted images as they are first; no certificate applies to such a start",))

    def describe(self) -> Json:
        return {"scheme": "raw images first", "then": self.defense.describe()}


@dataclass(frozen=True)
class FirstHalf:
    """Which rows of such a view a training is at: the first half for so many epochs, then the second. A `Dropping` that drops each half once.

    Attributes:
        epochs: on the set as it is.
    """

    epochs: int

    def due(self, epoch: int, epochs: int) -> bool:
        return epoch in (0, self.epochs)

    def kept(self, errors: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"], kept: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
        begun = not bool(kept.all())
        rows = torch.arange(len(kept), device=kept.device)
        return (rows >= len(kept) // 2) == begun

    def describe(self) -> Json:
        return {"epochs_on_raw_images": self.epochs}


def raw_first(scheme: Scheme, trainer: Trainer, epochs: int) -> tuple[Scheme, Trainer]:
    """The defense for members that learn from the set as it is in their first epochs. The recipe's length and schedule stay.

    Heads take twice as many steps in an epoch, each on about half a batch: rows of the other half sit out in every batch.

    Raises: ValueError if these are not fewer than all epochs, or the defense does anything but change every training image once before training:
        makes several copies, has parts or bags of them, leaves some out, looks at them again as models learn, learns privately, or changes
        test images.
    """
    learns = isinstance(trainer, HeadTrainer | PooledTrainer | StackedTrainer) and getattr(trainer, "dropping", None) is None
    if not learns or not isinstance(scheme, PlainTraining | OneShot):
        raise ValueError(
            f"{epochs} epochs on raw images first (--raw-epochs) go with defenses that only change training images, each of them once, or how a "
            "network learns from them, and not with several draws, parts, bags, filters, preprocessing (of test images too) or private "
            "training; leave it out, or choose another defense"
        )
    twin = copy.copy(trainer if isinstance(trainer, HeadTrainer) else one_by_one(trainer, "raw images first"))
    if not 1 <= epochs < twin.recipe.epochs:
        raise ValueError(f"{epochs} epochs on raw images of {twin.recipe.epochs} in all; give 1 to {twin.recipe.epochs - 1}")
    twin.dropping = FirstHalf(epochs)
    return RawThenSanitized(scheme), twin


def started_from(trainer: Trainer, data: ImageDataset, key: Key, device: str = "cpu") -> PooledTrainer:
    """The trainer for members that start from weights learned on other images by the same recipe; a head for other classes is fresh.

    Args:
        data: of the shape of the victims' images; no attacker must have touched them.
        key: decides initial weights and order.
    Raises: ValueError if the victims are heads, or the training diverges.
    """
    if isinstance(trainer, HeadTrainer):
        raise ValueError(
            "victims start from weights learned on other images where all weights learn, but these are heads on frozen features, whose "
            "extractor is that start already; train them from scratch with --recipe, or leave out --start-from"
        )
    plain = one_by_one(trainer, "other initial weights")
    view = View(data.pixels().to(device), data.labels.to(device), data.num_classes, Lineage(start="trusted"))
    stack = plain.fit([view], [key], key / "common")
    if bool(stack.failed[0]):
        raise ValueError("pre-training on the other images diverged; lower the learning rate in a recipe file and try again")
    model = stack.member(0)
    assert isinstance(model, nn.Module)
    twin = copy.copy(plain)
    twin.warm = WarmStart(state_of(model), "trusted")
    twin.start = twin.warm.start
    return twin
