"""Data sets that a scale needs and that are not there as such: disjoint parts of CIFAR-10's training images, for transfer learning.

40,000 images are what extractors learn from, 2,500 others are what heads are fitted to, so that poisons never meet a clean twin of theirs.
"""

from pathlib import Path

import numpy as np

from certidote.benchmark.scales import CIFAR, Scale, Setup
from certidote.data import load
from certidote.streams import Key
from certidote.types import ImageDataset

EXTRACTOR, HEADS = "extractor.npz", "heads.npz"
EXTRACTOR_IMAGES, HEAD_IMAGES = 40_000, 2_500


def place_of(name: str, data: Path | None, made: Path) -> str:
    """Where the images of a `Setup` are: a name of the catalogue stays; files are in the data folder, or were made by `prepare`.

    Args:
        data: the folder that the user gave, if any.
        made: the folder of `prepare`.
    Raises: ValueError if they are files and there is no folder, or no such file in it.
    """
    if name in (EXTRACTOR, HEADS):
        return str(made / name)
    if not name.startswith(CIFAR):
        return name
    if data is None:
        raise ValueError(f"this scale needs {CIFAR} (folders of CIFAR-10 as JPEG files); give the folder that holds it with --data")
    if not (data / CIFAR).is_file():
        raise ValueError(f"--data {data}: there is no {CIFAR} in it; give the folder that holds it")
    return str(data / name)


def prepare(scale: Scale, data: Path | None, made: Path) -> None:
    """Make what the scale's setups need in `made`, unless it is there."""
    needed = {name for setup in scale.setups.values() for name in (setup.data, setup.pretrain)}
    if not needed & {EXTRACTOR, HEADS} or (made / HEADS).is_file():
        return
    source = place_of(CIFAR, data, made)
    train, test = load(source), load(source, "test")
    made.mkdir(parents=True, exist_ok=True)
    write_parts(train, test, made)


def write_parts(train: ImageDataset, test: ImageDataset, made: Path) -> None:
    """The two disjoint parts, the second with the test images."""
    order = (Key(0) / "attack ladder").numpy().permutation(len(train)).tolist()
    _write(made / EXTRACTOR, train.subset(order[:EXTRACTOR_IMAGES]))
    _write(made / HEADS, train.subset(order[EXTRACTOR_IMAGES : EXTRACTOR_IMAGES + HEAD_IMAGES]), test)


def check(setup: Setup, data: Path | None, made: Path) -> None:
    """Raises: ValueError if the setup's files cannot be there; better known before the work."""
    for name in (setup.data, setup.pretrain):
        place_of(CIFAR if name in (EXTRACTOR, HEADS) else name, data, made)


def _write(path: Path, train: ImageDataset, test: ImageDataset | None = None) -> None:
    parts = {"x_train": train.images, "y_train": train.labels}
    if test is not None:
        parts |= {"x_test": test.images, "y_test": test.labels}
    arrays = {name: value.permute(0, 2, 3, 1).numpy() if value.ndim == 4 else value.numpy() for name, value in parts.items()}
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **arrays, class_names=np.array(train.class_names))
    unfinished.replace(path)
