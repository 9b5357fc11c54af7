"""Users' architectures and transforms: good ones train and vote, every checkable fault meets its refusal before anything trains."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from certidote.data.digits import load_digits
from certidote.streams import Key
from certidote.training.model_dir import load_model, save_model
from certidote.training.own import check_model, confirmed, imported, is_own, own_model, sources_digest, transformed
from certidote.training.pooled import trainer_for
from certidote.training.recipe import RECIPES, Recipe
from certidote.types import Lineage
from fixtures_training import COMMON, digit_views, keys, weights

SHAPE = (1, 8, 8)
SMALL = RECIPES["cnn"].model_copy(update={"architecture": "ownmodels:small", "epochs": 2})


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mymodels:small", True),
        ("a.b.c:f", True),
        ("cnn-32-64", False),
        ("a:b:c", False),
        ("a/b:c", False),
        (":f", False),
        ("a:", False),
    ],
)
def test_which_names_are_code(name: str, own: bool) -> None:
    assert is_own(name) == own


def test_recipes_name_own_architectures_without_importing_them() -> None:
    recipe = Recipe(architecture="nowhere.at_all:factory", epochs=1, learning_rate=0.1)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_members_train_alike_alone_and_in_stacks() -> None:
    trainer = trainer_for(SMALL)
    together = trainer.fit(digit_views(3, rows=60), keys(3), COMMON)
    alone = trainer.fit(digit_views(3, rows=60)[2:], keys(3)[2:], COMMON)
    assert torch.equal(weights(together.member(2)), weights(alone.member(0))), "dropout draws from the member's own key"
    assert not torch.equal(weights(together.member(2)), weights(together.member(1)))
    images = load_digits("test").pixels()[:5]
    apart = torch.cat([alone(images[i : i + 1]) for i in range(5)], dim=1)
    torch.testing.assert_close(alone(images), apart, rtol=1e-4, atol=1e-5)


def test_initial_weights_are_a_function_of_the_key() -> None:
    first, again, other = (own_model("ownmodels:small", SHAPE, 10, Key(seed)) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_a_good_architecture_passes_and_its_sources_are_known() -> None:
    digest = check_model("ownmodels:small", SHAPE, 10)
    assert len(digest) == 64
    assert digest == sources_digest("ownmodels:mirrored"), "one file, one digest"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ownmodels:no_module", "returns str, but a torch.nn.Module is needed"),
        ("ownmodels:wrong_shape", "answers 3 images with (3, 11) numbers"),
        ("ownmodels:loads_weights", "starts weight '1.weight' from fixed values"),
        ("ownmodels:unseeded", "gives weight '1.weight' other values each time"),
        ("ownmodels:looks_at_the_batch", "answers an image differently when others are in its batch"),
        ("ownmodels:answers_at_random", "answers one image differently each time"),
        ("ownmodels:has_unused_weights", "never uses its weight 'spare.weight'"),
        ("ownmodels:too_large_for_these", "fails on images of shape (3, 1, 8, 8)"),
        ("ownmodels:frozen", "has no weights that can learn"),
        ("ownmodels:SHAPE_OF_NOTHING", "has no function 'SHAPE_OF_NOTHING'"),
        ("nowhere_at_all:factory", "cannot import model 'nowhere_at_all:factory' (ModuleNotFoundError"),
        ("just-a-name", "write package.module:function"),
    ],
)
def test_what_is_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        check_model(name, SHAPE, 10)
    assert "\n" not in str(caught.value)


def test_pretrained_weights_need_somebody_to_vouch_for_them() -> None:
    assert check_model("ownmodels:loads_weights", SHAPE, 10, pretrained_trusted=True)
    trainer = trainer_for(SMALL, start="trusted", sources="5")
    assert trainer.start == "trusted"
    assert trainer.describe()["start"] == "trusted"
    assert trainer.describe()["architecture_sources"] == "5"


def test_code_that_a_file_names_must_be_named_by_the_user() -> None:
    confirmed("cnn-32-64", "", "model", "RUN")
    confirmed("a.b:c", "a.b:c", "model", "RUN")
    with pytest.raises(ValueError, match=r"RUN has the model 'a.b:c', which is code; .* add --model a.b:c"):
        confirmed("a.b:c", "", "model", "RUN")
    with pytest.raises(ValueError, match=r"which is code"):
        confirmed("a.b:c", "a.b:d", "model", "RUN")
    with pytest.raises(ValueError, match=r"RUN has no test transform of your own"):
        confirmed("", "a.b:c", "test transform", "RUN")


def test_a_saved_model_is_loaded_only_with_its_code_named_and_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\ndef f(shape, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    (tmp_path / "owned_by_test.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = SMALL.model_copy(update={"architecture": "owned_by_test:f"})
    model = own_model("owned_by_test:f", SHAPE, 10, Key(0))
    save_model(
        tmp_path / "model", model, recipe=recipe, class_names=list("0123456789"), image_shape=SHAPE, lineage=Lineage(),
        data_digest="", versions={},
    )  # fmt: skip
    assert torch.equal(weights(load_model(tmp_path / "model", "owned_by_test:f")), weights(model))
    with pytest.raises(ValueError, match="which is code"):
        load_model(tmp_path / "model")
    (tmp_path / "owned_by_test.py").write_text(source + "# changed\n")
    with pytest.raises(ValueError, match="its sources have changed"):
        load_model(tmp_path / "model", "owned_by_test:f")


def test_the_current_folder_is_searched(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("def f():\n    return 5\n")
    code = "import sys; sys.path.pop(0); from certidote.training.own import imported; print(imported('here:f', 'model')())"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "5\n"
    assert imported("ownmodels:small", "model").__name__ == "small"


def test_transformed_images_are_what_the_function_gives() -> None:
    images = load_digits("test").images[:7]
    result, digest = transformed("ownmodels:mirrored", images, SHAPE)
    assert torch.equal(result, images.flip(3))
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("with_training_data", "may take one image and nothing else"),
        ("with_more", "may take one image and nothing else"),
        ("remembers", "other pixels in another order"),
        ("random_crop", "other pixels in another order"),
        ("floats", "returns torch.float32 of shape (1, 8, 8)"),
        ("smaller", "returns torch.uint8 of shape (1, 4, 4)"),
    ],
)
def test_transforms_that_would_break_the_proof(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        transformed(f"ownmodels:{name}", load_digits("test").images[:20], SHAPE)
