"""What every trainer does alike: which images make up each step, and how large the step is.

The order of images is drawn from a stream that is common to all members of a run. It is fixed before any data are seen, like the
architecture is, so votes stay independent given the data; and members that share it can be trained as one stack.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.types import View


def batches(recipe: Recipe, rows: int, common: Key) -> list[Int64[Tensor, "batch"]]:
    """The rows that each step of a training sees, over all epochs.

    An epoch is cut into the fewest equal batches of at most `batch_size` images; the few rows that are left over, fewer than there
    are batches, sit out that epoch. A data set smaller than a batch is one batch.

    Args:
        recipe: batch size and epochs.
        rows: images of one member, >= 1.
        common: epoch e is in the order drawn from `common / "order" / e`.
    Returns: steps x (batch,) row numbers, all batches of one size.
    """
    per_epoch = -(-rows // recipe.batch_size)
    size = rows // per_epoch
    steps: list[Tensor] = []
    for epoch in range(recipe.epochs):
        order = torch.from_numpy((common / "order" / epoch).numpy().permutation(rows))
        steps.extend(torch.split(order[: per_epoch * size], size))
    return steps


def rates(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate of each step: up to the peak in equal increments, then down in equal increments that would reach 0.

    With drops it stays at the peak instead, and is a tenth of what it was from the first step of each such epoch on.
    """
    rising = round(recipe.warm_up * steps)
    up = [recipe.learning_rate * (step + 1) / rising for step in range(rising)]
    if recipe.drops:
        return up + [
            recipe.learning_rate * 0.1 ** sum(step * recipe.epochs >= drop * steps for drop in recipe.drops)
            for step in range(rising, steps)
        ]
    return up + [recipe.learning_rate * (steps - step) / (steps - rising) for step in range(rising, steps)]


def check_views(views: Sequence[View], keys: Sequence[Key]) -> tuple[int, int, int]:
    """The image shape that all views have.

    Raises: ValueError unless there are views with images, one key for each, all of one image shape and number of classes."""
    if not views or len(views) != len(keys):
        raise ValueError(f"{len(views)} views and {len(keys)} keys; give at least one view, and one key for each")
    if any(len(view.labels) == 0 for view in views):
        raise ValueError("a view has no images; every member needs at least one to learn from")
    kinds = {(tuple(view.images.shape[1:]), view.num_classes) for view in views}
    if len(kinds) > 1:
        raise ValueError(f"views of (image shape, classes) {sorted(kinds)}; members of one stack need the same")
    channels, height, width = views[0].images.shape[1:]
    return channels, height, width
