"""Deep k-NN: an image whose nearest neighbors in feature space mostly have other labels than it has is removed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from certidote.defenses.filtered import as_array
from certidote.streams import Key, row_blocks
from certidote.types import Json

Rule = Literal["plurality", "majority"]


@dataclass(frozen=True)
class DeepKnn:
    """Keep an image if its nearest neighbors, by Euclidean distance of features, vote for its label: a `Filter`.

    Rule "plurality" (rule A): the label that most of the k neighbors have, the lowest of several, is that of the image; an image is
    its own nearest neighbor. Rule "majority" (rule B), much stricter: at least half of k other images have its label.

    Threat model: clean-label poisons whose features lie among those of another class (collisions, polytopes); a filter of the
    training set, the victim's own features. Certificate: none. Cost: n^2 distances of d numbers, in memory a block of rows at a time.

    Attributes:
        neighbors: k. None: by rule A one more than twice the poisons, by rule B twice the poisons.
        poison_fraction: upper bound on the share of poisons, which the defender guesses or knows; counts if `neighbors` is None.
        rule: as above.
        include_self: whether an image is among its own neighbors; None: by rule A alone, as in the originals.
    Raises: ValueError for numbers out of range; when called, if k exceeds the number of images.
    Source: Peri et al. (2020), section 3, and their code (rule A); Geiping et al. (2021), the code of Witches' Brew (rule B).
    Differs from the originals: rule A's authors go up to the images of a class, which costs more clean images and finds hardly more
        poisons; no replication of images of small classes before the vote; distances are never all in memory.
    """

    neighbors: int | None = None
    poison_fraction: float = 0.01
    rule: Rule = "plurality"
    include_self: bool | None = None

    def __post_init__(self) -> None:
        if self.neighbors is not None and self.neighbors < 1:
            raise ValueError(f"neighbors={self.neighbors}; give at least 1")
        if not 0 < self.poison_fraction < 1:
            raise ValueError(f"poison_fraction={self.poison_fraction:g}; give a share of the training set, above 0 and below 1")
        if self.rule not in ("plurality", "majority"):
            raise ValueError(f"unknown rule {self.rule!r}; choose one of: plurality, majority")

    def describe(self) -> Json:
        return {
            "filter": "deep k-NN",
            "rule": self.rule,
            "neighbors": self.neighbors,
            "poison_fraction": self.poison_fraction,
            "include_self": self._self,
        }

    def __call__(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], key: Key) -> Int64[Tensor, "kept"]:
        """No coins are needed; ties of distance are scikit-learn's to break, those of votes go to the lowest label."""
        given, wanted = as_array(features), labels.cpu().numpy()
        count = self.count(wanted)
        index = NearestNeighbors(n_neighbors=count + (not self._self), algorithm="brute").fit(given)  # itself and others
        keep = []
        for rows in row_blocks(len(wanted)):
            near = index.kneighbors(given[rows.start : rows.stop], return_distance=False)
            near, own = _without(near, rows), wanted[rows.start : rows.stop]
            voters = np.column_stack([own, wanted[near]]) if self._self else wanted[near]
            keep.append(self._agrees(voters, own))
        return torch.from_numpy(np.concatenate(keep).nonzero()[0]).to(labels.device)

    def count(self, labels: Int64[np.ndarray, "n"]) -> int:
        """k for images with these labels.

        Raises: ValueError if there are fewer images.
        """
        images, poisons = len(labels), self.poison_fraction * len(labels)
        if self.neighbors is not None:
            count = self.neighbors
        elif self.rule == "plurality":
            count = int(2 * poisons + 1e-9) + 1
        else:
            count = max(round(2 * poisons), 1)
        others = images if self._self else images - 1
        if count > others:
            raise ValueError(
                f"{count} nearest neighbors were asked for, but {images} images have at most {others} "
                f"{'(each counts as its own)' if self._self else 'others'}; give fewer neighbors or more images"
            )
        return count

    @property
    def _self(self) -> bool:
        return self.rule == "plurality" if self.include_self is None else self.include_self

    def _agrees(self, near: Int64[np.ndarray, "m k"], own: Int64[np.ndarray, "m"]) -> np.ndarray:
        if self.rule == "majority":
            return 2 * (near == own[:, None]).sum(axis=1) >= near.shape[1]
        classes = 1 + max(int(near.max()), int(own.max()))
        places = near + classes * np.arange(len(near))[:, None]
        votes = np.bincount(places.ravel(), minlength=classes * len(near)).reshape(len(near), classes)
        return votes.argmax(axis=1) == own


def _without(near: Int64[np.ndarray, "m more"], rows: range) -> Int64[np.ndarray, "m k"]:
    """Each row's neighbors without the row itself; without the farthest, where more copies of it than neighbors hide it."""
    own = near == np.arange(rows.start, rows.stop)[:, None]
    own[~own.any(axis=1), -1] = True
    return near[~own].reshape(len(near), -1)
