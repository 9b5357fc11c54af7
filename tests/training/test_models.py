"""Every architecture of the catalogue, over the shapes it promises."""

import pytest
import torch

from certidote.streams import Key
from certidote.training.classifier import Classifier
from certidote.training.convnets import CONVNETS
from certidote.training.models import ARCHITECTURES, MLPS, Cnn, ModelStack, build
from certidote.training.whitened import WHITENED
from certidote.types import FeatureExtractor, Stack

SHAPES = [(1, 8, 8), (3, 9, 13), (3, 32, 32), (3, 64, 48), (3, 224, 224)]


def test_the_catalogue_is_as_large_as_we_think() -> None:
    assert sorted(set(ARCHITECTURES) - set(CONVNETS) - set(WHITENED)) == ["cnn-32-64", "mlp-128"]
    assert set(MLPS) <= set(ARCHITECTURES)


SMALL = sorted(set(ARCHITECTURES) - set(CONVNETS) - set(WHITENED))
"""Those that take any shape; test_convnets.py and test_whitened.py are about the others."""


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_and_number_of_classes(architecture: str, shape: tuple[int, int, int]) -> None:
    classes = 1000 if shape[1] == 64 else 7
    model = build(architecture, shape, classes, Key(1))
    images = torch.from_numpy(Key(2).numpy().random((3, *shape), dtype="float32"))
    logits, features = model(images), model.penultimate(images)
    assert logits.shape == (3, classes)
    assert features.shape == (3, model.head.in_features)
    assert isinstance(model, FeatureExtractor)
    torch.testing.assert_close(logits, model.head(features))
    assert sum(weight.numel() for weight in model.parameters()) < 30e6
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-5)  # an image's answer does not depend on its batch


@pytest.mark.parametrize("architecture", SMALL)
def test_features_can_be_differentiated_and_leave_the_input_alone(architecture: str) -> None:
    """Attacks differentiate features and keep using them: in-place operations would break or falsify that."""
    model = build(architecture, (1, 8, 8), 4, Key(1)).double()
    images = torch.from_numpy(Key(2).numpy().random((2, 1, 8, 8))).requires_grad_()
    before = images.detach().clone()
    features = model.penultimate(images)
    (gradient,) = torch.autograd.grad(features.square().sum() + model.head(features).sum(), images)
    assert torch.equal(images.detach(), before)
    step = torch.zeros_like(before)
    step[0, 0, 3, 4] = 1e-6

    def value(at: torch.Tensor) -> torch.Tensor:
        inside = model.penultimate(at)
        return inside.square().sum() + model.head(inside).sum()

    with torch.no_grad():
        slope = (value(before + step) - value(before - step)) / 2e-6
    assert float(slope) == pytest.approx(float(gradient[0, 0, 3, 4]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("architecture", SMALL)
def test_initial_weights_are_a_function_of_the_key(architecture: str) -> None:
    torch.manual_seed(1)
    first = build(architecture, (1, 8, 8), 4, Key(1)).state_dict()
    torch.manual_seed(2)
    second = build(architecture, (1, 8, 8), 4, Key(1)).state_dict()
    other = build(architecture, (1, 8, 8), 4, Key(3)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_pixels_are_standardized_by_constants() -> None:
    """Moving one image must not move what another is turned into: no statistics of the batch."""
    model = build("cnn-32-64", (1, 8, 8), 4, Key(1))
    images = torch.from_numpy(Key(2).numpy().random((2, 1, 8, 8), dtype="float32"))
    shifted = images.clone()
    shifted[1] += 5
    assert torch.equal(model(images)[0], model(shifted)[0])
    assert not [name for name, _ in model.named_buffers()]


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'mlp'; choose one of: airbench, airbench-gn, cnn-32-64, "):
        build("mlp", (1, 8, 8), 4, Key(1))
    with pytest.raises(ValueError, match="3x8 pixels are too small to be halved twice"):
        Cnn((1, 3, 8), 4, widths=(2, 2))


def test_a_stack_of_models() -> None:
    models: list[Classifier] = [build("mlp-128", (1, 8, 8), 4, Key(i)) for i in range(3)]
    with torch.no_grad():
        models[1].head.bias[2] = float("inf")
    stack = ModelStack(models)
    assert isinstance(stack, Stack)
    assert stack.failed.tolist() == [False, True, False]
    images = torch.from_numpy(Key(2).numpy().random((5, 1, 8, 8), dtype="float32"))
    assert stack(images).shape == (3, 5, 4)
    assert torch.equal(stack(images)[2], stack.member(2)(images))
    assert not stack.member(0).training
    assert not any(weight.requires_grad for weight in stack.member(0).parameters())
