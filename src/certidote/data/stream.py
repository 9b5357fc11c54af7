"""A data set as blocks of rows, so that a million images need no more memory than a thousand.

A folder is walked twice. `survey` decodes every file once, checks what `read_folder` checks and computes the digest that
`ImageDataset.digest` would have; afterwards each `FilesPart` decodes one block and compares it with what was surveyed.
Arrays (.npz, digits) are in memory already and are cut into the same blocks. What grows with the set is its list of file names and
labels, some hundred bytes an image.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from certidote.data.decode import (
    Corrupt,
    Reading,
    Treatment,
    batches_decoded,
    different_sizes,
    image_levels,
    none_decoded,
    quiet_pillow,
)
from certidote.data.folder import check_classes_left, ignored_notes, list_images
from certidote.data.load import folder_of_images, is_archive_of_images, load_with_findings, locate
from certidote.data.names import escaped, portable
from certidote.data.resize import as_size
from certidote.streams import ROW_BLOCK
from certidote.types import ImageDataset

READING = Reading()
"""As the files are."""

LONGEST = 255
"""Bytes in a file's name that most systems allow; members of archives may have longer ones."""


@runtime_checkable
class Part(Protocol):
    """One block of a data set, not yet read: small enough to send to a worker process if it is files."""

    def read(self) -> ImageDataset: ...


@dataclass(frozen=True, eq=False)
class FilesPart:
    """Image files of one block, and the digest they had when they were surveyed."""

    folder: Path
    files: tuple[str, ...]
    labels: Int64[Tensor, "n"]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    digest: str
    reading: Reading

    def read(self) -> ImageDataset:
        """Decode the block.

        Raises: ValueError if a file cannot be read, or the block is not what was surveyed: somebody wrote to the folder meanwhile.
        """
        images = np.empty((len(self.files), *self.image_shape), dtype=np.uint8)
        for i, file in enumerate(self.files):
            levels = image_levels(self.folder / file, self.reading)
            if levels.shape[1:] != images.shape[2:] or len(levels) > images.shape[1]:
                raise ValueError(self._changed())
            images[i] = levels  # grey in a color set: one channel fills three
        data = ImageDataset(torch.from_numpy(images), self.labels, self.class_names)
        if data.digest() != self.digest:
            raise ValueError(self._changed())
        return data

    def _changed(self) -> str:
        return (
            f"the images in {str(self.folder)!r} changed while they were read (among {self.files[0]!r} to {self.files[-1]!r}); "
            "leave them alone and run the same command again"
        )


@dataclass(frozen=True, eq=False)
class ArrayPart:
    """One block of a data set in memory."""

    data: ImageDataset

    def read(self) -> ImageDataset:
        return self.data


@runtime_checkable
class ImageStream(Protocol):
    """Labelled images that come in blocks.

    Attributes:
        labels: (n,) classes of all rows.
        image_shape: (c, h, w).
        digest: as `ImageDataset.digest` of the whole set.
        folder: where the class folders lie on the disk; None for archives and arrays.
        files: file names of each class, in the order of rows; None for arrays.
        prefix: where the class folders lie below DATA, "train" for one of several splits; escaped for archives.
        notes: what was done to the images before they are read here, as in `ImageDataset.notes`.
        skipped: name of each corrupt file that was left out, and why.
    """

    @property
    def labels(self) -> Int64[Tensor, "n"]: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def digest(self) -> str: ...

    @property
    def folder(self) -> Path | None: ...

    @property
    def files(self) -> tuple[tuple[str, ...], ...] | None: ...

    @property
    def prefix(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]: ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What an image is called: its path below `folder` or inside its archive (escaped, see `names.escaped`), or its row number."""
        ...

    def part(self, rows: range) -> Part:
        """One block from `streams.row_blocks`."""
        ...


@dataclass(frozen=True, eq=False)
class FolderStream:
    """The images of a folder. Made by `survey`.

    Attributes:
        block_digests: of each block, as surveyed.
    """

    folder: Path
    class_names: tuple[str, ...]
    files: tuple[tuple[str, ...], ...]
    labels: Int64[Tensor, "n"]
    image_shape: tuple[int, int, int]
    digest: str
    block_digests: tuple[str, ...]
    reading: Reading
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    prefix: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, row: int) -> str:
        return escaped(self.file(row))

    def file(self, row: int) -> str:
        """An image's path below `folder`, as it is."""
        return _file(self.class_names, self.files, self.labels.numpy(), row)

    def part(self, rows: range) -> FilesPart:
        names, labels = tuple(self.file(row) for row in rows), self.labels[rows.start : rows.stop].clone()
        return FilesPart(
            self.folder,
            names,
            labels,
            self.class_names,
            self.image_shape,
            self.block_digests[rows.start // ROW_BLOCK],
            self.reading,
        )


@dataclass(frozen=True, eq=False)
class ArrayStream:
    """A data set in memory, cut into blocks; `files` and `prefix` if it comes from an archive of class folders."""

    data: ImageDataset
    digest: str
    skipped: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, ...], ...] | None = None
    prefix: str = ""
    folder: None = None

    @property
    def labels(self) -> Int64[Tensor, "n"]:
        return self.data.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.data.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.data.image_shape

    def __len__(self) -> int:
        return len(self.data)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.data.notes

    def name(self, row: int) -> str:
        return str(row) if self.data.names is None else self.data.names[row]

    def part(self, rows: range) -> ArrayPart:
        return ArrayPart(self.data.subset(rows))


def stream(
    name_or_path: str | Path,
    split: str = "train",
    advance: Callable[[int, int], None] | None = None,
    *,
    size: str = "",
    skip_corrupt: bool = False,
    threads: int | None = None,
) -> ImageStream:
    """A data set in the forms that `load` takes, as blocks; folders are surveyed and never loaded whole. Raises as `load` does.

    Args:
        advance: told after each block how many images are decoded, and how many there are.
        size: resize every image, as `load` does it.
        skip_corrupt: leave out image files that cannot be decoded.
        threads: that decode image files at a time while they are checked; None: one for each core.
    """
    folder, chosen = folder_of_images(name_or_path), locate(name_or_path, split)[1]
    if folder is not None:
        return survey(folder, chosen, advance, Reading(as_size(size), skip_corrupt, threads))
    loaded = load_with_findings(name_or_path, split, size=size, skip_corrupt=skip_corrupt, threads=threads)
    files, prefix = _layout(loaded.data) if is_archive_of_images(name_or_path) else (None, "")
    return ArrayStream(loaded.data, loaded.data.digest(), loaded.skipped, files, prefix)


def _layout(data: ImageDataset) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Names of the files of each class, and of the folder around the class folders, as the images' names have them."""
    assert data.names is not None, "members of archives have names"
    parts = [name.split("/") for name in data.names]
    files: list[list[str]] = [[] for _ in data.class_names]
    for each, label in zip(parts, data.labels.tolist(), strict=True):
        files[label].append(each[-1])
    return tuple(map(tuple, files)), "/".join(parts[0][:-2])


def survey(
    root: Path, split: str = "train", advance: Callable[[int, int], None] | None = None, reading: Reading = READING
) -> FolderStream:
    """Decode every image of a folder, in constant memory: checks, shape and digests. Raises as `read_folder` does.

    Where corrupt files are left out, those that are left are decoded once more, for their digests.
    """
    folder, names, files, ignored = _names(root, split)
    labels = _labels_of(files)
    digests, treatment = _surveyed(folder, names, files, labels, advance, reading)
    skipped = tuple((escaped(_file(names, files, labels, row)), reason) for row, reason in treatment.skipped)
    if skipped:
        lost = {row for row, _ in treatment.skipped}
        kept = iter(row not in lost for row in range(len(labels)))
        files = tuple(tuple(itertools.compress(of_class, kept)) for of_class in files)
        labels = _labels_of(files)
        check_classes_left(labels, names, folder)
        reading = replace(reading, skip_corrupt=False)
        digests, _ = _surveyed(folder, names, files, labels, advance, reading)
    if digests.image_shape[0] == 1:
        del treatment.kinds["grey"]
    return FolderStream(
        folder, names, files, torch.from_numpy(labels), digests.image_shape, digests.whole(), digests.blocks(), reading,
        treatment.notes(reading) + ignored_notes(ignored), skipped, "" if folder == root else str(folder.relative_to(root).as_posix()),
    )  # fmt: skip


def _names(root: Path, split: str) -> tuple[Path, tuple[str, ...], tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Folder, class names, file names of each class, and metadata files that are not read: no more than names stays in memory."""
    found = list_images(root, split)
    files = tuple(tuple(file.name for file in of_class) for of_class in found.files)
    return Path(str(found.folder)), found.class_names, files, found.ignored


def _labels_of(files: tuple[tuple[str, ...], ...]) -> Int64[np.ndarray, "n"]:
    return np.repeat(np.arange(len(files)), [len(of_class) for of_class in files]).astype(np.int64)


def _file(class_names: tuple[str, ...], files: tuple[tuple[str, ...], ...], labels: Int64[np.ndarray, "n"], row: int) -> str:
    label = int(labels[row])
    return f"{class_names[label]}/{files[label][row - int(np.searchsorted(labels, label))]}"


def _surveyed(
    folder: Path,
    names: tuple[str, ...],
    files: tuple[tuple[str, ...], ...],
    labels: Int64[np.ndarray, "n"],
    advance: Callable[[int, int], None] | None,
    reading: Reading,
) -> tuple["_Digests", Treatment]:
    """One pass over all files. The digests are complete only if no file was left out."""
    digests, treatment = _Digests(names, labels), Treatment()
    paths = (folder / name / file for name, of_class in zip(names, files, strict=True) for file in of_class)
    block: list[UInt8[np.ndarray, "c h w"]] = []
    first: tuple[int, tuple[int, ...]] | None = None

    def shown(row: int) -> str:
        return str(folder / _file(names, files, labels, row))

    with quiet_pillow():
        for row, found in itertools.chain.from_iterable(batches_decoded(enumerate(paths), shown, reading)):
            if isinstance(found, Corrupt):
                treatment.skipped.append((row, str(found)))
            else:
                first = first or (row, found.levels.shape[1:])
                if found.levels.shape[1:] != first[1]:
                    raise different_sizes(shown(first[0]), first[1], shown(row), found.levels.shape[1:])
                treatment.add(found)
                block.append(found.levels)
            if (row + 1) % ROW_BLOCK == 0 or row + 1 == len(labels):
                if not treatment.skipped:
                    digests.add(range(row + 1 - len(block), row + 1), block)
                block = []
                if advance is not None:
                    advance(row + 1, len(labels))
    if first is None:
        raise none_decoded(treatment)
    return digests, treatment


class _Digests:
    """Digests of the whole set and of each block, for grey and for color at once: only the last file decides between them."""

    def __init__(self, names: tuple[str, ...], labels: Int64[np.ndarray, "n"]) -> None:
        self._names, self._labels = names, labels
        self._size: tuple[int, int] = (0, 0)
        self._hashes: dict[int, hashlib._Hash] = {}
        self._blocks: dict[int, list[str]] = {1: [], 3: []}

    def add(self, rows: range, decoded: list[UInt8[np.ndarray, "..."]]) -> None:
        if not self._hashes:
            height, width = decoded[0].shape[1:]
            self._size = (height, width)
            self._hashes = {c: self._begin((len(self._labels), c, height, width)) for c in (1, 3)}
        if any(len(levels) == 3 for levels in decoded):
            self._hashes.pop(1, None)
        for channels, running in self._hashes.items():
            images = np.empty((len(rows), channels, *self._size), dtype=np.uint8)
            for i, levels in enumerate(decoded):
                images[i] = levels
            running.update(images.data)
            labels = torch.from_numpy(self._labels[rows.start : rows.stop])
            self._blocks[channels].append(ImageDataset(torch.from_numpy(images), labels, self._names).digest())

    def _begin(self, shape: tuple[int, ...]) -> "hashlib._Hash":
        begun = hashlib.sha256(json.dumps([list(shape), list(self._names)]).encode())
        begun.update(self._labels.astype("<i8").tobytes())
        return begun

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (min(self._hashes), *self._size)

    def whole(self) -> str:
        return self._hashes[min(self._hashes)].hexdigest()

    def blocks(self) -> tuple[str, ...]:
        return tuple(self._blocks[min(self._hashes)])


def png_names(files: tuple[str, ...]) -> tuple[str, ...]:
    """Names for PNG copies of one class's files, in an order that reading them back keeps; `names.portable` all.

    The suffix is replaced; where that would make two names equal or change their order, it is appended instead, and as a last
    resort files are numbered, as they are if a name is too long for a file.
    """
    digits, files = len(str(len(files))), tuple(portable(file) for file in files)
    candidates: tuple[Iterator[str], ...] = (
        (f"{Path(file).stem}.png" for file in files),
        (f"{file}.png" for file in files),
        (f"{i:0{digits}d}.png" for i in range(len(files))),
    )
    for candidate in candidates:
        names = tuple(candidate)
        increasing = all(a < b for a, b in itertools.pairwise(names))
        short = all(len(name.encode()) <= LONGEST for name in names)
        if short and increasing and len({name.casefold() for name in names}) == len(names):
            return names
    raise AssertionError("numbers are in order and distinct")
