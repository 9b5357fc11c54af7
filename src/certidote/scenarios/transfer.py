"""Transfer learning on the digits: an extractor fitted to trusted 0-4, heads fine-tuned on untrusted 5-9.

The scenario in which Bullseye Polytope works, small enough for a demo. A trial is one target, its poisons and its victims. The
victims of a trial start from one key, whatever they are trained on, so that each comparison is paired; sanitized sets of a trial
share their noise too. Rates and intervals are made from these arrays elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from certidote.attacks.bullseye_polytope import bullseye_polytope_batch
from certidote.data.digits import load_digits
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor, pretrain
from certidote.training.head import HeadTrainer
from certidote.types import (
    Budget,
    ImageDataset,
    Knowledge,
    Poison,
    Target,
    Task,
    Traced,
    Untrusted,
    View,
    as_pixels,
)

EPSILON = 16 / 255 * (3_072 / 64) ** 0.5
"""The linf budget on 8x8 images that has the l2 norm of 16/255 on 3x32x32: 0.4347."""

Sanitizer = Callable[[Untrusted, Key], Traced]
"""A training set and a noise stream -> what is trained on instead: `partial(sanitized, denoiser, sigma)`."""


@dataclass(frozen=True, eq=False)
class TransferScenario:
    """Everything but the poisons.

    Attributes:
        extractor: fitted to trusted images of digits 0-4, frozen; the attacker knows it (white box).
        train: the fine-tuning set under attack, digits 5-9 as classes 0-4.
        test: held-out images of the same classes; targets are among them.
        goals: one target for each trial.
        budget: of each trial.
    """

    extractor: ConvExtractor
    train: ImageDataset
    test: ImageDataset
    goals: tuple[Target, ...]
    budget: Budget


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the victims of one arm did, one entry for each trial.

    Attributes:
        predicted: (trials,) class given to the trial's target.
        success: (trials,) the target got the adversarial label. For a control this is luck, and should be about never.
        otherwise_wrong: (trials,) the target got neither its true label nor the adversarial one.
        clean_accuracy: (trials,) on test images, the targets of all trials left out.
    """

    predicted: Int64[np.ndarray, "trials"]
    success: Bool[np.ndarray, "trials"]
    otherwise_wrong: Bool[np.ndarray, "trials"]
    clean_accuracy: Float64[np.ndarray, "trials"]

    def __len__(self) -> int:
        return len(self.predicted)


@dataclass(frozen=True, eq=False)
class Arms:
    """What was trained on the clean set and what was trained on the poisoned set, trial by trial.

    Attributes:
        control: trained on the clean set. Targets it gets wrong were lost before the attack: `control.success |
            control.otherwise_wrong`.
        poisoned: trained on the poisoned set.
    """

    control: Outcome
    poisoned: Outcome


@dataclass(frozen=True, eq=False)
class TransferResult:
    """The arms of a comparison.

    Attributes:
        plain: trained on the sets as they are.
        sanitized: for each sanitizer, by its name: trained on the sets it made.
    """

    plain: Arms
    sanitized: Mapping[str, Arms] = field(default_factory=dict)


def make_scenario(key: Key, *, num_targets: int = 25, num_poisons: int = 10, epsilon: float = EPSILON) -> TransferScenario:
    """The digits scenario: extractor, fine-tuning set (253 images), test set (208) and targets.

    Args:
        key: decides the extractor's weights, the targets, and the class wanted for each.
        num_targets: trials; spread over the five classes as evenly as possible.
        num_poisons: base images of each trial, replaced in place.
        epsilon: linf budget, [0, 1] pixel units.
    Raises: ValueError if `num_targets` is not positive or a class has too few test images for its share.
    """
    train, test = (_only(load_digits(split), range(5, 10)) for split in ("train", "test"))
    goals = _choose_goals(test, num_targets, key / "targets")
    extractor = pretrain(_only(load_digits("trusted"), range(5)), key / "extractor")
    return TransferScenario(extractor, train, test, goals, Budget(num_poisons, "linf", epsilon))


def craft(scenario: TransferScenario, key: Key, *, steps: int = 150, step_size: float = 0.02) -> list[Poison]:
    """White-box Bullseye Polytope poisons for each trial, crafted together.

    Args:
        key: decides the base images of each trial.
        steps, step_size: of the attack; fewer and larger than on CIFAR-10, as epsilon is larger here.
    """
    tasks = [Task(scenario.train, goal, scenario.budget) for goal in scenario.goals]
    keys = [key / "trial" / trial / "attack" for trial in range(len(tasks))]
    return bullseye_polytope_batch(tasks, Knowledge((scenario.extractor,)), keys, steps=steps, step_size=step_size)


def evaluate(
    scenario: TransferScenario,
    poisons: Sequence[Poison],
    key: Key,
    *,
    sanitizers: Mapping[str, Sanitizer] | None = None,
    trainer: HeadTrainer | None = None,
    finished: Callable[[], None] = lambda: None,
) -> TransferResult:
    """Train the victims of every trial on clean and poisoned sets, plain and sanitized, and look at the targets.

    Args:
        poisons: one for each goal of the scenario, in its order; the budget is verified.
        key: decides the victims' coins and the sanitizer's noise; the key of `craft` may be used again.
        sanitizers: by name; each is applied once to each trial's clean and poisoned set, with the same noise stream.
        trainer: of the victims; by default heads on the scenario's extractor.
        finished: called after each pair of arms, 1 + len(sanitizers) times.
    Raises: ValueError if there is not one poison for each goal, or a poison is made for another target; BudgetExceeded.
    """
    if len(poisons) != len(scenario.goals):
        raise ValueError(f"{len(poisons)} poisons for {len(scenario.goals)} trials; give one for each goal of the scenario")
    for trial, (poison, goal) in enumerate(zip(poisons, scenario.goals, strict=True)):
        made_for = poison.goal
        if not isinstance(made_for, Target) or (made_for.test_index, made_for.adversarial_label) != (
            goal.test_index,
            goal.adversarial_label,
        ):
            raise ValueError(f"poison {trial} is made for another goal than trial {trial}; keep poisons in the scenario's order")
    trainer = trainer or HeadTrainer(scenario.extractor)
    clean = [Untrusted(scenario.train)] * len(poisons)
    poisoned = [Untrusted(poison.apply(scenario.train)) for poison in poisons]

    def arms(prepare: Sanitizer) -> Arms:
        pair = Arms(*(_outcome(scenario, trainer, sets, prepare, key) for sets in (clean, poisoned)))
        finished()
        return pair

    return TransferResult(arms(_as_it_is), {name: arms(sanitize) for name, sanitize in (sanitizers or {}).items()})


def _as_it_is(data: Untrusted, key: Key) -> Traced:
    return data.unsealed("plain training")


def _outcome(scenario: TransferScenario, trainer: HeadTrainer, sets: Sequence[Untrusted], prepare: Sanitizer, key: Key) -> Outcome:
    """One victim for each set: the victims of one trial have one key in every arm."""
    targets = as_pixels(torch.stack([goal.image for goal in scenario.goals]))
    held_out = torch.ones(len(scenario.test), dtype=torch.bool)
    held_out[[goal.test_index for goal in scenario.goals]] = False
    others = scenario.test.subset(held_out.nonzero().squeeze(1))
    predicted, accuracy = [], []
    for first in range(0, len(sets), trainer.stack_size):
        trials = range(len(sets))[first : first + trainer.stack_size]
        views = [_view(sets[trial], trainer, prepare, key / "trial" / trial / "noise") for trial in trials]
        victims = trainer.fit(views, [key / "trial" / trial / "victim" for trial in trials], key / "common")
        on_targets = victims(targets).argmax(2)
        predicted += [int(on_targets[i, trial]) for i, trial in enumerate(trials)]
        accuracy += (victims(others.pixels()).argmax(2) == others.labels).double().mean(1).tolist()
    labels = np.array(predicted, dtype=np.int64)
    success = labels == np.array([goal.adversarial_label for goal in scenario.goals])
    right = labels == np.array([goal.true_label for goal in scenario.goals])
    return Outcome(labels, success, ~success & ~right, np.array(accuracy))


def _view(data: Untrusted, trainer: HeadTrainer, prepare: Sanitizer, noise: Key) -> View:
    made = prepare(data, noise)
    return View(made.images, data.labels, len(data.class_names), replace(made.lineage, start=trainer.start))


def _choose_goals(test: ImageDataset, num_targets: int, key: Key) -> tuple[Target, ...]:
    """Targets class by class, each with a uniformly drawn other class; which classes get one more is drawn too."""
    if num_targets < 1:
        raise ValueError(f"num_targets={num_targets}; a scenario needs at least 1 target")
    generator = key.numpy()
    classes = test.num_classes
    share = np.full(classes, num_targets // classes)
    share[generator.permutation(classes)[: num_targets % classes]] += 1
    goals = []
    for true, wanted in enumerate(share.tolist()):
        rows = (test.labels == true).nonzero().squeeze(1).numpy()
        if wanted > len(rows):
            raise ValueError(
                f"num_targets={num_targets} needs {wanted} test images of class {test.class_names[true]!r}, which has {len(rows)}; "
                "lower num_targets"
            )
        for row in generator.choice(rows, size=wanted, replace=False).tolist():
            adversarial = (true + int(generator.integers(1, classes))) % classes
            goals.append(Target(test.images[row], true, adversarial, row))
    return tuple(goals)


def _only(data: ImageDataset, digits: range) -> ImageDataset:
    """The images of these digits, relabelled from 0."""
    kept = ((data.labels >= digits.start) & (data.labels < digits.stop)).nonzero().squeeze(1)
    return ImageDataset(data.images[kept], data.labels[kept] - digits.start, tuple(str(digit) for digit in digits))
