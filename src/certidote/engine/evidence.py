"""A finished run's ledger as evidence: opened to be read, never written, plain or compressed."""

import lzma
import sqlite3
from pathlib import Path

from certidote.data import xz
from certidote.data.atomic import replacing
from certidote.data.checks import check_ratio
from certidote.engine.ledger import Ledger, check_journaled_size

LEDGER = "ledger.sqlite"
COMPRESSED = "ledger.sqlite.xz"
MAX_UNPACKED = 2**32
"""Bytes of a ledger that is unpacked in memory."""

PIECE = 2**20


class Evidence(Ledger):
    """The ledger of a run directory, `ledger.sqlite` or `ledger.sqlite.xz`, or such a file itself. Use as a context manager.

    Nothing is written: recording a fact or a vote raises. A compressed ledger is unpacked in memory.

    Raises: ValueError if there is none, it is damaged, unpacks to more than a ledger has, or a run was interrupted while it wrote.
    """

    def __init__(self, run: Path) -> None:
        self.path, self._lock, self._copy = _ledger_in(run), None, None
        with self._explained():
            check_journaled_size(self.path)
            if self.path.suffix == ".xz":
                self._db = sqlite3.connect(":memory:", isolation_level=None)
                self._db.deserialize(self._unpacked())
            else:
                self._db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            self._db.execute("PRAGMA query_only=ON")
            self._check_whole(None if self.path.suffix == ".xz" else self.path)
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"meta", "blocks"} <= tables:
                raise sqlite3.DatabaseError("it has no votes")

    def _unpacked(self) -> bytes:
        """What the file packs, and no more of it than a ledger has: it may come from a stranger."""
        packed, pieces, total = self.path.stat().st_size, [], 0
        try:
            with open(self.path, "rb") as file, xz.Unpacked(file) as stream:
                while piece := stream.read(PIECE):
                    pieces.append(piece)
                    total += len(piece)
                    check_ratio(total, packed, f"compressed ledger {str(self.path)!r}", "votes")
                    if total > MAX_UNPACKED:
                        raise ValueError(
                            f"compressed ledger {str(self.path)!r} unpacks to more than {MAX_UNPACKED:,} bytes; unpack it yourself ('xz -d') "
                            "if you trust it"
                        )
        except lzma.LZMAError as error:
            raise sqlite3.DatabaseError(str(error)) from None
        return b"".join(pieces)


def pack(ledger: Path, target: Path) -> None:
    """Write a finished ledger compressed, for keeping: `target` appears complete or not at all, and is never written twice.

    Raises: ValueError if `target` exists or `ledger` is no whole ledger.
    """
    if target.exists():
        raise ValueError(f"{target} exists; a kept ledger is written once: give another path")
    with Evidence(ledger) as evidence:
        content = evidence.db.serialize()
    with replacing(target) as file:
        file.write(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def _ledger_in(run: Path) -> Path:
    if run.is_file():
        return run
    for name in (LEDGER, COMPRESSED):
        if (run / name).is_file():
            return run / name
    if not run.exists():
        raise ValueError(f"there is no run at {run}; give the directory of a finished 'certidote certify'")
    raise ValueError(f"{run} holds neither {LEDGER} nor {COMPRESSED}; give the directory of a finished 'certidote certify'")
