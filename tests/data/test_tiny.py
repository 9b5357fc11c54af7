import numpy as np
import pytest
import torch

from certidote.data.tiny import tiny, tiny_patterns
from certidote.streams import Key

SHAPES = [(1, 8, 8), (3, 9, 13), (2, 32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_nearest_pattern_names_the_class(shape, classes):
    data = tiny(2, classes, shape, Key(5))
    assert data.image_shape == shape
    assert torch.bincount(data.labels).tolist() == [2] * classes
    patterns = torch.from_numpy(tiny_patterns(classes, shape)).flatten(1).to(torch.float32)
    distances = torch.cdist(data.pixels().flatten(1), patterns)
    assert torch.equal(distances.argmin(1), data.labels)


@pytest.mark.parametrize(("classes", "shape"), [(1_000, (1, 8, 8)), (300, (3, 9, 13))])
def test_half_the_distance_of_patterns_is_at_least_what_is_promised(classes, shape):
    patterns = torch.from_numpy(tiny_patterns(classes, shape)).flatten(1)
    distances = torch.cdist(patterns, patterns, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    assert distances.min() / 2 >= 10 * 0.05 - 1e-9


def test_keys_change_the_noise_and_not_the_classes():
    first, again, other = (tiny(50, 3, (1, 8, 8), Key(root)) for root in (1, 1, 2))
    assert first.digest() == again.digest()
    assert not torch.equal(first.images, other.images)
    means = [torch.stack([d.pixels()[d.labels == c].mean(0) for c in range(3)]) for d in (first, other)]
    # Each mean has std 0.05 / sqrt(50) = 0.007; 192 differences stay below 6 of their own std with probability 1 - 4e-7.
    assert (means[0] - means[1]).abs().max() < 6 * 0.05 * np.sqrt(2 / 50)


@pytest.mark.parametrize(
    ("num_per_class", "classes", "shape"),
    [(0, 2, (1, 8, 8)), (1, 1, (1, 8, 8)), (1, 1_001, (1, 8, 8)), (1, 2, (0, 8, 8)), (1, 2, (1, 8, 7))],
)
def test_arguments_out_of_range(num_per_class, classes, shape):
    with pytest.raises(ValueError, match="give at least"):
        tiny(num_per_class, classes, shape, Key(0))
