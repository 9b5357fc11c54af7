"""Made-up records of the benchmark's cells."""

import csv
import json
from typing import Any

from certidote.benchmark.cells import Cell
from certidote.benchmark.records import folder_of
from certidote.benchmark.source import Source

TRIALS = 100


def put(
    source: Source, cell: Cell, successes: int, accuracy: float = 0.9, removed: tuple[int, int] | None = None, trials: int = TRIALS
) -> None:
    """A record in which the first so many of all trials succeed."""
    folder = folder_of(source.kept, source.scale, cell)
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "attack": cell.poisoning.attack, "finished": trials, "goal": "target", "seconds_of_workers": 1.0,
        "results": {"poisoned": {"clean_accuracy": accuracy, "reached": 0.0}, "control": {"clean_accuracy": accuracy}},
        "bench": {"identity": "x"},
    }  # fmt: skip
    if removed is not None:
        poisons, clean = removed
        record["filter"] = {
            "removed_poisons": poisons,
            "kept_poisons": 100 - poisons,
            "removed_clean": clean,
            "kept_clean": 900 - clean,
        }
    (folder / "replay.json").write_text(json.dumps(record))
    with (folder / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["true_class", "adversarial_class", "test_image", "poisoned_success", "control_success"])
        writer.writerows(["a", "b", trial, trial < successes, False] for trial in range(trials))
