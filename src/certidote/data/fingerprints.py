"""An image's SHA-256 in place of its pixels: enough to count and compare images of any size, of which no array can be made."""

import hashlib
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import UInt8

from certidote.types import ImageDataset


def fingerprint(levels: UInt8[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c 1 32"]:
    """32 bytes that depend on an image's size and colors, the same in every channel: a grey image has those of its copy in RGB."""
    height, width = levels.shape[1:]
    content = hashlib.sha256(f"{height}x{width}".encode())
    content.update(np.ascontiguousarray(np.broadcast_to(levels, (3, height, width))).data)
    return np.tile(np.frombuffer(content.digest(), np.uint8), (len(levels), 1, 1))


def fingerprinted(data: ImageDataset) -> ImageDataset:
    """A set with the fingerprints of its images in their place."""
    return replace(data, images=torch.from_numpy(np.stack([fingerprint(levels) for levels in data.images.numpy()])))
