"""Decoded image sets, kept so that 60,000 files are decoded once and then mapped into memory.

One folder for each set below the cache, named by a fingerprint of everything that decides the arrays: the files' names, sizes and
times of change, the options of reading, and the versions of the decoders. It holds images.npy (mapped when read, and shared by all
processes that do) and about.json (labels, names, notes, the data set's digest, and a hash of all this; both are checked each time). It
appears whole or not at all, is readable by its owner only, and its loss costs time and nothing else.

The cache is ~/.cache/certidote, or what the environment variable CERTIDOTE_CACHE names; "off" turns it off.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import features

from certidote.data.decode import Reading
from certidote.data.folder import Loaded
from certidote.types import ImageDataset, Json

VERSION = 2
"""Of what is kept; a release that decodes differently raises it."""

LEAST_IMAGES = 2_000
"""Fewer are decoded each time: it takes less than a second, and the cache stays small."""

MOST_BYTES, LEAST_FREE = 8 * 2**30, 0.1
"""Of all sets together: when another is added, those longest unused go. And the share of the disk that must stay free."""

VARIABLE = "CERTIDOTE_CACHE"


def cached(source: Path, split: str, reading: Reading, read: Callable[[], Loaded]) -> Loaded:
    """What `read` gives, from the cache if these files were read before.

    Nothing that goes wrong with the cache is an error: then the files are decoded.

    Args:
        source: folder or archive of images.
        split: of it, and `reading`: how; both as they go into `read`.
    """
    folder = _folder()
    fingerprint = None if folder is None else _fingerprint(source, split, reading)
    if folder is None or fingerprint is None:
        return read()
    place = folder / fingerprint
    found = _kept(place)
    if found is None:
        found = read()
        if len(found.data) >= LEAST_IMAGES and _fingerprint(source, split, reading) == fingerprint:  # not changed meanwhile
            _keep(found, folder, place)
    return found


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE, "")
    if named.lower() == "off":
        return None
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "certidote"
    try:
        return base.expanduser() / "decoded"
    except RuntimeError:  # there is no such home
        return None


def _fingerprint(source: Path, split: str, reading: Reading) -> str | None:
    """64 hex digits; None if the files cannot be listed.

    The time of modification can be set to anything, and copies keep it; the system alone sets the time of change, also when the right
    to read a file is taken away.
    """
    decoders = {name: features.version(name) for name in ("jpg", "zlib", "webp", "libjpeg_turbo")}
    known = [VERSION, PIL.__version__, decoders, str(source.resolve()), split, list(reading.size or ()), reading.skip_corrupt]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    try:
        for path, status in _files(source):
            state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino)
            digest.update(f"{path}\0{state}\n".encode(errors="surrogateescape"))
    except OSError:
        return None
    return digest.hexdigest()


def _files(source: Path) -> list[tuple[str, os.stat_result]]:
    """Every file below a folder, links included, in sorted order; or the archive itself."""
    if not source.is_dir():
        return [("", source.stat())]
    found: list[tuple[str, os.stat_result]] = []
    waiting = [str(source)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found.append((entry.path, entry.stat()))
                    if entry.is_dir():  # a link to a folder, whose files may change unseen
                        raise OSError(f"{entry.path} is a link to a folder")
    return sorted(found, key=lambda item: item[0])


def _kept(place: Path) -> Loaded | None:
    """What this user kept there, if it is whole."""
    try:
        if hasattr(os, "getuid") and place.stat().st_uid != os.getuid():
            return None
        kept = json.loads((place / "about.json").read_text(encoding="utf-8"))
        about = kept["about"]
        images = np.load(place / "images.npy", mmap_mode="c", allow_pickle=False)
        data = ImageDataset(
            torch.from_numpy(images),
            torch.tensor(about["labels"], dtype=torch.int64),
            tuple(about["class_names"]),
            None if about["names"] is None else tuple(about["names"]),
            tuple(about["notes"]),
        )
        if images.dtype != np.uint8 or data.digest() != about["digest"] or _hashed(about) != kept["sha256"]:
            raise ValueError("not what was written")
        sizes = {(height, width): count for height, width, count in about["sizes"]}
        loaded = Loaded(data, about["kinds"], sizes, tuple((name, reason) for name, reason in about["skipped"]))
        os.utime(place)  # when it was last used
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        shutil.rmtree(place, ignore_errors=True)
        return None
    return loaded


def _hashed(about: Json) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _keep(found: Loaded, folder: Path, place: Path) -> None:
    """Write beside the place and rename; a full disk or a missing right is no reason to stop."""
    data = found.data
    about: Json = {
        "labels": data.labels.tolist(),
        "class_names": list(data.class_names),
        "names": None if data.names is None else list(data.names),
        "notes": list(data.notes),
        "kinds": found.kinds,
        "sizes": [[*size, count] for size, count in found.sizes.items()],
        "skipped": [list(each) for each in found.skipped],
        "digest": data.digest(),
    }
    beside = None
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        needed = data.images.numel()
        if needed > MOST_BYTES or shutil.disk_usage(folder).free - needed < LEAST_FREE * shutil.disk_usage(folder).total:
            return
        _make_room(folder, MOST_BYTES - needed)
        beside = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder))  # readable by its owner only
        np.save(beside / "images.npy", data.images.numpy())
        (beside / "about.json").write_text(json.dumps({"about": about, "sha256": _hashed(about)}), encoding="utf-8")
        os.rename(beside, place)
    except (OSError, UnicodeError):
        return
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _make_room(folder: Path, most: int) -> None:
    """Remove sets, longest unused first, until they take at most so many bytes."""
    sets = sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=lambda entry: entry.stat().st_mtime)
    taken = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in sets}
    for entry in sets:
        if sum(taken.values()) <= most:
            return
        shutil.rmtree(entry, ignore_errors=True)
        del taken[entry]
