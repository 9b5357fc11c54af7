"""A synthetic data set that takes a millisecond to make and that any classifier can learn, for tests and first steps."""

import numpy as np
import torch
from jaxtyping import Float64

from certidote.data.checks import MAX_CLASSES, MIN_SIZE
from certidote.streams import Key
from certidote.types import ImageDataset

CELLS = 4
"""A class is a pattern of dark and bright cells, this many a side."""

DARK, BRIGHT = 0.25, 0.75
SPREAD = 0.05
"""Std of the Gaussian noise within a class, [0, 1] units."""


def tiny(num_per_class: int, classes: int, shape: tuple[int, int, int], key: Key) -> ImageDataset:
    """Random pattern of dark and bright cells per class, plus slight Gaussian noise per image.

    The patterns depend on `classes` and `shape` only, so that two keys give a training and a test set of the same classes. Any two
    patterns differ in at least one cell: on 8x8 pixels half their distance is at least 10 times `SPREAD`, and the nearest pattern
    names the class of every image.

    Args:
        num_per_class: images of each class, at least 1; rows go through the classes in turn.
        classes: 2 to 1,000.
        shape: (channels, height, width), at least (1, 8, 8).
        key: what the noise is drawn from.
    Raises: ValueError if an argument is out of range.
    """
    c, h, w = shape
    if num_per_class < 1 or not 2 <= classes <= MAX_CLASSES:
        raise ValueError(f"{num_per_class} images in each of {classes} classes; give at least 1 in 2 to {MAX_CLASSES} classes")
    if c < 1 or min(h, w) < MIN_SIZE:
        raise ValueError(f"shape {shape} is too small; give at least (1, {MIN_SIZE}, {MIN_SIZE}), (channels, height, width)")
    patterns = tiny_patterns(classes, shape)
    labels = np.tile(np.arange(classes, dtype=np.int64), num_per_class)
    noise = SPREAD * (key / "tiny").numpy().standard_normal((len(labels), *shape))
    levels = np.rint((patterns[labels] + noise).clip(0, 1) * 255).astype(np.uint8)
    return ImageDataset(torch.from_numpy(levels), torch.from_numpy(labels), tuple(f"pattern-{k}" for k in range(classes)))


def tiny_patterns(classes: int, shape: tuple[int, int, int]) -> Float64[np.ndarray, "classes c h w"]:
    """(classes, c, h, w) noiseless images, one per class; channels after the first show the pattern moved to the side."""
    c, h, w = shape
    codes = (Key(0) / "tiny" / "patterns").numpy().choice(2 ** (CELLS * CELLS), size=classes, replace=False)
    bits = (codes[:, None] >> np.arange(CELLS * CELLS)) & 1
    cells = np.where(bits, BRIGHT, DARK).reshape(classes, CELLS, CELLS)
    image = cells[:, np.arange(h)[:, None] * CELLS // h, np.arange(w) * CELLS // w]
    return np.stack([np.roll(image, channel * w // CELLS, axis=2) for channel in range(c)], axis=1)
