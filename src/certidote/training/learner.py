"""A model in training, as steps and what changes them see it."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certidote.numerics import DType, torch_dtype
from certidote.training.recipe import Recipe
from certidote.types import Images


@dataclass(frozen=True, eq=False)
class Learner:
    """A model that is being trained, in train mode.

    Attributes:
        model: computes in `dtype` and float32 when `logits` asks it.
        recipe: its label smoothing goes into `loss`.
    """

    model: nn.Module
    dtype: DType
    recipe: Recipe

    def logits(self, images: Images) -> Float[Tensor, "b classes"]:
        """In float32."""
        with nullcontext() if self.dtype == "float32" else torch.autocast(images.device.type, dtype=torch_dtype(self.dtype)):
            found = self.model(images)
        return found.float()

    def loss(self, images: Images, labels: Int64[Tensor, "b"]) -> Float[Tensor, ""]:
        """The mean cross-entropy."""
        return cross_entropy(self.logits(images), labels, label_smoothing=self.recipe.label_smoothing)
