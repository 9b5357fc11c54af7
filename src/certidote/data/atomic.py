"""Files that are either complete or not there: written beside their destination, flushed to the disk, then renamed onto it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write; it becomes `path` when the block ends well, replacing what was there.

    If the block or the disk fails (disk full, quota, interruption), the new file is removed and `path` stays as it was. A link is
    followed. After a power cut `path` holds either all of the old or all of the new content.

    Raises: ValueError if the folder does not exist or `path` is something else than a file (a folder, a device); OSError, saying
        that nothing was changed, if the disk fails.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {str(path)!r}: folder {str(target.parent)!r} does not exist; create it first")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {str(path)!r}: it exists and is no regular file; choose another path")
    unfinished = unfinished_beside(target)
    try:
        with open(unfinished, "xb") as file:  # not tempfile, which keeps the group from reading whatever the umask says
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
        sync_folder(target.parent)
    except OSError as error:
        message = f"{error.strerror or error}; nothing was written, and what was there is unchanged"
        raise OSError(error.errno, message, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def unfinished_beside(target: Path) -> Path:
    """An unused hidden name in the same folder, hence on the same disk: renaming it onto `target` is one step."""
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.unfinished")


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can (Windows and some network disks cannot)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
