"""`status` and `merge`: what became of a run, and one certificate from the runs of several machines."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certidote.verbs.choices import check_directory, make_directory

if TYPE_CHECKING:
    from certidote.engine.ledger import Failure, Part

LATEST_COMMITS = 20
"""The rate is that of the latest transactions."""


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes:
        stage: "prepared", "training", "stopped", "ready" (all have voted, no certificate yet), "certified" or "not proved".
        voted, assigned, members: members that have voted, that belong to this ledger, and of the whole certificate.
        rate: members per second over the latest commits; None without two of them.
        idle: seconds since the latest commit; None without one.
        proved: whether certificate.json holds a certificate; None without that file.
        in_use: a driver is at work on it now.
        parts: who computes which members.
        failures: jobs that raised, oldest first.
        configuration: as recorded before the first member trained.
    """

    run: Path
    stage: str
    voted: int
    assigned: int
    members: int
    rate: float | None
    idle: float | None
    proved: bool | None
    in_use: bool
    parts: "tuple[Part, ...]"
    failures: "tuple[Failure, ...]"
    configuration: dict[str, Any]


@dataclass(frozen=True)
class Merged:
    """A merged ledger: where it lies, and how many of the certificate's members have voted in it."""

    out: Path
    voted: int
    members: int


def status(run: Annotated[Path, typer.Argument(help="a run directory")]) -> Status:
    """Say where RUN stands: models done, rate, whether anything is proved yet, configuration. Changes nothing, even in a live run."""
    import time

    from certidote.engine.ledger import Ledger
    from certidote.engine.lock import in_use

    path = run / "ledger.sqlite"
    if not path.is_file():
        raise ValueError(f"{run} holds no ledger.sqlite; give the run directory of a 'certidote certify'")
    with Ledger(path, read_only=True) as ledger:
        config = ledger.get("config")
        if config is None:
            raise ValueError(f"{path} has no configuration: its run stopped before it began; start it again")
        voted, parts, failures, commits = ledger.voted(), ledger.parts(), ledger.failures(), ledger.commits(LATEST_COMMITS)
    members = _members(config)
    assigned = sum(part.last - part.first for part in parts)
    proved = _proved(run / "certificate.json")
    busy = in_use(path)
    if busy:
        stage = "training"
    elif proved is not None:
        stage = "certified" if proved else "not proved"
    elif voted == members:
        stage = "ready"
    else:
        stage = "stopped" if parts else "prepared"
    rate = None
    if len(commits) > 1 and commits[-1][0] > commits[0][0]:
        rate = sum(members for _, members in commits[1:]) / (commits[-1][0] - commits[0][0])
    idle = max(0.0, time.time() - commits[-1][0]) if commits else None
    return Status(run, stage, voted, assigned, members, rate, idle, proved, busy, tuple(parts), tuple(failures), config)


def merge(
    runs: Annotated[list[Path], typer.Argument(help="run directories that share one configuration and root")],
    *,
    out: Annotated[Path, typer.Option(help="new run directory for the merged ledger")],
) -> Merged:
    """Merge the ledgers of machines that shared one certificate. Then run the same 'certidote certify' with the merged --out."""
    from certidote.engine.ledger import Ledger
    from certidote.engine.merging import merge_ledgers

    check_directory(out)
    made = not out.exists()
    make_directory(out)
    try:
        voted = merge_ledgers([run / "ledger.sqlite" for run in runs], out / "ledger.sqlite")
    except BaseException:
        if made:
            out.rmdir()
        raise
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        return Merged(out, voted, _members(ledger.get("config")))


def _members(config: dict[str, Any]) -> int:
    """Of the whole certificate."""
    scheme = config["scheme"]
    return (int(scheme.get("n0", 0)) + int(scheme.get("n", 0))) * int(scheme.get("parts", 1))


def _proved(path: Path) -> bool | None:
    import json

    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["proved"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
