"""A name or a path -> `ImageDataset`. The catalogue holds what needs no download; everything else is the user's own file."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from certidote.data.archive import Member, is_archive, opened
from certidote.data.cache import cached
from certidote.data.cifar import is_cifar, read_cifar
from certidote.data.decode import Reading
from certidote.data.digits import SPLITS as DIGITS_SPLITS
from certidote.data.digits import load_digits, load_some_digits
from certidote.data.fingerprints import fingerprinted
from certidote.data.folder import Loaded, folder_splits, read_folder
from certidote.data.npz import npz_splits, read_npz
from certidote.data.parquet import parquet_files, parquet_splits, read_parquet
from certidote.data.resize import Size, as_size, resized_dataset
from certidote.streams import Key
from certidote.types import ImageDataset

SUBSETS = Key(0) / "data" / "subset"
"""Decides which images "#5000" takes: public, and the same for everybody."""


@dataclass(frozen=True)
class Named:
    """A data set known by name: how to load one of its splits, and which it has. `load` is asked for these only."""

    load: Callable[[str], ImageDataset]
    splits: tuple[str, ...]


CATALOGUE: dict[str, Named] = {
    "digits": Named(load_digits, tuple(DIGITS_SPLITS)),
    "digits-0-4": Named(partial(load_some_digits, range(5)), tuple(DIGITS_SPLITS)),
    "digits-5-9": Named(partial(load_some_digits, range(5, 10)), tuple(DIGITS_SPLITS)),
}
"""Data sets that need no download."""

FORMS = "a folder with one sub-folder of images per class, a .zip or .tar(.gz, .xz) of one, an .npz file, or a .parquet file"


def load(
    name_or_path: str | Path, split: str = "train", *, size: str | int | Size | None = None, skip_corrupt: bool = False
) -> ImageDataset:
    """A data set from the catalogue, a folder or archive of images, a NumPy archive, CIFAR-10 as released, or parquet files.

    Images become 8-bit arrays of one shape, 8 to 224 pixels a side, in at most 1,000 classes. Whatever turns a file into such an
    array (decoding, resizing, rounding) happens before noise is added: budgets and certified radii speak of these arrays, and the
    `notes` of the data set say what was done.

    Args:
        name_or_path: a name of the catalogue ("digits"), a folder with one sub-folder per class or a .zip, .tar, .tar.gz or .tar.xz
            of one (see `folder.read_folder`), an .npz file (see `npz.read_npz`), the folders or archives of the CIFAR-10 releases (see
            `cifar.read_cifar`), or a .parquet file or folder of such (see `parquet.read_parquet`). A suffix as in "digits:test" or
            "photos.npz:test" overrides `split`. A name wins over a path; write "./digits" for a folder of that name. At the very end
            "#5000" takes the first 5,000 images of a fixed random order, so that smaller numbers take subsets of what larger ones take.
        split: which part to load. A file or folder that is one set has only "train".
        size: resize every image to this many pixels a side, or (height, width); see `resize.resized`.
        skip_corrupt: leave out image files that cannot be decoded; the notes count them.
    Raises: ValueError, in one line, if there is no such data set or split, or the data do not satisfy the above.
    """
    return load_with_findings(name_or_path, split, size=size, skip_corrupt=skip_corrupt).data


def load_with_findings(
    name_or_path: str | Path,
    split: str = "train",
    *,
    size: str | int | Size | None = None,
    skip_corrupt: bool = False,
    threads: int | None = None,
) -> Loaded:
    """As `load`, with what was found on the way: which images were converted, which files left out.

    Args:
        threads: that decode image files at a time; None: one for each core.
    """
    return _loaded(name_or_path, split, Reading(as_size(size), skip_corrupt, threads))


def surveyed(name_or_path: str | Path, split: str = "train", *, threads: int | None = None) -> Loaded:
    """As `load_with_findings`, of whatever can be decoded: images of any sizes, corrupt files left out, classes that keep no image.

    Returns: what was found, with the images' `fingerprints` in place of their pixels: they can be counted and compared.
    """
    return _loaded(name_or_path, split, Reading(skip_corrupt=True, threads=threads, survey=True))


def without_count(name_or_path: str | Path) -> str:
    """The name or path without "#5000" at its end."""
    return counted(str(name_or_path))[0]


def _loaded(name_or_path: str | Path, split: str, reading: Reading) -> Loaded:
    name, count = counted(str(name_or_path))
    source, named_split = _resolved(name)
    found = _read(source, split if named_split is None else named_split, reading)
    return found if count is None else replace(found, data=_first(found.data, count))


def _first(data: ImageDataset, count: int) -> ImageDataset:
    """So many images, in the order of their rows; which ones is decided by their number and the size of the set alone."""
    if not data.num_classes <= count <= len(data):
        raise ValueError(
            f"#{count} of {len(data)} images in {data.num_classes} classes; give a number from {data.num_classes} to {len(data)}"
        )
    subset = data.subset(first_rows(len(data), count))
    missing = [name for label, name in enumerate(data.class_names) if not bool((subset.labels == label).any())]
    if missing:
        raise ValueError(f"#{count} leaves no image of class {missing[0]!r}; give a larger number, or leave it out")
    return replace(subset, notes=(*data.notes, f"{count} of {len(data)} images: the first of a fixed random order"))


def first_rows(total: int, count: int) -> Int64[Tensor, "count"]:
    """Which rows "#count" takes of so many images, in ascending order."""
    return torch.from_numpy(np.sort(SUBSETS.numpy().permutation(total)[:count]))


def _read(source: str | Path, split: str, reading: Reading) -> Loaded:
    if isinstance(source, str):
        named = CATALOGUE[source]
        if split not in named.splits:
            raise ValueError(f"{source} has no split {split!r}; choose one of: {', '.join(named.splits)}")
        return _treated(named.load(split), reading)
    if source.suffix.lower() == ".npz" and source.is_file():
        return _treated(read_npz(source, split, any_size=reading.size is not None or reading.survey), reading)
    if files := parquet_files(source):
        return read_parquet(files, source, split, reading)
    if reading.survey:
        return _read_tree(source, split, reading)
    return cached(source, split, reading, lambda: _read_tree(source, split, reading))


def _read_tree(source: Path, split: str, reading: Reading) -> Loaded:
    tree = _tree(source)
    return _treated(read_cifar(tree, split), reading) if is_cifar(tree) else read_folder(tree, split, reading)


def splits_of(name_or_path: str | Path) -> tuple[str, ...]:
    """The parts that `load` can load; a suffix as in "digits:test" leaves that one.

    Raises: ValueError if there is no such data set.
    """
    return _named_splits(name_or_path) or ("train",)


def load_test(
    name_or_path: str | Path,
    class_names: tuple[str, ...],
    *,
    size: str | int | Size | None = None,
    skip_corrupt: bool = False,
) -> ImageDataset:
    """What somebody gives as test images: the "test" split or, of a file or folder that is one set, all of it.

    Args:
        class_names: of the training images. Where all classes are bare numbers, the test images may lack the last ones.
        name_or_path, size, skip_corrupt: as for `load`, which says what is raised.
    """
    test = load(name_or_path, "test" if _named_splits(name_or_path) else "train", size=size, skip_corrupt=skip_corrupt)
    return named_as(test, class_names)


def named_as(test: ImageDataset, class_names: tuple[str, ...]) -> ImageDataset:
    """Test images with the class names of the training set, where both are bare numbers and the test images lack the last ones."""
    numbers = tuple(map(str, range(len(class_names))))
    if class_names == numbers and test.class_names == numbers[: test.num_classes]:
        return replace(test, class_names=class_names)
    return test


def _named_splits(name_or_path: str | Path) -> tuple[str, ...]:
    """The parts that have names of their own; none of a file or folder that is one set."""
    source, named_split = _resolved(without_count(name_or_path))
    if named_split is not None:
        return (named_split,)
    if isinstance(source, str):
        return CATALOGUE[source].splits
    if source.suffix.lower() == ".npz" and source.is_file():
        return npz_splits(source)
    if files := parquet_files(source):
        return parquet_splits(files)
    tree = _tree(source)
    return ("train", "test") if is_cifar(tree) else folder_splits(tree)


def locate(name_or_path: str | Path, split: str = "train") -> tuple[str | Path, str]:
    """What `load` would read: a name of the catalogue or an existing path, and which split of it.

    Raises: ValueError as `load` does, and for a part of a set ("#5000")."""
    name, count = counted(str(name_or_path))
    if count is not None:
        raise ValueError(f"{str(name_or_path)!r} is a part of a set, but whole sets are read here; leave out #{count}")
    source, named_split = _resolved(name)
    return source, split if named_split is None else named_split


def folder_of_images(name_or_path: str | Path) -> Path | None:
    """The folder of class folders that `load` would read, if it is one: not an archive, an array, or files of another layout."""
    source, _ = locate(name_or_path)
    if isinstance(source, str) or not source.is_dir() or parquet_files(source) or is_cifar(source):
        return None
    return source


def is_archive_of_images(name_or_path: str | Path) -> bool:
    """Whether `load` would read an archive of class folders: no folder, no array, and no CIFAR-10."""
    source, _ = locate(name_or_path)
    return isinstance(source, Path) and not source.is_dir() and is_archive(source) and not is_cifar(opened(source))


def _treated(data: ImageDataset, reading: Reading) -> Loaded:
    """Images that all have one size, resized or reduced to their fingerprints as `reading` says."""
    sides = data.image_shape[1:]
    sizes = {sides: len(data)}
    if reading.survey:
        return Loaded(fingerprinted(data), {}, sizes)
    if reading.size is None or sides == reading.size:
        return Loaded(data, {}, sizes)
    return Loaded(resized_dataset(data, reading.size), {"resized": len(data)}, sizes)


def counted(name: str) -> tuple[str, int | None]:
    """A name without "#5000" at its end, and that number; a path that exists as it is, or before ":test", has none."""
    head, mark, tail = name.rpartition("#")
    part_of = name.rpartition(":")[0] if ":" in tail else ""
    if not mark or os.sep in tail or _existing(name) is not None or _existing(part_of) is not None:
        return name, None
    if not tail.isascii() or not tail.isdigit():
        raise ValueError(f"{name!r} ends in #{tail}; give a whole number of images after the #")
    return head, int(tail)


def _tree(path: Path) -> Path | Member:
    if path.is_dir():
        return path
    if is_archive(path) and path.is_file():
        return opened(path)
    raise ValueError(f"{str(path)!r} is no data set; give {FORMS}")


def _resolved(name_or_path: str | Path) -> tuple[str | Path, str | None]:
    """A name of the catalogue or an existing path, and the split that a suffix names."""
    name = str(name_or_path)
    head, colon, tail = name.rpartition(":")
    if name in CATALOGUE:
        return name, None
    if head in CATALOGUE:
        return head, tail
    path = _existing(name)
    if path is not None:
        return path, None
    path = _existing(head) if colon else None
    if path is not None:
        return path, tail
    raise ValueError(
        f"no data set is called {name!r}, and there is no such file or folder{_suggestion(name)}; give a name "
        f"({', '.join(CATALOGUE)}), or {FORMS}"
    )


def _existing(name: str) -> Path | None:
    path = os.path.expanduser(name)
    return Path(path) if path and os.path.exists(path) else None


def _suggestion(name: str) -> str:
    head, colon, tail = name.rpartition(":")
    known = difflib.get_close_matches(head if colon else name, CATALOGUE, n=1)
    if known:
        return f" (did you mean {known[0] + (colon and colon + tail)!r}?)"
    path = Path(os.path.expanduser(name))
    try:
        beside = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    except (OSError, ValueError):  # there is no such folder either
        beside = []
    return f" (did you mean {str(path.parent / beside[0])!r}?)" if beside else ""
