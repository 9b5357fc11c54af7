"""CIFAR-10 as released by its authors: the python and the binary version, as the .tar.gz or as the folder that it unpacks to.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, which publishes the MD5 sums of the archives. An archive with another sum is
refused. The sums of single files are not published there; those of the python version are the ones that torchvision checks. A folder is
read whatever its sums are, and a note says whether they are known.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from certidote.data.archive import Member, contents
from certidote.data.checks import MAX_CLASSES, Refused, check_class_names, quoted
from certidote.data.folder import listing
from certidote.data.pickled import read_pickled, text
from certidote.types import ImageDataset

SIDE = 32
PIXELS = 3 * SIDE * SIDE
MAX_BATCH = 64 * 2**20
"""Bytes of one file; the released ones have up to 31 million."""


@dataclass(frozen=True)
class Version:
    """One of the two forms of the release: its archive, MD5 sum and bytes of that, and the names of its files."""

    archive: str
    md5: str
    size: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str


PYTHON = Version(
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    170_498_071,
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    ("test_batch",),
    "batches.meta",
)
BINARY = Version(
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    170_052_171,
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    ("test_batch.bin",),
    "batches.meta.txt",
)

FILE_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}


def is_cifar(root: Path | Member) -> bool:
    """Whether this folder or archive has the layout of a CIFAR-10 release, itself or in its only folder."""
    return _release(root) is not None


def read_cifar(root: Path | Member, split: str) -> ImageDataset:
    """The 32x32 RGB images of one split, in the order of the release, named by file and row: "data_batch_1/00017".

    Args:
        split: "train" or "test".
    Raises: ValueError for another split, an archive whose MD5 sum is not the published one, a missing, damaged or oversized file, or
        a pickle that holds anything but arrays, numbers and text.
    """
    found = _release(root)
    assert found is not None, "asked only where is_cifar"
    version, files = found
    if split not in ("train", "test"):
        raise Refused(f"{quoted(root)} is CIFAR-10 and has no split {split!r}; choose one of: train, test")
    if isinstance(root, Member):
        note = _check_archive(root.archive, version)
    wanted = [*(version.train if split == "train" else version.test), version.names]
    for name in wanted:
        if name not in files:
            raise Refused(f"{quoted(root)} lacks the file {name!r} of the CIFAR-10 release; get it anew")
    content = dict(zip(wanted, _contents([files[name] for name in wanted]), strict=True))
    if not isinstance(root, Member):
        note = _note_on_files(content)
    parse: Callable[[bytes, str], tuple[Any, Any]] = _python_batch if version is PYTHON else _binary_batch
    batches = [parse(content[name], quoted(files[name])) for name in wanted[:-1]]
    class_names = _class_names(content[version.names], version, quoted(files[version.names]))
    images, labels = (np.concatenate([batch[part] for batch in batches]) for part in (0, 1))
    if len(labels) and labels.max() >= len(class_names):
        raise Refused(f"{quoted(root)} has label {labels.max()}, but only {len(class_names)} class names; get it anew")
    names = tuple(f"{name}/{row:05d}" for name, batch in zip(wanted, batches, strict=False) for row in range(len(batch[1])))
    return ImageDataset(torch.from_numpy(images), torch.from_numpy(labels), class_names, names, (note,))


def _release(root: Path | Member) -> tuple[Version, dict[str, Path | Member]] | None:
    if not root.is_dir():
        return None
    for folder in (root, *(entry for entry in listing(root) if entry.is_dir() and entry.name.startswith("cifar-10-batches-"))):
        files = {entry.name: entry for entry in listing(folder) if not entry.is_dir()}
        for version in (PYTHON, BINARY):
            if version.train[0] in files or (version.test[0] in files and version.names in files):
                return version, files
    return None


def _check_archive(path: Path, version: Version) -> str:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != version.md5:
        raise Refused(
            f"archive {quoted(path)} has MD5 sum {found}, but the CIFAR-10 release has {version.md5}; get it anew "
            "('certidote data fetch cifar10'), or unpack it and give the folder if you mean to use other contents"
        )
    return f"CIFAR-10, {version.archive}: MD5 sum {found} as published"


def _note_on_files(content: dict[str, bytes]) -> str:
    sums = {name: hashlib.md5(held, usedforsecurity=False).hexdigest() for name, held in content.items()}
    if all(name in FILE_MD5 for name in sums):
        differing = [name for name in sums if sums[name] != FILE_MD5[name]]
        if not differing:
            return "CIFAR-10 from a folder: every file has the MD5 sum that torchvision checks"
        return f"layout of CIFAR-10, other contents: {', '.join(differing)} differ in MD5 sum from the release"
    return "layout of CIFAR-10 from a folder; MD5 sums are published for the archive only, so these files are not checked"


def _contents(files: list[Path | Member]) -> list[bytes]:
    members = [file for file in files if isinstance(file, Member)]
    if members:
        found = dict(contents(members))
        return [found[row] for row in range(len(members))]
    read = []
    for file in files:
        assert isinstance(file, Path)
        try:
            size = file.stat().st_size if file.is_file() else -1
            if not 0 <= size <= MAX_BATCH:
                raise Refused(f"{quoted(file)} is no regular file of at most {MAX_BATCH:,} bytes; get the release anew")
            read.append(file.read_bytes())
        except OSError as error:
            raise Refused(f"{quoted(file)} cannot be read ({error.strerror}); check its permissions") from error
    return read


def _python_batch(content: bytes, where: str) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int64[np.ndarray, "n"]]:
    batch = read_pickled(content, where)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != PIXELS or not isinstance(labels, list):
        raise Refused(f"{where} holds no 'data' of {PIXELS} bytes for each image with 'labels'; get the release anew")
    if len(data) != len(labels):
        raise Refused(f"{where} holds {len(data)} images but {len(labels)} labels; get the release anew")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise Refused(f"{where}: the label of image {row} is no class number; get the release anew")
    return np.ascontiguousarray(data.reshape(-1, 3, SIDE, SIDE)), np.array(labels, dtype=np.int64)


def _binary_batch(content: bytes, where: str) -> tuple[UInt8[np.ndarray, "n 3 32 32"], Int64[np.ndarray, "n"]]:
    if len(content) % (1 + PIXELS):
        raise Refused(f"{where} has {len(content)} bytes, not {1 + PIXELS} for each image; it is cut off, get the release anew")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 1:].reshape(-1, 3, SIDE, SIDE), records[:, 0].astype(np.int64)


def _class_names(content: bytes, version: Version, where: str) -> tuple[str, ...]:
    if version is PYTHON:
        listed = read_pickled(content, where).get("label_names")
        if not isinstance(listed, list) or not all(isinstance(name, str | bytes) for name in listed):
            raise Refused(f"{where} holds no 'label_names' that are text; get the release anew")
        names = tuple(text(name) for name in listed)
    else:
        names = tuple(line.strip() for line in content.decode("latin-1").splitlines() if line.strip())
    check_class_names(names, where)
    return names
