"""Architectures and test transforms as a user would bring them: good ones, and one for every way to be wrong."""

import numpy as np
import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]


def small(image_shape: Shape, num_classes: int) -> nn.Module:
    """BatchNorm and dropout, which members may have: both are switched off at the vote."""
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, num_classes),
    )  # fmt: skip


def no_module(image_shape: Shape, num_classes: int) -> object:
    return "a network"


def wrong_shape(image_shape: Shape, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes + 1))


def loads_weights(image_shape: Shape, num_classes: int) -> nn.Module:
    """A body with weights from somewhere, and a fresh head."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))
    model[1].weight.data.copy_(torch.linspace(-1, 1, 512).view(8, 64))
    return model


def unseeded(image_shape: Shape, num_classes: int) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    draws = np.random.default_rng().standard_normal((num_classes, 64))
    model[1].weight.data.copy_(torch.from_numpy(draws.astype(np.float32)))
    return model


class _Batch(nn.Module):
    """Subtracts the mean of the batch, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear((images - images.mean(0)).flatten(1))


def looks_at_the_batch(image_shape: Shape, num_classes: int) -> nn.Module:
    return _Batch()


class _Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)) + torch.randn(len(images), 10)


def answers_at_random(image_shape: Shape, num_classes: int) -> nn.Module:
    return _Noisy()


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.spare = nn.Linear(64, 10), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def has_unused_weights(image_shape: Shape, num_classes: int) -> nn.Module:
    return _Unused()


def too_large_for_these(image_shape: Shape, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(99, num_classes))


def frozen(image_shape: Shape, num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)).requires_grad_(False)


def mirrored(image: Tensor) -> Tensor:
    return image.flip(2)


def with_training_data(image: Tensor, train: Tensor) -> Tensor:
    return image


def with_more(*images: Tensor) -> Tensor:
    return images[0]


SEEN: list[Tensor] = []


def remembers(image: Tensor) -> Tensor:
    """Mixes in the image that came before."""
    SEEN.append(image)
    return image // 2 + SEEN[-2] // 2 if len(SEEN) > 1 else image


def random_crop(image: Tensor) -> Tensor:
    return image.roll(int(torch.randint(8, ())), 1)


def floats(image: Tensor) -> Tensor:
    return image / 255


def smaller(image: Tensor) -> Tensor:
    return image[:, ::2, ::2].contiguous()
