"""Training from scratch: surrogates on the clean set, victims on the poisoned one, for any data set and recipe.

The scenario of Witches' Brew and Sleeper Agent. An attacker knows the training set and how victims learn, but no weights: in the
white and grey box surrogates share the victims' recipe and have other seeds, in the black box they have other recipes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, cast

from safetensors.torch import load, save
from torch import nn

from certidote.numerics import DType
from certidote.scenarios.shelf import Shelf, State, trained_anew
from certidote.scenarios.victims import (
    BackdoorOutcome,
    Comparison,
    Outcome,
    Sanitizer,
    as_it_is,
    compared,
    on_targets,
    on_triggers,
    view_of,
)
from certidote.streams import Key
from certidote.training.adversarial import adversarial_trainer
from certidote.training.model_dir import filled, state_of
from certidote.training.models import ModelStack
from certidote.training.pooled import trainer_for
from certidote.training.recipe import Recipe
from certidote.types import (
    Budget,
    DifferentiableDefense,
    ImageDataset,
    Knowledge,
    Poison,
    Surrogate,
    Target,
    Task,
    Trigger,
    Untrusted,
)

G = TypeVar("G", Target, Trigger)


@dataclass(frozen=True, eq=False)
class ScratchScenario(Generic[G]):
    """Everything but the poisons.

    Attributes:
        train: the set under attack.
        test: held-out images of the same classes; targets are among them, or carry triggers.
        goals: one for each trial: targets, or triggers.
        budget: of each trial.
        recipe: of the victims.
    """

    train: ImageDataset
    test: ImageDataset
    goals: tuple[G, ...]
    budget: Budget
    recipe: Recipe

    def tasks(self) -> list[Task]:
        """What the attacker works on, trial by trial."""
        return [Task(self.train, goal, self.budget) for goal in self.goals]


@dataclass(frozen=True, eq=False)
class Learner:
    """How an attacker trains surrogates: a `Retrain`, which worker processes can be given. Arguments as `learner`."""

    recipes: tuple[Recipe, ...]
    sanitize: Sanitizer
    dtype: DType
    device: str
    robust: float = 0.0

    def __call__(self, data: ImageDataset, key: Key, shelf: Shelf = trained_anew) -> tuple[Surrogate, ...]:
        """Surrogates of this set; those on the shelf, as "surrogate-0" and so on, are not trained again."""
        models = []
        for number, recipe in enumerate(self.recipes):
            state = shelf(f"surrogate-{number}", partial(self._trained, number, data, key))
            # As they will be read again: how weights lie in memory decides how convolutions round.
            model = filled(recipe.architecture, data.image_shape, data.num_classes, load(save(state)))
            models.append(cast(Surrogate, model.to(self.device)))
        return tuple(models)

    def _trained(self, number: int, data: ImageDataset, key: Key) -> State:
        recipe, own = self.recipes[number], key / "surrogate" / number
        trainer = adversarial_trainer(recipe, self.robust, dtype=self.dtype) if self.robust else trainer_for(recipe, self.dtype)
        view = view_of(Untrusted(data), self.sanitize, own / "noise", trainer.start, self.device)
        stack = trainer.fit([view], [own], key / "common")
        assert isinstance(stack, ModelStack)
        if bool(stack.failed[0]):
            raise ValueError(f"surrogate {number} diverged; lower the learning rate of its recipe ({recipe.learning_rate:g})")
        model = stack.member(0)
        assert isinstance(model, nn.Module)
        return state_of(model)


def learner(
    recipes: Sequence[Recipe],
    *,
    sanitize: Sanitizer = as_it_is,
    dtype: DType = "float32",
    device: str = "cpu",
    robust: float = 0.0,
) -> Learner:
    """How an attacker trains surrogates: one for each recipe, in this order, equal recipes with different seeds.

    Args:
        recipes: the victims' K times for an ensemble of K; other architectures for the black box; several for both.
        sanitize: what the attacker believes that victims do to the set first; each surrogate has noise of its own.
        dtype, device: of training.
        robust: the linf epsilon that surrogates are trained to withstand (`training.adversarial`), [0, 1] pixel units; 0 for plain training.
    Returns: (training set, key) -> surrogates in eval mode. Raises ValueError if one diverged.
    """
    return Learner(tuple(recipes), sanitize, dtype, device, robust)


def knowledge(
    train: ImageDataset, learn: Learner, key: Key, defense: DifferentiableDefense | None = None, shelf: Shelf = trained_anew
) -> Knowledge:
    """What an attacker knows who has the clean set: surrogates trained on it, and how to train more.

    Args:
        learn: from `learner`.
        key: decides the surrogates' coins; not a key that decides victims'.
        defense: that the attacker sees through; surrogates are trained through it if `learn` says so.
        shelf: where surrogates are that were trained before.
    """
    return Knowledge(learn(train, key / "surrogates", shelf), learn, defense)


def evaluate(
    scenario: ScratchScenario[Target],
    poisons: Sequence[Poison],
    key: Key,
    *,
    recipe: Recipe | None = None,
    sanitizers: Mapping[str, Sanitizer] | None = None,
    finished: Callable[[], None] = lambda: None,
    dtype: DType = "float32",
    device: str = "cpu",
) -> Comparison[Outcome]:
    """Train one victim for each trial and arm, and look at the targets. Arguments as `victims.compared`.

    Args:
        recipe: of the victims, if not the scenario's: another architecture, say.
        dtype, device: of training.
    """
    trainer = trainer_for(recipe or scenario.recipe, dtype, device=device)
    return compared(scenario, poisons, trainer, key, on_targets, sanitizers=sanitizers, finished=finished, device=device)


def evaluate_triggers(
    scenario: ScratchScenario[Trigger],
    poisons: Sequence[Poison],
    key: Key,
    *,
    recipe: Recipe | None = None,
    sanitizers: Mapping[str, Sanitizer] | None = None,
    finished: Callable[[], None] = lambda: None,
    dtype: DType = "float32",
    device: str = "cpu",
) -> Comparison[BackdoorOutcome]:
    """`evaluate` for backdoors: victims are asked about triggered test images."""
    trainer = trainer_for(recipe or scenario.recipe, dtype, device=device)
    return compared(scenario, poisons, trainer, key, on_triggers, sanitizers=sanitizers, finished=finished, device=device)
