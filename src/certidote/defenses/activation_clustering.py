"""Activation clustering: the features of each class are split in two, and a cluster that looks like poisons is removed."""

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import Tensor

from certidote.defenses.filtered import as_array
from certidote.streams import Key
from certidote.types import Json

Method = Literal["smaller", "relative-size", "distance", "silhouette"]
Reduction = Literal["ica", "pca", "none"]
STARTS = 10
"""Random starts of 2-means, of which the best counts."""


@dataclass(frozen=True)
class ActivationClustering:
    """Split each class's features by 2-means after reducing them to a few dimensions, and remove clusters by a rule: a `Filter`.

    Rules: "smaller", the smaller cluster of every class, poisoned or not, which removes up to half of a clean set; "relative-size", a
    cluster with less than `size` of its class; "distance", a cluster whose median is nearer to that of another class than to its own
    class's; "silhouette", a cluster with less than `size` of its class, if the split is as clear as `silhouette` asks.

    Threat model: backdoors and other poisons that form a cluster of their own in the features of the class that they carry the label
    of. Certificate: none. Cost: a singular value decomposition and 2-means for each class; the silhouette, n_class^2 distances.

    Attributes:
        method: the rule.
        reduction: "ica" is the original; independent components are a rotation of whitened principal ones, and 2-means does not see
            rotations, so principal components scaled to equal variance give the same clusters, and never fail to converge. "pca"
            leaves their scales as they are. "none" clusters the features themselves.
        dimensions: of the reduced features, at most; fewer where a class has fewer images or its features fewer directions.
        size: share of a class, in (0, 0.5].
        silhouette: in [-1, 1].
    Raises: ValueError for an unknown rule or a number out of range.
    Warns: UserWarning for "smaller".
    Source: Chen et al. (2019), algorithm 2; thresholds of the Adversarial Robustness Toolbox. Differs from the original: there is no
        exclusionary reclassification. Differs from the toolbox: every image gets a verdict under "silhouette"; medians of "distance"
        are of the features before reduction, since each class is reduced to directions of its own.
    """

    method: Method = "relative-size"
    reduction: Reduction = "ica"
    dimensions: int = 10
    size: float = 0.35
    silhouette: float = 0.1

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method, Method), ("reduction", self.reduction, Reduction)):
            if value not in get_args(known):
                raise ValueError(f"unknown {name} {value!r}; choose one of: {', '.join(get_args(known))}")
        if self.dimensions < 1 or not 0 < self.size <= 0.5 or not -1 <= self.silhouette <= 1:
            numbers = f"dimensions={self.dimensions}, size={self.size:g}, silhouette={self.silhouette:g}"
            raise ValueError(f"{numbers}; give at least 1 dimension, a size above 0 and at most 0.5, a silhouette of -1 to 1")
        if self.method == "smaller":
            warnings.warn(
                "method 'smaller' removes the smaller cluster of every class, up to half of a clean training set; 'relative-size' and "
                "'silhouette' can also remove nothing",
                stacklevel=1,
            )

    def describe(self) -> Json:
        return {
            "filter": "activation clustering",
            "method": self.method,
            "reduction": self.reduction,
            "dimensions": self.dimensions,
            "size": self.size,
            "silhouette": self.silhouette,
        }

    def __call__(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], key: Key) -> Int64[Tensor, "kept"]:
        """`key / "class" / c` starts 2-means on class c. A class whose features cannot be split in two is kept."""
        given, wanted = as_array(features), labels.cpu().numpy()
        medians = {int(label): np.median(given[wanted == label], axis=0) for label in np.unique(wanted)}
        keep = np.ones(len(wanted), dtype=bool)
        for label in medians:
            rows = (wanted == label).nonzero()[0]
            reduced = self.reduced(given[rows])
            second = _split(reduced, key / "class" / label)
            if second is not None:
                keep[rows] = ~self._suspicious(reduced, given[rows], second, medians, label)
        return torch.from_numpy(keep.nonzero()[0]).to(labels.device)

    def reduced(self, features: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n r"]:
        """Features of one class in the few directions in which they vary most; r is 0 if they do not vary."""
        if self.reduction == "none":
            return features
        most = min(self.dimensions, *features.shape)
        if len(features) < 2 or not np.ptp(features, axis=0).any():
            return features[:, :0]
        model = PCA(most, svd_solver="full")
        made = model.fit_transform(features)
        spread = np.sqrt(model.explained_variance_)
        real = spread > 1e-7 * spread[0]  # the rest is rounding, which scaling would blow up
        return made[:, real] / (spread[real] if self.reduction == "ica" else 1.0)

    def _suspicious(
        self,
        reduced: Float64[np.ndarray, "n r"],
        features: Float64[np.ndarray, "n d"],
        second: Bool[np.ndarray, "n"],
        medians: dict[int, Float64[np.ndarray, "d"]],
        label: int,
    ) -> Bool[np.ndarray, "n"]:
        """Which images of one class, split in two, are to be removed."""
        if self.method == "distance":
            marked = np.zeros(len(second), dtype=bool)
            for part in (second, ~second):
                middle = np.median(features[part], axis=0)
                apart = {other: float(np.linalg.norm(middle - median)) for other, median in medians.items()}
                marked |= part & (min(apart, key=lambda other: (apart[other], other != label)) != label)
            return marked
        smaller = second if 2 * second.sum() <= len(second) else ~second
        if self.method == "smaller":
            return smaller
        nothing = np.zeros(len(second), dtype=bool)
        if smaller.mean() >= self.size:
            return nothing
        if self.method == "silhouette" and silhouette_score(reduced, second) <= self.silhouette:
            return nothing
        return smaller


def _split(reduced: Float64[np.ndarray, "n r"], key: Key) -> Bool[np.ndarray, "n"] | None:
    """Which rows are in the second of two clusters; None if there are not three rows, or all of them are equal."""
    if len(reduced) < 3 or not reduced.shape[1] or not np.ptp(reduced, axis=0).any():
        return None
    found = KMeans(2, n_init=STARTS, random_state=key.entropy() & 0xFFFFFFFF).fit_predict(reduced)
    return found == 1
