"""What attacks on features share: trials crafted together, what the attacker sees of their poisons, and Adam within the budget.

An attack is an objective: features of poisons -> one number for each trial (or poison), smaller is better. `Trials.look` gives its
value and gradient, through the defense if the attacker knows one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from certidote.adam import Adam
from certidote.attacks.adaptive import average, seen
from certidote.attacks.budget import project, quantize
from certidote.attacks.features import averaged_maps, has_dropout
from certidote.attacks.selection import check_batch, check_surrogates, check_task, choose_bases, device_of, target_of
from certidote.attacks.steps import StepSize, check_steps, of_channels
from certidote.streams import Key
from certidote.types import Budget, Images, Knowledge, Parts, Poison, Task, as_pixels

CIFAR10_STEP = 0.04 * 0.2
"""The polytope attacks' Adam step, 0.04 on pixels normalized with a standard deviation of 0.2, in [0, 1] pixel units."""
CIFAR10_STEPS = (0.04 * 0.2023, 0.04 * 0.1994, 0.04 * 0.2010)
"""The same for each channel, as the originals have it."""

IMAGES_TOGETHER = 128
"""Poisons in one forward pass: enough to be fast, few enough to stay in the processor's cache, and for large networks in memory. Where
an objective is of a trial's poisons together, as many whole trials as fit, and one at least: a trial of more goes through in parts, of
which one graph is in memory at a time, for a second forward pass."""

Maps = list[Float[Tensor, "n ..."]]
"""Features of n images, one entry for each surrogate."""

Objective = Callable[[Maps, int], Float[Tensor, "k"]]
"""Features of poisons as one draw of the defense shows them, and the number of that draw -> values, one a trial or one a poison."""


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials in memory together; the poisons of a trial are next to each other.

    Attributes:
        tasks: one for each trial, all of one budget, their goals targets.
        rows: for each trial, its base images' rows in the training set.
        keys: one for each trial; decide noise of the defense and masks of dropout.
        knowledge: of the attacker.
        dropout_draws: draws of active dropout that features are averaged over; 0 for dropout off. With dropout one trial at a time.
    """

    tasks: Sequence[Task]
    rows: Sequence[Int64[Tensor, "m"]]
    keys: Sequence[Key]
    knowledge: Knowledge
    dropout_draws: int = 0

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def budget(self) -> Budget:
        return self.tasks[0].budget

    @property
    def device(self) -> torch.device:
        """Of the surrogates, and so of everything here."""
        return device_of(self.knowledge.surrogates)

    @cached_property
    def stored(self) -> UInt8[Tensor, "n c h w"]:
        """Base images in 8 bits."""
        return torch.cat([task.train.images[rows] for task, rows in zip(self.tasks, self.rows, strict=True)]).to(self.device)

    @cached_property
    def bases(self) -> Images:
        """Base images as pixels."""
        return as_pixels(self.stored)

    @cached_property
    def targets(self) -> Images:
        """(trials, c, h, w) target images."""
        return as_pixels(torch.stack([target_of(task).image for task in self.tasks]).to(self.device))

    def projected(self, pixels: Images) -> Images:
        """Within the budget."""
        return project(pixels, self.bases, self.budget)

    @torch.no_grad()
    def target_features(self, views: Sequence[UInt8[Tensor, "_ c h w"]] | None = None) -> Maps:
        """For each surrogate (trials, ...): features of the target, never defended: it is a test image.

        Args:
            views: for each trial further pictures of its target; features are then the mean over all of them. None for none.
        Raises: ValueError if a target's features are all zero.
        """
        found = []
        # One target at a time: a convolution may round a batch of one differently from a larger one.
        for trial, target in enumerate(self.targets.unsqueeze(1)):
            images = torch.cat([target, as_pixels(views[trial].to(self.device))]) if views else target
            maps = averaged_maps(self.knowledge.surrogates, images, self.dropout_draws, self.keys[trial] / "dropout" / "target")
            found.append([each.mean(0) for each in maps])
        targets = [torch.stack(each) for each in zip(*found, strict=True)]
        if any(bool((each.flatten(1) == 0).all(1).any()) for each in targets):
            raise ValueError("a surrogate's features of a target are all zero, so nothing can be aimed at; use a trained surrogate")
        return targets

    def _maps(self, images: Images, key: Key) -> Maps:
        """Features of images; of more than `IMAGES_TOGETHER` in parts, whose graphs are made again when gradients are asked for."""
        if len(images) <= IMAGES_TOGETHER:
            return averaged_maps(self.knowledge.surrogates, images, self.dropout_draws, key)
        parts = [
            checkpoint(  # masks of dropout come from a key, not from torch's own state
                averaged_maps, self.knowledge.surrogates, part, self.dropout_draws, key / number,
                use_reentrant=False, preserve_rng_state=False,
            )
            for number, part in enumerate(torch.split(images, IMAGES_TOGETHER))
        ]  # fmt: skip
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    def look(self, pixels: Images, step: int, objective: Objective) -> tuple[Float[Tensor, "k"], Images]:
        """The objective's mean over draws, new ones in each step, and the gradient of its sum for the pixels.

        Surrogates get no gradients.
        """
        keys = [key / "look" / step for key in self.keys]
        value = partial(self._of_draw, objective, keys[0] / "dropout")
        return average(self._parts(pixels), self.knowledge.defense, [key / "defense" for key in keys], value)

    def _of_draw(self, objective: Objective, dropout: Key, images: Images, draw: int) -> Float[Tensor, "k"]:
        return objective(self._maps(images, dropout / draw), draw)

    @torch.no_grad()
    def values(self, pixels: Images, step: int | str, objective: Objective) -> Float[Tensor, "k"]:
        """The objective's mean over draws that no gradient has seen; images are compared under those of one step."""
        keys = [key / "judge" / step for key in self.keys]
        found: list[Tensor] = []
        for draws in seen(self._parts(pixels), self.knowledge.defense, [key / "defense" for key in keys]):
            for images in draws:
                found.append(objective(self._maps(images, keys[0] / "dropout" / len(found)), len(found)))
        return torch.stack(found).mean(0)

    def _parts(self, pixels: Images) -> Parts:
        """The poisons of each trial, whose noise must not depend on what they are crafted with."""
        return torch.split(pixels, self.budget.num_poisons)

    def poisons(self, pixels: Images, objective: Objective) -> list[Poison]:
        """In 8 bits on the CPU, one for each trial, their budget verified; with the objective of these images, the mean over a trial's poisons
        if each has its own."""
        stored = quantize(pixels, self.stored, self.budget)
        reached = self.values(as_pixels(stored), "end", objective).view(len(self), -1).mean(1).tolist()
        images = torch.split(stored.cpu(), self.budget.num_poisons)
        found = [
            Poison(rows, image, task.goal, task.budget, value)
            for task, rows, image, value in zip(self.tasks, self.rows, images, reached, strict=True)
        ]
        for task, poison in zip(self.tasks, found, strict=True):
            poison.verify(task.train)
        return found


def craft_in_groups(
    tasks: Sequence[Task],
    knowledge: Knowledge,
    keys: Sequence[Key],
    craft: Callable[[Trials, slice], tuple[Images, Objective]],
    *,
    dropout_draws: int = 0,
) -> list[Poison]:
    """Poisons of all trials, crafted group by group.

    Args:
        tasks, keys: one each for each trial; checked already.
        craft: trials in memory together, and which of `tasks` they are -> the pixels of their poisons, and what was made small.
    """
    rows = [choose_bases(task, key / "bases") for task, key in zip(tasks, keys, strict=True)]
    together = 1 if dropout_draws else max(1, IMAGES_TOGETHER // tasks[0].budget.num_poisons)
    crafted: list[Poison] = []
    for first in range(0, len(tasks), together):
        group = slice(first, first + together)
        trials = Trials(tasks[group], rows[group], keys[group], knowledge, dropout_draws)
        crafted += trials.poisons(*craft(trials, group))
    return crafted


def adam_iterates(
    trials: Trials,
    objective: Objective,
    start: Images,
    rates: Iterable[StepSize],
    *,
    signed: bool = False,
    pull: float = 0.0,
) -> Iterator[Images]:
    """Pixels after each Adam step and the projection that follows it: one tensor, which changes from step to step.

    Args:
        start: where to begin.
        rates: size of each step, [0, 1] pixel units, one for all channels or one for each; there are as many steps as rates.
        signed: give Adam the sign of the gradient instead of the gradient.
        pull: weight of half the squared distance to the bases, which is added to the objective; 0 for none.
    """
    pixels = start.clone()
    optimizer = Adam([pixels])
    for step, rate in enumerate(rates):
        _, gradient = trials.look(pixels, step, objective)
        if pull:
            gradient = gradient + pull * (pixels - trials.bases)
        optimizer.step([gradient.sign() if signed else gradient], rate)
        pixels.copy_(trials.projected(pixels))
        yield pixels


def adam(trials: Trials, objective: Objective, *, steps: int, step_size: StepSize) -> Images:
    """The last of so many Adam iterates that start at the bases; `step_size` for all channels, or for each."""
    rate = step_size[0] if isinstance(step_size, tuple) and len(step_size) == 1 else step_size
    (last,) = deque(adam_iterates(trials, objective, trials.bases, [rate] * steps), maxlen=1)
    return last


def check_trials(
    tasks: Sequence[Task],
    knowledge: Knowledge,
    keys: Sequence[Key],
    steps: int,
    step_size: StepSize,
    dropout_draws: int = 0,
) -> None:
    """Raises: ValueError, in one line, for what no attack on features can craft: see the attacks."""
    check_batch(tasks, keys)
    of_channels(step_size, tasks[0].train.image_shape[0])
    check_steps(steps, step_size)
    device_of(knowledge.surrogates)
    check_surrogates(knowledge.surrogates, tasks[0].train)
    if dropout_draws < 0:
        raise ValueError(f"dropout_draws={dropout_draws}; give 0 for dropout off, or the number of draws to average over")
    for number, surrogate in enumerate(knowledge.surrogates):
        if dropout_draws and not has_dropout(surrogate):
            raise ValueError(f"dropout_draws={dropout_draws}, but surrogate {number} has no dropout to draw; give 0")
    for task in tasks:
        check_task(task)
        target_of(task)
