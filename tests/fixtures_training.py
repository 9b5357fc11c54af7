"""Views to train on, and the textbook way of training that every trainer is compared with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from certidote.data.digits import load_digits
from certidote.streams import Key
from certidote.training.classifier import Classifier
from certidote.training.models import build
from certidote.training.recipe import Recipe
from certidote.training.schedule import batches, rates
from certidote.types import Lineage, View

COMMON = Key(7) / "common"


def keys(members: int) -> list[Key]:
    return [Key(7) / "members" / member for member in range(members)]


def digit_views(members: int, rows: int = 500, sigma: float = 0.5) -> list[View]:
    """The first rows of the digits, each member with its own noise."""
    data = load_digits("train")
    pixels, labels = data.pixels()[:rows], data.labels[:rows]
    views = []
    for key in keys(members):
        noise = (key / "noise").numpy().standard_normal(pixels.shape, dtype="float32")
        views.append(View(pixels + sigma * torch.from_numpy(noise), labels, data.num_classes, Lineage(sigma=sigma, draws=1)))
    return views


def textbook_fit(recipe: Recipe, view: View, key: Key, common: Key, dtype: torch.dtype = torch.float64) -> Classifier:
    """One model trained by autograd, `CrossEntropyLoss` and `torch.optim.SGD` in this format, on the coins a trainer uses."""
    channels, height, width = view.images.shape[1:]
    model = build(recipe.architecture, (channels, height, width), view.num_classes, key).to(dtype)
    images = view.images.to(dtype)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1.0, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )
    steps = batches(recipe, len(view.labels), common)
    for rows, rate in zip(steps, rates(recipe, len(steps)), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss(model(images[rows]), view.labels[rows]).backward()
        optimizer.step()
    return model


def weights(model: nn.Module) -> Tensor:
    """All parameters in one float64 vector."""
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models are equal bit for bit; NaN equals NaN."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a.detach().view(torch.int32), b.detach().view(torch.int32)) for a, b in pairs)


def accuracy(models: Sequence[Classifier]) -> float:
    """Mean clean accuracy on the digits test split."""
    test = load_digits("test")
    with torch.no_grad():
        return sum(float((model(test.pixels()).argmax(1) == test.labels).double().mean()) for model in models) / len(models)
