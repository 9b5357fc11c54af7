"""Transfer learning on the digits: an extractor fitted to trusted 0-4, heads fine-tuned on untrusted 5-9.

The scenario in which Bullseye Polytope works, small enough for a demo.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from certidote.attacks.bullseye_polytope import bullseye_polytope_batch
from certidote.data.digits import load_some_digits
from certidote.scenarios.goals import choose_targets
from certidote.scenarios.victims import Comparison, Outcome, Sanitizer, compared, on_targets
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor, pretrain
from certidote.training.head import HeadTrainer
from certidote.types import Budget, ImageDataset, Knowledge, Poison, Target, Task

EPSILON = 16 / 255 * (3_072 / 64) ** 0.5
"""The linf budget on 8x8 images that has the l2 norm of 16/255 on 3x32x32: 0.4347."""


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


def make_scenario(key: Key, *, num_targets: int = 25, num_poisons: int = 10, epsilon: float = EPSILON) -> TransferScenario:
    """The digits scenario: extractor, fine-tuning set (253 images), test set (208) and targets.

    Args:
        key: decides the extractor's weights, the targets, and the class wanted for each.
        num_targets: trials; spread over the five classes as evenly as possible.
        num_poisons: base images of each trial, replaced in place.
        epsilon: linf budget, [0, 1] pixel units.
    Raises: ValueError if `num_targets` is not positive or a class has too few test images for its share.
    """
    train, test = (load_some_digits(range(5, 10), split) for split in ("train", "test"))
    goals = choose_targets(test, num_targets, key / "targets")
    extractor = pretrain(load_some_digits(range(5), "trusted"), key / "extractor")
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
) -> Comparison[Outcome]:
    """Train the victims of every trial on clean and poisoned sets, plain and sanitized, and look at the targets.

    Args:
        poisons: one for each goal of the scenario, in its order; the budget is verified.
        key: decides the victims' coins and the sanitizer's noise; the key of `craft` may be used again.
        sanitizers: by name; each is applied once to each trial's clean and poisoned set, with the same noise stream.
        trainer: of the victims; by default heads on the scenario's extractor.
        finished: called after each pair of arms, 1 + len(sanitizers) times.
    Raises: ValueError if there is not one poison for each goal, or a poison is made for another target; BudgetExceeded.
    """
    trainer = trainer or HeadTrainer(scenario.extractor)
    return compared(scenario, poisons, trainer, key, on_targets, sanitizers=sanitizers, finished=finished)
