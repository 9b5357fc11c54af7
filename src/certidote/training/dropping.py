"""Images that a training leaves behind as it goes: the hook for filters that look at a model while it learns."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from certidote.types import Json


@runtime_checkable
class Dropping(Protocol):
    """Which images a training goes on with. Images that were dropped never come back."""

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether images are to be judged before this epoch, counted from 0, of so many."""
        ...

    def kept(self, errors: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"], kept: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Which of the images that were `kept` so far are kept from here on.

        Args:
            errors: `output_errors` of the model as it is, in eval mode, on the images as they are, un-augmented.
        Raises: ValueError if a class would lose all of its images.
        """
        ...

    def describe(self) -> Json:
        """What a trainer's own description has to say about it."""
        ...


def output_errors(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, "n"]) -> Float[Tensor, "n classes"]:
    """softmax - one-hot: the gradient of each image's cross-entropy by its logits."""
    return logits.softmax(1) - nn.functional.one_hot(labels, logits.shape[1])


def regrouped(steps: Int64[Tensor, "steps batch"], kept: Bool[Tensor, "n"]) -> list[Int64[Tensor, "b"]]:
    """The batches of one epoch without the images that are not kept: fewer equal batches of at most as many images, in the same order.

    Images that are left over, fewer than there are batches, sit out the epoch. No batches if nothing is left.
    """
    if bool(kept.all()):
        return list(steps)
    rows = steps.flatten()
    rows = rows[kept[rows]]
    if not len(rows):
        return []
    count = -(-len(rows) // steps.shape[1])
    size = len(rows) // count
    return list(torch.split(rows[: count * size], size))
