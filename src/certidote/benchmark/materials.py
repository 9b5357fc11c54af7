"""Data sets that a scale needs and that are not there as such.

For transfer learning on CIFAR-10, disjoint parts of its training images: 40,000 are what extractors learn from, 2,500 others are what heads
are fitted to, so that poisons never meet a clean twin of theirs.

For starts out of the domain of digits, 8x8 pieces of the two photographs that come with scikit-learn, turned by 0, 90, 180 or 270 degrees,
which is what a model has to tell: grey images of the same shape that have nothing to do with digits.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from certidote.benchmark.scales import CIFAR, EXTRACTOR, HEADS, PATCHES, TINY_IMAGENET
from certidote.data import load
from certidote.streams import Key
from certidote.types import ImageDataset

EXTRACTOR_IMAGES, HEAD_IMAGES = 40_000, 2_500
PIECES, PIECE = 2_000, 16
"""Pieces of photographs, and their side in pixels before it is halved."""


def place_of(name: str, data: Path | None, made: Path) -> str:
    """Where the images of a `Setup` are: a name of the catalogue stays; files are in the data folder, or were made by `prepare`.

    Args:
        data: the folder that the user gave, if any.
        made: the folder of `prepare`.
    Raises: ValueError if they are files and there is no folder, or no such file in it.
    """
    if name in (EXTRACTOR, HEADS, PATCHES):
        return str(made / name)
    file = name.partition("#")[0]
    if file not in (CIFAR, TINY_IMAGENET):
        return name
    if data is None:
        raise ValueError(f"this scale needs {file} (folders of JPEG files); give the folder that holds it with --data")
    if not (data / file).is_file():
        raise ValueError(f"--data {data}: there is no {file} in it; give the folder that holds it")
    return str(data / name)


def check(names: set[str], data: Path | None, made: Path) -> None:
    """Raises: ValueError if these cannot be there, or be made; better known before the work."""
    for name in sorted(names):
        place_of(CIFAR if name in (EXTRACTOR, HEADS) else name, data, made)


def prepare(names: set[str], data: Path | None, made: Path) -> None:
    """Make those that have to be made in `made`, unless they are there."""
    made.mkdir(parents=True, exist_ok=True)
    if names & {EXTRACTOR, HEADS} and not (made / HEADS).is_file():
        source = place_of(CIFAR, data, made)
        write_parts(load(source), load(source, "test"), made)
    if PATCHES in names and not (made / PATCHES).is_file():
        _write(made / PATCHES, photograph_patches())


def photograph_patches() -> ImageDataset:
    """2,000 pieces of photographs of 8x8 grey pixels, an equal share turned by each angle, which is their class."""
    from sklearn.datasets import load_sample_images

    photographs = [np.asarray(image, dtype=np.float64).mean(2) for image in load_sample_images().images]
    generator = (Key(0) / "benchmark" / "patches").numpy()
    pieces, turns = [], np.arange(PIECES) % 4
    for turn in turns:
        photograph = photographs[generator.integers(len(photographs))]
        top, left = (int(generator.integers(side - PIECE + 1)) for side in photograph.shape)
        piece = photograph[top : top + PIECE, left : left + PIECE]
        halved = piece.reshape(PIECE // 2, 2, PIECE // 2, 2).mean((1, 3))
        pieces.append(np.rot90(halved, int(turn)).round().astype(np.uint8))
    names = tuple(f"turned {90 * turn} degrees" for turn in range(4))
    return ImageDataset(torch.from_numpy(np.stack(pieces)).unsqueeze(1), torch.from_numpy(turns.astype(np.int64)), names)


def write_parts(train: ImageDataset, test: ImageDataset, made: Path) -> None:
    """The two disjoint parts, the second with the test images."""
    order = (Key(0) / "attack ladder").numpy().permutation(len(train)).tolist()
    _write(made / EXTRACTOR, train.subset(order[:EXTRACTOR_IMAGES]))
    _write(made / HEADS, train.subset(order[EXTRACTOR_IMAGES : EXTRACTOR_IMAGES + HEAD_IMAGES]), test)


def _write(path: Path, train: ImageDataset, test: ImageDataset | None = None) -> None:
    parts = {"x_train": train.images, "y_train": train.labels}
    if test is not None:
        parts |= {"x_test": test.images, "y_test": test.labels}
    arrays = {name: value.permute(0, 2, 3, 1).numpy() if value.ndim == 4 else value.numpy() for name, value in parts.items()}
    unfinished = path.with_suffix(".unfinished.npz")
    named: dict[str, Any] = {**arrays, "class_names": np.array(train.class_names)}
    np.savez(unfinished, **named)
    unfinished.replace(path)
