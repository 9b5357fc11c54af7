"""Victims of poisoned sets and their controls, trained in pairs, and what they answer: shared by scenarios.

A trial is one goal, its poisons and its victims. The victims of a trial start from one key, whatever they are trained on, so that
each comparison is paired; sanitized sets of a trial share their noise too. Rates and intervals are made from these arrays elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from certidote.attacks.selection import source_rows
from certidote.streams import Key, row_blocks
from certidote.types import (
    Goal,
    ImageDataset,
    Images,
    Poison,
    Stack,
    Start,
    Target,
    Traced,
    Trainer,
    Trigger,
    Untrusted,
    View,
    as_pixels,
)

Sanitizer = Callable[[Untrusted, Key], Traced]
"""A training set and a noise stream -> what is trained on instead: `partial(sanitized, denoiser, sigma)`."""


@runtime_checkable
class Scenario(Protocol):
    """What trials have in common: the training set under attack, held-out images, and one goal for each trial."""

    @property
    def train(self) -> ImageDataset: ...

    @property
    def test(self) -> ImageDataset: ...

    @property
    def goals(self) -> Sequence[Goal]: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the victims of one arm did with targets, one entry for each trial.

    Attributes:
        predicted: (trials,) class given to the trial's target.
        success: (trials,) the target got the adversarial label. For a control this is luck, and should be about never.
        otherwise_wrong: (trials,) the target got neither its true label nor the adversarial one.
        clean_accuracy: (trials,) on test images, the targets of all trials left out.
        margin: (trials,) the target's logit of the adversarial label less that of its true one; rises with the attack.
    """

    predicted: Int64[np.ndarray, "trials"]
    success: Bool[np.ndarray, "trials"]
    otherwise_wrong: Bool[np.ndarray, "trials"]
    clean_accuracy: Float64[np.ndarray, "trials"]
    margin: Float64[np.ndarray, "trials"]

    def __len__(self) -> int:
        return len(self.predicted)


@dataclass(frozen=True, eq=False)
class BackdoorOutcome:
    """What the victims of one arm did with test images that carry the trial's trigger, one entry for each trial.

    All test images of the true class are triggered, or all but those of the adversarial one where the trigger is for all classes.

    Attributes:
        success_rate: (trials,) share of triggered images that got the adversarial label, as Sleeper Agent counts.
        switched_rate: (trials,) the same among images that do not get the adversarial label without the trigger, as label-consistent
            backdoors count; NaN if there are none.
        clean_accuracy: (trials,) on test images without the trigger.
    """

    success_rate: Float64[np.ndarray, "trials"]
    switched_rate: Float64[np.ndarray, "trials"]
    clean_accuracy: Float64[np.ndarray, "trials"]

    def __len__(self) -> int:
        return len(self.success_rate)


Seen = TypeVar("Seen")
"""`Outcome` or `BackdoorOutcome`."""


@dataclass(frozen=True, eq=False)
class Arms(Generic[Seen]):
    """What was trained on the clean set and what was trained on the poisoned set, trial by trial.

    Attributes:
        control: trained on the clean set. Targets it gets wrong were lost before the attack: `control.success |
            control.otherwise_wrong`.
        poisoned: trained on the poisoned set.
    """

    control: Seen
    poisoned: Seen


@dataclass(frozen=True, eq=False)
class Comparison(Generic[Seen]):
    """The arms of a comparison.

    Attributes:
        plain: trained on the sets as they are.
        sanitized: for each sanitizer, by its name: trained on the sets it made.
    """

    plain: Arms[Seen]
    sanitized: Mapping[str, Arms[Seen]] = field(default_factory=dict)


def compared(
    scenario: Scenario,
    poisons: Sequence[Poison],
    trainer: Trainer,
    key: Key,
    judge: "Callable[[Victims], Seen]",
    *,
    sanitizers: Mapping[str, Sanitizer] | None = None,
    finished: Callable[[], None] = lambda: None,
    device: str = "cpu",
) -> Comparison[Seen]:
    """Train the victims of every trial on clean and poisoned sets, plain and sanitized, and ask them.

    Args:
        poisons: one for each goal of the scenario, in its order; the budget is verified before anything trains.
        trainer: of the victims.
        key: decides the victims' coins, the sanitizer's noise, and where triggers are.
        judge: `on_targets` or `on_triggers`.
        sanitizers: by name; each is applied once to each trial's clean and poisoned set, with the same noise stream.
        finished: called after each pair of arms, 1 + len(sanitizers) times.
        device: where victims are trained and asked.
    Raises: ValueError if there is not one poison for each goal, or a poison is made for another goal; BudgetExceeded.
    """
    _check(scenario, poisons)

    def arms(prepare: Sanitizer) -> Arms[Seen]:
        pair = [judge(Victims(scenario, made, trainer, prepare, key, device)) for made in (None, poisons)]
        finished()
        return Arms(*pair)

    return Comparison(arms(as_it_is), {name: arms(sanitize) for name, sanitize in (sanitizers or {}).items()})


@dataclass(frozen=True, eq=False)
class Victims:
    """The victims of one arm, a stack of trials in memory at a time; those of one trial have one key in every arm.

    Attributes:
        poisons: None for the control.
    """

    scenario: Scenario
    poisons: Sequence[Poison] | None
    trainer: Trainer
    prepare: Sanitizer
    key: Key
    device: str

    def stacks(self) -> Iterator[tuple[range, Stack]]:
        """Numbers of trials, and their trained victims."""
        every = range(len(self.scenario.goals))
        for first in range(0, len(every), self.trainer.stack_size):
            trials = every[first : first + self.trainer.stack_size]
            views = [self._view(trial) for trial in trials]
            keys = [self.key / "trial" / trial / "victim" for trial in trials]
            yield trials, self.trainer.fit(views, keys, self.key / "common")

    def logits(self, model: Callable[[Images], Tensor], images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "... n classes"]:
        """Answers of a stack or of one member, a block of images in memory at a time."""
        blocks = [model(as_pixels(images[rows.start : rows.stop].to(self.device))) for rows in row_blocks(len(images))]
        return torch.cat(blocks, -2).cpu()

    def _view(self, trial: int) -> View:
        train = self.scenario.train if self.poisons is None else self.poisons[trial].apply(self.scenario.train)
        data = Untrusted(train)
        return view_of(data, self.prepare, self.key / "trial" / trial / "noise", self.trainer.start, self.device)


def on_targets(victims: Victims) -> Outcome:
    """What victims do with the targets, one for each trial."""
    goals = victims.scenario.goals
    targets = torch.stack([goal.image for goal in goals if isinstance(goal, Target)])
    held_out = torch.ones(len(victims.scenario.test), dtype=torch.bool)
    held_out[[goal.test_index for goal in goals if isinstance(goal, Target)]] = False
    others = victims.scenario.test.subset(held_out.nonzero().squeeze(1))
    answers, accuracy = [], []
    for trials, stack in victims.stacks():
        on_all = victims.logits(stack, targets)
        answers += [on_all[place, trial] for place, trial in enumerate(trials)]
        right = victims.logits(stack, others.images).argmax(2) == others.labels
        accuracy += right.double().mean(1).tolist()
    logits = torch.stack(answers).double().numpy()
    wanted, true = (np.array([getattr(goal, name) for goal in goals]) for name in ("adversarial_label", "true_label"))
    predicted, trial = logits.argmax(1).astype(np.int64), np.arange(len(goals))
    success = predicted == wanted
    margin = logits[trial, wanted] - logits[trial, true]
    return Outcome(predicted, success, ~success & (predicted != true), np.array(accuracy), margin)


def on_triggers(victims: Victims) -> BackdoorOutcome:
    """What victims do with triggered test images: all of the true class, or all but the adversarial one."""
    test = victims.scenario.test
    rates, switched, accuracy = [], [], []
    for trials, stack in victims.stacks():
        plain = victims.logits(stack, test.images).argmax(2)
        accuracy += (plain == test.labels).double().mean(1).tolist()
        for place, trial in enumerate(trials):
            goal = victims.scenario.goals[trial]
            assert isinstance(goal, Trigger)
            rows = source_rows(test, goal, "test")
            stamped = goal.stamped(test.images[rows], victims.key / "trial" / trial / "places")
            fell = victims.logits(stack.member(place), stamped).argmax(1) == goal.adversarial_label
            before = plain[place, rows] == goal.adversarial_label
            rates.append(float(fell.double().mean()))
            switched.append(float(fell[~before].double().mean()))
    return BackdoorOutcome(np.array(rates), np.array(switched), np.array(accuracy))


def as_it_is(data: Untrusted, key: Key) -> Traced:
    """No sanitizer."""
    return data.unsealed("plain training")


def view_of(data: Untrusted, prepare: Sanitizer, noise: Key, start: Start, device: str = "cpu") -> View:
    """What one model trains on: the set as a sanitizer makes it."""
    made = prepare(data, noise).to(device)
    return View(made.images, data.labels_on(device), len(data.class_names), replace(made.lineage, start=start))


def _check(scenario: Scenario, poisons: Sequence[Poison]) -> None:
    if len(poisons) != len(scenario.goals):
        raise ValueError(f"{len(poisons)} poisons for {len(scenario.goals)} trials; give one for each goal of the scenario")
    for trial, (poison, goal) in enumerate(zip(poisons, scenario.goals, strict=True)):
        if _name(poison.goal) != _name(goal):
            raise ValueError(f"poison {trial} is made for another goal than trial {trial}; keep poisons in the scenario's order")
        poison.verify(scenario.train)


def _name(goal: Goal) -> tuple[object, ...]:
    """What tells goals apart."""
    if isinstance(goal, Target):
        return goal.test_index, goal.adversarial_label
    return (
        goal.true_label,
        goal.adversarial_label,
        goal.place,
        goal.amplitude,
        goal.patch.numpy().tobytes(),
        goal.mask.numpy().tobytes(),
    )
