"""The architectures that members can have, and stacks of trained members.

A trained model's answer for one image depends on that image alone. No ReLU works in place: attacks differentiate through penultimate
features.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from certidote.streams import Key, torch_seeded
from certidote.training.classifier import Classifier, standardized
from certidote.training.convnets import CONVNETS
from certidote.training.own import is_own, own_model
from certidote.training.whitened import WHITENED
from certidote.types import Images

MAX_MAP = 8
"""Larger feature maps are averaged down to this side, which keeps the linear layer of large images small."""


class Mlp(Classifier):
    """Flattened pixels, one hidden layer of ReLU units, one linear layer."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, width: int) -> None:
        super().__init__()
        channels, height, across = image_shape
        self.hidden = nn.Linear(channels * height * across, width)
        self.head = nn.Linear(width, num_classes)

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        return torch.relu(self.hidden(standardized(images).flatten(1)))


class Cnn(Classifier):
    """Two 3x3 convolutions, each followed by 2x2 max-pooling and ReLU, and one linear layer."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, *, widths: tuple[int, int]) -> None:
        super().__init__()
        channels, height, across = image_shape
        if min(height, across) < 4:
            raise ValueError(f"images of {height}x{across} pixels are too small to be halved twice; use at least 4x4, or an MLP")
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.second = nn.Conv2d(widths[0], widths[1], 3, padding=1)
        self.map = (min(height // 4, MAX_MAP), min(across // 4, MAX_MAP))
        self.head = nn.Linear(widths[1] * self.map[0] * self.map[1], num_classes)

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        # Pooling first gives the same numbers as ReLU first, and leaves ReLU a quarter of the work.
        maps = torch.relu(max_pool2d(self.first(standardized(images)), 2))
        maps = torch.relu(max_pool2d(self.second(maps), 2))
        if maps.shape[2:] != self.map:
            maps = adaptive_avg_pool2d(maps, self.map)
        return maps.flatten(1)


Builder = Callable[[tuple[int, int, int], int], Classifier]

MLPS: dict[str, Builder] = {
    "mlp-128": partial(Mlp, width=128),
}
"""One hidden layer, which `stacked` trains many at once."""

ARCHITECTURES: dict[str, Builder] = {
    **MLPS,
    "cnn-32-64": partial(Cnn, widths=(32, 64)),
    **CONVNETS,
    **WHITENED,
}
"""Everything a recipe can name, besides the user's own."""


def build(architecture: str, image_shape: tuple[int, int, int], num_classes: int, key: Key) -> nn.Module:
    """A fresh model whose initial weights are a pure function of `key`, drawn from `key / "init"`.

    Args:
        architecture: of `ARCHITECTURES`, which gives a `Classifier`; or "package.module:factory", the user's own code.
    Raises: ValueError for an unknown architecture, or images it cannot take.
    """
    if is_own(architecture):
        return own_model(architecture, image_shape, num_classes, key)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of: {', '.join(sorted(ARCHITECTURES))}")
    with torch_seeded(key / "init"):
        return ARCHITECTURES[architecture](image_shape, num_classes)


def batch_statistics(architecture: str) -> bool:
    """Whether an architecture of the catalogue normalizes by statistics of the batch: then it has a form with "-gn", which does not."""
    return f"{architecture}-gn" in ARCHITECTURES


def single_image_refusal(architecture: str, more: str = "fewer parts or larger bags") -> str:
    """Why a model with batch normalization cannot learn from one image, and what can.

    Args:
        more: what gives a member more images.
    """
    instead = f"use {architecture}-gn" if batch_statistics(architecture) else "use one with GroupNorm"
    return (
        f"a member has 1 image to learn from, but {architecture} normalizes by statistics of a batch, which one image does not have; "
        f"{instead}, or {more}"
    )


def _finite(model: nn.Module) -> Bool[Tensor, ""]:
    """Whether all weights are finite, still on the model's device."""
    checks = [weight.isfinite().all() for weight in model.parameters()]
    return torch.stack(checks).all() if checks else torch.tensor(True)


class ModelStack:
    """Trained members as separate models: a `Stack`.

    Classifies in float32 whatever format the members were trained in, and one member at a time, so that a vote is a function of
    that member's weights alone, and what a member answers here it also answers after it was saved.

    Attributes:
        failed: (members,) members with a weight that is not finite.
    """

    failed: Bool[Tensor, "members"]

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = [model.eval().requires_grad_(False) for model in models]
        self.failed = ~torch.stack([_finite(model) for model in self._models]).cpu()

    @staticmethod
    def joined(stacks: "Sequence[ModelStack]") -> "ModelStack":
        """The members of several stacks as one."""
        return ModelStack([stack.member(i) for stack in stacks for i in range(len(stack))])

    def __len__(self) -> int:
        return len(self._models)

    @torch.no_grad()
    def __call__(self, images: Images) -> Float[Tensor, "members n classes"]:
        return torch.stack([model(images) for model in self._models])

    def member(self, index: int) -> nn.Module:
        """One member, in eval mode and frozen; shares its weights with the stack."""
        return self._models[index]
