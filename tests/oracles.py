"""Slow, obvious or exactly solvable stand-ins for parts of the pipeline."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch

from certidote.streams import Key
from certidote.types import DenoiserCard, ImageDataset, Start, View


@dataclass(frozen=True)
class IdentityDenoiser:
    """Returns what it is given, at any noise level."""

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    card: DenoiserCard = DenoiserCard(name="identity", kind="none", digest="")

    def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return noisy

    def conditioning(self, sigma: float) -> str:
        return "none"


class InnerProductStack:
    def __init__(self, means: torch.Tensor) -> None:
        self.means = means
        self.failed = torch.zeros(len(means), dtype=torch.bool)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("mkd,nd->mnk", self.means, images.flatten(1).to(self.means.dtype)).to(torch.float32)

    def member(self, index: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: InnerProductStack(self.means[index : index + 1])(images)[0]


@dataclass(frozen=True)
class InnerProductTrainer:
    """Predicts the class whose mean training image has the largest inner product with the test image: linear in the data."""

    stack_size: int = 64
    start: Start = "fresh"

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> InnerProductStack:
        means = [
            torch.stack([v.images[v.labels == c].flatten(1).to(torch.float64).mean(0) for c in range(v.num_classes)]) for v in views
        ]
        return InnerProductStack(torch.stack(means))

    def describe(self) -> dict[str, object]:
        return {"trainer": "inner product"}


@dataclass(frozen=True)
class LinearCase:
    """The exactly solvable case: two classes, the inner-product learner, one fixed test image."""

    train: ImageDataset
    test_image: torch.Tensor

    def weights(self) -> np.ndarray:
        """(n, d) gradient of the decision margin of class 1 over class 0 with respect to every training pixel."""
        labels = self.train.labels.numpy()
        counts = np.bincount(labels, minlength=2)
        x = self.test_image.numpy().astype(np.float64).ravel() / 255
        return np.where(labels == 1, 1.0 / counts[1], -1.0 / counts[0])[:, None] * x[None, :]

    def margin(self, pixels: np.ndarray) -> float:
        """Decision margin of class 1 over class 0 on a training set of shape (n, d)."""
        return float((self.weights() * pixels).sum())

    def distance(self) -> float:
        """Frobenius distance from the training set to the decision boundary, which is also the smoothed classifier's."""
        return abs(self.margin(self.pixels())) / float(np.linalg.norm(self.weights()))

    def pixels(self) -> np.ndarray:
        return self.train.images.numpy().astype(np.float64).reshape(len(self.train), -1) / 255

    def probability(self, sigma: float) -> float:
        """Exact probability that a member trained under noise sigma votes for the noiseless answer."""
        return float(scipy.stats.norm.cdf(self.distance() / sigma))

    def answer(self) -> int:
        return int(self.margin(self.pixels()) > 0)


def linear_case(num: int = 12, size: int = 4, seed: int = 0) -> LinearCase:
    generator = (Key(seed) / "linear case").numpy()
    labels = np.arange(num) % 2
    images = generator.integers(0, 256, size=(num, 1, size, size))
    images[labels == 1] = np.minimum(images[labels == 1] + 40, 255)
    train = ImageDataset(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels.astype(np.int64)), ("a", "b"))
    return LinearCase(train, torch.from_numpy(generator.integers(60, 256, size=(1, size, size)).astype(np.uint8)))
