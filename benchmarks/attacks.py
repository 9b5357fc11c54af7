"""Our attacks against those of the adversarial-robustness-toolbox: `python benchmarks/attacks.py`, a minute.

Each part crafts the same trials with both, at equal steps, and compares the objective reached and the time. Writes
results/benchmarks/attacks.json and prints the ratios. A part is skipped, with the reason, where the toolbox is not installed.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from gradient_matching import gradient_matching
from machine import busy_elsewhere, keep

from certidote.attacks.poison_frogs import poison_frogs
from certidote.attacks.selection import choose_bases
from certidote.scenarios.transfer import TransferScenario, make_scenario
from certidote.streams import Key
from certidote.types import Budget, Images, Json, Knowledge, Task, as_pixels

T = TypeVar("T")

STEPS = 120
"""The toolbox's default, and ours."""

LEARNING_RATE, BETA = 0.01, 1.0
"""For the toolbox's feature collision, whose own defaults are for pixels up to 255 and 2,048 features: the pair of the grid 0.003, 0.01,
0.03, 0.1, 0.3 and 0, 0.1, 1, 3 that comes nearest to the target while keeping poisons inside the box."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--poisons", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/attacks.json"))
    options = parser.parse_args()
    try:
        import art  # noqa: F401  # the toolbox's package
    except ImportError:
        print("skipped: adversarial-robustness-toolbox is not installed; pip install 'certidote[test]'")
        return
    torch.set_num_threads(1)
    busy = busy_elsewhere()
    found = {}
    for name in options.only:
        found[name] = PARTS[name](options.seed, options.trials, options.poisons)
        print(
            f"{name}: objective {found[name]['ours']['objective']:.4f} against {found[name]['toolbox']['objective']:.4f}, "
            f"{found[name]['times_faster']:.1f} times faster{_in_one_process(found[name])}"
        )
    keep(options.out, {"seed": options.seed, "trials": options.trials, "poisons": options.poisons, "parts": found}, busy)


def _in_one_process(part: Json) -> str:
    """What is left where the toolbox starts a process for every step, and is kept from it."""
    times = part.get("times_faster_in_one_process")
    return "" if times is None else f" ({times:.1f} without the processes that the toolbox starts)"


def feature_collision(seed: int, trials: int, num_poisons: int) -> Json:
    """Mean distance of the poisons' features to the target's, relative to the bases', at equal movement.

    The toolbox knows no budget: so ours has, in each trial, the mean l2 movement of the toolbox's poisons for its budget, and moves no
    farther on average. Ours are 8-bit images, the toolbox's are not. The toolbox's own objective, the distance plus beta times the
    movement, is recorded too.
    """
    scenario = make_scenario(Key(seed) / "benchmark", num_targets=trials, num_poisons=num_poisons)
    toolbox, knowledge = _feature_collision_of_toolbox(scenario), Knowledge((scenario.extractor,))
    rows: list[dict[str, float]] = []
    for trial, goal in enumerate(scenario.goals):
        key = Key(seed) / "benchmark" / "trial" / trial
        task = Task(scenario.train, goal, scenario.budget)
        bases, target = as_pixels(scenario.train.images[choose_bases(task, key / "bases")]), as_pixels(goal.image.unsqueeze(0))
        if not rows:
            toolbox(bases, target, 1)  # what a process does once is nobody's speed
        theirs, their_seconds = _timed(lambda bases=bases, target=target: toolbox(bases, target, STEPS))
        radius = float((theirs - bases).flatten(1).norm(dim=1).mean())
        task = replace(task, budget=Budget(num_poisons, "l2", radius))
        if not rows:
            poison_frogs(task, knowledge, key, steps=1)
        poison, our_seconds = _timed(lambda task=task, key=key: poison_frogs(task, knowledge, key, steps=STEPS))
        ours = as_pixels(poison.images)
        row = {"our_seconds": our_seconds, "toolbox_seconds": their_seconds}
        for name, images in (("ours", ours), ("toolbox", theirs)):
            distance, relative = _collision(scenario, images, bases, target)
            moved = float((images - bases).flatten(1).norm(dim=1).mean())
            row |= {name: relative, f"{name}_moved": moved, f"{name}_penalized": distance + BETA * moved}
        rows.append(row)
    return _summary(rows, {"steps": STEPS, "toolbox_learning_rate": LEARNING_RATE, "toolbox_beta": BETA})


def _feature_collision_of_toolbox(scenario: TransferScenario) -> Callable[[Images, Images, int], Images]:
    """(bases, target, steps) -> poisons."""
    from art.attacks.poisoning import FeatureCollisionAttack
    from art.estimators.classification import PyTorchClassifier

    model, shape = scenario.extractor, scenario.train.image_shape
    classifier = PyTorchClassifier(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=model.head.out_features,
        clip_values=(0, 1),
        device_type="cpu",
    )
    pixels = torch.Size(shape).numel()

    def craft(bases: Images, target: Images, steps: int) -> Images:
        attack = FeatureCollisionAttack(
            classifier,
            target.numpy(),
            "body",
            learning_rate=LEARNING_RATE,
            similarity_coeff=BETA * (pixels / model.head.in_features) ** 2,
            max_iter=steps,
            verbose=False,
        )
        return torch.from_numpy(attack.poison(bases.numpy().copy())[0])

    return craft


@torch.no_grad()
def _collision(scenario: TransferScenario, images: Images, bases: Images, target: Images) -> tuple[float, float]:
    """Mean feature distance to the target, and that relative to the bases'."""
    goal = scenario.extractor.penultimate(target)
    distances = [(scenario.extractor.penultimate(each) - goal).norm(dim=1) for each in (images, bases)]
    return float(distances[0].mean()), float((distances[0] / distances[1]).mean())


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and seconds of this process's processor time, which others on the machine do not add to."""
    begin = time.process_time()
    made = work()
    return made, time.process_time() - begin


def _summary(rows: list[dict[str, float]], facts: Json) -> Json:
    """Means over trials, and by how much ours is faster in all."""
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return {
        **facts,
        "ours": {"objective": mean["ours"], "seconds": mean["our_seconds"]},
        "toolbox": {"objective": mean["toolbox"], "seconds": mean["toolbox_seconds"]},
        "trials_at_least_as_low": sum(row["ours"] <= row["toolbox"] for row in rows),
        "times_faster": mean["toolbox_seconds"] / mean["our_seconds"],
        "rows": rows,
    }


def gradient_matching_part(surrogate: str, seed: int, trials: int, num_poisons: int) -> Json:
    """1 - cosine of the gradients, of Witches' Brew and of the toolbox's GradientMatchingAttack; time by the clock, see there."""
    return _summary(*gradient_matching(seed, trials, num_poisons, surrogate))


PARTS: dict[str, Callable[[int, int, int], Json]] = {
    "feature-collision": feature_collision,
    "gradient-matching-mlp": partial(gradient_matching_part, "mlp"),
    "gradient-matching-cnn": partial(gradient_matching_part, "cnn"),
}
"""(seed, trials, poisons of each) -> what `_summary` gives."""


if __name__ == "__main__":
    main()
