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
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from certidote.data.checks import Refused, quoted
from certidote.data.decode import Reading, image_levels
from certidote.data.folder import list_images
from certidote.data.load import folder_of_images, load, locate
from certidote.data.resize import as_size
from certidote.streams import ROW_BLOCK, row_blocks
from certidote.types import ImageDataset

READING = Reading()
"""As the files are."""


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
        folder: where the class folders lie; None for arrays.
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

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What an image is called: its path below `folder`, or its row number."""
        ...

    def part(self, rows: range) -> Part:
        """One block from `streams.row_blocks`."""
        ...


@dataclass(frozen=True, eq=False)
class FolderStream:
    """The images of a folder. Made by `survey`.

    Attributes:
        files: file names of each class, in the order of `read_folder`.
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

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, row: int) -> str:
        label = int(self.labels[row])
        first = int(torch.searchsorted(self.labels, label))
        return f"{self.class_names[label]}/{self.files[label][row - first]}"

    def part(self, rows: range) -> FilesPart:
        names, labels = tuple(self.name(row) for row in rows), self.labels[rows.start : rows.stop].clone()
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
    """A data set in memory, cut into blocks."""

    data: ImageDataset
    digest: str
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

    def name(self, row: int) -> str:
        return str(row)

    def part(self, rows: range) -> ArrayPart:
        return ArrayPart(self.data.subset(rows))


def stream(
    name_or_path: str | Path, split: str = "train", advance: Callable[[int, int], None] | None = None, *, size: str = ""
) -> ImageStream:
    """A data set in the forms that `load` takes, as blocks; folders are surveyed and never loaded whole. Raises as `load` does.

    Args:
        advance: told after each block how many images are decoded, and how many there are.
        size: resize every image, as `load` does it.
    """
    folder, chosen = folder_of_images(name_or_path), locate(name_or_path, split)[1]
    if folder is not None:
        return survey(folder, chosen, advance, Reading(as_size(size)))
    data = load(name_or_path, split, size=size)
    return ArrayStream(data, data.digest())


def survey(
    root: Path, split: str = "train", advance: Callable[[int, int], None] | None = None, reading: Reading = READING
) -> FolderStream:
    """Decode every image of a folder once, in constant memory: checks, shape and digests. Raises as `read_folder` does."""
    found = list_images(root, split)
    folder, names = Path(str(found.folder)), found.class_names
    files = tuple(tuple(file.name for file in of_class) for of_class in found.files)
    labels = np.repeat(np.arange(len(names)), [len(of_class) for of_class in files]).astype(np.int64)
    paths = (folder / name / file for name, of_class in zip(names, files, strict=True) for file in of_class)
    digests = _Digests(names, labels)
    first: tuple[Path, UInt8[np.ndarray, "c h w"]] | None = None
    for rows in row_blocks(len(labels)):
        decoded = []
        for _, path in zip(rows, paths, strict=False):
            levels = image_levels(path, reading)
            first = first or (path, levels)
            _check_same_size(*first, path, levels)
            decoded.append(levels)
        digests.add(rows, decoded)
        if advance is not None:
            advance(rows.stop, len(labels))
    return FolderStream(
        folder, names, files, torch.from_numpy(labels), digests.image_shape, digests.whole(), digests.blocks(), reading
    )


def _check_same_size(first: Path, levels: UInt8[np.ndarray, "..."], file: Path, others: UInt8[np.ndarray, "..."]) -> None:
    if others.shape[1:] != levels.shape[1:]:
        height, width = others.shape[1:]
        raise Refused(
            f"{quoted(first)} has {levels.shape[1]}x{levels.shape[2]} pixels but {quoted(file)} has {height}x{width} "
            "(height x width); all images need one size, give --size to resize them"
        )


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
    """Names for PNG copies of one class's files, in an order that reading them back keeps.

    The suffix is replaced; where that would make two names equal or change their order, it is appended instead, and as a last
    resort files are numbered.
    """
    digits = len(str(len(files)))
    candidates: tuple[Iterator[str], ...] = (
        (f"{Path(file).stem}.png" for file in files),
        (f"{file}.png" for file in files),
        (f"{i:0{digits}d}.png" for i in range(len(files))),
    )
    for candidate in candidates:
        names = tuple(candidate)
        increasing = all(a < b for a, b in itertools.pairwise(names))
        if increasing and len({name.casefold() for name in names}) == len(names):
            return names
    raise AssertionError("numbers are in order and distinct")
