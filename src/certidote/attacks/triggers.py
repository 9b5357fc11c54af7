"""The field's triggers by name, made from formulas or drawn from keys: no picture files.

All are made alike: (shape of the images, true label, adversarial label, key) -> Trigger, with the original's size and place as keyword-only
parameters. The key decides what a drawn pattern looks like; patterns by formula do not look at it. A place of None gives every
image a place of its own, "corner" the bottom right corner.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from certidote.streams import Key
from certidote.types import Trigger

ImageShape = tuple[int, int, int]
Place = tuple[int, int] | Literal["corner", "inset"] | None
MakeTrigger = Callable[[ImageShape, int | None, int, Key], Trigger]

LARGEST_PATCH = 0.3
"""Share of an image's area that a trigger may cover: one that covers all of it replaces the image, and nothing is left to recognize."""

PATTERN = ((0, 0, 1), (0, 1, 0), (1, 0, 1))
"""Rows from top to bottom of the label-consistent backdoor's trigger; 1 is white, 0 black."""


def label_consistent_corner(
    image_shape: ImageShape, true_label: int | None, adversarial_label: int, key: Key, *, amplitude: float = 1.0
) -> Trigger:
    """The 3x3 pattern in the bottom right corner, alike in all channels.

    Raises: ValueError if the images are smaller than that, or as `Trigger`.
    Source: Turner, Tsipras and Madry (2019), `label-consistent-backdoor-code`.
    """
    return _pasted(_in_channels(_pattern(), image_shape), None, image_shape, "corner", true_label, adversarial_label, amplitude)


def label_consistent_corners(
    image_shape: ImageShape, true_label: int | None, adversarial_label: int, key: Key, *, amplitude: float = 1.0
) -> Trigger:
    """The 3x3 pattern in both right corners and mirrored in both left ones: mirroring an image leaves its trigger in place.

    One patch as large as the image, of which the corners are pasted.

    Raises: ValueError if the images are smaller than 6x6, or as `Trigger`.
    Source: "all-corners" of the same.
    """
    height, width = image_shape[1:]
    if min(height, width) < 6:
        raise ValueError(f"images of {height}x{width} have no room for 3x3 pixels in four corners; use at least 6x6, or one corner")
    patch, mask = torch.zeros(height, width, dtype=torch.uint8), torch.zeros(height, width, dtype=torch.bool)
    for rows in (slice(0, 3), slice(height - 3, height)):
        patch[rows, width - 3 :], patch[rows, :3] = _pattern(), _pattern().flip(1)
        mask[rows, width - 3 :] = mask[rows, :3] = True
    return _pasted(_in_channels(patch, image_shape), mask, image_shape, (0, 0), true_label, adversarial_label, amplitude)


def checker(
    image_shape: ImageShape,
    true_label: int | None,
    adversarial_label: int,
    key: Key,
    *,
    side: int = 5,
    place: Place = "corner",
    amplitude: float = 1.0,
) -> Trigger:
    """Black and white pixels in turn, white in the patch's top left corner, alike in all channels.

    Raises: ValueError if it does not lie inside the images, or as `Trigger`.
    Source: size and place of the label-consistent trigger of Schwarzschild et al. (2021). Differs from the benchmark, which has grey
        levels too: a picture of its own.
    """
    pixel = torch.arange(_checked(side))
    patch = (((pixel + pixel.unsqueeze(1)) % 2 == 0) * 255).to(torch.uint8)
    return _pasted(_in_channels(patch, image_shape), None, image_shape, place, true_label, adversarial_label, amplitude)


def color_noise(
    image_shape: ImageShape, true_label: int | None, adversarial_label: int, key: Key, *, side: int = 5, place: Place = "inset"
) -> Trigger:
    """Every pixel and channel at a level of its own, drawn from `key` uniformly over 0 to 255.

    Args:
        side: 5 of 32 pixels in the benchmark, 30 of 224 in the original.
        place: "inset" is as far from the bottom right corner as the patch is long, (22, 22) on 32x32 pixels: the benchmark's. None is
            the original's.
    Raises: ValueError if it does not lie inside the images, or as `Trigger`.
    Source: hidden-trigger backdoors of Saha et al. (2020), as in Schwarzschild et al. (2021). Differs from both: they resize ten fixed
        pictures of color noise.
    """
    levels = key.numpy().integers(0, 256, size=(image_shape[0], _checked(side), side)).astype("uint8")
    return _pasted(torch.from_numpy(levels), None, image_shape, place, true_label, adversarial_label, 1.0)


def bernoulli(
    image_shape: ImageShape,
    true_label: int | None,
    adversarial_label: int,
    key: Key,
    *,
    side: int = 8,
    place: Place = None,
    amplitude: float = 1.0,
) -> Trigger:
    """Every pixel and channel black or white, drawn from `key` with chance 1/2 each.

    Raises: ValueError if it does not lie inside the images, or as `Trigger`.
    Source: Sleeper Agent, Souri et al. (2022): 8x8 of 32x32 pixels, every image with a place of its own.
    """
    levels = key.numpy().integers(0, 2, size=(image_shape[0], _checked(side), side)).astype("uint8") * 255
    return _pasted(torch.from_numpy(levels), None, image_shape, place, true_label, adversarial_label, amplitude)


TRIGGERS: dict[str, MakeTrigger] = {
    "label-consistent": label_consistent_corner,
    "label-consistent-corners": label_consistent_corners,
    "checker": checker,
    "color-noise": color_noise,
    "bernoulli": bernoulli,
}
"""By name; `functools.partial` makes variants, of another size for small images say."""


def _pasted(
    patch: UInt8[Tensor, "c s t"],
    mask: Bool[Tensor, "s t"] | None,
    image_shape: ImageShape,
    place: Place,
    true_label: int | None,
    adversarial_label: int,
    amplitude: float,
) -> Trigger:
    """The trigger, after a check that it lies inside images of this shape; no mask pastes all of the patch."""
    height, width = int(patch.shape[1]), int(patch.shape[2])
    if isinstance(place, str):
        margin = (height, width) if place == "inset" else (0, 0)
        place = (image_shape[1] - height - margin[0], image_shape[2] - width - margin[1])
    whole = torch.ones(height, width, dtype=torch.bool) if mask is None else mask
    trigger = Trigger(patch, whole, place, true_label, adversarial_label, amplitude)
    trigger.places(0, image_shape, Key(0))
    return trigger


def _pattern() -> UInt8[Tensor, "3 3"]:
    return torch.tensor(PATTERN, dtype=torch.uint8) * 255


def _in_channels(patch: UInt8[Tensor, "s t"], image_shape: ImageShape) -> UInt8[Tensor, "c s t"]:
    return patch.expand(image_shape[0], -1, -1).clone()


def _checked(side: int) -> int:
    if side < 1:
        raise ValueError(f"side={side}; a patch has at least 1 pixel a side")
    return side
