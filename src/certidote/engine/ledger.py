"""The ledger of a run: configuration first, then one committed row for each block of members.

A SQLite file. What was committed survives a kill; what was not is worked out again from the same keys. A run under another
configuration is refused with both values, and a second process on the same ledger is locked out.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from certidote.certification.lineage import first_difference
from certidote.engine.jobs import BlockRecord, Job
from certidote.streams import Key, fresh_root
from certidote.types import Ballots, Json, Lineage, Provenance, digest_of

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, votes BLOB NOT NULL, failed BLOB NOT NULL, noise_ids BLOB NOT NULL,
    lineage TEXT NOT NULL, seconds REAL NOT NULL, seconds_viewing REAL NOT NULL
);
"""


class Ledger:
    """One run's configuration, root and votes. Use as a context manager.

    Args:
        path: the SQLite file; made if it does not exist (its folder must).
    Raises: ValueError if the file is not a ledger, is damaged, or is in use by another process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN EXCLUSIVE")
            for statement in _TABLES.strip().split(";\n"):
                self._db.execute(statement)
            self._db.execute("COMMIT")
            verdict = self._db.execute("PRAGMA quick_check").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exception: object) -> None:
        self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text:
                raise ValueError(f"{self.path} is in use by another run; wait for it or give another run directory") from None
            if "full" in text or "disk I/O" in text:
                raise OSError(
                    f"could not write to {self.path} ({text}): the disk is full. Committed members are kept; free space "
                    "and run the same command again to go on"
                ) from None
            raise ValueError(f"{self.path} cannot be used as a ledger ({text}); give another run directory") from None
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is damaged or not a ledger ({error}); restore it from a copy or give another run directory"
            ) from None

    # ------------------------------------------------------------------------------------------------- configuration

    def get(self, name: str) -> Any:
        """A recorded fact, or None."""
        with self._explained():
            row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, name: str, value: Any) -> None:
        """Record a fact once; recording it again is an error of the caller."""
        with self._explained():
            self._db.execute("INSERT INTO meta VALUES (?, ?)", (name, json.dumps(value, allow_nan=False)))

    def configure(self, config: Json) -> None:
        """Record the configuration before anything runs, or check that it is the recorded one.

        Raises: ValueError naming the first entry that differs, with both values.
        """
        recorded = self.get("config")
        if recorded is None:
            self.put("config", config)
        elif recorded != config:
            name, old, new = first_difference(recorded, config)
            raise ValueError(
                f"{self.path.parent} holds a run with {name}={old}, but this command asks for {name}={new}; a certificate's "
                "configuration is fixed before its first model trains. Give another run directory, or the recorded value to go on"
            )

    def key(self, seed: int | None) -> Key:
        """The root of all random streams: drawn from the operating system once the configuration (with the data digest) is
        recorded, unless a seed is given, which makes the run a reproduction.

        Raises: ValueError if the run already has another root.
        """
        if self.get("config") is None:
            raise RuntimeError("the configuration must be recorded before the root is drawn")
        recorded = self.get("root")
        if recorded is None:
            root = fresh_root() if seed is None else seed
            with self._explained():
                self._db.execute("BEGIN IMMEDIATE")
                self.put("root_source", "operating system" if seed is None else "given")
                self.put("root", hex(root))
                self._db.execute("COMMIT")
            return Key(root)
        if seed is not None and hex(seed) != recorded:
            raise ValueError(
                f"{self.path.parent} was started with root {recorded}, but seed {seed} was given; leave the seed out to go on"
            )
        return Key(int(recorded, 16))

    def config_digest(self) -> str:
        return digest_of(self.get("config") or {})

    # --------------------------------------------------------------------------------------------------------- votes

    def commit(self, record: BlockRecord, num_classes: int) -> None:
        """Store one block atomically. The first committed votes of a member stand: committing it again raises."""
        kind = np.uint8 if num_classes <= 256 else np.uint16
        row = (
            record.job.first,
            record.job.last,
            record.votes.astype(kind).tobytes(),
            record.failed.astype(np.uint8).tobytes(),
            record.noise_ids.astype("<i8").tobytes(),
            json.dumps(record.lineage.to_json()),
            record.seconds,
            record.seconds_viewing,
        )
        with self._explained():
            try:
                self._db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise RuntimeError(
                    f"members {row[0]} to {row[1] - 1} have voted already; the first committed votes stand"
                ) from None

    def jobs(self) -> list[Job]:
        """The committed blocks, in order of member numbers."""
        with self._explained():
            return [Job(*row) for row in self._db.execute("SELECT first, last FROM blocks ORDER BY first")]

    def seconds(self) -> tuple[float, float]:
        """Worker seconds spent on all committed blocks, and of these on noising and denoising."""
        with self._explained():
            total, viewing = self._db.execute("SELECT total(seconds), total(seconds_viewing) FROM blocks").fetchone()
        return float(total), float(viewing)

    def ballots(self, num_tests: int, num_classes: int, provenance: Provenance) -> Ballots:
        """The gap-free prefix of members 0, 1, ...; blocks after a gap are left out.

        Raises: ValueError if a row does not have the recorded shape.
        """
        kind = np.dtype(np.uint8 if num_classes <= 256 else np.uint16)
        votes, failed, noise_ids, lineages = [], [], [], set()
        expected = 0
        with self._explained():
            rows = self._db.execute("SELECT first, last, votes, failed, noise_ids, lineage FROM blocks ORDER BY first")
            for first, last, vote_bytes, failed_bytes, noise_bytes, lineage in rows:
                if first != expected:
                    break
                members = last - first
                if (len(vote_bytes), len(failed_bytes), len(noise_bytes)) != (
                    members * num_tests * kind.itemsize,
                    members,
                    8 * members,
                ):
                    raise ValueError(f"{self.path}: members {first} to {last - 1} have a row of the wrong size; it is damaged")
                block = np.frombuffer(vote_bytes, dtype=kind).reshape(members, num_tests)
                if members and block.size and block.max() >= num_classes:
                    raise ValueError(
                        f"{self.path}: members {first} to {last - 1} vote for class {block.max()} of {num_classes}; it is damaged"
                    )
                votes.append(block.astype(np.int64))
                failed.append(np.frombuffer(failed_bytes, dtype=np.uint8).astype(bool))
                noise_ids.append(np.frombuffer(noise_bytes, dtype="<i8").astype(np.int64))
                lineages.add(Lineage.from_json(json.loads(lineage)))
                expected = last
        if not votes:
            raise ValueError(f"{self.path} holds no votes yet")
        return Ballots(
            votes=np.concatenate(votes),
            failed=np.concatenate(failed),
            num_classes=num_classes,
            lineages=tuple(sorted(lineages, key=str)),
            noise_ids=np.concatenate(noise_ids),
            provenance=provenance,
        )
