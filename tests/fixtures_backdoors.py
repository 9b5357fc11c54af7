"""Shared by tests of attacks on training from scratch: all digits, and MLPs as surrogates and victims, many trained as one stack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from certidote.data.digits import SPLITS, load_digits
from certidote.streams import Key
from certidote.training.models import ModelStack
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import ImageDataset, Images, Lineage, Trigger, View, as_pixels

RECIPE = Recipe(architecture="mlp-128", epochs=30, batch_size=64, learning_rate=0.05, nesterov=False, warm_up=0.0, drops=(15, 25))
SHAPE = (1, 8, 8)

Classify = Callable[[Images], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Scratch:
    train: ImageDataset
    test: ImageDataset
    surrogate: nn.Module


@cache
def scratch_fixture() -> Scratch:
    """1,200 digits to train on, 597 to test on, and a clean model (97 % of those)."""
    parts = [load_digits(split) for split in SPLITS]
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    every = ImageDataset(images, labels, parts[0].class_names)
    train, test = every.subset(range(1_200)), every.subset(range(1_200, len(every)))
    return Scratch(train, test, victims([train], Key(0) / "scratch fixture" / "surrogate").member(0))


def victims(sets: Sequence[ImageDataset], key: Key) -> ModelStack:
    """A fresh model for each set. Equal keys pair the victims of two calls."""
    views = [View(each.pixels(), each.labels, each.num_classes, Lineage(unsealed=("test",))) for each in sets]
    return StackedTrainer(RECIPE).fit(views, [key / i for i in range(len(sets))], key / "common")


@torch.no_grad()
def predicted(model: Classify, images: Images) -> torch.Tensor:
    return model(images).argmax(1)


def accuracy(model: Classify, test: ImageDataset) -> float:
    return float((predicted(model, test.pixels()) == test.labels).double().mean())


def attack_success_rate(model: Classify, goal: Trigger, test: ImageDataset, key: Key) -> float:
    """Share of test images predicted to be of the adversarial class once the trigger is on them.

    Of images of the goal's true label, or of every class but the adversarial one; those that the model takes for the adversarial
    class without any trigger are left out.
    """
    wanted = test.labels != goal.adversarial_label if goal.true_label is None else test.labels == goal.true_label
    images = test.images[wanted]
    counted = predicted(model, as_pixels(images)) != goal.adversarial_label
    fallen = predicted(model, as_pixels(goal.stamped(images, key))) == goal.adversarial_label
    assert int(counted.sum()) >= 20
    return float(fallen[counted].double().mean())
