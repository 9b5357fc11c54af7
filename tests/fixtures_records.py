"""Made-up records of the benchmark's cells."""

import csv
import json
from typing import Any

from certidote.benchmark.cells import Cell
from certidote.benchmark.records import folder_of
from certidote.benchmark.source import Source

TRIALS = 100


def put(
    source: Source,
    cell: Cell,
    successes: int,
    accuracy: float = 0.9,
    removed: tuple[int, int] | None = None,
    trials: int = TRIALS,
    controls: int = 0,
) -> None:
    """A record in which the first so many of all trials, and of their controls, succeed."""
    folder = folder_of(source.kept, source.scale, cell)
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "attack": cell.poisoning.attack, "finished": trials, "goal": "target", "seconds_of_workers": 1.0,
        "results": {
            arm: {"successes": count, "trials": trials, "reached": 0.0, "lost": 0.0, "clean_accuracy": accuracy}
            for arm, count in (("poisoned", successes), ("control", controls))
        },
        "bench": {"identity": "x", "code": "x", "cell": cell.id},
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
        means = [f"{arm}_{name}" for arm in ("poisoned", "control") for name in ("reached", "lost", "clean_accuracy")]
        writer.writerow(["true_class", "adversarial_class", "test_image", "poisoned_success", "control_success", *means])
        said = [0.0, 0.0, accuracy] * 2
        writer.writerows(["a", "b", trial, trial < successes, trial < controls, *said] for trial in range(trials))
