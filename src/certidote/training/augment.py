"""Random shifts and mirrorings of training images, drawn for a whole training at once and applied where the images are.

Augmentation works on what a member was given, so a certificate does not notice it; its coins are the member's own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from certidote.numerics import sent
from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.types import Images


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What happens to each image in each epoch.

    Attributes:
        shifts: (epochs, n, 2) downwards and to the right, in whole pixels, rounded down: -crop to crop.
        fractions: (epochs, n, 2) what the shifts are more than that, in [0, 1]; None if all are whole.
        mirrored: (epochs, n) images that are mirrored left to right.
    """

    shifts: Int64[Tensor, "epochs n 2"]
    fractions: Float[Tensor, "epochs n 2"] | None
    mirrored: Bool[Tensor, "epochs n"]

    @staticmethod
    def drawn(recipe: Recipe, images: int, key: Key, device: torch.device) -> "Augmentation | None":
        """For a training of `images` images; epoch e's coins come from `key / "augment" / e`. None if the recipe asks for none."""
        if not recipe.augments:
            return None
        shifts = torch.zeros((recipe.epochs, images, 2), dtype=torch.int64)
        fractions = torch.zeros((recipe.epochs, images, 2)) if recipe.subpixel else None
        mirrored = torch.zeros((recipe.epochs, images), dtype=torch.bool)
        for epoch in range(recipe.epochs):
            generator = (key / "augment" / epoch).numpy()
            if fractions is not None:
                drawn = torch.from_numpy(generator.uniform(-recipe.crop, recipe.crop, size=(images, 2)))
                shifts[epoch], fractions[epoch] = drawn.floor(), drawn - drawn.floor()
            else:
                shifts[epoch] = torch.from_numpy(generator.integers(-recipe.crop, recipe.crop + 1, size=(images, 2)))
            if recipe.flip:
                mirrored[epoch] = torch.from_numpy(generator.random(images) < 0.5)
        return Augmentation(sent(shifts, device), None if fractions is None else sent(fractions, device), sent(mirrored, device))

    def take(self, other: "Augmentation") -> None:
        """Copy another's coins, for as many images and epochs, into this one's memory."""
        self.shifts.copy_(other.shifts)
        self.mirrored.copy_(other.mirrored)
        if self.fractions is not None and other.fractions is not None:
            self.fractions.copy_(other.fractions)

    def __call__(self, images: Images, epoch: int | Int64[Tensor, "1"], rows: Int64[Tensor, "b"]) -> Images:
        """Some images of one epoch, shifted (by fractions of a pixel bilinearly) and then mirrored. What a shift uncovers is a reflection.

        Args:
            images: (b, c, h, w), those of `rows`.
            epoch: counted from 0; a tensor where the host need not know it.
        Returns: (b, c, h, w), in the memory format of `images`.
        """
        b, _, h, w = images.shape
        down, right = self.shifts[epoch, rows].unbind(1)
        across = torch.arange(w, device=images.device).expand(b, w)
        across = torch.where(self.mirrored[epoch, rows][:, None], w - 1 - across, across) - right[:, None]
        along = torch.arange(h, device=images.device) - down[:, None]
        if self.fractions is None:
            return _seen(images, along, across)
        lower, farther = self.fractions[epoch, rows].to(images.dtype)[:, :, None, None, None].unbind(1)
        above, below = (torch.lerp(_seen(images, ys, across), _seen(images, ys, across - 1), farther) for ys in (along, along - 1))
        return torch.lerp(above, below, lower)


def _seen(images: Images, along: Int64[Tensor, "b h"], across: Int64[Tensor, "b w"]) -> Images:
    """The pixels at these rows and columns of each image, up to its side outside of it; in the memory format of `images`."""
    b, c, h, w = images.shape
    pixels = images.permute(0, 2, 3, 1).reshape(-1, c)  # a view, if channels are last in memory: one pixel's lie side by side
    ys = _reflected(along, h) + torch.arange(0, b * h, h, device=images.device)[:, None]
    places = ys[:, :, None] * w + _reflected(across, w)[:, None, :]
    found = pixels.index_select(0, places.flatten()).view(b, h, w, c).permute(0, 3, 1, 2)
    last = images.is_contiguous(memory_format=torch.channels_last)
    return found.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _reflected(places: Int64[Tensor, "b m"], size: int) -> Int64[Tensor, "b m"]:
    """Places up to `size` - 1 outside of 0..size-1 as seen in a mirror at the border, which is not repeated."""
    last = size - 1
    return last - (last - places.abs()).abs()
