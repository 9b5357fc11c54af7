"""Adversarial training (Madry et al., 2018): every step learns from images that were just made hard for the model as it is.

A defense at test time, and what label-consistent backdoors are best crafted on: moving an image of a robust model's features means
changing what a person sees in it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from certidote.ascent import ascend, random_start
from certidote.numerics import DType
from certidote.training.learner import Learner
from certidote.training.pooled import Batch, PooledTrainer
from certidote.training.recipe import Recipe
from certidote.types import Budget, Images, Json, Norm


@dataclass(frozen=True)
class AdversarialLoss:
    """The cross-entropy on each batch after projected gradient ascent on its loss: a `BatchLoss`.

    The ascent looks at the model in eval mode, so that BatchNorm statistics follow finished images only, and starts from a point
    drawn uniformly from the ball.

    Attributes:
        epsilon: how far images are moved, [0, 1] pixel units.
        norm: in which.
        steps: of the ascent for each batch, at least 1. A training costs about 1 + steps plain ones.
        step_size: in the same norm; None is 2.5 epsilon / steps, which reaches any point of the ball.
    Raises: ValueError if a number is out of range.
    """

    epsilon: float
    norm: Norm = "linf"
    steps: int = 7
    step_size: float | None = None

    def __post_init__(self) -> None:
        Budget(1, self.norm, self.epsilon)  # the same range
        if self.steps < 1 or not (self.step_size is None or self.step_size > 0):
            raise ValueError(f"steps={self.steps}, step_size={self.step_size}; both must be positive ([0, 1] pixel units)")

    def __call__(self, learner: Learner, batch: Batch) -> Float[Tensor, ""]:
        return learner.loss(self.hardened(learner, batch), batch.labels)

    def hardened(self, learner: Learner, batch: Batch) -> Images:
        """The batch's images after the ascent: within [0, 1], or where an image is outside already, no farther outside."""
        inside = batch.images.clamp(0, 1)
        outside = batch.images - inside  # noise that no denoiser took away

        def gradient(images: Images, step: int) -> Images:
            leaf = (images + outside).requires_grad_()
            return torch.autograd.grad(learner.loss(leaf, batch.labels), [leaf])[0]

        budget = Budget(1, self.norm, self.epsilon)
        length = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        start = random_start(inside, budget, batch.key / "start")
        learner.model.eval()
        hard = ascend(inside, gradient, budget, start=start, steps=self.steps, step_size=length)
        learner.model.train()
        return hard + outside

    def describe(self) -> Json:
        return {
            "adversarial": {"epsilon": self.epsilon, "norm": self.norm, "steps": self.steps, "step_size": self.step_size},
        }


def adversarial_trainer(
    recipe: Recipe,
    epsilon: float,
    *,
    norm: Norm = "linf",
    steps: int = 7,
    step_size: float | None = None,
    dtype: DType = "float32",
    stack_size: int = 4,
) -> PooledTrainer:
    """A `Trainer` of robust models of any architecture; arguments as `AdversarialLoss` and `PooledTrainer`."""
    return PooledTrainer(recipe, dtype, stack_size, loss=AdversarialLoss(epsilon, norm, steps, step_size))
