"""What an attacker is asked for, may know and do, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from certidote.streams import Key
from certidote.types.datasets import ImageDataset
from certidote.types.values import Images

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Budget:
    """What the attacker may do: how many images, how far each. `epsilon` is in [0, 1] pixel units."""

    num_poisons: int
    norm: Norm
    epsilon: float

    def __post_init__(self) -> None:
        if self.num_poisons < 1:
            raise ValueError(f"num_poisons={self.num_poisons}; a budget allows at least 1 poison")
        if self.norm == "linf" and not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon={self.epsilon} is outside [0, 1] pixel units; for 16 of 255 levels give 16/255")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon={self.epsilon}; give a number of at least 0, in [0, 1] pixel units")


@dataclass(frozen=True, eq=False)
class Target:
    """A triggerless goal: one test image, its class, and the class the attacker wants for it."""

    image: UInt8[Tensor, "c h w"]
    true_label: int
    adversarial_label: int
    test_index: int


class BudgetExceeded(ValueError):
    """Poisons that break the budget they claim to keep."""


@dataclass(frozen=True, eq=False)
class Poison:
    """Replacements for some training rows. It has no labels: clean-label by construction."""

    indices: Int64[Tensor, "m"]
    images: UInt8[Tensor, "m c h w"]
    goal: Target
    budget: Budget

    def apply(self, train: ImageDataset) -> ImageDataset:
        """The training set with the poisons in place; every other row, and every label, is unchanged.

        Raises: BudgetExceeded if there are more poisons than the budget allows, indices repeat or are out of range, a base image
            is not of the adversarial class, or an 8-bit perturbation exceeds epsilon; ValueError if shapes disagree.
        """
        self.verify(train)
        images = train.images.clone()
        images[self.indices] = self.images
        return replace(train, images=images)

    def verify(self, train: ImageDataset) -> None:
        """Check the budget on the 8-bit images, exactly; raises as `apply` does."""
        m, budget = len(self.indices), self.budget
        if self.images.shape != (m, *train.image_shape):
            raise ValueError(f"poisons of shape {tuple(self.images.shape)} for {m} rows of a {train.image_shape} training set")
        if m > budget.num_poisons:
            raise BudgetExceeded(f"{m} poisons, but the budget allows {budget.num_poisons}")
        if m != len(torch.unique(self.indices)):
            raise BudgetExceeded(
                f"{m} poisons on {len(torch.unique(self.indices))} distinct rows; each base image may be used once"
            )
        if m and (int(self.indices.min()) < 0 or int(self.indices.max()) >= len(train)):
            raise BudgetExceeded(f"poison indices must lie in 0 to {len(train) - 1}")
        wrong = (train.labels[self.indices] != self.goal.adversarial_label).sum()
        if wrong:
            raise BudgetExceeded(f"{int(wrong)} base images are not of the adversarial class {self.goal.adversarial_label}")
        steps = (self.images.to(torch.int64) - train.images[self.indices].to(torch.int64)).flatten(1)
        if budget.norm == "linf":
            moved = steps.abs().amax(1).to(torch.float64) / 255
        else:
            moved = steps.square().sum(1).to(torch.float64).sqrt() / 255
        worst = float(moved.max()) if m else 0.0
        if worst > budget.epsilon * (1 + 1e-12):
            raise BudgetExceeded(
                f"a poison moved by {worst:.6f} in {budget.norm}, but epsilon is {budget.epsilon:.6f} ([0, 1] pixel units)"
            )


@runtime_checkable
class FeatureExtractor(Protocol):
    """A surrogate in eval mode that takes [0, 1] pixels (normalisation is inside it)."""

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True, eq=False)
class Task:
    """What the attacker works on: the clean training set, the goal, and the budget."""

    train: ImageDataset
    goal: Target
    budget: Budget


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the attacker knows: surrogate models (one or several)."""

    surrogates: tuple[FeatureExtractor, ...]


Attack = Callable[[Task, Knowledge, Key], Poison]
