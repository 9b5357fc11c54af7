"""Two ledgers of one certificate become one: the same configuration and root, no member twice."""

import os
import shutil
from pathlib import Path

from certidote.certification.lineage import first_difference
from certidote.engine.ledger import Ledger, Part


def merge_ledgers(sources: list[Path], target: Path) -> int:
    """Copy every row of `sources` into a new ledger.

    Args:
        sources: two or more ledgers; none may be in use.
        target: a file that does not exist yet, in a folder that does. Written whole or not at all.
    Returns: the members that have voted in the merged ledger.
    Raises: ValueError if there are fewer than two sources, one is not a ledger or in use, configurations or roots differ (both values
        shown), a member is in two of them, or members of different numerics were not assigned beforehand.
    """
    if len(sources) < 2:
        raise ValueError(f"{len(sources)} run given; merging takes at least 2")
    if target.exists():
        raise ValueError(f"{target} exists already; give another directory to merge into")
    for source in sources:
        if not source.is_file():
            raise ValueError(f"{source.parent} holds no ledger; give run directories of 'certidote certify'")
        with Ledger(source):  # locks it for a moment, and checks it
            pass
    draft = target.with_name(f"{target.name}.draft")
    draft.unlink(missing_ok=True)
    try:
        shutil.copyfile(sources[0], draft)
        with Ledger(draft) as merged:
            _check_started(merged, sources[0])
            for source in sources[1:]:
                with Ledger(source) as other:
                    _check(merged, sources[0], other, source)
                    _take_facts(merged, other)
                _copy_rows(merged, source)
            voted = merged.voted()
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return voted


def _take_facts(merged: Ledger, other: Ledger) -> None:
    """What only one of them knows; a failed self-check always counts. How a part came to an end says nothing about the whole."""
    for name in ("retrained", "test_images"):
        ours, theirs = merged.get(name), other.get(name)
        if theirs is not None and (ours is None or (name == "retrained" and theirs["differing"] > 0)):
            merged.forget(name)
            merged.put(name, theirs)
    merged.forget("completed")


def _check_started(ledger: Ledger, path: Path) -> None:
    if ledger.get("config") is None or ledger.get("root") is None:
        raise ValueError(
            f"{path.parent} was never started: its ledger has no configuration; give run directories of 'certidote certify'"
        )


def _check(merged: Ledger, first: Path, other: Ledger, path: Path) -> None:
    _check_started(other, path)
    left, right = merged.get("config"), other.get("config")
    if left != right:
        name, one, two = first_difference(left, right)
        raise ValueError(
            f"{first.parent} was run with {name}={one}, but {path.parent} with {name}={two}; only ledgers of one configuration make one "
            "certificate"
        )
    for name in ("root", "root_source"):
        if merged.get(name) != other.get(name):
            raise ValueError(
                f"{first.parent} has {name} {merged.get(name)}, but {path.parent} has {other.get(name)}; machines that share a certificate "
                "start from copies of one prepared run (certidote certify --prepare)"
            )
    _check_parts(merged.parts(), other.parts(), path)


def _check_parts(ours: list[Part], theirs: list[Part], path: Path) -> None:
    for part in theirs:
        for known in ours:
            if part.first < known.last and known.first < part.last:
                raise ValueError(
                    f"{path.parent} was assigned {part.first}:{part.last}, a ledger before it {known.first}:{known.last}; who computes a "
                    "member must be fixed before anybody votes: give each machine its own --members"
                )


def _copy_rows(merged: Ledger, source: Path) -> None:
    """Every table but the facts, which are the same; whatever columns they have."""
    merged.db.execute("ATTACH ? AS other", (str(source),))
    tables = [
        row[0]
        for row in merged.db.execute("SELECT name FROM other.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        if row[0] != "meta"
    ]
    merged.db.execute("BEGIN IMMEDIATE")
    for table in tables:
        merged.db.execute(f'INSERT INTO main."{table}" SELECT * FROM other."{table}"')
    merged.db.execute("COMMIT")
    merged.db.execute("DETACH other")
