"""Does every defense of the catalogue run on photographs? `python benchmarks/every_defense.py`, some minutes on one core.

One trial of a label-consistent backdoor on a few hundred images of CIFAR-10 (JPEG), and a replay of it under each defense: the compact
network for two epochs (its form without BatchNorm where training is private). So short a training says nothing about accuracy or attacks;
the record says what ran to its end, what was refused and why, and how long it took beside a plain replay.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import facts

from certidote import verbs
from certidote.benchmark.runner import refusal_in
from certidote.data import load
from certidote.defenses.catalogue import DEFENSES
from certidote.engine import JobFailed
from certidote.results.files import write_json
from certidote.types import ImageDataset, Json

RECORD = Path("results/benchmarks/every-defense.json")
RECIPE = """architecture = "{}"
epochs = 2
batch_size = 50
learning_rate = 0.05
crop = 2
flip = true
"""


def tried(name: str, pack: Path, data: str, runs: Path) -> Json:
    """What became of one replay."""
    recipe = runs / ("private.toml" if name.startswith("dp-sgd") else "recipe.toml")
    begin, row = time.process_time(), {"defense": name, "recipe": recipe.stem}
    try:
        found = verbs.replay(pack, data, out=runs / name, defense=name, recipe=str(recipe), seed=0, workers=0)
    except JobFailed as error:
        if not (reason := refusal_in(error)):
            raise
        row["refused"] = reason
    except ValueError as error:
        row["refused"] = str(error)
    else:
        row |= {"victims": found.record["victims"], "failed": found.record["failed"], "removed": found.record.get("filter")}
    return {**row, "processor_seconds": round(time.process_time() - begin, 2)}


def spread(data: ImageDataset, images: int) -> ImageDataset:
    """Every so many-th image: files come sorted by class."""
    return data.subset(range(0, len(data), len(data) // images))


def save(archive: Path, images: int, path: Path) -> None:
    """So many training images and as many test images, as one file: all 10,000 test images would take longer than the trainings."""
    train, test = (spread(load(str(archive), split), images) for split in ("train", "test"))
    arrays = {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}
    shaped: dict[str, Any] = {
        name: (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy() for name, value in arrays.items()
    }
    np.savez(path, class_names=np.array(train.class_names), **shaped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CERTIDOTE_DATA", "../shared/data")))
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    rows: list[Json] = []
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        data = str(runs / "few.npz")
        save(options.data / "cifar10-jpeg.tar.xz", options.images, Path(data))
        for name, architecture in (("recipe", "compact"), ("private", "compact-gn")):
            (runs / f"{name}.toml").write_text(RECIPE.format(architecture), encoding="utf-8")
        verbs.poison(
            "label-consistent", data, out=runs / "pack", targets=1, num_poisons=5, epsilon="16/255", scenario="scratch", gallery=False,
            recipe=str(runs / "recipe.toml"), trigger="label-consistent", seed=0, workers=0,
        )  # fmt: skip
        for name in DEFENSES:
            rows.append(tried(name, runs / "pack", data, runs))
            print(rows[-1], flush=True)
    write_json(
        RECORD,
        {
            "data": f"{options.images} training and test images of cifar10-jpeg.tar.xz",
            "recipe": RECIPE.format("compact"),
            "rows": rows,
            **facts(),
        },
    )


if __name__ == "__main__":
    main()
