"""Witches' Brew beside adversarial-robustness-toolbox's GradientMatchingAttack: `python benchmarks/gradient_matching.py`, a minute.

Needs `pip install adversarial-robustness-toolbox` (measured with 1.20.1). On the digits, one surrogate, one restart, no augmentation,
the same base images, epsilon and number of steps for both; each with its own starting point, step sizes and schedule. The objective,
1 - cosine of the gradients over all parameters, is taken by one function on what each returns; ours in 8 bits. Trials alternate.
It also runs with its data loader in one process, as most of its time goes to starting one for every epoch.
Writes results/benchmarks/gradient_matching.json.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from machine import keep
from torch import nn

from certidote.attacks.gradient_matching import Aim, Matching, differentiated, objective
from certidote.attacks.witches_brew import target_gradients, witches_brew
from certidote.data.digits import load_digits
from certidote.scenarios.scratch import knowledge, learner
from certidote.streams import Key, torch_seeded
from certidote.training.recipe import Recipe
from certidote.types import Budget, Images, Knowledge, Target, Task, as_pixels

RECIPES = {
    "MLP, 128 units": Recipe(architecture="mlp-128", epochs=30, batch_size=64, learning_rate=0.05),
    "CNN, 32 and 64 channels": Recipe(architecture="cnn-32-64", epochs=10, batch_size=64, learning_rate=0.05),
}
POISONS, EPSILON = 40, 0.4

Crafted = tuple[Images, float]
"""Poisons, and seconds."""


def ours(task: Task, known: Knowledge, steps: int, key: Key) -> Crafted:
    begin = time.perf_counter()
    poison = witches_brew(task, known, key, steps=steps, step_size=0.4 * EPSILON, restarts=1, shift=0.0, flip=False)
    return as_pixels(poison.images), time.perf_counter() - begin


def theirs(task: Task, known: Knowledge, steps: int, key: Key) -> Crafted:
    """With its defaults, but one restart; it is handed our base images as the whole training set, so that it poisons just these."""
    from art.attacks.poisoning import GradientMatchingAttack
    from art.estimators.classification import PyTorchClassifier

    model = known.surrogates[0]
    assert isinstance(model, nn.Module)
    model.requires_grad_(True)
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), task.train.image_shape, task.train.num_classes)
    attack = GradientMatchingAttack(classifier, percent_poison=1.0, epsilon=EPSILON, max_trials=1, max_epochs=steps, verbose=0)
    assert isinstance(task.goal, Target)
    assert task.bases is not None
    bases, label = as_pixels(task.train.images[task.bases]).numpy(), task.goal.adversarial_label
    target = as_pixels(task.goal.image.unsqueeze(0)).numpy()
    with torch_seeded(key):  # where it draws its start
        begin = time.perf_counter()
        made, _ = attack.poison(target, np.array([label]), bases, np.full(len(bases), label))
        seconds = time.perf_counter() - begin
    model.requires_grad_(False)
    return torch.from_numpy(made).to(torch.float32), seconds


def theirs_in_one_process(task: Task, known: Knowledge, steps: int, key: Key) -> Crafted:
    """It starts a process for every epoch to load images from memory; here they are loaded in this process, which is kinder to it."""
    loader = torch.utils.data.DataLoader

    def in_this_process(*args: Any, **options: Any) -> Any:
        return loader(*args, **{**options, "num_workers": 0})

    with patch.object(torch.utils.data, "DataLoader", in_this_process):
        return theirs(task, known, steps, key)


def gap(task: Task, known: Knowledge, images: Images) -> float:
    """1 - cosine."""
    (function,) = differentiated(known.surrogates)
    aim = Aim(function, target_gradients(function, [task]))
    return float(objective([aim], images.unsqueeze(0), torch.tensor([task.goal.adversarial_label]), Matching()))


def tasks(trials: int, key: Key) -> list[Task]:
    train, test = load_digits("trusted"), load_digits("test")
    generator, made = key.numpy(), []
    for row in generator.choice(len(test), size=trials, replace=False).tolist():
        true = int(test.labels[row])
        label = (true + int(generator.integers(1, 10))) % 10
        bases = (train.labels == label).nonzero().squeeze(1)[:POISONS]
        goal = Target(test.images[row], true, label, row)
        made.append(Task(train, goal, Budget(POISONS, "linf", EPSILON), bases))
    return made


ATTACKS: dict[str, Callable[[Task, Knowledge, int, Key], Crafted]] = {
    "ours": ours,
    "theirs": theirs,
    "theirs, one process": theirs_in_one_process,
}


def measured(trials: int, steps: int, key: Key) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Surrogate -> attack -> objective and seconds, trial by trial. Each attack runs once before it is timed."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, recipe in RECIPES.items():
        known = knowledge(load_digits("trusted"), learner([recipe]), key / "attacker" / name)
        found[name] = {who: {"objective": [], "seconds": []} for who in ATTACKS}
        ours(tasks(1, key / "warm-up")[0], known, steps, key)
        for trial, task in enumerate(tasks(trials, key / "targets")):
            for who, attack in ATTACKS.items():
                images, seconds = attack(task, known, steps, key / "trial" / trial)
                found[name][who]["objective"].append(gap(task, known, images))
                found[name][who]["seconds"].append(seconds)
    return found


def table(found: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    rows = ["| surrogate | attack | 1 - cosine | seconds | times ours |", "|---|---|---|---|---|"]
    for name, attacks in found.items():
        base = float(np.mean(attacks["ours"]["seconds"]))
        for who, numbers in attacks.items():
            seconds = float(np.mean(numbers["seconds"]))
            rows.append(f"| {name} | {who} | {np.mean(numbers['objective']):.3f} | {seconds:.2f} | {seconds / base:.1f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/gradient_matching.json"))
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = measured(given.trials, given.steps, Key(given.seed) / "gradient matching")
    print(table(found))
    facts = {
        "seed": given.seed,
        "trials": given.trials,
        "poisons": POISONS,
        "epsilon": EPSILON,
        "steps": given.steps,
        "measured": found,
    }
    keep(given.out, facts)


if __name__ == "__main__":
    main()
