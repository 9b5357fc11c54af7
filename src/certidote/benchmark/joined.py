"""Records that are made in parts: trials added to those of a record of fewer, as if all had been done at once.

Trial i has streams of its own, whatever it is done with, so parts are what one run gives, up to rounding; but the test images that clean accuracy
leaves out are the targets of a trial's own part. The record says which parts there are, and what made each.
"""

from collections.abc import Mapping

from certidote.benchmark.records import Kept
from certidote.engine.code import package_digest
from certidote.results.replay import ARMS, replay_table, results_of
from certidote.types import Json

OF_PARTS = (
    "objective", "failed", "retrained_alone", "config_digest", "root", "root_source", "seconds_of_workers", "workers", "numerics", "versions",
    "command",
)  # fmt: skip
"""What each part says for itself."""
ALIKE = ("attack", "goal", "classes", "budget", "defense", "models", "draws", "data", "test")
CRAFTED_ALIKE = ("options", "seen_through", "trigger", "trigger_side", "test")
"""What all parts must agree in, of the record and of its recipe."""


def joined(earlier: Kept, record: Json) -> Json:
    """The record of all trials.

    Args:
        earlier: of the first trials.
        record: of `certidote replay`, of those that come next.
    Raises: ValueError, naming the first thing that differs, if the two are no parts of one cell.
    """
    before, recipe = earlier.record, dict(record["recipe"])
    differing = [name for name in ALIKE if before.get(name) != record.get(name)]
    differing += [f"{name} of the attack" for name in CRAFTED_ALIKE if before["recipe"].get(name) != recipe.get(name)]
    if not differing and list(earlier.trials[0]) != replay_table(record)[0]:
        differing = ["columns of trials.csv"]
    if differing:
        raise ValueError(
            f"the record in {str(earlier.folder)!r} has {before['finished']} trials, made with another {differing[0]} than this version's; remove "
            "the folder, and all trials are done again"
        )
    parts = [
        *before.get("parts", [_part(before, before["bench"]["code"], 0)]),
        _part(record, package_digest(), recipe.pop("first_trial")),
    ]
    rows = [*map(_row, earlier.trials), *record["trials"]]
    return {name: value for name, value in record.items() if name not in OF_PARTS} | {
        "recipe": recipe,
        "finished": len(rows),
        "trials_of_pack": len(rows),
        "failed": sum(part["failed"] for part in parts),
        "seconds_of_workers": sum(part["seconds_of_workers"] for part in parts),
        "command": record["command"],
        "results": results_of(rows),
        "parts": parts,
        "trials": rows,
    }


def _part(record: Json, code: str, first: int) -> Json:
    said = {name: record[name] for name in OF_PARTS if name in record}
    return {"first_trial": first, "trials": record["finished"], "code": code, **said}


SHARES = ("reached", "reached_where_right", "lost", "clean_accuracy")


def _row(row: Mapping[str, str]) -> Json:
    """A row of trials.csv as `certidote replay` has it, the values of an arm under the arm's name; what nobody counts with stays text."""
    found: Json = {name: text for name, text in row.items() if not name.startswith(tuple(f"{arm}_" for arm in ARMS))}
    for arm in ARMS:
        of_arm = {name.removeprefix(f"{arm}_"): text or None for name, text in row.items() if name.startswith(f"{arm}_")}
        shares = {name: None if (text := of_arm[name]) is None else float(text) for name in SHARES}
        found[arm] = of_arm | shares | {"success": of_arm["success"] == "True"}
    return found
