"""Poison-adversarial training: every step learns from a batch in which one half was just poisoned against the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from certidote.adam import Adam
from certidote.ascent import project
from certidote.streams import Key
from certidote.training.learner import Learner
from certidote.training.pooled import Batch
from certidote.types import Budget, Images, Json


@dataclass(frozen=True)
class PoisonAdversarialLoss:
    """The cross-entropy on a batch whose carriers are poisons that would give its other images a wrong label: a `BatchLoss`.

    A share of each batch, drawn at random, carries; the others are targets, which are wanted in the class that most carriers have.
    Carriers are moved, within epsilon, so that the gradient of their own loss by the weights is parallel to that of the targets' loss
    with the wanted label: gradient matching in small. Then the model learns all images with their true labels. Poisons are made for the
    model in eval mode.

    Threat model: clean-label poisons by gradient matching, and others by what is learnt in resisting these. Certificate: none.
    Cost: 10 to 16 plain trainings, by second-order gradients.

    Attributes:
        epsilon: how far carriers are moved, linf, [0, 1] pixel units.
        share: of a batch that carries, in (0, 1).
        steps: of signed Adam for each batch, at least 1.
        step_size: [0, 1] pixel units, above 0.
    Raises: ValueError for numbers out of range.
    Source: Geiping et al. (2021a), "What doesn't kill you makes you robust(er)", and its code: 5 steps of 0.1 in normalized pixels,
        which is 0.025, within 16/255, from Gaussian noise of that std; share 1/2 ("sep-half").
    Differs from the code: one step size for all channels.
    """

    epsilon: float = 16 / 255
    share: float = 0.5
    steps: int = 5
    step_size: float = 0.025

    def __post_init__(self) -> None:
        Budget(1, "linf", self.epsilon)  # the same range
        if not 0 < self.share < 1 or self.steps < 1 or not self.step_size > 0:
            raise ValueError(
                f"share={self.share:g}, steps={self.steps}, step_size={self.step_size:g}; give a share of a batch above 0 and below 1, and "
                "positive steps"
            )

    def __call__(self, learner: Learner, batch: Batch) -> Float[Tensor, ""]:
        return learner.loss(self.poisoned(learner, batch), batch.labels)

    def poisoned(self, learner: Learner, batch: Batch) -> Images:
        """The batch's images, carriers among them moved: within [0, 1], or where one is outside already, no farther outside.

        A batch of one image stays as it is.
        """
        carriers, targets = self.split(len(batch.labels), batch.key / "carriers")
        if not len(targets):
            return batch.images
        carriers, targets = carriers.to(batch.labels.device), targets.to(batch.labels.device)
        wanted = batch.labels[carriers].bincount().argmax().expand(len(targets))
        learner.model.eval()
        toward = gradients(learner, batch.images[targets], wanted)
        moved = self._moved(learner, batch.images[carriers], batch.labels[carriers], toward, batch.key / "start")
        learner.model.train()
        images = batch.images.clone()
        images[carriers] = moved
        return images

    def split(self, images: int, key: Key) -> tuple[Int64[Tensor, "carriers"], Int64[Tensor, "targets"]]:
        """Which of so many images carry and which are targets: at least one each, if there are two."""
        order = torch.from_numpy(key.numpy().permutation(images))
        count = min(max(round(self.share * images), 1), max(images - 1, 1))
        return order[:count], order[count:]

    def _moved(self, learner: Learner, images: Images, labels: Int64[Tensor, "n"], toward: Sequence[Tensor], key: Key) -> Images:
        budget, bases = Budget(1, "linf", self.epsilon), images.clamp(0, 1)
        outside = images - bases  # noise that no denoiser took away
        drawn = torch.from_numpy(key.numpy().standard_normal(tuple(images.shape), dtype="float32")).to(images.device)
        moved = project(bases + self.epsilon * drawn, bases, budget)
        optimizer = Adam([moved])
        for _ in range(self.steps):
            leaf = (moved + outside).detach().requires_grad_()
            found = gradients(learner, leaf, labels, differentiable=True)
            (slope,) = torch.autograd.grad(dissimilarity(found, toward), [leaf])
            optimizer.step([slope.sign()], self.step_size)
            moved.copy_(project(moved, bases, budget))
        return moved + outside

    def describe(self) -> Json:
        numbers = {"epsilon": self.epsilon, "share": self.share, "steps": self.steps, "step_size": self.step_size}
        return {"poison_adversarial": numbers}


def gradients(learner: Learner, images: Images, labels: Int64[Tensor, "n"], *, differentiable: bool = False) -> Sequence[Tensor]:
    """Of the mean loss by all weights that learn; with a graph that leads to the images if `differentiable`."""
    weights = [weight for weight in learner.model.parameters() if weight.requires_grad]
    return torch.autograd.grad(learner.loss(images, labels), weights, create_graph=differentiable, materialize_grads=True)


def dissimilarity(found: Sequence[Tensor], toward: Sequence[Tensor]) -> Float[Tensor, ""]:
    """1 - cos between two gradients, over all weights together."""
    product = torch.stack([(one * other).sum() for one, other in zip(found, toward, strict=True)]).sum()
    lengths = [torch.stack([part.square().sum() for part in parts]).sum().clamp_min(1e-20).sqrt() for parts in (found, toward)]
    return 1 - product / (lengths[0] * lengths[1])
