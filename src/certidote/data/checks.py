"""What every data set must satisfy, wherever it was read from, and what a test set must share with its training set."""

import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from certidote.data.names import escaped
from certidote.types import ImageDataset

MIN_SIZE, MAX_SIZE = 8, 224
"""Heights and widths that the classifiers and denoisers are made for, in pixels."""

MAX_CLASSES = 1_000
MAX_NAME = 255
"""Characters of a class name; most systems allow no longer names of folders."""

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
GROUP = Path("/proc/self/cgroup")
"""Where Linux says how much memory this process may take, and which group it is in."""

MAX_RATIO, FREE = 200, 64 * 2**20
"""What is packed may unpack to this many times its own size, or to `FREE` bytes. Images hardly compress; bombs do by a thousand and
more."""


class Refused(ValueError):
    """Data that is understood and not accepted: its message is complete, and `readable` passes it on as it is."""


class Unfit(Refused):
    """Images that were read one by one and are no data set together: of sizes that only --size makes one, or a class has lost all of
    its images. Whoever only looks at them can still count them (`load.surveyed`)."""


def quoted(path: object) -> str:
    """A path as error messages show it. Data from strangers can hide line breaks in a file name; these come out escaped."""
    return path if isinstance(path, Shown) else repr(str(path))


class Shown(str):
    """A text that `quoted` leaves as it is: it is quoted already."""


@contextmanager
def readable(path: object, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block, `Refused` apart, into one ValueError line that names the file.

    Decoders fed damaged or hostile files raise nearly anything (OSError, SyntaxError, struct.error, zlib.error, ...).
    """
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ValueError(f"{quoted(path)} is not a readable {kind} ({escaped(reason)}); repair or remove it") from error


def in_range(sides: tuple[int, int]) -> bool:
    """Whether a (height, width) is one that classifiers and denoisers are made for."""
    return all(MIN_SIZE <= side <= MAX_SIZE for side in sides)


def check_image_size(height: int, width: int, where: str) -> None:
    """Raises: ValueError if a side is outside `MIN_SIZE` to `MAX_SIZE` pixels."""
    if not in_range((height, width)):
        raise Unfit(
            f"{where}: images of {height}x{width} pixels (height x width); "
            f"each side must be {MIN_SIZE} to {MAX_SIZE}, give --size to resize the images"
        )


def check_memory(size: int, where: str) -> None:
    """Raises: ValueError if this many bytes are more than the machine has, or than this process is allowed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
    allowed = _memory_allowed()
    if size > min(memory, allowed):
        whose = f"this machine has {memory / 2**30:.1f}" if memory <= allowed else f"this container may take {allowed / 2**30:.1f}"
        raise Refused(f"{where} unpacks to {size / 2**30:.1f} GiB, but {whose}; store less")


def _memory_allowed() -> float:
    """The smallest limit, in bytes, that Linux control groups (version 2, else 1) set for this process; infinite without any."""
    limits = [math.inf]
    for path in LIMITS:
        with suppress(OSError, ValueError):  # no such group; "max" is no number
            limits.append(int(path.read_text()))
    with suppress(OSError, ValueError):
        _, _, group = GROUP.read_text().partition("0::")
        place = LIMITS[0].parent / group.strip().lstrip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(LIMITS[0].parent):
                break
            with suppress(OSError, ValueError):
                limits.append(int((folder / LIMITS[0].name).read_text()))
    return float(min(limits))


def check_ratio(unpacked: int, packed: int, where: str, honest: str = "images") -> None:
    """Raises: ValueError if so few bytes unpack to so many that no `honest` content does."""
    if unpacked > max(FREE, MAX_RATIO * packed):
        raise Refused(
            f"{where} of {packed:,} bytes unpacks to {unpacked:,} bytes or more, {unpacked // max(packed, 1):,} times its size; "
            f"at most {MAX_RATIO} times are read, {honest} do not compress like that"
        )


def check_distinct(names: Sequence[str], kind: str, where: str) -> None:
    """Raises: ValueError if two of these names are one file on systems that ignore case or compose accents (Windows, macOS)."""
    first: dict[str, str] = {}
    clashes = []
    for name in names:
        other = first.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
        if other is not name:
            clashes.append((other, name))
    if clashes:
        more = f" ({len(clashes) - 1} more such pairs)" if len(clashes) > 1 else ""
        raise Refused(
            f"{where}: {kind} {clashes[0][0]!a} and {clashes[0][1]!a} differ only in case or Unicode form{more}; "
            "rename or merge them, on other systems they are one"
        )


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raises: ValueError if there are fewer than 2 or too many classes, or a name repeats, is empty, too long or cannot be
    printed."""
    if not 2 <= len(names) <= MAX_CLASSES:
        raise ValueError(f"{where}: {len(names)} class{'es' * (len(names) != 1)}; a classifier needs 2 to {MAX_CLASSES}")
    for name in names:
        if len(name) > MAX_NAME:
            raise ValueError(
                f"{where}: class name {name[:40]!r}... has {len(name):,} characters; at most {MAX_NAME}, rename the class"
            )
        if not name or not name.isprintable():
            raise ValueError(f"{where}: class name {name!r} is empty or cannot be printed; rename the class")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{where}: class name {twice!r} is used twice; give every class its own name")


def check_same_classes(train: ImageDataset, test: ImageDataset, *, shapes: bool = True) -> None:
    """Refuse a training set that leaves a class unlearned, or a test set that cannot measure what was learned from it.

    Args:
        shapes: compare those too; not of `fingerprints`, which all have one.
    Raises: ValueError if class names (their order included) or image shapes differ, a class has no training images, or both sets
        hold the very same images.
    """
    if train.class_names != test.class_names:
        raise ValueError(
            f"training and test set have different classes: {_difference(train.class_names, test.class_names)}; "
            "both need the same class names in the same order"
        )
    if shapes and train.image_shape != test.image_shape:
        raise ValueError(
            f"training images have shape {train.image_shape}, test images {test.image_shape} (channels, height, width); "
            "convert one of the sets to the shape of the other"
        )
    check_learned(train, test)
    if torch.equal(train.images, test.images):
        raise ValueError(
            f"training and test set are the same {len(train)} images; accuracy on them says nothing, give a held-out test set"
        )


def check_learned(train: ImageDataset, test: ImageDataset | None = None) -> None:
    """Raises: ValueError if a class has no training images, saying how many images of `test` are of such classes."""
    counts = train.labels.bincount(minlength=train.num_classes)
    unused = [name for name, count in zip(train.class_names, counts.tolist(), strict=True) if not count]
    if unused and test is not None:
        tested = test.labels.bincount(minlength=test.num_classes)
        unlearned = [name for name, count in zip(test.class_names, tested.tolist(), strict=True) if count and name in unused]
        if unlearned:
            count = sum(int(tested[test.class_names.index(name)]) for name in unlearned)
            raise ValueError(
                f"no training image has the label of class {_few(unlearned)}, but {count} test image{'s have' if count > 1 else ' has'}: "
                "nothing can be learned about that; add training images, or correct or leave out these test images"
            )
    if unused:
        raise ValueError(
            f"no training image has the label of class {_few(unused)}; add images, or number only the classes that have some, from 0"
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
