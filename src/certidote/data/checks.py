"""What every data set must satisfy, wherever it was read from, and what a test set must share with its training set."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from certidote.types import ImageDataset

MIN_SIZE, MAX_SIZE = 8, 224
"""Heights and widths that the classifiers and denoisers are made for, in pixels."""

MAX_CLASSES = 1_000


def quoted(path: Path) -> str:
    """A path as error messages show it. Data from strangers can hide line breaks in a file name; these come out escaped."""
    return repr(str(path))


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into one ValueError line that names the file.

    Decoders fed damaged or hostile files raise nearly anything (OSError, SyntaxError, struct.error, zlib.error, ...).
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ValueError(f"{quoted(path)} is not a readable {kind} ({reason}); repair or remove it") from error


def check_image_size(height: int, width: int, where: str) -> None:
    """Raises: ValueError if a side is outside `MIN_SIZE` to `MAX_SIZE` pixels."""
    if not (MIN_SIZE <= height <= MAX_SIZE and MIN_SIZE <= width <= MAX_SIZE):
        raise ValueError(
            f"{where}: images of {height}x{width} pixels (height x width); "
            f"each side must be {MIN_SIZE} to {MAX_SIZE}, resize the images first"
        )


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raises: ValueError if there are fewer than 2 or too many classes, or a name repeats, is empty or cannot be printed."""
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"{where}: {len(names)} class{'es' * (len(names) != 1)}; a classifier needs 2 to {MAX_CLASSES}")
    for name in names:
        if not name or not name.isprintable():
            raise ValueError(f"{where}: class name {name!r} is empty or cannot be printed; rename the class")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{where}: class name {twice!r} is used twice; give every class its own name")


def check_same_classes(train: ImageDataset, test: ImageDataset) -> None:
    """Refuse a test set that cannot measure what was learned from `train`.

    Raises: ValueError if class names (their order included) or image shapes differ, or both hold the very same images.
    """
    if train.class_names != test.class_names:
        raise ValueError(
            f"training and test set have different classes: {_difference(train.class_names, test.class_names)}; "
            "both need the same class names in the same order"
        )
    if train.image_shape != test.image_shape:
        raise ValueError(
            f"training images have shape {train.image_shape}, test images {test.image_shape} (channels, height, width); "
            "convert one of the sets to the shape of the other"
        )
    if torch.equal(train.images, test.images):
        raise ValueError(
            f"training and test set are the same {len(train)} images; accuracy on them says nothing, give a held-out test set"
        )


def _difference(train: tuple[str, ...], test: tuple[str, ...]) -> str:
    only_train = [name for name in train if name not in set(test)]
    only_test = [name for name in test if name not in set(train)]
    parts = [f"only the {which} set has {_few(names)}" for which, names in (("training", only_train), ("test", only_test)) if names]
    if parts:
        return f"{len(train)} and {len(test)}, " + ", ".join(parts)
    row = next(i for i, (a, b) in enumerate(zip(train, test, strict=True)) if a != b)
    return f"class {row} is {train[row]!r} in training and {test[row]!r} in test"


def _few(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
