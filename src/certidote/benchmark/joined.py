"""Records that are made in parts: trials added to those of a record of fewer, as if all had been done at once.

Trial i has streams of its own, whatever it is done with, so that on one machine parts are what one run gives, up to rounding; but the test images that
clean accuracy leaves out are the targets of a trial's own part. The record says which parts there are, and what made each.
"""

from certidote.attacks.pack import PoisonPack
from certidote.benchmark.records import Kept, values_of
from certidote.engine.code import package_digest
from certidote.results.replay import replay_table, results_of
from certidote.types import Json

OF_PARTS = (
    "recipe", "victims", "objective", "failed", "retrained_alone", "config_digest", "root", "root_source", "seconds_of_workers", "workers",
    "numerics", "versions", "command",
)  # fmt: skip
"""What each part says for itself."""
OF_ATTACKS = ("options", "seen_through", "trigger", "trigger_side", "trigger_amplitude")
"""What poisons of all parts must agree in."""


def check_poisons(earlier: Kept, pack: PoisonPack) -> None:
    """Whether these poisons come next to those of a record, before anybody learns from them. Raises: ValueError if not, naming what differs."""
    recipe, other = pack.recipe, earlier.record["recipe"]
    differing = [name for name in OF_ATTACKS if recipe.get(name) != other.get(name)]
    pairs = {
        "training set": (pack.data.digest, earlier.record["data"]["digest"]),
        "set of test images": (recipe["test"]["digest"], earlier.record["test"]["digest"]),
        "attack": (recipe["attack"], earlier.record["attack"]),
    }
    differing += [name for name, (one, two) in pairs.items() if one != two]
    if differing:
        raise ValueError(_otherwise(earlier, differing[0]))
    if pack.first_trial != earlier.record["finished"]:
        raise ValueError(
            f"{str(earlier.folder)!r} has {earlier.record['finished']} trials by now; repeat the command to add to these"
        )


def joined(earlier: Kept, record: Json) -> Json:
    """The record of all trials.

    Args:
        earlier: of the first trials.
        record: of `certidote replay`, of those that come next: `check_poisons` holds.
    Raises: ValueError, naming the first thing that differs, if the two are no parts of one cell.
    """
    before = earlier.record
    pairs = {name: (before.get(name), record.get(name)) for name in ("goal", "budget", "defense", "models", "draws")}
    pairs["training of victims"] = (_of_victims(before), _of_victims(record))
    pairs["header of trials.csv"] = (list(earlier.trials[0]), replay_table(record)[0])
    for name, (one, two) in pairs.items():
        if one != two:
            raise ValueError(_otherwise(earlier, name))
    parts = [*before.get("parts", [_part(before, before["bench"]["code"], 0)]), _part(record, package_digest(), before["finished"])]
    rows = [*map(values_of, earlier.trials), *record["trials"]]
    return {name: value for name, value in record.items() if name not in OF_PARTS} | {
        "recipe": {name: value for name, value in record["recipe"].items() if name != "first_trial"},
        "victims": record["victims"],
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


def _of_victims(record: Json) -> Json:
    """How they learn; an extractor that was trained on another machine is another one, bit by bit."""
    return {name: value for name, value in record["victims"].items() if name != "extractor"}


def _otherwise(earlier: Kept, what: str) -> str:
    return (
        f"the record in {str(earlier.folder)!r} has {earlier.record['finished']} trials with another {what} than this version has here; remove "
        "the folder, and all trials are done again"
    )
