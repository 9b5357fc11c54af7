"""scikit-learn's bundled handwritten digits (1,797 images, 8x8, grey), split once into three disjoint parts.

`trusted` is what denoisers and feature extractors learn from, `train` is the set under attack, `test` is held out of both. The
split is a fixed permutation, so that no image a denoiser purifies was ever seen by it.
"""

from functools import cache

import torch

from certidote.streams import Key
from certidote.types import ImageDataset

SPLITS = {"trusted": (0, 897), "train": (897, 1_397), "test": (1_397, 1_797)}


@cache
def load_digits(split: str) -> ImageDataset:
    """One part of the digits: "trusted" (897 images), "train" (500) or "test" (400), shape (1, 8, 8), 10 classes.

    The 17 grey levels 0..16 are stored as the nearest of 255 levels.
    """
    if split not in SPLITS:
        raise ValueError(f"digits has no split {split!r}; choose one of: {', '.join(SPLITS)}")
    from sklearn.datasets import load_digits as read_bundled

    bundled = read_bundled()
    order = (Key(0) / "digits" / "split").numpy().permutation(len(bundled.target))
    first, last = SPLITS[split]
    rows = order[first:last]
    levels = (bundled.images[rows] * 255 / 16).round().astype("uint8")
    return ImageDataset(
        torch.from_numpy(levels).unsqueeze(1),
        torch.from_numpy(bundled.target[rows].astype("int64")),
        tuple(str(digit) for digit in range(10)),
    )
