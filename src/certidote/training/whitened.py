"""Fast small networks for photographs: a fixed whitening stem, then groups of two convolutions with a maximum over 2x2 between them.

The stem is a constant, made from formulas: cosines over a patch of pixels times three opponent colors, each divided by its size in
natural images, whose spectrum falls as one over the frequency. What follows starts with inputs that are nearly uncorrelated, as
whitening by statistics of the data would make them, but no data are read: not the attacker's, and no others.

Source: the layout (whitening, groups, Dirac initialization, normalization without scale, global maximum, scaled logits) follows Jordan
(2024), "94% on CIFAR-10 in 3.29 seconds on a single GPU". Differs from it: the stem's filters are not fitted to data, each appears with
one sign, and nothing stands between them and the first group but its convolution; ReLU, which costs a processor less than GELU; running
statistics follow a tenth of each batch, as torch's default is.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from certidote.training.classifier import Classifier, standardized
from certidote.training.convnets import GROUPS, Normalization
from certidote.types import Images

LOGIT_SCALE = 1 / 9
"""Logits are the linear layer's output times this, so that features that are maxima do not begin with large ones."""


def whitening_filters(channels: int, patch: int) -> Float[Tensor, "k c p p"]:
    """(channels * patch^2, channels, patch, patch) filters: products of cosines over rows, columns and colors, about whitening.

    Frequency f (half-cycles a patch, both axes together) is multiplied by max(f, 1/2); a color difference by 4. The constant of
    all colors, brightness, is the filter of least gain.

    Args:
        channels: colors; with three the second basis is brightness, blue-yellow-like and red-green-like differences.
        patch: side in pixels.
    """
    across, colors = _cosines(patch), _cosines(channels)
    frequency = torch.arange(patch, dtype=torch.float64)
    gain = (frequency[:, None].square() + frequency.square()).sqrt().clamp_min(0.5)
    tint = torch.full((channels,), 4.0, dtype=torch.float64)
    tint[0] = 1.0
    filters = torch.einsum("ky,lx,mc,kl,m->klmcyx", across, across, colors, gain, tint)
    return (filters / patch).reshape(-1, channels, patch, patch).to(torch.float32)


def _cosines(size: int) -> Float[Tensor, "k n"]:
    """The orthonormal cosine basis of vectors of this size, frequency by frequency."""
    place, frequency = torch.arange(size, dtype=torch.float64) + 0.5, torch.arange(size, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi * frequency * place / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def _normalizer(channels: int, norm: Normalization) -> nn.Module:
    """Normalization whose scale stays 1: the filters before it are free to have any."""
    layer: nn.Module = nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(channels, GROUPS), channels)
    layer.weight.requires_grad_(False)
    return layer


class _Group(nn.Module):
    """3x3 convolution, 2x2 maximum, normalization, ReLU, 3x3 convolution, normalization, ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: Normalization) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(_normalizer(outputs, norm) for _ in range(2))
        for convolution in (self.first, self.second):
            nn.init.dirac_(convolution.weight[: convolution.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norms[0](max_pool2d(self.first(x), 2)))
        return torch.relu(self.norms[1](self.second(x)))


class Whitened(Classifier):
    """The fixed stem, some groups, the maximum of each channel over the image, one linear layer.

    Raises: ValueError for images whose maps vanish before the last group.
    """

    filters: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        patch: int,
        stride: int,
        widths: tuple[int, ...],
        norm: Normalization = "batch",
    ) -> None:
        super().__init__()
        least = patch + stride * (2 ** len(widths) - 1)
        if min(image_shape[1:]) < least:
            raise ValueError(
                f"images of {image_shape[1]}x{image_shape[2]} pixels are too small to be halved {len(widths)} times; use at least "
                f"{least}x{least}, or another architecture"
            )
        self.stride = stride
        self.register_buffer(
            "filters", whitening_filters(image_shape[0], patch)
        )  # kept with the weights: models are filled from them
        inputs = [len(self.filters), *widths]
        self.groups = nn.Sequential(*(_Group(fine, coarse, norm) for fine, coarse in zip(inputs, widths, strict=False)))
        self.head = nn.Linear(widths[-1], num_classes)

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        return self.groups(conv2d(standardized(images), self.filters, stride=self.stride)).amax((2, 3))

    def forward(self, images: Images) -> Float[Tensor, "n classes"]:
        return self.head(self.penultimate(images)) * LOGIT_SCALE


_NORMALIZATIONS: dict[str, Normalization] = {"": "batch", "-gn": "group"}
WHITENED: dict[str, Callable[[tuple[int, int, int], int], Classifier]] = {
    f"{name}{suffix}": partial(Whitened, patch=patch, stride=stride, widths=widths, norm=norm)
    for name, patch, stride, widths in (
        ("compact", 4, 2, (64, 128)),
        ("compact-wide", 2, 1, (32, 64, 128)),
        ("airbench", 2, 1, (64, 256, 256)),
    )
    for suffix, norm in _NORMALIZATIONS.items()
}
"""By name; "-gn" is group normalization."""
