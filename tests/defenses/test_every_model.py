"""Defenses with the networks of the catalogue, on images of 32x32 pixels in color. No accuracy: whether they run, and what is refused."""

from importlib.util import find_spec

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.defenses.catalogue import DEFENSES, Setting
from certidote.diffusion.closed_form import Identity
from certidote.engine.jobs import Job, Payload, work
from certidote.streams import Key
from certidote.training.models import ARCHITECTURES, batch_statistics, build
from certidote.training.pooled import trainer_for
from certidote.training.recipe import Recipe
from certidote.types import Untrusted

DATA = tiny(8, 2, (3, 32, 32), Key(0))
TEST = tiny(5, 2, (3, 32, 32), Key(1))
PRIVATE = ("dp-sgd", "dp-sgd-private")
COPIED = ("finite-aggregation", "run-off-fa", "dpa-star-run-off")
PARTED = ("dpa", "run-off-dpa", *COPIED)
BAGS = ("bagging", "bagflip")
LARGE = ("resnet-18", "vgg-11", "mobilenet-v2", "airbench")
ONE_OF_EACH = ("none", "deep-knn", "epic", "poison-adversarial-training", "gradient-shaping", "dp-sgd", "dpa", "bagflip")
"""Of the kinds that reach into a network or its training, or train on few images."""


def setting(name: str) -> Setting:
    """Two parts, or bags of half the set."""
    return Setting(
        lambda _: Identity(), None, 1, "cpu", 0.05, len(DATA), image_shape=DATA.image_shape,
        parts=2 if name in PARTED else None, copies=2 if name in COPIED else None, bag_size=8 if name in BAGS else None,
    )  # fmt: skip


def outcome(name: str, architecture: str) -> str:
    """ "" or why it was refused."""
    if name in PRIVATE and find_spec("opacus") is None:
        return "opacus is missing"
    recipe = Recipe(architecture=architecture, epochs=1, batch_size=8, learning_rate=0.01, crop=2, flip=True)
    try:
        scheme, trainer = DEFENSES[name](trainer_for(recipe), setting(name))
    except ValueError as error:
        return str(error)
    record = work(Payload(scheme, trainer, Untrusted(DATA), TEST.images, Key(2)), Job(0, 1))
    assert not record.failed.any(), f"{name}: weights or logits that are not finite"
    assert set(record.votes.ravel().tolist()) <= {0, 1}
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_defenses_go_with_every_network(architecture: str) -> None:
    """Only one pair is refused: private training of networks that normalize by statistics of a batch, which says what to use.

    Large networks go with some defenses of each kind here.
    """
    normalized = any(
        isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for module in build(architecture, DATA.image_shape, 2, Key(0)).modules()
    )
    for name in ONE_OF_EACH if architecture.startswith(LARGE) else DEFENSES:
        refused = outcome(name, architecture)
        if name in PRIVATE and find_spec("opacus") is None:
            continue
        if name in PRIVATE and normalized:
            assert "BatchNorm" in refused, (name, refused)
            assert (f"{architecture}-gn" in refused) == batch_statistics(architecture), refused
        else:
            assert refused == "", name
