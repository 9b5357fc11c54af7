"""An `ImageDataset` as a NumPy archive or as a folder of PNG files, either of which `load` reads back."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from certidote.data.atomic import replacing, sync_folder, unfinished_beside
from certidote.data.folder import is_hidden
from certidote.types import ImageDataset


def write_npz(data: ImageDataset, path: Path) -> None:
    """Write `images` (n, h, w, c) uint8, `labels` (n,) and `class_names`; equal data give equal bytes.

    Raises: ValueError if `path` exists or does not end in .npz, or the images do not have 1 or 3 channels; OSError if the disk
        fails. In every case nothing is left behind.
    """
    _check_writable(data, path)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{str(path)!r} does not end in .npz, by which an archive is recognized; rename it")
    images = np.ascontiguousarray(data.images.numpy().transpose(0, 2, 3, 1))
    with replacing(path) as file:
        np.savez_compressed(file, images=images, labels=data.labels.numpy(), class_names=np.array(data.class_names, dtype=str))


def write_folder(data: ImageDataset, path: Path) -> None:
    """Write one folder per class with one PNG per image, named by its row. The folder appears complete or not at all.

    `load` gives these images back sorted by class name, then row: labels are numbered by the sorted class names.

    Raises: ValueError if `path` exists, a class name cannot name a folder, a class has no images, or the images do not have 1 or 3
        channels; OSError if the disk fails. In every case nothing is left behind.
    """
    _check_writable(data, path)
    for label, name in enumerate(data.class_names):
        if not name or is_hidden(name) or any(symbol in name for symbol in "/\\:\0"):
            raise ValueError(f"class name {name!r} cannot name a folder; rename the class, or write an .npz file")
        if not bool((data.labels == label).any()):
            raise ValueError(f"class {name!r} has no images, which a folder cannot express; write an .npz file")
    target = Path(os.path.abspath(path))
    unfinished = unfinished_beside(target)
    digits = len(str(len(data) - 1))
    try:
        for name in data.class_names:
            (unfinished / name).mkdir(parents=True)
        for row, label in enumerate(data.labels.tolist()):
            pixels = data.images[row].numpy()
            picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            picture.save(unfinished / data.class_names[label] / f"{row:0{digits}d}.png")
        os.rename(unfinished, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_writable(data: ImageDataset, path: Path) -> None:
    if os.path.lexists(path):
        raise ValueError(f"{str(path)!r} exists already; remove it, or choose another path")
    if not Path(os.path.abspath(path)).parent.is_dir():
        raise ValueError(f"cannot write {str(path)!r}: its folder does not exist; create it first")
    if data.image_shape[0] not in (1, 3):
        raise ValueError(f"images have {data.image_shape[0]} channels; only 1 (gray) or 3 (RGB) can be written")
