"""What is kept of a cell: replay.json without its rows, and the rows as trials.csv, in a folder named after poisons and defense."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.scales import DRAWS, Scale
from certidote.engine.code import package_digest
from certidote.results.files import csv_text, json_text, write_texts
from certidote.results.replay import ARMS, replay_table
from certidote.types import Json, digest_of

RECORD, TRIALS = "replay.json", "trials.csv"
SHARES = ("reached", "reached_where_right", "lost", "clean_accuracy")
"""Columns of an arm that hold shares, in [0, 1]; empty where there is nothing to share."""
MEANS = ("reached", "lost", "clean_accuracy")
"""Of which a record has the means over trials."""
ROUNDING = 1e-9
"""What a mean over rows may differ by from what a record says."""


@dataclass(frozen=True)
class Kept:
    """A cell's record.

    Attributes:
        record: as `keep` wrote it.
        trials: its rows, as text.
        folder: where it lies.
    """

    record: Json
    trials: tuple[Mapping[str, str], ...]
    folder: Path

    @property
    def refused(self) -> str:
        """Why the defense would not do it; "" if it did."""
        return str(self.record.get("refused", ""))

    def successes(self, arm: str = "poisoned") -> list[bool]:
        """Whether each trial reached its goal, in order."""
        return [row[f"{arm}_success"] == "True" for row in self.trials]


def crafting_of(scale: Scale, poisoning: Poisoning, seed: int) -> Json:
    """Everything that decides poisons, but how many trials there are: the first ones are the same in packs of few and of many, up to rounding."""
    attack, setup = poisoning.attack, scale.setups[poisoning.scenario]
    trigger = scale.triggers.get(attack)
    known, chosen = asdict(poisoning), asdict(setup)
    other = {"outside": chosen.pop("outside")} if known.pop("outside") else {}
    chosen.pop("outside", None), chosen.pop("raw_epochs")
    if poisoning.through_defense == "denoise":  # of which earlier records do not speak
        known.pop("through_defense")
    through: Json = {}
    if poisoning.through is not None:  # of what digits have records do not speak
        through |= {} if scale.through_draws == DRAWS else {"through_draws": scale.through_draws}
        through |= {} if scale.through_dtype == "float32" else {"through_dtype": scale.through_dtype}
    return {
        "poisoning": known | other,
        "setup": chosen,
        "epsilon": scale.epsilon,
        "options": list(scale.options_of(attack, through=poisoning.through is not None)),
        **through,
        "trigger": None if trigger is None else asdict(trigger),
        "seed": seed,
    }


def identity_of(scale: Scale, cell: Cell, seed: int) -> str:
    """A name for everything that decides a cell's outcomes, but how many trials there are and the code: 64 hex digits."""
    crafted, setup = crafting_of(scale, cell.poisoning, seed), scale.setups[cell.poisoning.scenario]
    if cell.start:
        crafted["start"] = [cell.start, setup.outside, setup.raw_epochs]
    if scale.draws is not None and cell.shares_draws:
        crafted["draws"] = scale.draws
    return digest_of({**crafted, "scale": scale.name, "defense": cell.defense, "sigma": cell.sigma, "dtype": scale.dtype})


def folder_of(records: Path, scale: Scale, cell: Cell) -> Path:
    return records / scale.name / cell.poisoning.name / cell.name


def keep(folder: Path, record: Json, about: Json, places: Mapping[str, str]) -> None:
    """Write the record of a finished cell, both files or none.

    Args:
        record: of `certidote replay`.
        about: which cell it is, its identity, seed and command.
        places: folders of this machine, and what to call them instead: where things lay here is nobody's business.
    """
    kept = {name: value for name, value in record.items() if name != "trials"}
    kept["bench"] = {**about, "code": package_digest()}
    folder.mkdir(parents=True, exist_ok=True)
    text = json_text(kept)
    for place, called in places.items():
        text = text.replace(json.dumps(place)[1:-1], called)
    write_texts({folder / TRIALS: csv_text(*replay_table(record)), folder / RECORD: text})


def keep_refusal(folder: Path, reason: str, about: Json) -> None:
    """Write that a defense refused these poisoned sets, and why: that is an outcome too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRIALS).unlink(missing_ok=True)
    record = {"format": "certidote bench refusal", "version": 1, "refused": reason, "bench": {**about, "code": package_digest()}}
    write_texts({folder / RECORD: json_text(record)})


def read(folder: Path) -> Kept | None:
    """The record in a folder, None if there is none.

    Raises: ValueError if it is damaged, which includes that its two files contradict each other.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        whole = all(record["bench"][name] for name in ("identity", "code", "cell"))
        if refused := record.get("refused"):
            rows: tuple[Mapping[str, str], ...] = ()
            whole = whole and isinstance(refused, str) and "finished" not in record
        else:
            rows = tuple(csv.DictReader((folder / TRIALS).read_text(encoding="utf-8").splitlines()))
            whole = whole and len(rows) == record["finished"] > 0 and bool(record["goal"])
            whole = whole and all(_agree(record["results"][arm], arm, rows) for arm in ARMS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(damaged(folder))
    return Kept(record, rows, folder)


def values_of(row: Mapping[str, str]) -> Json:
    """A row of trials.csv as `certidote replay` has it, the values of an arm under the arm's name; what nobody counts with stays text.

    Raises: ValueError or KeyError if it is none.
    """
    found: Json = {name: text for name, text in row.items() if not name.startswith(tuple(f"{arm}_" for arm in ARMS))}
    for arm in ARMS:
        of_arm = {name.removeprefix(f"{arm}_"): text or None for name, text in row.items() if name.startswith(f"{arm}_")}
        shares = {name: None if (text := of_arm[name]) is None else float(text) for name in SHARES}
        found[arm] = of_arm | shares | {"success": {"True": True, "False": False}[str(of_arm["success"])]}
    return found


def _agree(said: Json, arm: str, rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether a record says of an arm what its rows say, up to rounding. Raises: ValueError, KeyError or TypeError if one of them says nothing."""
    reached = [{"True": True, "False": False}[row[f"{arm}_success"]] for row in rows]
    means = {name: sum(float(row[f"{arm}_{name}"]) for row in rows) / len(rows) for name in MEANS}
    return (said["successes"], said["trials"]) == (sum(reached), len(rows)) and all(
        abs(said[name] - mean) <= ROUNDING for name, mean in means.items()
    )


def first_missing(kept: Kept | None, trials: int) -> int:
    """How many of the wanted trials a record has, so that only the others are to do; 0 if there is none, or if it cannot be added to.

    That is so for what defenses say about all trials of a run: which images they removed, or what they prove.

    Raises: ValueError if the record is damaged.
    """
    if kept is None or kept.refused or {"filter", "certified_poisons"} & kept.record.keys() or kept.record["finished"] >= trials:
        return 0
    record = kept.record
    try:
        whole = all(map(_is_row, kept.trials, range(len(kept.trials))))
        whole = whole and all(isinstance(record[name], dict) for name in ("recipe", "victims", "data", "test", "results"))
        whole = whole and all(isinstance(record[name], int | float) for name in ("failed", "seconds_of_workers"))
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(damaged(kept.folder))
    return int(record["finished"])


def damaged(folder: Path) -> str:
    """What is said of a record that cannot be read."""
    return f"the record in {str(folder)!r} is damaged; remove the folder, and run its cell again"


def _is_row(row: Mapping[str, str], trial: int) -> bool:
    """Whether a row is whole. Raises: ValueError, KeyError or TypeError if it is none at all."""
    shares = [float(row[f"{arm}_{name}"] or 0) for arm in ARMS for name in SHARES]
    return row["trial"] == str(trial) and all(0 <= share <= 1 for share in shares)


def is_done(kept: Kept | None, identity: str, trials: int) -> bool:
    """Whether there is nothing left to do.

    Raises: ValueError if the record was made with other settings.
    """
    if kept is None:
        return False
    about = kept.record["bench"]
    if about["identity"] != identity:
        raise ValueError(
            f"{str(kept.folder)!r} holds a record of other settings (seed {about['seed']}); repeat those, give another --records, or "
            "remove it"
        )
    return bool(kept.refused or kept.record["finished"] >= trials)
