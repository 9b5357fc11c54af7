"""Spectral signatures: in each class, the images that stand out most along the main direction of its features are removed."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from certidote.defenses.filtered import as_array
from certidote.streams import Key
from certidote.types import Json

EXCESS = 1.5
"""How many images are removed of each class, in multiples of the poisons that it may hold."""


@dataclass(frozen=True)
class SpectralSignatures:
    """Remove, of every class, the `EXCESS` E images of largest score (f - mean) . v squared, v the top right singular vector: a `Filter`.

    E = poison_fraction n is the most poisons that a class may hold: all of the set's may lie in one.

    Threat model: poisons, backdoors above all, that share a direction in feature space that clean images of their class do not have.
    Certificate: none. Cost: one eigenvector of a min(n_class, d)^2 matrix for each class.

    Attributes:
        poison_fraction: upper bound on the share of poisons in the training set, which the defender guesses or knows.
        center: take away the mean of the class before the scores are made, as the authors describe. False is how two widely used
            implementations do it, where the mean leaks into the score.
    Raises: ValueError if `poison_fraction` is not in (0, 1).
    Source: Tran, Li and Madry (2018), algorithm 1.
    """

    poison_fraction: float = 0.01
    center: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.poison_fraction < 1:
            raise ValueError(f"poison_fraction={self.poison_fraction:g}; give a share of the training set, above 0 and below 1")

    def describe(self) -> Json:
        return {"filter": "spectral signatures", "poison_fraction": self.poison_fraction, "center": self.center}

    def __call__(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], key: Key) -> Int64[Tensor, "kept"]:
        """No coins are needed; of equal scores, that of the lower row goes first."""
        given, wanted = as_array(features), labels.cpu().numpy()
        removed = int(EXCESS * self.poison_fraction * len(wanted) + 1e-9)  # 1.5 * 0.02 * 100 is just below 3
        keep = np.ones(len(wanted), dtype=bool)
        for label in np.unique(wanted):
            rows = (wanted == label).nonzero()[0]
            scores = outlier_scores(given[rows], self.center)
            keep[rows[np.argsort(-scores, kind="stable")[:removed]]] = False
        return torch.from_numpy(keep.nonzero()[0]).to(labels.device)


def outlier_scores(features: Float[np.ndarray, "n d"], center: bool = True) -> Float64[np.ndarray, "n"]:
    """(n,) squared projections of the features on their top right singular vector, after their mean is taken away or not."""
    rows = np.asarray(features, dtype=np.float64)
    if center:
        rows = rows - rows.mean(axis=0)
    few = len(rows) < rows.shape[1]
    gram = rows @ rows.T if few else rows.T @ rows
    top = [len(gram) - 1, len(gram) - 1]
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=top)
    if few:  # rows v = sqrt(value) u, with u the top left singular vector
        return max(float(values[0]), 0.0) * vectors[:, 0] ** 2
    return (rows @ vectors[:, 0]) ** 2
