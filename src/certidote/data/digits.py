"""scikit-learn's bundled handwritten digits (1,797 images, 8x8, grey), split once into three disjoint parts.

Two smaller sets have the same split: "digits-0-4", whose trusted images extractors are pre-trained on, and "digits-5-9", which is poisoned
in transfer learning (classes 0 to 4 are the digits 5 to 9).

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


def load_some_digits(digits: range, split: str) -> ImageDataset:
    """One part of the digits, these digits only; class 0 is the first of them."""
    whole = load_digits(split)
    kept = ((whole.labels >= digits.start) & (whole.labels < digits.stop)).nonzero().squeeze(1)
    return ImageDataset(whole.images[kept], whole.labels[kept] - digits.start, tuple(str(digit) for digit in digits))
