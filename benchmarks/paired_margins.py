"""Do poisons that match gradients carry over to fresh victims, where they seldom flip a target? `python benchmarks/paired_margins.py PACK`, resumable.

For each trial of a pack from scratch, on a victim that no attacker has seen: the cosine between the gradient of the target's loss with the adversarial
label and that of the poisons (and of their bases, unchanged), and how far the poisons move the target's margin, the logit of the adversarial label less that of
the true one, between two victims of the same coins; and, for comparison, how far other coins move it. A flip needs a margin above 0 at least: rates of
flips do not see what falls short of it. All trials share the two victims of clean data.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import torch
from machine import keep
from torch import nn

from certidote.attacks.gradient_matching import differentiated
from certidote.attacks.pack_files import read_pack
from certidote.data import load
from certidote.numerics import fast_dtype, keep_freed_memory
from certidote.results.files import write_json
from certidote.streams import Key
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import Recipe, load_recipe
from certidote.types import ImageDataset, Json, Lineage, Poison, Target, View, as_pixels, digest_of


def victim(train: ImageDataset, recipe: Recipe, key: Key) -> nn.Module:
    view = View(train.pixels(), train.labels, train.num_classes, Lineage(unsealed=("benchmark",)))
    return PooledTrainer(recipe, fast_dtype()).fit([view], [key / "member"], key / "common").member(0).eval()


def margin(model: nn.Module, goal: Target) -> float:
    with torch.no_grad():
        (logits,) = model(as_pixels(goal.image.unsqueeze(0)))
    return float(logits[goal.adversarial_label] - logits[goal.true_label])


def cosines(model: nn.Module, poison: Poison, goal: Target, train: ImageDataset) -> Json:
    (surrogate,) = differentiated([model], train)
    wanted = surrogate.mean_gradient(as_pixels(goal.image.unsqueeze(0)), torch.tensor([goal.adversarial_label]))
    labels = torch.full((len(poison.images),), goal.adversarial_label)
    found = {"poisons": poison.images, "bases": train.images[poison.indices]}
    gradients = {name: surrogate.mean_gradient(as_pixels(images), labels) for name, images in found.items()}
    return {name: float(torch.cosine_similarity(each, wanted, 0)) for name, each in gradients.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument(
        "--data", default=os.path.join(os.environ.get("CERTIDOTE_DATA", "../shared/data"), "cifar10-jpeg.tar.xz#10000")
    )
    parser.add_argument("--recipe", default=str(Path(os.path.relpath(Path(__file__).with_name("ladder-victims.toml")))))
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--rows", type=Path, default=Path("runs/paired-margins"), help="a file for each trial")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/paired-margins.json"))
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    pack, train, recipe, key = read_pack(options.pack), load(options.data), load_recipe(options.recipe), Key(options.seed)
    poisons = hashlib.sha256(b"".join(poison.images.numpy().tobytes() for poison in pack.poisons)).hexdigest()
    asked = {"poisons": poisons, "data": train.digest(), "recipe": recipe.to_json(), "seed": options.seed}
    folder = options.rows / digest_of(asked)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    clean, other = victim(train, recipe, key), victim(train, recipe, key / "other coins")
    rows = []
    for trial, poison in enumerate(pack.poisons):
        if not isinstance(poison.goal, Target):
            parser.error("give a pack whose goals are single targets")
        file = folder / f"{trial}.json"
        if not file.exists():
            margins = {
                "clean": margin(clean, poison.goal),
                "poisoned": margin(victim(poison.apply(train), recipe, key), poison.goal),
            }
            write_json(file, {"trial": trial, "cosine": cosines(clean, poison, poison.goal, train), "margin": margins})
        row = json.loads(file.read_text(encoding="utf-8"))
        rows.append({**row, "margin": {**row["margin"], "clean, other coins": margin(other, poison.goal)}})
        print(rows[-1], flush=True)
    keep(
        options.out,
        {
            "attack": pack.recipe["attack"],
            "poisons": len(pack.poisons[0].indices),
            "recipe": recipe.to_json(),
            "seed": options.seed,
            "trials": rows,
        },
    )


if __name__ == "__main__":
    main()
