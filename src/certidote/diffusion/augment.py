"""Slightly moved, turned and stretched copies of images, so that a denoiser can learn from few of them."""

import math
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch.nn import functional

from certidote.numerics import sent
from certidote.types import Images, Json


@dataclass(frozen=True)
class Augmentation:
    """How far images are changed; every image by its own draw. All zero changes nothing.

    Attributes:
        share: fraction of images that are changed at all; the rest stay exact. In [0, 1].
        shift: std of the shift along each axis, pixels (fractions of a pixel included).
        rotation: std of the angle, radians.
        scaling: std of the log stretch along each axis, and of the shear.
        intensity: std of the log brightness factor.
        flip: mirror half of the images left to right. Not for digits or text.
    Raises: ValueError if a number is out of range.
    """

    share: float = 0.7
    shift: float = 0.3
    rotation: float = 0.1
    scaling: float = 0.06
    intensity: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share} of the images augmented; give a fraction in [0, 1]")
        for name in ("shift", "rotation", "scaling", "intensity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}; give a finite std of at least 0")

    def to_json(self) -> Json:
        return asdict(self)

    def __call__(self, images: Images, generator: np.random.Generator) -> Images:
        """(n, c, h, w) changed images in [0, 1], where they are; outside an image is black. Bicubic, because bilinear sampling blurs."""
        n, height, width = len(images), images.shape[2], images.shape[3]
        draws = torch.from_numpy(generator.standard_normal((n, 7)).astype(np.float32))
        uniform = torch.from_numpy(generator.random((n, 2)).astype(np.float32))
        changed = uniform[:, 0] < self.share
        angle = self.rotation * draws[:, 0]
        stretch = torch.exp(self.scaling * draws[:, 1:3])
        mirror = torch.where(uniform[:, 1] < 0.5, -1.0, 1.0) if self.flip else torch.ones(n)
        right, down = 2 * self.shift / width * draws[:, 4], 2 * self.shift / height * draws[:, 5]  # an image is 2 wide in the grid
        row_x = [mirror * angle.cos() / stretch[:, 0], self.scaling * draws[:, 3] - angle.sin(), right]
        row_y = [mirror * angle.sin(), angle.cos() / stretch[:, 1], down]
        matrices = sent(torch.stack([torch.stack(row_x, 1), torch.stack(row_y, 1)], 1), images.device)
        grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
        moved = functional.grid_sample(images, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
        moved = moved * sent(torch.exp(self.intensity * draws[:, 6]), images.device).view(-1, 1, 1, 1)
        return torch.where(sent(changed, images.device).view(-1, 1, 1, 1), moved.clamp_(0, 1), images)


AUGMENTATION_FIELDS = tuple(field.name for field in fields(Augmentation))
"""Names that a recipe file may use."""
