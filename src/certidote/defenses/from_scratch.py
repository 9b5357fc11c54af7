"""Defenses that change how a whole network learns: the trainer they are given, with a hook. They do not apply to heads."""

import copy
from typing import TypeVar

from certidote.training.head import HeadTrainer
from certidote.training.pooled import BatchLoss, Disturbing, PooledTrainer, Shaping
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import Trainer

Whole = TypeVar("Whole", bound=PooledTrainer | StackedTrainer)
"""Trainers of whole networks."""


def hooked(
    trainer: Trainer,
    name: str,
    *,
    loss: BatchLoss | None = None,
    shaping: Shaping | None = None,
    disturbing: Disturbing | None = None,
    passes: int = 1,
) -> PooledTrainer:
    """The same trainer with these hooks and its other ones. Stacks of MLPs train one by one instead.

    Args:
        name: of the defense, for error messages.
        passes: so many times the epochs of the recipe, for what is harder to learn.
    Raises: ValueError if the trainer fits heads; TypeError if it has no hooks.
    """
    twin = taught(one_by_one(trainer, name), passes)
    twin.loss = twin.loss if loss is None else loss
    twin.shaping = twin.shaping if shaping is None else shaping
    twin.disturbing = twin.disturbing if disturbing is None else disturbing
    return twin


def taught(trainer: Whole, passes: int) -> Whole:
    """The same trainer for so many times the epochs; a learning rate that drops does so as much later."""
    recipe = trainer.recipe
    drops = tuple(passes * epoch for epoch in recipe.drops)
    return with_recipe(trainer, recipe.model_copy(update={"epochs": passes * recipe.epochs, "drops": drops}))


def with_recipe(trainer: Whole, recipe: Recipe) -> Whole:
    """The same trainer, hooks included, for another recipe of the same architecture."""
    twin = copy.copy(trainer)
    twin.recipe = recipe
    return twin


def one_by_one(trainer: Trainer, name: str) -> PooledTrainer:
    """The trainer of whole networks that trains as this one does; arguments and errors as `hooked`."""
    if isinstance(trainer, PooledTrainer):
        return trainer
    if isinstance(trainer, StackedTrainer):
        return PooledTrainer(trainer.recipe, trainer.dtype, trainer.stack_size)
    if isinstance(trainer, HeadTrainer):
        raise ValueError(
            f"the defense {name!r} changes how a whole network learns, but these victims are heads on frozen features; train them from "
            "scratch with --recipe, or choose another defense"
        )
    raise TypeError(f"a {type(trainer).__name__} has no place for the defense {name!r}; use a PooledTrainer")
