"""The victims of the field's poisoning benchmark, for images of about 32x32 pixels: ResNet-18, VGG-11 and MobileNetV2.

Each in two forms: with batch normalization, as the benchmark has them, and with group normalization, in which a model's answer never
depends on statistics of other images. No ReLU works in place: attacks differentiate through penultimate features.

Source: He et al. (2016), Simonyan and Zisserman (2015), Sandler et al. (2018), with the stems and strides that the benchmark of
Schwarzschild et al. (2021) uses on CIFAR-10; the numbers of parameters are those of its models.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from certidote.training.classifier import Classifier, standardized
from certidote.types import Images

Normalization = Literal["batch", "group"]
Normalize = Callable[[int], nn.Module]

GROUPS = 8
"""Groups of channels in group normalization, or the most that divide the channels."""


def normalizer(kind: Normalization) -> Normalize:
    """Channels -> a fresh normalization layer."""
    if kind == "batch":
        return nn.BatchNorm2d
    return lambda channels: nn.GroupNorm(math.gcd(channels, GROUPS), channels)


def _convolution(inputs: int, outputs: int, side: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, groups=groups, bias=False)


class ConvNet(Classifier):
    """Standardized pixels -> feature maps -> their mean over the image -> one linear layer."""

    def __init__(self, maps: nn.Module, features: int, num_classes: int) -> None:
        super().__init__()
        self.maps = maps
        self.head = nn.Linear(features, num_classes)

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        return adaptive_avg_pool2d(self.maps(standardized(images)), 1).flatten(1)


class _Residual(nn.Module):
    """ReLU of a branch added to the input, which is projected where shapes differ."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.last = branch, shortcut, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.branch(x) + self.shortcut(x))


def _basic_block(inputs: int, outputs: int, stride: int, normalize: Normalize) -> nn.Module:
    branch = nn.Sequential(
        _convolution(inputs, outputs, stride=stride),
        normalize(outputs),
        nn.ReLU(),
        _convolution(outputs, outputs),
        normalize(outputs),
    )
    shortcut: nn.Module = nn.Identity()
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), normalize(outputs))
    return _Residual(branch, shortcut, nn.ReLU())


class ResNet18(ConvNet):
    """Four stages of two basic blocks, 64 to 512 channels, after a 3x3 stem without pooling. 11.2 M parameters, 512 features."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, norm: Normalization = "batch") -> None:
        normalize = normalizer(norm)
        layers: list[nn.Module] = [_convolution(image_shape[0], 64), normalize(64), nn.ReLU()]
        inputs = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [_basic_block(inputs, outputs, stride, normalize), _basic_block(outputs, outputs, 1, normalize)]
            inputs = outputs
        super().__init__(nn.Sequential(*layers), 512, num_classes)


class Vgg11(ConvNet):
    """Eight 3x3 convolutions, halved five times. 9.2 M parameters, 512 features; images of at least 32 pixels a side.

    Raises: ValueError for smaller images.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, norm: Normalization = "batch") -> None:
        if min(image_shape[1:]) < 32:
            raise ValueError(
                f"images of {image_shape[1]}x{image_shape[2]} pixels are too small to be halved five times; use at least 32x32, or "
                "another architecture"
            )
        normalize = normalizer(norm)
        layers: list[nn.Module] = []
        inputs = image_shape[0]
        for outputs, halved in (
            (64, True),
            (128, True),
            (256, False),
            (256, True),
            (512, False),
            (512, True),
            (512, False),
            (512, True),
        ):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), normalize(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if halved else []
            inputs = outputs
        super().__init__(nn.Sequential(*layers), 512, num_classes)


def _inverted_residual(inputs: int, outputs: int, expansion: int, stride: int, normalize: Normalize) -> nn.Module:
    wide = expansion * inputs
    branch = nn.Sequential(
        _convolution(inputs, wide, 1), normalize(wide), nn.ReLU(),
        _convolution(wide, wide, stride=stride, groups=wide), normalize(wide), nn.ReLU(),
        _convolution(wide, outputs, 1), normalize(outputs),
    )  # fmt: skip
    if stride != 1:
        return branch
    shortcut: nn.Module = nn.Identity()
    if inputs != outputs:
        shortcut = nn.Sequential(_convolution(inputs, outputs, 1), normalize(outputs))
    return _Residual(branch, shortcut, nn.Identity())


class MobileNetV2(ConvNet):
    """Seventeen inverted residuals with depthwise convolutions, halved three times. 2.3 M parameters, 1,280 features."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, norm: Normalization = "batch") -> None:
        normalize = normalizer(norm)
        layers: list[nn.Module] = [_convolution(image_shape[0], 32), normalize(32), nn.ReLU()]
        inputs = 32
        stages = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
        for expansion, outputs, blocks, stride in stages:
            for block in range(blocks):
                layers.append(_inverted_residual(inputs, outputs, expansion, stride if block == 0 else 1, normalize))
                inputs = outputs
        layers += [_convolution(inputs, 1280, 1), normalize(1280), nn.ReLU()]
        super().__init__(nn.Sequential(*layers), 1280, num_classes)


_NORMALIZATIONS: dict[str, Normalization] = {"": "batch", "-gn": "group"}
CONVNETS: dict[str, Callable[[tuple[int, int, int], int], Classifier]] = {
    f"{name}{suffix}": partial(network, norm=norm)
    for name, network in (("resnet-18", ResNet18), ("vgg-11", Vgg11), ("mobilenet-v2", MobileNetV2))
    for suffix, norm in _NORMALIZATIONS.items()
}
"""By name; "-gn" is group normalization."""
