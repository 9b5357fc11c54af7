"""Labelled images: stored as uint8, computed with as float32 in [0, 1]."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from certidote.types.values import Images


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Labelled images of one shape. Nobody writes into these tensors after construction.

    Attributes:
        images, labels, class_names: the data; `digest` speaks of these and of nothing else.
        names: what a person finds each image by, one for each row (the path inside the folder or archive it came from, "/" between
            the parts); None where images have no names. Not in the digest: no model sees them, and renaming a file changes no result.
        notes: sentences about how the images came to be ("resized to ..."), for every record about them. Not in the digest either:
            what was done is in the pixels.
    Raises: ValueError if shapes disagree, a label is out of range, or there are fewer than two classes or no images.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, "n"]
    class_names: tuple[str, ...]
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise ValueError("a data set needs at least one image; this one is empty")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels; each image needs exactly one label")
        if self.names is not None and len(self.names) != len(self.images):
            raise ValueError(f"{len(self.images)} images but {len(self.names)} names; give each image its name, or give none")
        if len(self.class_names) < 2:
            raise ValueError(f"{len(self.class_names)} class given; a classifier needs at least 2 classes")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            bad = low if low < 0 else high
            raise ValueError(f"label {bad} is out of range; {len(self.class_names)} classes allow 0 to {len(self.class_names) - 1}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        c, h, w = self.images.shape[1:]
        return int(c), int(h), int(w)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def pixels(self) -> Images:
        """All images as float32 in [0, 1]."""
        return as_pixels(self.images)

    def digest(self) -> str:
        """SHA-256 over shape, class names, labels and pixels, 64 hex digits."""
        h = hashlib.sha256(json.dumps([list(self.images.shape), list(self.class_names)]).encode())
        h.update(self.labels.numpy().astype("<i8").tobytes())
        h.update(np.ascontiguousarray(self.images.numpy()).data)
        return h.hexdigest()

    def subset(self, rows: Sequence[int] | Int64[Tensor, "m"]) -> "ImageDataset":
        """These rows, in this order, with their names and the same classes."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        names = None if self.names is None else tuple(self.names[row] for row in index.tolist())
        return replace(self, images=self.images[index], labels=self.labels[index], names=names)

    def name_of(self, row: int) -> str:
        """How messages and tables call the image in this row: its name, or "image 17" where it has none."""
        return f"image {row}" if self.names is None else self.names[row]


def content_hashes(images: UInt8[Tensor, "n c h w"]) -> list[int]:
    """A 63-bit hash of each stored image, to recognize the same image in two data sets without keeping its pixels."""
    return [int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8], "big") >> 1 for image in images.numpy()]


SHORT_BITS = 52
"""Of a short hash: two sets of 100,000 different images have one in common once in 450,000 times."""


def short_hashes(images: UInt8[Tensor, "n c h w"]) -> list[int]:
    """The first 52 bits of each image's content hash: a list of these takes less room than one of whole hashes."""
    return [shortened(value) for value in content_hashes(images)]


def shortened(content_hash: int) -> int:
    return content_hash >> (63 - SHORT_BITS)


def as_pixels(images: UInt8[Tensor, "n c h w"]) -> Images:
    """Stored images as float32 in [0, 1]."""
    return images.to(torch.float32) / 255
