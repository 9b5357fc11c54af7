"""Differentiable augmentation for crafting: learners will see poisons shifted and mirrored, so attacks look at them that way.

Source: the augmentation of Witches' Brew (Geiping et al. 2021), with which that work also trains its victims. Differs from
`training.augment`, which shifts by whole pixels unless a recipe has `subpixel`, and uncovers reflections: `border="reflection"` does so.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from certidote.attacks.selection import check_choice
from certidote.streams import Key
from certidote.types import ImageDataset, Images

Border = Literal["fill", "reflection"]


@dataclass(frozen=True)
class Shifts:
    """Random shifts by fractions of a pixel, interpolated bilinearly, and mirrorings; both differentiable in the images.

    Attributes:
        reach: largest shift, as a fraction of the image's height and width: 1/8 is 4 pixels of 32, as in the original.
        flip: mirror images left to right, each with chance 1/2.
        border: what a shift uncovers: "fill", one color, or "reflection", the image in a mirror at the centers of its outer pixels.
        fill: that color, one number for each channel or one for all, [0, 1] pixel units. The original fills with zeros after
            normalization, which is the mean color of its training set.
    Raises: ValueError if `reach` is outside [0, 1], or there is no such border.
    """

    reach: float = 1 / 8
    flip: bool = True
    border: Border = "fill"
    fill: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if not 0 <= self.reach <= 1:
            raise ValueError(f"reach={self.reach} is the largest shift as a fraction of the image's side; give one from 0 to 1")
        check_choice("border", self.border, Border)

    def drawn(self, count: int, key: Key) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, "n"]]:
        """Shifts down and to the right, (count, 2) fractions of height and width, and which images are mirrored, (count,)."""
        generator = key.numpy()
        offsets = generator.uniform(-self.reach, self.reach, size=(count, 2)).astype(np.float32)
        mirrored = generator.random(count) < 0.5 if self.flip else np.zeros(count, dtype=bool)
        return torch.from_numpy(offsets), torch.from_numpy(mirrored)

    def __call__(self, images: Images, key: Key) -> Images:
        """Images as one epoch of training may show them; the key decides how."""
        return self.moved(images, *self.drawn(len(images), key))

    def moved(self, images: Images, offsets: Float[Tensor, "n 2"], mirrored: Bool[Tensor, "n"]) -> Images:
        """Images mirrored, where asked for, and then shifted; arguments as `drawn` returns them.

        Raises: ValueError if there is neither one fill color nor one for each channel.
        """
        channels, height, width = images.shape[1:]
        if len(self.fill) not in (1, channels):
            raise ValueError(f"{len(self.fill)} fill colors for images of {channels} channels; give one, or one for each channel")
        offsets, mirrored = offsets.to(images), mirrored.to(images.device)
        # Where each place of the result looks: -1 and 1 are the centers of the outer pixels, 2 / (side - 1) is one pixel.
        down, right = (2 * offsets[:, axis] * side / max(side - 1, 1) for axis, side in enumerate((height, width)))
        vertical, horizontal = (torch.linspace(-1, 1, side, dtype=images.dtype, device=images.device) for side in (height, width))
        vertical, horizontal = vertical - down[:, None], horizontal - right[:, None]
        horizontal = torch.where(mirrored[:, None], -horizontal, horizontal)
        shape = (len(images), height, width)
        grid = torch.stack([horizontal[:, None, :].expand(shape), vertical[:, :, None].expand(shape)], 3)
        if self.border == "reflection":
            return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
        color = torch.tensor(self.fill).to(images).view(1, -1, 1, 1)
        return functional.grid_sample(images - color, grid, padding_mode="zeros", align_corners=True) + color


def shifts_for(train: ImageDataset, shift: float, flip: bool, border: Border) -> Shifts | None:
    """The augmentation that an attack's options ask for, with the training set's mean color as fill; None if they ask for nothing."""
    if shift == 0 and not flip:
        return None
    return Shifts(shift, flip, border, tuple((train.images.double().mean((0, 2, 3)) / 255).tolist()))
