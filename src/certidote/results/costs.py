"""What defenses cost, measured: kept records of replays, each beside a replay of the same poisons without a defense."""

import json
from collections import defaultdict
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from certidote.results.replay import FORMAT
from certidote.types import Json, digest_of

PLAIN = "none"
PACKAGED = "costs.json"


def measured_costs(folder: Path) -> dict[str, float]:
    """Seconds of a defense relative to those of one plain model, by name of the defense.

    Args:
        folder: the .json files in it, at any depth, are records of replays, or are ignored; it need not exist.
    Returns: for each defense that has a record beside a record of "none" about the same poisons, data and victims' kind, the
        mean over such pairs, trial by trial.
    Raises: ValueError for a file that is no JSON.
    """
    seconds: dict[str, dict[str, float]] = defaultdict(dict)
    for path in sorted(folder.rglob("*.json")):
        record = _read(path)
        if (
            isinstance(record, dict)
            and "-start-" not in _cell(record)
            and record.get("format") == FORMAT
            and record.get("seconds_of_workers")
            and record.get("finished")
        ):
            models = record["models"] if record["defense_name"] == PLAIN else 1
            spent = record["seconds_of_workers"] / record["finished"] / models
            seconds[_played(record)][record["defense_name"]] = spent
    ratios = defaultdict(list)
    for found in seconds.values():
        if PLAIN in found:
            for name, spent in found.items():
                ratios[name].append(spent / found[PLAIN])
    return {name: sum(each) / len(each) for name, each in ratios.items()}


@dataclass(frozen=True)
class PackagedCost:
    """What this release was measured to cost: `times` one plain training, for a classifier of so many models."""

    times: float
    models: int
    measured_on: str

    def told(self, each: bool) -> str:
        """In words; `each` if a user takes as many models as it pleases, and this is what one of them costs."""
        models = f" for {self.models} models" if self.models > 1 else " for each model" if each else ""
        return f"{self.times:.2g} times one plain model{models} ({self.measured_on})"


def packaged_costs() -> dict[str, PackagedCost]:
    """By name of the defense: measured in turn with plain trainings, in one run of benchmarks/tuning.py, which wrote the file."""
    record = json.loads((files("certidote.defenses") / PACKAGED).read_text(encoding="utf-8"))
    return {name: PackagedCost(**cost, measured_on=record["measured_on"]) for name, cost in record["costs"].items()}


def _played(record: Json) -> str:
    """What was replayed: two records with the same answer differ in the defense only."""
    recipe = {name: value for name, value in record["recipe"].items() if name != "command"}
    poisons = _cell(record).rpartition("/")[0]
    return digest_of({"recipe": recipe, "data": record["data"]["digest"], "poisons": poisons})


def _cell(record: Json) -> str:
    """The cell of `certidote bench` that this is the record of, poisons/defense; "" for others."""
    return str(record.get("bench", {}).get("cell", ""))


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON ({error}); remove it, or name another folder") from None
