"""Shared by tests: the digits from-scratch fixture. 1,200 images to train on, the rest to test and to be targets; an MLP."""

from functools import cache

import torch

from certidote.attacks.gradient_matching import Matching
from certidote.attacks.sleeper_agent import sleeper_agent
from certidote.attacks.witches_brew import matched
from certidote.data.digits import SPLITS, load_digits
from certidote.scenarios.scratch import ScratchScenario, knowledge, learner
from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.types import Budget, ImageDataset, Knowledge, Poison, Target, Trigger

KEY = Key(0) / "scratch fixture"
RECIPE = Recipe(architecture="mlp-128", epochs=30, batch_size=64, learning_rate=0.05, nesterov=False, warm_up=0.0)
TRIALS, EPSILON, NUM_POISONS = 8, 0.4, 60
MATCHING = Matching(steps=150, step_size=0.4 * EPSILON)


@cache
def digits() -> tuple[ImageDataset, ImageDataset]:
    """Training and test set."""
    parts = [load_digits(split) for split in SPLITS]
    images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    everything = ImageDataset(images, labels, parts[0].class_names)
    return everything.subset(range(1_200)), everything.subset(range(1_200, len(everything)))


@cache
def targets() -> ScratchScenario[Target]:
    """Eight test images, each wanted in another class."""
    train, test = digits()
    generator = (KEY / "targets").numpy()
    goals = []
    for row in generator.choice(len(test), size=TRIALS, replace=False).tolist():
        true = int(test.labels[row])
        goals.append(Target(test.images[row], true, (true + int(generator.integers(1, 10))) % 10, row))
    return ScratchScenario(train, test, tuple(goals), Budget(NUM_POISONS, "linf", EPSILON), RECIPE)


@cache
def clean_knowledge() -> Knowledge:
    """One surrogate, of the victims' recipe, trained on the clean set."""
    return knowledge(digits()[0], learner([RECIPE]), KEY / "attacker")


def trial_keys() -> list[Key]:
    return [KEY / "trial" / trial / "attack" for trial in range(TRIALS)]


@cache
def brewed() -> list[Poison]:
    """The eight trials, crafted with the fixture's numbers."""
    return matched(targets().tasks(), clean_knowledge(), trial_keys(), MATCHING, restarts=1)


PAIRS = ((0, 1), (3, 8), (7, 2), (5, 6), (9, 4))
"""True and adversarial classes of the backdoors."""


@cache
def triggers() -> ScratchScenario[Trigger]:
    """Five class pairs, each with a white 2x2 square in the bottom right corner."""
    train, test = digits()
    white, all_of_it = torch.full((1, 2, 2), 255, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.bool)
    goals = tuple(Trigger(white, all_of_it, (6, 6), true, adversarial) for true, adversarial in PAIRS)
    return ScratchScenario(train, test, goals, Budget(40, "linf", 0.3), RECIPE)


@cache
def sleepers() -> list[Poison]:
    """The five backdoors, with four retrainings each."""
    options = {"steps": 100, "step_size": 0.4 * 0.3, "retrains": 4, "shift": 0.0, "flip": False}
    tasks = enumerate(triggers().tasks())
    return [sleeper_agent(task, clean_knowledge(), KEY / "sleeper" / number, **options) for number, task in tasks]
