"""Which images the attacker cannot have touched, as a text file names them: one row number or path a line."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Int64
from scipy.stats import hypergeom
from torch import Tensor

from certidote.data.checks import quoted
from certidote.types import ImageDataset

MAX_BYTES = 64 << 20
CROWDED, BY_CHANCE = 0.2, 1e-6
"""It is said that trusted images are of other classes than all images if the two are so far apart in total variation, and some class has more of
them than it would have, by more than this chance, if they were drawn from all."""


def trusted_rows(file: Path, data: ImageDataset, name: str) -> tuple[int, ...]:
    """The rows of `data` that a file lists, in ascending order.

    A line holds a row number (0 is the first image) or a path relative to the data folder, as in "train/cat/7.png"; empty lines count
    for nothing. Images without names (an .npz file, digits) have row numbers only.

    Args:
        file: UTF-8 text.
        data: the training set.
        name: of the training set, for messages.
    Raises: ValueError naming the line for an unknown path, a row out of range or an image named twice; for a file that cannot be
        read or names no image.
    """
    places = {} if data.names is None else {path: row for row, path in enumerate(data.names)}
    found: dict[int, int] = {}
    for number, line in _lines(file):
        row = _row(line, places, len(data), f"{quoted(file)}, line {number}", name)
        if row in found:
            raise ValueError(f"{quoted(file)}, line {number}: {line!r} is the image of line {found[row]}; name each image once")
        found[row] = number
    if not found:
        raise ValueError(f"{quoted(file)} names no image; write one path or row number a line, or leave --trusted out")
    return tuple(sorted(found))


def crowded(rows: Sequence[int], labels: Int64[Tensor, "n"], class_names: Sequence[str]) -> list[str]:
    """A warning, if trusted images are of other classes than the rest: what carries no noise then tells the class, and models learn that.

    Args:
        rows: that are trusted.
        labels: of all images.
        class_names: of the labels 0, 1 and so on.
    """
    if not len(rows):
        return []
    of_all = labels.bincount(minlength=len(class_names)).numpy()
    shares = of_all / len(labels)
    theirs = labels[list(rows)].bincount(minlength=len(class_names)).numpy()
    chances = hypergeom.sf(theirs - 1, len(labels), of_all, len(rows)) * len(class_names)  # at most, of any class having so many
    most = int(chances.argmin())
    apart = abs(theirs / len(rows) - shares).sum() / 2
    if chances[most] > BY_CHANCE or apart < CROWDED:
        return []
    return [
        f"{int(theirs[most]):,} of the {len(rows):,} trusted images are of class {class_names[most]!r}, where about {shares[most] * len(rows):.0f} "
        "would be if they were taken from all alike: models learn the class from the missing noise, and accuracy may collapse; better "
        "trust images of all classes"
    ]


def _lines(file: Path) -> Sequence[tuple[int, str]]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"{quoted(file)} is larger than {MAX_BYTES >> 20} MB; give a text file with one path or row number a line"
            )
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{quoted(file)} cannot be read ({error.strerror}); give a text file of trusted images") from None
    except UnicodeDecodeError:
        raise ValueError(f"{quoted(file)} is not UTF-8 text; write one path or row number a line") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _row(line: str, places: dict[str, int], images: int, where: str, name: str) -> int:
    if line in places:
        return places[line]
    if line.isascii() and line.isdigit():
        if len(line) > 18 or int(line) >= images:
            raise ValueError(f"{where}: row {line[:20]} does not exist; {name} has rows 0 to {images - 1}")
        return int(line)
    if not places:
        raise ValueError(
            f"{where}: {line[:80]!r} is no row number; the images of {name} have no paths, give rows 0 to {images - 1}"
        )
    raise ValueError(
        f"{where}: {name} has no image {line[:80]!r}; give paths relative to that folder (such as {next(iter(places))}), or row numbers"
    )
