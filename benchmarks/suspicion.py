"""How well movement ranks real poisons: `python benchmarks/suspicion.py`, some seconds.

Trials of Bullseye Polytope on the digits (the scenario of the demo). Each poisoned set is sanitized once with each denoiser at each
sigma, and its images are ranked as `certidote sanitize --rank-suspicious` ranks them. The AUC is the chance that a poison stands above
a clean image. Writes results/benchmarks/suspicion.json and prints the table of docs/sanitizing.md.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.stats
from machine import keep

from certidote.defenses.sanitize import as_levels, sanitized
from certidote.diffusion.denoiser import load
from certidote.results.movement import ranking
from certidote.scenarios.transfer import craft, make_scenario
from certidote.streams import Key
from certidote.types import Denoiser, ImageDataset, Poison, Untrusted

DENOISERS = {"digits": "digits (network)", "digits-linear-mmse": "digits-linear-mmse"}
SIGMAS = (0.1, 0.25, 0.5)


def auc(train: ImageDataset, poison: Poison, denoiser: Denoiser, sigma: float, key: Key) -> float:
    """Of one trial: the share of (poison, clean image) pairs with the poison above, ties counted half."""
    data = poison.apply(train)
    untrusted = Untrusted(data)
    made = as_levels(sanitized(untrusted, denoiser, sigma, key).images)
    _, scores = ranking(untrusted.movement(made, range(len(data))), data.labels.numpy())
    poisoned = np.isin(np.arange(len(data)), poison.indices.numpy())
    test = scipy.stats.mannwhitneyu(scores[poisoned], scores[~poisoned])
    return float(test.statistic / (poisoned.sum() * (~poisoned).sum()))


def table(measured: dict[str, dict[str, list[float]]]) -> str:
    rows = ["| denoiser | " + " | ".join(f"sigma {sigma:g}" for sigma in SIGMAS) + " |", "|---|" + "---|" * len(SIGMAS)]
    for name, label in DENOISERS.items():
        cells = [f"{np.mean(found):.3f} ({min(found):.3f})" for found in measured[name].values()]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(rows)


def measured(seed: int, trials: int, only: int | None = None) -> dict[str, dict[str, list[float]]]:
    """Denoiser -> sigma -> AUC of each trial, or of the first `only` of them."""
    key = Key(seed) / "demo"
    scenario = make_scenario(key / "scenario", num_targets=trials)
    scenario = replace(scenario, goals=scenario.goals[:only])
    keys = [key / "trial" / trial / "suspicion" / "noise" for trial in range(trials)]
    poisons = craft(scenario, key)
    denoisers = {name: load(name) for name in DENOISERS}
    return {
        name: {
            f"{sigma:g}": [
                auc(scenario.train, poison, denoiser, sigma, noise) for poison, noise in zip(poisons, keys, strict=False)
            ]
            for sigma in SIGMAS
        }
        for name, denoiser in denoisers.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/suspicion.json"))
    given = parser.parse_args()
    found = measured(given.seed, given.trials)
    print(table(found))
    scenario = make_scenario(Key(given.seed) / "demo" / "scenario", num_targets=1)
    facts = {
        "seed": given.seed,
        "trials": given.trials,
        "images": len(scenario.train),
        "poisons": scenario.budget.num_poisons,
        "norm": scenario.budget.norm,
        "epsilon": scenario.budget.epsilon,
    }
    keep(given.out, {**facts, "auc": found})


if __name__ == "__main__":
    main()
