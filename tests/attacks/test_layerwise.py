"""Gradients layer by layer against differentiating twice through everything."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from certidote.attacks.gradient_matching import Aim, Differentiated, Loss, Matching, WholePass, objective_and_gradient
from certidote.attacks.layerwise import LayerwisePass, layerwise
from certidote.streams import Key, torch_seeded
from certidote.training.models import ARCHITECTURES, build

LOSSES: tuple[Loss, ...] = ("similarity", "layers", "squared")
SIDE = 9


class Everything(nn.Module):
    """All that is known to be done with a parameter, one thing used twice, and operations in place where networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)  # of few inputs
        self.strided = nn.Conv2d(2, 8, (3, 2), stride=(1, 2), padding=(1, 2), dilation=(1, 2))
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.groups = nn.GroupNorm(2, 8)
        self.depthwise = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=8)
        self.plain = nn.BatchNorm2d(16, affine=False)
        self.hidden = nn.Linear(64, 12)
        self.vectors = nn.BatchNorm1d(12)
        self.square = nn.Linear(12, 12, bias=False)
        self.head = nn.Linear(12, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu_(self.norm(self.first(images)))
        maps = functional.max_pool2d(maps, 3, stride=2, padding=1, ceil_mode=True)
        maps = maps + functional.max_pool2d(self.strided(images), (2, 1)).mean((2, 3), keepdim=True)
        branch = self.groups(self.wide(maps))
        branch += maps
        maps = self.plain(torch.tanh(self.depthwise(functional.relu(branch, inplace=True))))
        vectors = self.vectors(self.hidden(functional.avg_pool2d(maps, 2, stride=1).flatten(1)))
        return self.head(self.square(torch.tanh(self.square(torch.tanh(vectors)))))


def everything() -> nn.Module:
    with torch_seeded(Key(0) / "everything"):
        model = Everything().double()
        for layer in model.modules():
            for values in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
                if values.is_floating_point():
                    values.data.uniform_(0.5, 1.5) if isinstance(layer, nn.BatchNorm2d) else values.data.normal_(0, 0.3)
        model.vectors.running_var.fill_(0.7)
    return model.eval()


def function_of(model: nn.Module) -> Differentiated:
    return Differentiated(model, {name: weight.detach() for name, weight in model.named_parameters()})


def images_of(problems: int, each: int, channels: int = 2, side: int = SIDE) -> torch.Tensor:
    """With a border of one color, in which all maxima are ties."""
    images = torch.from_numpy(np.random.default_rng(0).random((problems, each, channels, side, side)))
    images[..., : side // 2] = 0.25
    return images


def twice(
    model: nn.Module, images: torch.Tensor, label: int, wanted: torch.Tensor, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor]:
    """One problem's gap and its gradient by the images, by the formulas and two calls of autograd."""
    model = copy.deepcopy(model).requires_grad_()
    leaf = images.clone().requires_grad_()
    value = functional.cross_entropy(model(leaf), torch.full((len(leaf),), label))
    made = torch.autograd.grad(value, list(model.parameters()), create_graph=True, materialize_grads=True)
    aims = torch.split(wanted, [one.numel() for one in made])
    if loss == "layers":
        pairs = zip((one.flatten() for one in made), aims, strict=True)
        gap = 1 - torch.stack([functional.cosine_similarity(a, b, dim=0) for a, b in pairs]).mean()
    else:
        flat = torch.cat([one.flatten() for one in made])
        cosine = functional.cosine_similarity(flat, wanted, dim=0)
        gap = 1 - cosine if loss == "similarity" else (flat - wanted).square().sum() / wanted.square().sum()
    return gap.detach(), torch.autograd.grad(gap, [leaf])[0]


def assert_equal_to_twice(model: nn.Module, images: torch.Tensor, loss: Loss) -> None:
    labels = torch.arange(len(images)) % 4
    function = function_of(model)
    width = sum(weight.numel() for weight in model.parameters())
    wanted = torch.from_numpy(np.random.default_rng(1).standard_normal((len(images), width)))
    values, slopes = objective_and_gradient([Aim(function, wanted)], images, labels, Matching(loss=loss))
    for problem, label in enumerate(labels.tolist()):
        value, slope = twice(model, images[problem], label, wanted[problem], loss)
        assert float(values[problem]) == pytest.approx(float(value), rel=1e-10)
        assert float((slopes[problem] - slope).norm() / slope.norm()) < 1e-10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("problems", [1, 3])
def test_objective_and_gradient_are_those_of_differentiating_twice(loss: Loss, problems: int) -> None:
    model, images = everything(), images_of(problems, 4)
    assert isinstance(function_of(model).passed(images, torch.arange(problems)), LayerwisePass)
    assert_equal_to_twice(model, images, loss)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_all_architectures_are_known(architecture: str) -> None:
    model = build(architecture, (3, 32, 32), 4, Key(0)).double().eval()
    images, labels = images_of(2, 1, 3, 32), torch.tensor([1, 3])
    found = function_of(model).passed(images, labels)
    assert isinstance(found, LayerwisePass)
    model.requires_grad_()
    for problem in range(2):
        loss = functional.cross_entropy(model(images[problem]), labels[problem : problem + 1])
        expected = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))])
        assert float((found.gradients[problem] - expected).norm() / expected.norm()) < 1e-10


# -------------------------------------------------------------------------------------------------------- what is not known there


class Head(nn.Module):
    """Features, and something that is done with them by the user's own code."""

    def __init__(
        self,
        last: Callable[["Head", torch.Tensor], torch.Tensor],
        *,
        body: nn.Module | None = None,
        shape: tuple[int, ...] = (4, 5),
    ) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 5, 3) if body is None else body
        self.last = last
        self.weight = nn.Parameter(torch.randn(shape) / 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self, torch.tanh(self.body(images)))


def _pooled(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean((2, 3))


def _tokens(maps: torch.Tensor) -> torch.Tensor:
    return maps.flatten(2).transpose(1, 2)


def _partly_constant(head: Head, maps: torch.Tensor) -> torch.Tensor:
    features = _pooled(maps)
    with torch.no_grad():
        constant = functional.linear(features, head.weight)
    return functional.linear(features, head.weight) * constant


FOREIGN: dict[str, Callable[[], nn.Module]] = {
    "a linear layer with normalized weights": lambda: Head(
        lambda head, maps: functional.linear(_pooled(maps), functional.normalize(head.weight))
    ),
    "a product by an operator": lambda: Head(lambda head, maps: _pooled(maps) @ head.weight.T),
    "a weight in two ways, one of them known": lambda: Head(
        lambda head, maps: functional.linear(_pooled(maps), head.weight) + _pooled(maps).square() @ head.weight.T
    ),
    "a parameter in a list, too": lambda: Head(
        lambda head, maps: functional.linear(_pooled(maps), head.weight) * torch.stack([head.weight]).square().mean()
    ),
    "a linear layer of tokens": lambda: Head(lambda head, maps: functional.linear(_tokens(maps), head.weight).mean(1)),
    "tokens in place of images": lambda: Head(
        lambda head, maps: functional.linear(_tokens(maps).flatten(0, 1), head.weight).tanh().view(len(maps), -1, 4).mean(1)
    ),
    "weights made from the images": lambda: Head(
        lambda head, maps: (
            functional.linear(_pooled(maps), head.weight) + functional.linear(_pooled(maps), maps.mean((0, 2))[:, :4].T)
        )
    ),
    "inputs that are no images": lambda: Head(
        lambda head, maps: _pooled(maps)[:, :4] * functional.linear(torch.ones_like(_pooled(maps)).detach(), head.weight)
    ),
    "a product that is taken as constant": lambda: Head(_partly_constant),
    "a scale that is a bias of a constant product, too": lambda: Head(
        lambda head, maps: functional.linear(
            _pooled(functional.group_norm(maps, 5, head.weight).square()), torch.eye(5, dtype=maps.dtype), head.weight
        ),
        shape=(5,),
    ),
    "a parameter that is not used": lambda: Head(lambda head, maps: _pooled(maps)[:, :4]),
    "padding by name": lambda: Head(
        lambda head, maps: functional.linear(_pooled(maps), head.weight), body=nn.Conv2d(2, 5, 3, padding="same")
    ),
    "statistics of the batch": lambda: Head(
        lambda head, maps: functional.linear(_pooled(maps), head.weight),
        body=nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, affine=False, track_running_stats=False)),
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("problems", [1, 3])
def test_models_not_known_layer_by_layer_are_differentiated_as_a_whole(what: str, problems: int) -> None:
    with torch_seeded(Key(0) / what):
        model = FOREIGN[what]().double().eval()
    images = images_of(problems, 3)
    assert isinstance(function_of(model).passed(images, torch.arange(problems)), WholePass)
    assert_equal_to_twice(model, images, "similarity")


def test_inputs_that_are_changed_in_place_are_not_trusted() -> None:
    def last(head: Head, maps: torch.Tensor) -> torch.Tensor:
        features = _pooled(maps)
        logits = functional.linear(features, head.weight)
        features *= 2
        return logits + features[:, :4]

    for change in (False, True):
        model = Head(last if change else lambda head, maps: functional.linear(_pooled(maps), head.weight)).double().eval()
        labels = torch.zeros((1, 3), dtype=torch.int64)
        found = layerwise(model, function_of(model).parameters, images_of(1, 3), labels, differentiable=True)
        assert (found is None) == change


def test_asking_for_the_shape_of_a_parameter_is_no_use_of_it() -> None:
    def last(head: Head, maps: torch.Tensor) -> torch.Tensor:
        return functional.linear(_pooled(maps), head.weight) / math.sqrt(head.weight.shape[1]) + head.weight.numel()

    model, images = Head(last).double().eval(), images_of(2, 3)
    assert isinstance(function_of(model).passed(images, torch.tensor([0, 1])), LayerwisePass)
    assert_equal_to_twice(model, images, "similarity")


def test_a_branch_that_leads_nowhere_has_gradient_zero() -> None:
    def last(head: Head, maps: torch.Tensor) -> torch.Tensor:
        functional.linear(_pooled(maps), head.weight)
        return _pooled(maps)[:, :4]

    model, images = Head(last).double().eval(), images_of(2, 3)
    found = function_of(model).passed(images, torch.tensor([0, 1]))
    assert isinstance(found, LayerwisePass)
    unused = slice(0, 20)  # a module's own parameters come first
    assert not bool(found.gradients[:, unused].any())
    assert bool(found.gradients[:, 20:].any())
    assert_equal_to_twice(model, images, "similarity")


def test_surrogates_whose_weights_ask_for_gradients_get_none() -> None:
    model, images = everything().requires_grad_(), images_of(2, 3)
    function = function_of(model)
    aim = Aim(function, torch.randn(2, sum(weight.numel() for weight in model.parameters()), dtype=torch.float64))
    objective_and_gradient([aim], images, torch.tensor([0, 1]), Matching())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert_equal_to_twice(model, images, "layers")
