import copy

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor, pretrain
from certidote.types import FeatureExtractor, ImageDataset


def fitted(seed: int = 0, epochs: int = 3) -> ConvExtractor:
    return pretrain(tiny(40, 3, (1, 8, 8), Key(0) / "train"), Key(seed), epochs=epochs)


def test_features_are_what_the_head_sees() -> None:
    model = fitted(epochs=1)
    images = tiny(2, 3, (1, 8, 8), Key(1)).pixels()
    features = model.penultimate(images)
    assert isinstance(model, FeatureExtractor)
    assert features.shape == (6, 512)
    assert float(features.min()) >= 0
    torch.testing.assert_close(model(images), features @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize(("shape", "width"), [((1, 8, 8), 512), ((3, 9, 10), 32 * 5 * 5)])
def test_other_image_shapes_fit(shape: tuple[int, int, int], width: int) -> None:
    model = ConvExtractor(shape, 4, 0.5, 0.25).eval()
    assert model.penultimate(torch.rand(2, *shape)).shape == (2, width)
    assert model(torch.rand(2, *shape)).shape == (2, 4)


def test_normalization_is_inside() -> None:
    """Images and constants moved and stretched together give the same features."""
    one = fitted(epochs=1)
    two = copy.deepcopy(one)
    two.mean, two.std = 0.5 * one.mean + 0.1, 0.5 * one.std
    images = tiny(2, 3, (1, 8, 8), Key(1)).pixels()
    torch.testing.assert_close(one.penultimate(images), two.penultimate(0.5 * images + 0.1), rtol=1e-4, atol=1e-4)


def test_pretraining_learns() -> None:
    model, test = fitted(epochs=6), tiny(20, 3, (1, 8, 8), Key(0) / "test")
    assert float((model(test.pixels()).argmax(1) == test.labels).float().mean()) > 0.95


def test_the_key_decides_every_bit() -> None:
    torch.manual_seed(1)
    first = fitted()
    torch.manual_seed(2)  # torch's own generator must not matter
    assert fitted().digest() == first.digest()
    assert fitted(1).digest() != first.digest()


def test_result_is_frozen_and_in_eval_mode() -> None:
    model = fitted(epochs=1)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_digest_sees_buffers_too() -> None:
    model = fitted(epochs=1)
    before = model.digest()
    model.body[1].running_mean[0] += 1e-3
    assert model.digest() != before


def test_constant_images_are_refused() -> None:
    blank = ImageDataset(torch.full((4, 1, 8, 8), 7, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="all pixels of the pre-training images are equal"):
        pretrain(blank, Key(0))
