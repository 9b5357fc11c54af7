"""Files that are either complete or not there: written beside their destination, flushed to the disk, then renamed onto it."""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
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
    target = _target_of(path)
    unfinished = unfinished_beside(target)
    try:
        with _failure_at(path, "it was not written, and what was there is unchanged"):
            with _flushed(unfinished) as file:
                yield file
            os.replace(unfinished, target)
            sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def replace_all(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together, replacing what was there: all content is on the disk before the first file takes its place.

    They take their places in the order given, one right after the other. If the disk fails before that, none is replaced.

    Raises: as `replacing`; the OSError says which file failed, and how many were replaced.
    """
    targets = {path: _target_of(path) for path in contents}
    written: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            written[path] = unfinished_beside(targets[path])
            state = f"none of {len(contents)} files was written, and what was there is unchanged"
            with _failure_at(path, state), _flushed(written[path]) as file:
                file.write(content)
        for done, (path, unfinished) in enumerate(written.items()):
            with _failure_at(path, f"only the first {done} of {len(contents)} files were replaced"):
                os.replace(unfinished, targets[path])
        for folder in {target.parent for target in targets.values()}:
            sync_folder(folder)
    finally:
        for unfinished in written.values():
            unfinished.unlink(missing_ok=True)


def replace_folder(finished: Path, target: Path) -> None:
    """Rename a finished folder onto `target`, in whose place an earlier folder may be: that one is then removed.

    If the disk fails, the earlier folder is put back. Nothing is removed but what was renamed here.

    Raises: OSError; then `finished` and `target` are what they were.
    """
    replaced = unfinished_beside(target)
    try:
        if target.exists():
            os.rename(target, replaced)
        os.rename(finished, target)
        sync_folder(target.parent)
    finally:
        if replaced.exists() and not target.exists():
            os.rename(replaced, target)
        shutil.rmtree(replaced, ignore_errors=True)


def _target_of(path: Path) -> Path:
    """Where a file really goes, links followed. Raises: ValueError as `replacing`."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {str(path)!r}: folder {str(target.parent)!r} does not exist; create it first")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {str(path)!r}: it exists and is no regular file; choose another path")
    return target


@contextmanager
def _flushed(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk when the block ends well. Not tempfile, which keeps the group from reading it whatever the umask."""
    with open(path, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _failure_at(path: Path, state: str) -> Iterator[None]:
    """Errors of the disk name the file that was asked for, and say in which state things are."""
    try:
        yield
    except OSError as error:
        said = error.strerror or f"the disk took a part of it only ({error})"  # numpy and Pillow keep what the system said
        raise OSError(error.errno, f"{said}; {state}", str(path)) from error


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
