"""Images of any size brought to one size: the field's habit, the shorter side fitted and the center cropped, in one resampling.

Resizing comes before the noise and so belongs to the data, as decoding does: budgets and radii speak of the resized pixels.
"""

import re
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from certidote.data.checks import MAX_SIZE, MIN_SIZE
from certidote.types import ImageDataset

Size = tuple[int, int]
"""(height, width) in pixels."""

REDUCING_GAP = 3.0
"""Large photographs are first averaged down to this many times the final size, which filters no worse and is much faster."""


def as_size(size: str | int | Size | None) -> Size | None:
    """What users write, 32, "32", "32x48" (height x width) or (32, 48), as a size; None and "" mean: as the images are.

    Raises: ValueError if it is none of these, or a side is not `MIN_SIZE` to `MAX_SIZE` pixels.
    """
    if size is None or size == "":
        return None
    text = "x".join(map(str, size)) if isinstance(size, tuple) else str(size)
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(MIN_SIZE <= side <= MAX_SIZE for side in sides):
        raise ValueError(f"size {text!r}; give N or HxW (height x width) with sides of {MIN_SIZE} to {MAX_SIZE} pixels, such as 32")
    return sides


def resized(image: Image.Image, size: Size) -> Image.Image:
    """The largest centered part of the right proportions, resampled to `size` (Lanczos over the area, so without aliasing).

    An image of that size already comes back untouched.
    """
    height, width = size
    if (image.height, image.width) == size:
        return image
    scale = min(image.height / height, image.width / width)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (max(left, 0), max(top, 0), min(left + width * scale, image.width), min(top + height * scale, image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=REDUCING_GAP)


def resized_images(levels: UInt8[np.ndarray, "n c h w"], size: Size) -> UInt8[np.ndarray, "n c h2 w2"]:
    """Every image resized, one channel at a time."""
    images = np.empty((*levels.shape[:2], *size), dtype=np.uint8)
    for row, image in enumerate(levels):
        for channel, plane in enumerate(image):
            images[row, channel] = np.asarray(resized(Image.fromarray(plane), size))
    return images


def resized_dataset(data: ImageDataset, size: Size) -> ImageDataset:
    """Every image of a set resized, with the note that says so."""
    if data.image_shape[1:] == size:
        return data
    images = torch.from_numpy(resized_images(data.images.numpy(), size))
    return replace(data, images=images, notes=(*data.notes, resized_note(len(data), size)))


def resized_note(count: int, size: Size) -> str:
    return (
        f"{count} image{'s' * (count != 1)} resized to {size[0]}x{size[1]} pixels (height x width; centered crop of these "
        "proportions, Lanczos): every budget and radius speaks of the resized pixels"
    )
