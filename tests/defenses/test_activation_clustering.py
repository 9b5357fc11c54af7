"""Activation clustering: its clusters against independent components, each rule where it works and where it does not."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA

from certidote.defenses.activation_clustering import ActivationClustering, Method, Reduction
from certidote.defenses.removals import removal
from certidote.streams import Key
from fixtures_filters import blobs, moved, unchecked

WIDTH = 20


def planted(apart: float = 12.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three classes of 60, and 12 images of class 1 with the features of class 2."""
    features, labels = blobs((60, 60, 60), apart, Key(1), WIDTH)
    return *moved(features, labels, 12, label=1, to=2), labels


@pytest.mark.filterwarnings("ignore:method 'smaller'")
@pytest.mark.parametrize("method", ["smaller", "relative-size", "distance", "silhouette"])
@pytest.mark.parametrize("reduction", ["pca", "none"])
def test_every_rule_finds_a_planted_cluster(method: Method, reduction: Reduction) -> None:
    features, rows, labels = planted()
    kept = ActivationClustering(method, reduction, silhouette=0.25)(features, labels, Key(0))
    found = removal(kept, len(labels), rows)
    assert found.recall == 1
    assert not set((labels == 1).nonzero().flatten().tolist()) - set(kept.tolist()) - set(rows.tolist())  # class 1: nothing else
    if method == "smaller":
        assert found.removed_clean >= 10  # of the classes without poisons
    if method in ("distance", "silhouette"):
        assert found.removed_clean == 0


@pytest.mark.parametrize("method", ["distance", "silhouette"])
def test_poisons_that_look_like_their_class_stay(method: Method) -> None:
    """Drawn like the rest of their class; in a split of noise, the smaller cluster is neither misplaced nor clear."""
    features, labels = blobs((60, 60, 60), 12.0, Key(1), WIDTH)
    assert len(ActivationClustering(method, "pca", silhouette=0.25)(features, labels, Key(0))) == len(labels)
    sized = ActivationClustering("relative-size", "pca")(features, labels, Key(0))
    assert len(sized) < len(labels)  # which size alone does not know


def test_smaller_warns_and_removes_much_of_a_clean_set() -> None:
    features, labels = blobs((60, 60, 60), 12.0, Key(1), WIDTH)
    with pytest.warns(UserWarning, match=r"^method 'smaller' removes the smaller cluster of every class, up to half of a clean"):
        smaller = ActivationClustering("smaller")
    removed = 1 - len(smaller(features, labels, Key(0))) / len(labels)
    assert 0.2 < removed <= 0.5


def test_whitened_principal_components_cluster_like_independent_ones() -> None:
    """2-means of FastICA's sources, which are rotated and scaled whitened components, splits each class alike."""
    features, labels = blobs((200, 200), 5.0, Key(0), WIDTH)
    features[:60, 5] += 20.0
    rows = (labels == 0).numpy()
    given = features.double().numpy()[rows]
    sources = FastICA(3, random_state=0, whiten="unit-variance", max_iter=2_000).fit_transform(given)
    theirs = KMeans(2, n_init=20, random_state=0).fit_predict(sources) == 1
    ours = KMeans(2, n_init=20, random_state=1).fit_predict(ActivationClustering(dimensions=3).reduced(given)) == 1
    assert np.array_equal(ours, theirs) or np.array_equal(ours, ~theirs)
    apart = [np.linalg.norm(made[:, None] - made, axis=2) for made in (sources, ActivationClustering(dimensions=3).reduced(given))]
    np.testing.assert_allclose(apart[0] / apart[0].max(), apart[1] / apart[1].max(), atol=1e-6)


def test_sizes_and_clarity_are_thresholds() -> None:
    """12 of 60 are a fifth of the class; a split of pure noise is not clear."""
    features, rows, labels = planted()
    assert removal(ActivationClustering(reduction="pca", size=0.21)(features, labels, Key(0)), 180, rows).recall == 1
    assert removal(ActivationClustering(reduction="pca", size=0.19)(features, labels, Key(0)), 180, rows).recall == 0
    clear = ActivationClustering("silhouette", "pca", silhouette=0.9)
    assert len(clear(features, labels, Key(0))) == 180


def test_only_middles_nearer_to_another_class_are_suspicious_by_distance() -> None:
    """A cluster at the side of its class, far from all others, stays; one that crossed over does not."""
    features, labels = blobs((60, 60), 12.0, Key(1), WIDTH)
    rows = (labels == 0).nonzero().flatten()[:15]
    aside = features.clone()
    aside[rows, 5] += 10.0
    assert len(ActivationClustering("distance", "pca")(aside, labels, Key(0))) == 120
    assert removal(ActivationClustering("relative-size", "pca")(aside, labels, Key(0)), 120, rows).recall == 1


@pytest.mark.parametrize("reduction", ["ica", "pca", "none"])
def test_classes_that_cannot_be_split_stay(reduction: Reduction) -> None:
    """One image, two images, equal images; and features of fewer directions than asked for, which are no reason to fail."""
    features = torch.tensor([[1.0, 0.0]] + [[0.0, 3.0], [1.0, 1.0]] + [[2.0, 2.0]] * 5 + [[5.0, i] for i in (0, 0, 0, 9.0)])
    labels = torch.tensor([0] + [1] * 2 + [2] * 5 + [3] * 4)
    kept = ActivationClustering(reduction=reduction)(features, labels, Key(0))
    assert kept.tolist() == list(range(11))


def test_only_the_key_decides() -> None:
    features, _, labels = planted(apart=1.0)
    filtered = ActivationClustering("relative-size")
    assert torch.equal(filtered(features, labels, Key(3)), filtered(features, labels, Key(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "larger"}, r"^unknown method 'larger'; choose one of: smaller, relative-size, distance, silhouette$"),
        ({"reduction": "tsne"}, r"^unknown reduction 'tsne'; choose one of: ica, pca, none$"),
        ({"dimensions": 0}, r"^dimensions=0, size=0.35, silhouette=0.1; give at least 1 dimension"),
        ({"size": 0.6}, r"size=0.6.*a size above 0 and at most 0.5"),
        ({"silhouette": 1.5}, r"silhouette=1.5.*a silhouette of -1 to 1$"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked(ActivationClustering, **options)
