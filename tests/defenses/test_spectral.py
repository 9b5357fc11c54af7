"""Spectral signatures against NumPy's singular value decomposition, and on planted directions."""

import numpy as np
import pytest
import torch

from certidote.defenses.removals import removal
from certidote.defenses.spectral import SpectralSignatures, outlier_scores
from certidote.streams import Key
from fixtures_filters import blobs, moved


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (1, 4)])
def test_scores_are_projections_on_the_first_singular_vector(center: bool, shape: tuple[int, int]) -> None:
    features = (Key(0) / "features").numpy().normal(1.0, 1.0, size=shape)
    rows = features - features.mean(axis=0) if center else features
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(outlier_scores(features, center), (rows @ directions[0]) ** 2, rtol=1e-9, atol=1e-9)


def test_a_constant_shift_matters_only_without_centering() -> None:
    features = (Key(0) / "features").numpy().normal(size=(40, 5))
    np.testing.assert_allclose(outlier_scores(features + 7), outlier_scores(features), rtol=1e-9, atol=1e-9)
    assert not np.allclose(outlier_scores(features + 7, center=False), outlier_scores(features, center=False), rtol=0.5)


def test_a_planted_direction_is_found_if_features_are_centered() -> None:
    """As features behind a ReLU are, those of the class lie far from 0; that is what scores without centering see."""
    features, labels = blobs((100, 100), 3.0, Key(0))
    features = features + torch.tensor([0, 0, 0, 0, 30.0, 30.0])
    rows = (labels == 1).nonzero().flatten()[:10]
    features[rows, 2] += 6.0
    kept = SpectralSignatures(10 / 200)(features, labels, Key(0))
    found = removal(kept, 200, rows)
    assert found.recall == 1
    assert found.removed_clean == 5 + 15
    plain = removal(SpectralSignatures(10 / 200, center=False)(features, labels, Key(0)), 200, rows)
    assert plain.recall is not None
    assert plain.recall < 0.5


def test_poisons_without_a_direction_of_their_own_stay() -> None:
    features, labels = blobs((100, 100), 3.0, Key(0))
    rows = (labels == 1).nonzero().flatten()[:10]
    features[rows] = features[labels == 1].mean(0) + 0.5 * (features[rows] - features[rows].mean(0))
    found = removal(SpectralSignatures(10 / 200)(features, labels, Key(0)), 200, rows)
    assert found.recall == 0
    assert found.removed_clean == 30


def test_half_as_many_again_as_poisons_are_removed_of_every_class() -> None:
    features, labels = blobs((60, 40), 3.0, Key(0))
    kept = SpectralSignatures(0.02)(features, labels, Key(0))
    assert torch.bincount(labels[kept]).tolist() == [57, 37]
    features, labels = blobs((120, 80), 3.0, Key(0))
    kept = SpectralSignatures(0.15)(features, labels, Key(0))  # 1.5 * 0.15 * 200 is rounded to just below 45
    assert torch.bincount(labels[kept]).tolist() == [75, 35]


def test_images_of_another_class_stand_out() -> None:
    features, labels = blobs((60, 40), 3.0, Key(0))
    far, rows = moved(features, labels, 2, label=0, to=1)
    assert removal(SpectralSignatures(0.02)(far, labels, Key(0)), 100, rows).recall == 1


def test_equal_scores_go_in_order_of_rows() -> None:
    kept = SpectralSignatures(0.25)(torch.zeros(8, 3), torch.tensor([0, 1] * 4), Key(0))
    assert kept.tolist() == [6, 7]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"^poison_fraction={fraction:g}; give a share of the training set, above 0 and below 1$"):
        SpectralSignatures(fraction)
