"""The benchmark's victims: their published sizes, and the promises that every architecture of ours makes."""

import pytest
import torch
from torch import nn

from certidote.streams import Key
from certidote.training.classifier import Classifier
from certidote.training.convnets import CONVNETS, normalizer
from certidote.training.models import build
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import Recipe
from certidote.types import FeatureExtractor, Lineage, View

SHAPE = (3, 32, 32)
FEATURES = {"resnet-18": 512, "vgg-11": 512, "mobilenet-v2": 1280}
IMAGES = torch.from_numpy(Key(2).numpy().random((3, *SHAPE), dtype="float32"))


def network(name: str) -> Classifier:
    model = build(name, SHAPE, 10, Key(1))
    assert isinstance(model, Classifier)
    return model


@pytest.mark.parametrize(("name", "parameters"), [("resnet-18", 11_173_962), ("vgg-11", 9_231_114), ("mobilenet-v2", 2_296_922)])
def test_sizes_are_the_benchmark_s(name: str, parameters: int) -> None:
    for form in (name, f"{name}-gn"):
        assert sum(weight.numel() for weight in network(form).parameters()) == parameters


@pytest.mark.parametrize("name", sorted(CONVNETS))
def test_features_and_logits(name: str) -> None:
    model = network(name).eval()
    assert isinstance(model, FeatureExtractor)
    with torch.no_grad():
        features, logits = model.penultimate(IMAGES), model(IMAGES)
        alone = torch.cat([model(image.unsqueeze(0)) for image in IMAGES])
    assert features.shape == (3, FEATURES[name.removesuffix("-gn")])
    assert logits.shape == (3, 10)
    assert bool((features >= 0).all()), "after a ReLU"
    torch.testing.assert_close(logits, model.head(features))
    torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CONVNETS))
def test_only_batch_normalization_mixes_images_in_training(name: str) -> None:
    model = network(name).train()
    with torch.no_grad():
        together, alone = model(IMAGES)[0], model(IMAGES[:2])[0]
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5) == name.endswith("-gn")
    assert bool(list(model.buffers())) == (not name.endswith("-gn"))


@pytest.mark.parametrize("name", sorted(CONVNETS))
def test_no_relu_works_in_place(name: str) -> None:
    model = network(name)
    assert not [layer for layer in model.modules() if isinstance(layer, nn.ReLU) and layer.inplace]
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.penultimate(images).square().sum(), images)
    assert torch.equal(images.detach(), IMAGES)
    assert float(gradient.abs().sum()) > 0


def test_groups_divide_the_channels() -> None:
    assert [normalizer("group")(channels).num_groups for channels in (16, 24, 32, 12, 7)] == [8, 8, 8, 4, 1]


def test_small_images_are_refused_by_what_halves_them_five_times() -> None:
    with pytest.raises(ValueError, match="16x16 pixels are too small to be halved five times"):
        build("vgg-11", (3, 16, 16), 10, Key(1))
    assert build("resnet-18", (1, 8, 8), 4, Key(1))(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


def test_training_does_not_depend_on_chance() -> None:
    """Twice with one key is the same, bit for bit, statistics of batches included."""
    images, labels = IMAGES[:2, :, :8, :8].repeat(10, 1, 1, 1), torch.arange(20) % 2
    recipe = Recipe(architecture="mobilenet-v2", epochs=1, batch_size=10, learning_rate=0.05, crop=2, flip=True)
    view = View(images, labels, 2, Lineage())
    first, second, other = (
        PooledTrainer(recipe).fit([view], [key], Key(2)).member(0).state_dict() for key in (Key(1), Key(1), Key(3))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = [name for name in first if "running_mean" in name and not torch.equal(first[name], other[name])]
    assert len(changed) == 57, "each of its normalizations has seen batches"
