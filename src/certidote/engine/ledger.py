"""The ledger of a run: configuration first, then one committed row for each block of members.

A SQLite file. What was committed survives a kill; what was not is worked out again from the same keys. A run under another
configuration is refused with both values. A second driver on the same ledger is locked out; others may read meanwhile.

A kill or a full disk before the first commit leaves a file without tables, or an empty one: a run that has not begun.
"""

import errno
import json
import math
import shutil
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt

from certidote.certification.lineage import first_difference
from certidote.engine.jobs import BlockRecord, Job
from certidote.engine.lock import DriverLock, InUse
from certidote.engine.weights import Kept
from certidote.streams import Key, committed_root, fresh_root
from certidote.types import Ballots, Json, Lineage, Provenance, digest_of

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, votes BLOB NOT NULL, failed BLOB NOT NULL, noise_ids BLOB NOT NULL,
    lineage TEXT NOT NULL, seconds REAL NOT NULL, seconds_viewing REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS parts (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, numerics TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS commits (at REAL NOT NULL, members INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS failures (at REAL NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, traceback TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS weights (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rankings (first INTEGER PRIMARY KEY, ranks BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Part:
    """Members first..last-1 and the numerics they are computed with, recorded before the first of them trained."""

    first: int
    last: int
    numerics: Json

    def __str__(self) -> str:
        return f"members {self.first} to {self.last - 1} on {', '.join(map(str, self.numerics.values()))}"


@dataclass(frozen=True)
class Failure:
    """A job that raised: when (seconds since 1970), whose members, and the traceback."""

    at: float
    first: int
    last: int
    traceback: str


class Ledger:
    """One run's configuration, root and votes. Use as a context manager.

    Args:
        path: the SQLite file; made if it does not exist (its folder must).
        read_only: read what is there, even while a run is writing it; the file must exist.
    Raises: ValueError if the file is not a ledger, is damaged, or is in use by another process.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock: DriverLock | None = None
        self._db: sqlite3.Connection | None = None
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            with self._explained():
                check_journaled_size(path)
                if read_only:
                    self._open_to_read()
                else:
                    self._open_to_write()
                self._check_whole(self.path if self._copy is None else Path(self._copy.name) / self.path.name)
        except BaseException:
            self.__exit__()
            raise

    def _open_to_write(self) -> None:
        self._lock = DriverLock(self.path)
        self._db = sqlite3.connect(self.path, timeout=10.0 if self._lock.held else 1.0, isolation_level=None)
        if not self._lock.held:
            self.db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("BEGIN EXCLUSIVE")
        for statement in _TABLES.strip().split(";\n"):
            self.db.execute(statement)
        self.db.execute("COMMIT")

    def _open_to_read(self) -> None:
        self._db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0, isolation_level=None)
        try:
            self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
            # Killed in the middle of a commit: SQLite must undo it first. Not for us to do here, so it is undone in a copy.
            self.db.close()
            self._copy = tempfile.TemporaryDirectory()
            for name in (self.path.name, f"{self.path.name}-journal"):
                shutil.copyfile(self.path.with_name(name), Path(self._copy.name) / name)
            self._db = sqlite3.connect(Path(self._copy.name) / self.path.name, isolation_level=None)

    def _check_whole(self, file: Path | None) -> None:
        """Raises: sqlite3.DatabaseError if the end of the file is missing, which SQLite would read as zeros, or pages disagree.

        Args:
            file: what was opened; None for a ledger that was unpacked in memory.
        """
        self.db.execute("BEGIN")  # one snapshot: the driver may be writing meanwhile
        try:
            pages = self.db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]
            if file is not None and file.stat().st_size < pages:
                raise sqlite3.DatabaseError(f"{file.stat().st_size} of {pages} bytes are there")
            verdict = self.db.execute("PRAGMA quick_check").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    @property
    def db(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._db is not None:
            self._db.close()
        if self._copy is not None:
            self._copy.cleanup()
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. A transaction that fails (a full disk, say) leaves the ledger as it was."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except InUse:
            raise ValueError(f"{self.path} is in use by another run; wait for it or give another run directory") from None
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text:
                raise ValueError(f"{self.path} is in use by another run; wait for it or give another run directory") from None
            if "full" in text or "disk I/O" in text:
                raise self._disk_full(text) from None
            raise ValueError(f"{self.path} cannot be used as a ledger ({text}); give another run directory") from None
        except OSError as error:
            if error.errno is None:  # a message of ours, from a transaction inside
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._disk_full(str(error.strerror)) from None
            raise ValueError(f"{self.path} cannot be used as a ledger ({error.strerror}); give another run directory") from None
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is damaged or not a ledger ({error}); restore it from a copy or give another run directory"
            ) from None

    def _disk_full(self, reason: str) -> OSError:
        return OSError(
            f"could not write to {self.path} ({reason}): the disk is full. Committed members are kept; free space and run the same "
            "command again to go on"
        )

    # ------------------------------------------------------------------------------------------------- configuration

    def get(self, name: str) -> Any:
        """A recorded fact, or None: also for every fact of a run that was stopped before it began."""
        with self._explained():
            if not self._has("meta"):
                return None
            row = self.db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, name: str, value: Any) -> None:
        """Record a fact once; recording it again is an error of the caller."""
        with self._explained():
            self.db.execute("INSERT INTO meta VALUES (?, ?)", (name, json.dumps(value, allow_nan=False)))

    def replace(self, name: str, value: Any) -> None:
        """Record a fact anew in one step: a kill leaves the earlier one or this one."""
        with self._explained():
            self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value, allow_nan=False)))

    def forget(self, name: str) -> None:
        """Drop a fact, if it is there: for ledgers that are made of others."""
        with self._explained():
            self.db.execute("DELETE FROM meta WHERE name = ?", (name,))

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
        recorded, and bound to it, unless a seed is given, which makes the run a reproduction.

        Raises: ValueError if the run already has another root.
        """
        if self.get("config") is None:
            raise RuntimeError("the configuration must be recorded before the root is drawn")
        recorded = self.get("root")
        if recorded is None:
            secret = fresh_root()
            root = committed_root(secret, self.config_digest()) if seed is None else seed
            with self._explained(), self._transaction():
                self.put("root_source", "operating system" if seed is None else "given")
                if seed is None:
                    self.put("root_secret", hex(secret))
                self.put("root", hex(root))
            return Key(root)
        if seed is not None and hex(seed) != recorded:
            raise ValueError(
                f"{self.path.parent} was started with root {recorded}, but seed {seed} was given; leave the seed out to go on"
            )
        return Key(int(recorded, 16))

    def config_digest(self) -> str:
        return digest_of(self.get("config") or {})

    # --------------------------------------------------------------------------------------------------------- votes

    def commit(self, record: BlockRecord, num_classes: int, kept: Kept | None = None) -> None:
        """Store one block atomically, with the digest of its weights if they are kept.

        The first committed votes of a member stand: committing it again raises.
        """
        self.commit_all([record], num_classes, [] if kept is None else [kept])

    def commit_all(self, records: Sequence[BlockRecord], num_classes: int, kept: Sequence[Kept] = ()) -> None:
        """Store several blocks, with the digests of their weights, in one transaction, which waits for the disk once.

        All are stored, or none.
        """
        with self._explained(), self._transaction():
            for record in records:
                first, last = record.job.first, record.job.last
                before = self.db.execute("SELECT last FROM blocks WHERE first < ? ORDER BY first DESC LIMIT 1", (last,)).fetchone()
                if before is not None and before[0] > first:
                    raise RuntimeError(f"members {first} to {last - 1} have voted already; the first committed votes stand")
                self._insert(record, num_classes)
            for each in kept:
                self._put_kept(each)
            members = sum(record.job.last - record.job.first for record in records)
            self.db.execute("INSERT INTO commits VALUES (?, ?)", (time.time(), members))

    def _insert(self, record: BlockRecord, num_classes: int) -> None:
        kind = _kind(num_classes)
        row = (
            record.job.first,
            record.job.last,
            *_evidence(record, num_classes),
            json.dumps(record.lineage.to_json()),
            record.seconds,
            record.seconds_viewing,
        )
        self.db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        if record.ranks is not None:
            self.db.execute("INSERT INTO rankings VALUES (?, ?)", (record.job.first, record.ranks.astype(kind).tobytes()))

    def fail(self, job: Job, traceback: str) -> None:
        """Keep the traceback of a job that raised."""
        with self._explained():
            self.db.execute("INSERT INTO failures VALUES (?, ?, ?, ?)", (time.time(), job.first, job.last, traceback))

    def failures(self) -> list[Failure]:
        """Every job that raised, oldest first; it may have been done since."""
        with self._explained():
            return [Failure(*row) for row in self.db.execute("SELECT at, first, last, traceback FROM failures ORDER BY at")]

    def commits(self, most: int) -> list[tuple[float, int]]:
        """When (seconds since 1970) how many members were committed: the latest transactions, oldest first."""
        with self._explained():
            rows = self.db.execute("SELECT at, members FROM commits ORDER BY rowid DESC LIMIT ?", (most,)).fetchall()
        return [(float(at), int(members)) for at, members in reversed(rows)]

    # --------------------------------------------------------------------------------------------------------- parts

    def _has(self, table: str) -> bool:
        """Whether there is such a table: ledgers of earlier releases, opened to be read only, may lack some."""
        return self.db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone() is not None

    def parts(self) -> list[Part]:
        """Who computes which members, in order of member numbers."""
        with self._explained():
            if not self._has("parts"):
                return []
            rows = self.db.execute("SELECT first, last, numerics FROM parts ORDER BY first").fetchall()
        return [Part(first, last, json.loads(numerics)) for first, last, numerics in rows]

    def add_parts(self, parts: Sequence[Part]) -> None:
        with self._explained(), self._transaction():
            rows = [(part.first, part.last, json.dumps(part.numerics)) for part in parts]
            self.db.executemany("INSERT INTO parts VALUES (?, ?, ?)", rows)

    # ------------------------------------------------------------------------------------------------------- weights

    def check_repeated(self, record: BlockRecord, num_classes: int) -> None:
        """Whether a block trained again, for its weights, is the committed one.

        Raises: ValueError if votes, failures or noise differ: other versions of the software, or another machine.
        """
        with self._explained():
            row = self.db.execute(
                "SELECT votes, failed, noise_ids FROM blocks WHERE first = ? AND last = ?", (record.job.first, record.job.last)
            ).fetchone()
        if row != _evidence(record, num_classes):
            raise ValueError(
                f"members {record.job.first} to {record.job.last - 1}, trained again for their weights, vote otherwise than was "
                "committed (other versions of the software, or another machine). The committed votes stand, without weights; for a "
                "run with weights give another run directory"
            )

    def keep(self, kept: Kept) -> None:
        """Record the weights of a block that was committed without them, or whose file was lost."""
        with self._explained():
            self._put_kept(kept)

    def _put_kept(self, kept: Kept) -> None:
        row = (kept.job.first, kept.job.last, kept.sha256, kept.size)
        self.db.execute("INSERT OR REPLACE INTO weights VALUES (?, ?, ?, ?)", row)

    def kept(self) -> list[Kept]:
        """The blocks whose weights are kept, in order of member numbers."""
        with self._explained():
            rows = self.db.execute("SELECT first, last, sha256, bytes FROM weights ORDER BY first").fetchall()
        return [Kept(Job(first, last), sha256, size) for first, last, sha256, size in rows]

    def jobs(self) -> list[Job]:
        """The committed blocks, in order of member numbers."""
        with self._explained():
            return [Job(*row) for row in self.db.execute("SELECT first, last FROM blocks ORDER BY first")]

    def voted(self) -> int:
        """Committed members."""
        with self._explained():
            return int(self.db.execute("SELECT total(last - first) FROM blocks").fetchone()[0])

    def seconds(self) -> tuple[float, float]:
        """Worker seconds spent on all committed blocks, and of these on noising and denoising."""
        with self._explained():
            total, viewing = self.db.execute("SELECT total(seconds), total(seconds_viewing) FROM blocks").fetchone()
        return float(total), float(viewing)

    def ballots(self, num_tests: int, num_classes: int, provenance: Provenance) -> Ballots:
        """The gap-free prefix of members 0, 1, ...; blocks after a gap are left out.

        Raises: ValueError if a row does not have the recorded shape.
        """
        kind = _kind(num_classes)
        members = self.gap_free()
        if not members:
            raise ValueError(f"{self.path} holds no votes yet")
        votes = np.empty((members, num_tests), dtype=kind)
        failed, noise_ids, lineages = np.empty(members, dtype=bool), np.empty(members, dtype=np.int64), set()
        with self._explained():
            rows = self.db.execute(
                "SELECT first, last, votes, failed, noise_ids, lineage FROM blocks WHERE last <= ? ORDER BY first", (members,)
            )
            for first, last, vote_bytes, failed_bytes, noise_bytes, lineage in rows:
                number = last - first
                if (len(vote_bytes), len(failed_bytes), len(noise_bytes)) != (
                    number * num_tests * kind.itemsize,
                    number,
                    8 * number,
                ):
                    raise ValueError(f"{self.path}: members {first} to {last - 1} have a row of the wrong size; it is damaged")
                votes[first:last] = np.frombuffer(vote_bytes, dtype=kind).reshape(number, num_tests)
                failed[first:last] = np.frombuffer(failed_bytes, dtype=np.uint8)
                noise_ids[first:last] = np.frombuffer(noise_bytes, dtype="<i8")
                lineages.add(Lineage.from_json(json.loads(lineage)))
                highest = int(votes[first:last].max(initial=0))
                if highest >= num_classes:
                    raise ValueError(
                        f"{self.path}: members {first} to {last - 1} vote for class {highest} of {num_classes}; it is damaged"
                    )
        return Ballots(
            votes=votes,
            failed=failed,
            num_classes=num_classes,
            lineages=tuple(sorted(lineages, key=str)),
            noise_ids=noise_ids,
            provenance=provenance,
            ranks=self._ranks(votes, failed, num_classes),
        )

    def gap_free(self) -> int:
        """How many members have voted without a gap from member 0 on."""
        members = 0
        for job in self.jobs():
            if job.first != members:
                break
            members = job.last
        return members

    def _ranks(
        self, votes: Integer[np.ndarray, "members n_test"], failed: Bool[np.ndarray, "members"], num_classes: int
    ) -> UInt[np.ndarray, "members n_test classes"] | None:
        """The members' rankings of the classes, if they were kept, checked against the votes of all that did not fail."""
        with self._explained():
            if not self._has("rankings") or self.db.execute("SELECT first FROM rankings LIMIT 1").fetchone() is None:
                return None
            ranks = np.empty((*votes.shape, num_classes), dtype=votes.dtype)
            rows = self.db.execute(
                "SELECT first, last, ranks FROM blocks LEFT JOIN rankings USING (first) WHERE last <= ?", (len(votes),)
            )
            for first, last, found in rows:
                shape = ranks[first:last].shape
                if found is None or len(found) != math.prod(shape) * ranks.itemsize:
                    raise ValueError(
                        f"{self.path}: members {first} to {last - 1} lack rankings of the recorded shape; it is damaged"
                    )
                ranks[first:last] = np.frombuffer(found, dtype=ranks.dtype).reshape(shape)
        if not np.array_equal(ranks.argmin(axis=2)[~failed], votes[~failed]):
            raise ValueError(f"{self.path}: rankings and votes disagree about first choices; it is damaged")
        return ranks


JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")


def check_journaled_size(path: Path) -> None:
    """Whether the file is as long as its journal says it was before the transaction that a kill cut off.

    To undo that transaction SQLite would fill what is missing with zeros.

    Raises: sqlite3.DatabaseError if the file is shorter.
    Source: the SQLite documentation, "Database File Format", section 3, "The Rollback Journal".
    """
    try:
        with open(path.with_name(f"{path.name}-journal"), "rb") as journal:
            header = journal.read(28)
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):  # no journal, or no ledger yet
        return
    if len(header) == 28 and header.startswith(JOURNAL_MAGIC):
        pages, _, page_size = struct.unpack(">III", header[16:28])
        if size < pages * page_size:
            raise sqlite3.DatabaseError(f"{size} of {pages * page_size} bytes are there")


def _kind(num_classes: int) -> np.dtype[Any]:
    """The smallest number format that holds a class index."""
    return np.dtype(np.uint8 if num_classes <= 256 else np.uint16)


def _evidence(record: BlockRecord, num_classes: int) -> tuple[bytes, bytes, bytes]:
    """Votes, failures and noise identities as they are stored."""
    kind = _kind(num_classes)
    failed, noise_ids = record.failed.astype(np.uint8), record.noise_ids.astype("<i8")
    return record.votes.astype(kind).tobytes(), failed.tobytes(), noise_ids.tobytes()
