"""What it saves to craft several trials at once: `python benchmarks/crafting_together.py`, two minutes.

Trials on the digits, ten poisons of 8x8 pixels each, by each attack that takes several trials at once, unaware and through noise and the packaged
denoiser: processor time of one trial after the other over that of one call. Writes results/benchmarks/crafting_together.json.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import busy_elsewhere, keep

from certidote.attacks import ATTACKS, TOGETHER
from certidote.data.digits import load_digits
from certidote.diffusion.denoiser import load
from certidote.diffusion.through import ThroughDenoiser
from certidote.scenarios.scratch import knowledge, learner
from certidote.scenarios.transfer import make_scenario
from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.types import Budget, Json, Knowledge, Target, Task

OPTIONS: dict[str, Json] = {
    "poison-frogs": {"steps": 10, "step_size": 0.001},
    "convex-polytope": {"steps": 10, "step_size": 0.02},
    "bullseye-polytope": {"steps": 10, "step_size": 0.02},
    "witches-brew": {"steps": 10, "step_size": 0.16, "restarts": 1, "shift": 0.0, "flip": False},
}
SIGMA, DRAWS, NUM_POISONS, EPSILON = 0.25, 4, 10, 0.4347


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=12, help="in one call; so many 'certidote poison' takes at once of a hundred")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/crafting_together.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    busy, key = busy_elsewhere(), Key(1) / "crafting together"
    keys = [key / "trial" / trial for trial in range(options.trials)]
    through = ThroughDenoiser(load("digits"), SIGMA, DRAWS)
    rows = []
    for name, given in OPTIONS.items():
        tasks, known = scenario_of(name, options.trials, key)
        for defense in (None, through):
            aware = Knowledge(known.surrogates, known.retrain, defense)
            alone, together = seconds_of(name, tasks, aware, keys, given)
            rows.append({"attack": name, "through_the_defense": defense is not None, "alone": alone, "together": together})
            print(f"{name}{', through the defense' if defense else ''}: {alone / together:.1f} times faster together", flush=True)
    measured = {
        "trials": options.trials,
        "num_poisons": NUM_POISONS,
        "sigma": SIGMA,
        "draws": DRAWS,
        "options": OPTIONS,
        "rows": rows,
    }
    keep(options.out, measured, max(busy, busy_elsewhere()))


def scenario_of(name: str, trials: int, key: Key) -> tuple[list[Task], Knowledge]:
    """Tasks, and what their attacker knows: a frozen extractor, or for Witches' Brew a network trained from scratch."""
    if name != "witches-brew":
        made = make_scenario(key, num_targets=trials, num_poisons=NUM_POISONS)
        return [Task(made.train, goal, made.budget) for goal in made.goals], Knowledge((made.extractor,))
    train, test = load_digits("trusted"), load_digits("test")
    recipe = Recipe(architecture="mlp-128", epochs=30, batch_size=64, learning_rate=0.05)
    goals = [Target(test.images[row], int(test.labels[row]), (int(test.labels[row]) + 1) % 10, row) for row in range(trials)]
    budget = Budget(NUM_POISONS, "linf", EPSILON)
    return [Task(train, goal, budget) for goal in goals], knowledge(train, learner([recipe]), key / "attacker")


def seconds_of(name: str, tasks: list[Task], known: Knowledge, keys: list[Key], options: Json) -> tuple[float, float]:
    """Of processor time: one trial after the other, and all in one call. The better of two turns each."""

    def alone() -> None:
        for task, key in zip(tasks, keys, strict=True):
            ATTACKS[name](task, known, key, **options)

    def together() -> None:
        TOGETHER[ATTACKS[name]](tasks, known, keys, **options)

    turns = [(_timed(alone), _timed(together)) for _ in range(2)]
    return min(one for one, _ in turns), min(all_ for _, all_ in turns)


def _timed(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
