import pytest
import torch

from certidote.streams import Key
from certidote.training.models import ARCHITECTURES, build
from certidote.training.optimizer import Optimizer
from certidote.training.recipe import Recipe
from certidote.training.whitened import WHITENED, whitening_filters


def natural(count: int, key: Key) -> torch.Tensor:
    """Images whose spectrum falls as one over the frequency, the three channels alike but for a tenth."""
    noise = torch.from_numpy(key.numpy().standard_normal((count, 4, 32, 32)))
    axis = torch.fft.fftfreq(32, dtype=torch.float64)
    frequency = (axis[:, None].square() + axis.square()).sqrt().clamp_min(1 / 32)
    shaped = torch.fft.ifft2(torch.fft.fft2(noise) / frequency).real
    return (shaped[:, :1] + 0.1 * shaped[:, 1:]).float()


def test_filters_are_an_orthogonal_basis_times_gains():
    filters = whitening_filters(3, 4).flatten(1).double()
    assert filters.shape == (48, 48)
    gram = filters @ filters.T
    assert float((gram - torch.diag(gram.diagonal())).abs().max()) < 1e-6 * float(gram.max())
    gains = gram.diagonal().sqrt() * 4
    assert float(gains.min()) == pytest.approx(0.5)  # brightness
    assert float(gains.max()) == pytest.approx(4 * 18**0.5)  # the finest color


@pytest.mark.parametrize("patch", [2, 4])
def test_outputs_on_images_like_natural_ones_are_more_nearly_alike_than_pixels(patch):
    images = natural(200, Key(1) / "images")
    outputs = torch.nn.functional.conv2d(images, whitening_filters(3, patch)).transpose(0, 1).flatten(1)
    pixels = torch.nn.functional.unfold(images, patch).transpose(0, 1).flatten(1)
    conditions = [torch.linalg.cond(torch.cov(values.double())) for values in (outputs, pixels)]
    assert conditions[0] < conditions[1] / 20


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [("compact", 48 * 64 * 9 + 64 * 64 * 9 + 64 * 128 * 9 + 128 * 128 * 9 + 2 * (2 * 64 + 2 * 128) + 128 * 10 + 10, 128)],
)
def test_sizes(name, parameters, features):
    model = build(name, (3, 32, 32), 10, Key(0)).eval()
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert model.penultimate(torch.zeros(2, 3, 32, 32)).shape == (2, features)


@pytest.mark.parametrize("name", sorted(WHITENED))
def test_an_image_is_answered_alone_in_eval_mode(name):
    model = build(name, (3, 32, 32), 10, Key(0)).eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images)[:1], model(images[:1]))
    torch.testing.assert_close(model(images), model.head(model.penultimate(images)) / 9)


def test_convolutions_begin_as_part_of_the_identity():
    model = build("compact", (3, 32, 32), 10, Key(0))
    second = model.groups[0].second
    x = torch.rand(1, 64, 8, 8)
    torch.testing.assert_close(second(x), x)


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match=r"images of 8x8 pixels are too small to be halved 2 times; use at least 10x10"):
        build("compact", (3, 8, 8), 10, Key(0))


def test_muon_takes_filters_and_sgd_the_rest():
    recipe = Recipe(architecture="compact", epochs=1, learning_rate=0.5, muon=0.25, momentum=0.0, nesterov=False)
    filters, bias, frozen = torch.ones(2, 1, 1, 1), torch.ones(3), torch.ones(2, 2)
    Optimizer([bias, filters, frozen], recipe).step([torch.ones(3), torch.ones(2, 1, 1, 1), torch.zeros(2, 2)], 0.5)
    torch.testing.assert_close(bias, torch.full((3,), 0.5))
    assert (frozen == 1).all()
    moved = 1 - filters.flatten()  # the norm of orthonormal rows is that of (1, 1) already
    assert ((moved > 0.25 * 0.65) & (moved < 0.25 * 1.25)).all()
    plain = Recipe(architecture="compact", epochs=1, learning_rate=0.5, momentum=0.0, nesterov=False)
    filters = torch.ones(2, 1, 1, 1)
    Optimizer([filters], plain).step([torch.ones(2, 1, 1, 1)], 0.5)
    torch.testing.assert_close(filters, torch.full((2, 1, 1, 1), 0.5))


def test_scales_of_normalization_stay_one():
    model = build("compact", (3, 32, 32), 10, Key(0))
    assert not model.groups[0].norms[0].weight.requires_grad
    assert model.groups[0].norms[0].bias.requires_grad
    assert set(WHITENED) <= set(ARCHITECTURES)


@pytest.mark.parametrize("name", sorted(WHITENED))
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 32), (3, 64, 48)], ids=str)
def test_shapes_and_classes(name, shape):
    model = build(name, shape, 7, Key(0)).eval()
    images = torch.from_numpy(Key(2).numpy().random((2, *shape), dtype="float32"))
    assert model(images).shape == (2, 7)
    assert model.penultimate(images).shape == (2, model.head.in_features)


@pytest.mark.parametrize("name", sorted(WHITENED))
def test_features_can_be_differentiated_and_leave_the_input_alone(name):
    """Attacks differentiate features and keep using them: in-place operations would break or falsify that."""
    model = build(name, (1, 32, 32), 4, Key(1)).eval().double()
    images = torch.from_numpy(Key(2).numpy().random((2, 1, 32, 32))).requires_grad_()
    before = images.detach().clone()

    def value(at):
        inside = model.penultimate(at)
        return inside.square().sum() + model.head(inside).sum()

    (gradient,) = torch.autograd.grad(value(images), images)
    assert torch.equal(images.detach(), before)
    step = torch.zeros_like(before)
    step[0, 0, 13, 14] = 1e-6
    with torch.no_grad():
        slope = (value(before + step) - value(before - step)) / 2e-6
    assert float(slope) == pytest.approx(float(gradient[0, 0, 13, 14]), rel=1e-4, abs=1e-6)
