"""A name or a path -> `ImageDataset`. The catalogue holds what needs no download; everything else is the user's own file."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from certidote.data.digits import load_digits
from certidote.data.folder import read_folder
from certidote.data.npz import read_npz
from certidote.types import ImageDataset

CATALOGUE: dict[str, Callable[[str], ImageDataset]] = {
    "digits": load_digits,
}
"""Data sets known by name: split -> data. A loader refuses an unknown split and lists its own."""


def load(name_or_path: str | Path, split: str = "train") -> ImageDataset:
    """A data set from the catalogue, a NumPy archive or a folder of images.

    Images become 8-bit arrays of one shape, 8 to 224 pixels a side, in at most 1,000 classes. Whatever turns a file into such an
    array (decoding, rounding) happens before noise is added: budgets and certified radii speak of these arrays.

    Args:
        name_or_path: a name of the catalogue ("digits"), an .npz file (see `npz.read_npz`) or a folder with one sub-folder per
            class (see `folder.read_folder`). A suffix as in "digits:test" or "photos.npz:test" overrides `split`. A name wins
            over a path; write "./digits" for a folder of that name.
        split: which part to load. A file or folder that is one set has only "train".
    Raises: ValueError, in one line, if there is no such data set or split, or the data do not satisfy the above.
    """
    known, split = locate(name_or_path, split)
    if isinstance(known, str):
        return CATALOGUE[known](split)
    return read_folder(known, split) if known.is_dir() else read_npz(known, split)


def locate(name_or_path: str | Path, split: str = "train") -> tuple[str | Path, str]:
    """What `load` would read: a name of the catalogue, a folder or an .npz file, and which split of it. Raises as `load` does."""
    name = str(name_or_path)
    head, colon, tail = name.rpartition(":")
    if name in CATALOGUE:
        return name, split
    if head in CATALOGUE:
        return head, tail
    path = _existing(name)
    if path is None and colon:
        path, split = _existing(head), tail
    if path is None:
        raise ValueError(
            f"no data set is called {name!r}, and there is no such file or folder{_suggestion(name)}; give a name "
            f"({', '.join(CATALOGUE)}), an .npz file, or a folder with one sub-folder of images per class"
        )
    if path.is_dir() or (path.suffix.lower() == ".npz" and path.is_file()):
        return path, split
    raise ValueError(f"{str(path)!r} is no data set; give an .npz file, or a folder with one sub-folder of images per class")


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
