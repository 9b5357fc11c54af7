"""One driver for each ledger: a lock that dies with its process, and lets others read the ledger meanwhile."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows; the ledger then locks readers out too
    fcntl = None  # type: ignore[assignment]

PATIENCE = 0.2
"""Seconds to wait for the lock: somebody who only asks whether it is taken holds it for a moment."""


class InUse(Exception):
    """Another driver holds the lock."""


class DriverLock:
    """The right to write one ledger, held until `release` or the end of the process. The file beside the ledger is removed then.

    Attributes:
        held: False where the system has no such locks (Windows, some network file systems).
    Raises: InUse if another driver holds it; OSError if the file cannot be made.
    """

    def __init__(self, ledger: Path) -> None:
        self._path = _beside(ledger)
        self._file: int | None = None
        deadline = time.monotonic() + PATIENCE
        while fcntl is not None and self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                if time.monotonic() >= deadline:
                    raise InUse(str(ledger)) from None
                time.sleep(0.02)
                continue
            except OSError:
                os.close(file)
                break
            if self._is_current(file):
                self._file = file
            else:  # its last holder removed it between our opening and locking it
                os.close(file)

    @property
    def held(self) -> bool:
        return self._file is not None

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


@contextmanager
def alone(place: Path, doing: str, called: Path | None = None) -> Iterator[None]:
    """The right to write here while the block lasts.

    Args:
        called: what the message names instead of `place`.
    Raises: ValueError if another process has it, saying what it is doing.
    """
    try:
        lock = DriverLock(place)
    except InUse:
        raise ValueError(f"another process is {doing} in {str(called or place)!r}; wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


def in_use(ledger: Path) -> bool:
    """Whether a driver is at work on this ledger now. Changes nothing."""
    if fcntl is None:
        return False
    try:
        file = os.open(_beside(ledger), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _beside(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.lock")
