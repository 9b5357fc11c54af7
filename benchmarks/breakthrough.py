"""How large must epsilon be before an attacker who knows the defense breaks it? `python benchmarks/breakthrough.py`, minutes on one core.

Bullseye Polytope on the digits transfer scenario, against heads fitted to images that were noised and denoised once. For each epsilon the
same targets are attacked by somebody who does not know of the defense and by somebody who crafts through it (noise of their own). Prints
successes behind the defense with Wilson intervals, and the smallest epsilon at which half of the adaptive attacks succeed; writes
results/benchmarks/breakthrough.json.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine import keep

from certidote.attacks.bullseye_polytope import bullseye_polytope_batch
from certidote.diffusion.denoiser import load
from certidote.diffusion.through import ThroughDenoiser
from certidote.results.summary import wilson
from certidote.scenarios.knowledge import sanitized_by
from certidote.scenarios.transfer import TransferScenario, evaluate, make_scenario
from certidote.streams import Key
from certidote.types import Budget, DifferentiableDefense, Json, Knowledge, Task

EPSILONS = (0.1, 0.2, 0.3, 0.4347, 0.6)
STEPS, STEP_SHARE = 150, 1 / 20
"""Of Adam, and the size of one as a share of epsilon."""

BREAKS = 0.5
"""Share of successes from which on we say that an attack breaks through."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--poisons", type=int, default=10)
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--denoiser", default="digits")
    parser.add_argument("--epsilons", type=float, nargs="*", default=list(EPSILONS))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/breakthrough.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    key = Key(options.seed)
    scenario = make_scenario(key, num_targets=options.targets, num_poisons=options.poisons)
    through = ThroughDenoiser(load(options.denoiser), options.sigma)
    rows = [row_of(scenario, epsilon, through, key) for epsilon in sorted(options.epsilons)]
    breaks = next((row["epsilon"] for row in rows if row["adaptive"]["behind"] >= BREAKS * options.targets), None)
    print(
        "no epsilon here breaks through" if breaks is None else f"half of the adaptive attacks succeed from epsilon {breaks:g} on"
    )
    asked = {name: getattr(options, name) for name in ("seed", "targets", "poisons", "sigma", "denoiser")}
    keep(options.out, {**asked, "steps": STEPS, "rows": rows, "breaks_through_at": breaks})


def row_of(scenario: TransferScenario, epsilon: float, through: ThroughDenoiser, key: Key) -> Json:
    """Both attackers at one epsilon: successes on victims without a defense, and behind it."""
    row: Json = {"epsilon": epsilon}
    for name, defense in (("unaware", None), ("adaptive", through)):
        row[name] = successes(replace(scenario, budget=replace(scenario.budget, epsilon=epsilon)), defense, through, key)
        of = row[name]["trials"]
        low, high = wilson(row[name]["behind"], of)
        print(
            f"epsilon {epsilon:.3f}, {name}: {row[name]['plain']}/{of} without a defense, {row[name]['behind']}/{of} behind it "
            f"({low:.0%} to {high:.0%}; {row[name]['control']}/{of} without poisons)",
            flush=True,
        )
    return row


def successes(scenario: TransferScenario, known: DifferentiableDefense | None, through: ThroughDenoiser, key: Key) -> Json:
    """Craft with what is known, and count."""
    budget: Budget = scenario.budget
    tasks = [Task(scenario.train, goal, budget) for goal in scenario.goals]
    keys = [key / "trial" / trial / "attack" for trial in range(len(tasks))]
    knowledge = Knowledge((scenario.extractor,), defense=known)
    poisons = bullseye_polytope_batch(tasks, knowledge, keys, steps=STEPS, step_size=budget.epsilon * STEP_SHARE)
    sanitizers = {"denoise": partial(sanitized_by, through.denoiser, through.sigma)}
    found = evaluate(scenario, poisons, key, sanitizers=sanitizers)
    behind = found.sanitized["denoise"]
    return {
        "trials": len(tasks),
        "plain": int(found.plain.poisoned.success.sum()),
        "behind": int(behind.poisoned.success.sum()),
        "control": int(behind.control.success.sum()),
        "margin_behind": float(np.median(behind.poisoned.margin - behind.control.margin)),
        "clean_accuracy": float(behind.poisoned.clean_accuracy.mean()),
    }


if __name__ == "__main__":
    main()
