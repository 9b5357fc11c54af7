"""Shared by tests of attacks on features: surrogates and tasks so small that what must come out is known, and a defense that is none."""

import copy

import numpy as np
import torch
from torch import nn

from certidote.streams import Key
from certidote.types import Budget, ImageDataset, Target, Task


class Linear:
    """phi(x) = x W, flattened."""

    def __init__(self, seed: int, pixels: int, width: int) -> None:
        self.weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(pixels, width)).astype("float32"))

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


class Double:
    """A surrogate that computes in float64, where rounding cannot decide anything."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).double()

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.penultimate(images.double())


class Unchanged:
    """A defense that does nothing."""

    def __init__(self, draws: int) -> None:
        self.draws = draws

    def __call__(self, images: torch.Tensor, key: Key) -> torch.Tensor:
        return images


def small_task(
    num_poisons: int = 3, seed: int = 0, per_class: int = 8, levels: tuple[int, int] = (0, 256), channels: int = 1
) -> Task:
    """Three classes of random 4x4 images, and a target of the first."""
    generator = np.random.default_rng(seed)
    images = torch.from_numpy(generator.integers(*levels, (3 * per_class + 1, channels, 4, 4)).astype("uint8"))
    train = ImageDataset(images[1:], torch.arange(3 * per_class) % 3, ("a", "b", "c"))
    return Task(train, Target(images[0], 0, 1, 0), Budget(num_poisons, "linf", 0.2))
