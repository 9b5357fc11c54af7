"""Mixing augmentations: models learn from mixtures of images with mixtures of labels, in which a poison is only a part."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from certidote.training.learner import Learner
from certidote.training.pooled import Batch
from certidote.types import Images, Json

Shares = list[tuple[float, Int64[Tensor, "b"]]]
"""The weight of each part of a mixture, and of which row of the batch it is."""


@dataclass(frozen=True)
class Mixup:
    """Convex combinations of several images of a batch, the same weights for the whole batch; the loss mixes labels alike: a `BatchLoss`.

    With Laplace noise this is DP-InstaHide. Threat model: poisons whose perturbation has to arrive whole. Certificate: none; the
    privacy that DP-InstaHide proves is about releasing the images. Cost: about 1 plain training.

    Attributes:
        ways: images of each mixture, at least 2, the batch's own image among them.
        alpha: of the symmetric Dirichlet distribution that weights are drawn from, above 0; 1 is uniform over all weights.
        laplace: scale of Laplace noise on every pixel of a mixture, [0, 1] units; mixtures with noise are clipped to [0, 1].
        corrected: whether labels are mixed too; if not, a mixture has the label of the batch's own image.
    Raises: ValueError for numbers out of range.
    Source: Zhang et al. (2018) for two images, and Borgnia et al. (2021), "DP-InstaHide", with the code of Geiping et al. (2021);
        scale 0.03 is that of the adversarial robustness toolbox.
    Differs from that code: the batch's own image is always the first of a mixture, which is the same distribution.
    """

    ways: int = 2
    alpha: float = 1.0
    laplace: float = 0.0
    corrected: bool = True

    def __post_init__(self) -> None:
        if self.ways < 2 or not self.alpha > 0 or not self.laplace >= 0:
            raise ValueError(
                f"ways={self.ways}, alpha={self.alpha:g}, laplace={self.laplace:g}; give at least 2 images for each mixture, alpha "
                "above 0 and noise of at least 0"
            )

    def __call__(self, learner: Learner, batch: Batch) -> Float[Tensor, ""]:
        images, shares = self.mixed(batch)
        return mixture_loss(learner, images, batch.labels, shares if self.corrected else [(1.0, shares[0][1])])

    def mixed(self, batch: Batch) -> tuple[Images, Shares]:
        """Mixtures in the order of the batch, and whose labels they have to which share."""
        generator, rows = (batch.key / "mixing").numpy(), len(batch.labels)
        weights = generator.dirichlet([self.alpha] * self.ways).tolist()
        orders = [torch.arange(rows), *(torch.from_numpy(generator.permutation(rows)) for _ in weights[1:])]
        places = [order.to(batch.images.device) for order in orders]
        images = sum(weight * batch.images[order] for weight, order in zip(weights, places, strict=True))
        assert isinstance(images, Tensor)
        if self.laplace > 0:
            noise = torch.from_numpy(generator.laplace(scale=self.laplace, size=tuple(images.shape)))
            images = (images + noise.to(images)).clamp(0, 1)
        return images, list(zip(weights, places, strict=True))

    def describe(self) -> Json:
        numbers = {"ways": self.ways, "alpha": self.alpha, "laplace": self.laplace, "corrected": self.corrected}
        return {"mixup": numbers}


@dataclass(frozen=True)
class CutMix:
    """A rectangle of each image of a batch is replaced by that of another; labels mix by area: a `BatchLoss`.

    Threat model: as `Mixup`, and local triggers. Certificate: none. Cost: about 1 plain training.

    Attributes:
        alpha: of the symmetric beta distribution of the share that is kept, above 0.
        chance: of a batch being mixed at all.
        corrected: whether labels are mixed too; if not, an image keeps its own.
    Raises: ValueError for numbers out of range.
    Source: Yun et al. (2019), with chance 1/2 as in their code and in that of Geiping et al. (2021).
    """

    alpha: float = 1.0
    chance: float = 0.5
    corrected: bool = True

    def __post_init__(self) -> None:
        if not self.alpha > 0 or not 0 < self.chance <= 1:
            raise ValueError(
                f"alpha={self.alpha:g}, chance={self.chance:g}; give alpha above 0, and a chance above 0 and at most 1"
            )

    def __call__(self, learner: Learner, batch: Batch) -> Float[Tensor, ""]:
        images, shares = self.mixed(batch)
        return mixture_loss(learner, images, batch.labels, shares if self.corrected else [(1.0, shares[0][1])])

    def mixed(self, batch: Batch) -> tuple[Images, Shares]:
        """Images in the order of the batch, and whose labels they have to which share: that of their pixels."""
        generator, rows, device = (batch.key / "mixing").numpy(), len(batch.labels), batch.images.device
        own = torch.arange(rows, device=device)
        if generator.random() >= self.chance:
            return batch.images, [(1.0, own)]
        height, width = batch.images.shape[2:]
        side = (1 - generator.beta(self.alpha, self.alpha)) ** 0.5
        top, bottom = _span(height, side, int(generator.integers(height)))
        left, right = _span(width, side, int(generator.integers(width)))
        others = torch.from_numpy(generator.permutation(rows)).to(device)
        images = batch.images.clone()
        images[:, :, top:bottom, left:right] = batch.images[others][:, :, top:bottom, left:right]
        share = (bottom - top) * (right - left) / (height * width)
        return images, [(1 - share, own), (share, others)]

    def describe(self) -> Json:
        return {"cutmix": {"alpha": self.alpha, "chance": self.chance, "corrected": self.corrected}}


def mixture_loss(learner: Learner, images: Images, labels: Int64[Tensor, "b"], shares: Shares) -> Float[Tensor, ""]:
    """The mean cross-entropy of images against the mean of their parts' labels: linear in the weights, which need not sum to 1."""
    logits = learner.logits(images)
    wanted = sum(weight * one_hot(labels[rows], logits.shape[1]).to(logits) for weight, rows in shares)
    assert isinstance(wanted, Tensor)
    return cross_entropy(logits, wanted, label_smoothing=learner.recipe.label_smoothing)


def _span(size: int, share: float, middle: int) -> tuple[int, int]:
    """First and last + 1 of a stretch of this share around a pixel, cut off at the border."""
    half = int(size * share) // 2
    return max(middle - half, 0), min(middle + half, size)
