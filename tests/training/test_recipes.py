"""Every recipe and every architecture of the catalogue, in seconds on tiny data."""

import json
import pickle

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.streams import Key
from certidote.training.model_dir import filled
from certidote.training.models import ARCHITECTURES, build
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import RECIPES, Recipe, check_fits, load_recipe
from certidote.types import Lineage, View

DATA = tiny(6, 3, (3, 32, 32), Key(0))
VIEW = View(DATA.pixels(), DATA.labels, 3, Lineage())


FEW = View(VIEW.images[:8], VIEW.labels[:8], 3, Lineage())


def trained(recipe: Recipe, key: Key, view: View = VIEW) -> torch.nn.Module:
    return PooledTrainer(recipe).fit([view], [key], Key(1)).member(0)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_a_value_and_trains_the_same_bits_twice(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert hash(pickle.loads(pickle.dumps(recipe))) == hash(recipe)
    check_fits(recipe, DATA.image_shape, 3)
    short = recipe.model_copy(update={"epochs": 2, "batch_size": 8, "drops": (1,) if recipe.drops else ()})
    one, again, other = (trained(short, key, FEW).state_dict() for key in (Key(2), Key(2), Key(3)))
    assert all(torch.equal(one[weight], again[weight]) for weight in one)
    assert any(not torch.equal(one[weight], other[weight]) for weight in one)
    assert all(bool(value.isfinite().all()) for value in one.values())


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_an_architecture_learns_three_patterns(architecture: str) -> None:
    """With Muon where every convolution is normalized, with SGD elsewhere; chance is a third.

    In train mode: after so few steps the running statistics of a deep network are still those of its beginning.
    """
    muon = 0.0 if architecture.startswith(("mlp", "cnn")) else 0.05
    rate = 0.1 if not muon else 0.05
    recipe = Recipe(architecture=architecture, epochs=8, batch_size=9, learning_rate=rate, muon=muon, momentum=0.8)
    model = trained(recipe, Key(2)).train()
    test = tiny(6, 3, (3, 32, 32), Key(5))
    with torch.no_grad():
        assert float((model(test.pixels()).argmax(1) == test.labels).double().mean()) > 0.6


@pytest.mark.parametrize("architecture", sorted(name for name in ARCHITECTURES if name.endswith("-gn")))
def test_group_normalization_answers_an_image_alone_even_in_train_mode(architecture: str) -> None:
    model = trained(Recipe(architecture=architecture, epochs=1, batch_size=9, learning_rate=0.01), Key(2)).train()
    with torch.no_grad():
        torch.testing.assert_close(model(VIEW.images[:4])[:1], model(VIEW.images[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_model_filled_from_its_state_answers_as_it_did(architecture: str) -> None:
    model = build(architecture, DATA.image_shape, 3, Key(4)).eval()
    again = filled(architecture, DATA.image_shape, 3, model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(FEW.images), model(FEW.images))
