"""Shared by tests: features with planted poisons, and stand-ins for a model and a filter that cost nothing."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from certidote.streams import Key
from certidote.types import Json


def blobs(sizes: tuple[int, ...], apart: float, key: Key, width: int = 6) -> tuple[Float[Tensor, "n d"], Int64[Tensor, "n"]]:
    """Gaussian classes of unit spread, class c around `apart` times the c-th unit vector; rows in random order."""
    generator = key.numpy()
    labels = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    features = generator.normal(size=(len(labels), width))
    features[np.arange(len(labels)), labels] += apart
    return torch.from_numpy(features.astype("float32")), torch.from_numpy(labels)


def moved(
    features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], poisons: int, label: int, to: int
) -> tuple[Float[Tensor, "n d"], Int64[Tensor, "p"]]:
    """The first images of a class get features from the middle of another: what collisions and polytopes aim at."""
    rows = (labels == label).nonzero().flatten()[:poisons]
    features = features.clone()
    features[rows] = features[labels == to].mean(0) + 0.1 * features[rows]
    return features, rows


class KeepAllBut:
    """A filter that removes these rows."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows

    def __call__(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], key: Key) -> Int64[Tensor, "kept"]:
        return torch.tensor([row for row in range(len(labels)) if row not in self.rows])

    def describe(self) -> Json:
        return {"filter": "all but", "rows": self.rows}


def unchecked(kind: type, **options: Any) -> None:
    """Make a dataclass as where types are not checked: only its own checks see a word that it does not know."""
    made = object.__new__(kind)
    for field in fields(kind):
        object.__setattr__(made, field.name, options.get(field.name, field.default))
    made.__post_init__()
