"""Plain preprocessing of images, as everybody asks about: JPEG, blur, fewer bits, total variation.

Models learn from the preprocessed training images and are asked about test images preprocessed in the same way. Every image is changed
by itself. All of it is deterministic and proves nothing: an attacker who knows it crafts poisons that survive it.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, pad

from certidote.defenses.plain import PlainTraining
from certidote.defenses.sanitize import as_levels
from certidote.streams import Key, row_blocks
from certidote.types import Ballots, Certificate, Images, Json, Prediction, SealedInputs, Unproved, Untrusted, View, as_pixels

RowMap = Callable[[Images], Images]
"""(n, c, h, w) [0, 1] pixels -> as many, each a function of its own image alone."""


@dataclass(frozen=True)
class Preprocessed:
    """Members that all learn from the same preprocessed images, and a plain vote. No certificate.

    Args:
        name: of what is done.
        change: does it; must be picklable.
        options: what decides it, for the description.
        members, device: as in `PlainTraining`.
    """

    name: str
    change: RowMap
    options: Json
    members: int = 1
    device: str = "cpu"

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = PlainTraining(self.members, self.device).view(data, member, key)
        return replace(view, images=self._changed(view.images))

    @property
    def inputs_per_member(self) -> bool:
        return False

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        """Test images, preprocessed as those for training."""
        assert isinstance(images, Tensor), "sealed only where members have inputs of their own"
        return self._changed(images)

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of the members, ties to the smaller class index."""
        return PlainTraining(self.members).aggregate(ballots)

    def certify(self, ballots: Ballots) -> Certificate | Unproved:
        """Nothing is proved about models that saw functions of the untrusted pixels without noise."""
        return PlainTraining(self.members).certify(ballots)

    def describe(self) -> Json:
        return {"scheme": self.name, "members": self.members, **self.options}

    def _changed(self, images: Images) -> Images:
        return torch.cat([self.change(images[rows.start : rows.stop]) for rows in row_blocks(len(images))])


def jpeg(images: Images, quality: int = 50) -> Images:
    """Compressed and decompressed by Pillow's JPEG: at low quality, fine detail is lost.

    Args:
        images: (n, c, h, w) with 1 or 3 channels; rounded to 255 levels first.
        quality: 1 to 95.
    Raises: ValueError for another quality or number of channels.
    Source: Dziugaite, Ghahramani and Roy (2016); Liu et al. (2023) for poisons.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"quality={quality}; give a JPEG quality from 1 to 95")
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images of {images.shape[1]} channels; JPEG takes grayscale or RGB")
    stored = as_levels(images).permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for pixels in stored:
        file = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            decoded.append(np.asarray(image).reshape(pixels.shape))
    return as_pixels(torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)).to(images.device)


def blur(images: Images, std: float = 1.0) -> Images:
    """Averaged with a Gaussian window, cut off at four times its std; the image goes on beyond its border as in a mirror.

    Args:
        std: in pixels, above 0.
    Raises: ValueError for another.
    """
    if not std > 0:
        raise ValueError(f"std={std:g}; give a width above 0, in pixels")
    reach = int(4 * std + 0.5)
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / std) ** 2)
    window = (window / window.sum()).to(images)
    n, c, h, w = images.shape
    flat = _mirrored(images.reshape(n * c, 1, h, w), reach)
    return conv2d(conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1)).view(n, c, h, w)


def fewer_bits(images: Images, bits: int = 3) -> Images:
    """Rounded to the nearest of 2^bits evenly spaced levels, 0 and 1 among them.

    Args:
        bits: 1 to 7.
    Raises: ValueError for another number.
    Source: Xu, Evans and Qi (2018), "Feature squeezing".
    """
    if not 1 <= bits <= 7:
        raise ValueError(f"bits={bits}; give 1 to 7 bits for each value, of 8 that are stored")
    return (images.clamp(0, 1) * (2**bits - 1)).round() / (2**bits - 1)


def total_variation(images: Images, weight: float = 0.1, steps: int = 100) -> Images:
    """The image u that minimizes |u - x|^2 / 2 + weight TV(u), TV the sum over pixels of the gradient's length, channel by channel.

    Args:
        weight: above 0; larger is smoother.
        steps: of Chambolle's iteration, at least 1.
    Raises: ValueError for numbers out of range.
    Source: Rudin, Osher and Fatemi (1992), by the algorithm of Chambolle (2004), equation 9, with step 1/4; Guo et al. (2018) as a defense.
    Differs from Guo et al.: no pixels are dropped at random.
    """
    if not weight > 0 or steps < 1:
        raise ValueError(f"weight={weight:g}, steps={steps}; give a weight above 0 and at least 1 step")
    dual = images.new_zeros(2, *images.shape)
    for _ in range(steps):
        slope = _gradient(_divergence(dual) - images / weight)
        dual = (dual + slope / 4) / (1 + slope.square().sum(0).sqrt() / 4)
    return images - weight * _divergence(dual)


def _gradient(images: Images) -> Float[Tensor, "2 n c h w"]:
    """Differences to the next pixel below and to the right, 0 beyond the last."""
    return torch.stack([pad(images.diff(dim=2), (0, 0, 0, 1)), pad(images.diff(dim=3), (0, 1))])


def _divergence(field: Float[Tensor, "2 n c h w"]) -> Images:
    """The negative adjoint of `_gradient`."""
    down, right = field[0][..., :-1, :], field[1][..., :-1]
    return pad(down, (0, 0, 0, 1)) - pad(down, (0, 0, 1, 0)) + pad(right, (0, 1)) - pad(right, (1, 0))


def _mirrored(images: Float[Tensor, "n 1 h w"], reach: int) -> Float[Tensor, "n 1 tall wide"]:
    """With a border of this width, in which pixels repeat as in a mirror: d c b a | a b c d | d c b a."""
    height, width = images.shape[2:]
    rows, columns = (_places(size, reach).to(images.device) for size in (height, width))
    return images.index_select(2, rows).index_select(3, columns)


def _places(size: int, reach: int) -> Tensor:
    places = torch.arange(-reach, size + reach) % (2 * size)
    return torch.minimum(places, 2 * size - 1 - places)


PREPROCESSING: dict[str, tuple[Callable[..., Images], Json]] = {
    "jpeg": (jpeg, {"quality": 50}),
    "blur": (blur, {"std": 1.0}),
    "bit-depth": (fewer_bits, {"bits": 3}),
    "total-variation": (total_variation, {"weight": 0.1, "steps": 100}),
}
"""By name: what is done, and how much of it."""


def preprocessed(name: str, members: int = 1, device: str = "cpu", **options: int | float) -> Preprocessed:
    """A scheme of `PREPROCESSING`; options replace those listed there."""
    change, usual = PREPROCESSING[name]
    used: Json = {**usual, **options}
    return Preprocessed(name, partial(change, **used), used, members, device)
