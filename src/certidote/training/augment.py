"""Random shifts and mirrorings of training images, drawn for a whole training at once and applied where the images are.

Augmentation works on what a member was given, so a certificate does not notice it; its coins are the member's own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from certidote.numerics import sent
from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.types import Images


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What happens to each image in each epoch.

    Attributes:
        crop: largest shift in pixels.
        shifts: (epochs, n, 2) downwards and to the right, -crop to crop.
        mirrored: (epochs, n) images that are mirrored left to right.
    """

    crop: int
    shifts: Int64[Tensor, "epochs n 2"]
    mirrored: Bool[Tensor, "epochs n"]

    @staticmethod
    def drawn(recipe: Recipe, images: int, key: Key, device: torch.device) -> "Augmentation | None":
        """For a training of `images` images; epoch e's coins come from `key / "augment" / e`. None if the recipe asks for none."""
        if not recipe.augments:
            return None
        shifts = torch.zeros((recipe.epochs, images, 2), dtype=torch.int64)
        mirrored = torch.zeros((recipe.epochs, images), dtype=torch.bool)
        for epoch in range(recipe.epochs):
            generator = (key / "augment" / epoch).numpy()
            shifts[epoch] = torch.from_numpy(generator.integers(-recipe.crop, recipe.crop + 1, size=(images, 2)))
            if recipe.flip:
                mirrored[epoch] = torch.from_numpy(generator.random(images) < 0.5)
        return Augmentation(recipe.crop, sent(shifts, device), sent(mirrored, device))

    def __call__(self, images: Images, epoch: int, rows: Int64[Tensor, "b"]) -> Images:
        """Some images of one epoch, shifted and then mirrored. What a shift uncovers is filled by reflection.

        Args:
            images: (b, c, h, w), those of `rows`.
        Returns: (b, c, h, w), in the memory format of a convolution's input.
        """
        b, c, h, w = images.shape
        down, right = self.shifts[epoch, rows].unbind(1)
        across = torch.arange(w, device=images.device).expand(b, w)
        across = torch.where(self.mirrored[epoch, rows][:, None], w - 1 - across, across)
        along = torch.arange(h, device=images.device) - down[:, None]
        ys = _reflected(along, h)[:, None, :, None].expand(b, c, h, w)
        xs = _reflected(across - right[:, None], w)[:, None, None, :].expand(b, c, h, w)
        return images.gather(2, ys).gather(3, xs).contiguous(memory_format=torch.channels_last)


def _reflected(places: Int64[Tensor, "b m"], size: int) -> Int64[Tensor, "b m"]:
    """Places up to `size` - 1 outside of 0..size-1 as seen in a mirror at the border, which is not repeated."""
    last = size - 1
    return last - (last - places.abs()).abs()
