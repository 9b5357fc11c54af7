"""Recipes: the value itself, its JSON, and reading it from a file."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from certidote.training.recipe import RECIPES, Recipe, load_recipe

GOOD = {"architecture": "mlp-128", "epochs": 4, "learning_rate": 0.1}
fractions = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(["mlp-128", "cnn-32-64"]),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.floats(1e-9, 1e9),
    st.lists(fractions, min_size=4, max_size=4),
)
def test_json_round_trip(architecture: str, epochs: int, batch_size: int, rate: float, others: list[float]) -> None:
    recipe = Recipe(
        architecture=architecture, epochs=epochs, batch_size=batch_size, learning_rate=rate,
        momentum=others[0], nesterov=others[0] > 0, weight_decay=others[1], warm_up=others[2], label_smoothing=others[3],
    )  # fmt: skip
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert len({again, recipe}) == 1


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RECIPES["mlp"].epochs = 3  # type: ignore[misc]


def test_the_catalogue_round_trips() -> None:
    assert sorted(RECIPES) == ["airbench", "benchmark", "cnn", "compact", "compact-wide", "conservative", "mlp"]
    assert RECIPES["conservative"].drops == (14, 24, 35)
    for name, recipe in RECIPES.items():
        assert load_recipe(name) is recipe
        assert Recipe.from_json(recipe.to_json()) == recipe


WRONG = [
    ({"epoch": 4}, "unknown recipe key 'epoch'; did you mean 'epochs'?"),
    ({"lerning_rate": 4}, "did you mean 'learning_rate'?"),
    ({"epochs": 0}, "epochs=0; give a whole number of at least 1"),
    ({"batch_size": -1}, "batch_size=-1; give a whole number of at least 1"),
    ({"epochs": 2.5}, "epochs=2.5: input should be a valid integer"),
    ({"epochs": True}, "epochs=True: input should be a valid integer"),
    ({"learning_rate": 0.0}, "learning_rate=0.0; give a number above 0"),
    ({"learning_rate": float("nan")}, "learning_rate=nan: input should be a finite number"),
    ({"learning_rate": "0.1"}, "learning_rate='0.1': input should be a valid number"),
    ({"momentum": 1.0}, "momentum=1.0; give a number of at least 0 and below 1"),
    ({"weight_decay": -0.1}, "weight_decay=-0.1; give a number of at least 0 and below 1"),
    ({"drops": [3, 2]}, "drops=[3, 2]; give ascending epochs between 1 and 3"),
    ({"drops": [4]}, "drops=[4]; give"),
    ({"drops": [2, 2]}, "drops=[2, 2]; give"),
    ({"warm_up": 1.0}, "warm_up=1.0; give"),
    ({"label_smoothing": 1.5}, "label_smoothing=1.5; give"),
    ({"momentum": 0.0}, "nesterov=True steps ahead of the momentum, but momentum=0"),
    ({"architecture": "resnet"}, "unknown architecture 'resnet'; choose one of: airbench, airbench-gn, cnn-32-64, "),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[str(change) for change, _ in WRONG])
def test_wrong_values_are_refused_in_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        Recipe.from_json({**GOOD, **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic words it)
        Recipe(**{**GOOD, **change})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"^recipe key 'learning_rate' is missing$"):
        Recipe.from_json({"architecture": "mlp-128", "epochs": 4})


def test_toml_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('architecture = "mlp-128"\nepochs = 4\nlearning_rate = 1\nmomentum = 0.5\n')
    assert load_recipe(str(path)) == Recipe(architecture="mlp-128", epochs=4, learning_rate=1.0, momentum=0.5)
    path.write_text("epochs = = 4")
    with pytest.raises(ValueError, match=r"mine\.toml': not valid TOML"):
        load_recipe(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not valid TOML"):
        load_recipe(str(path))
    path.write_text('architecture = "mlp-128"\nepochs = 0\nlearning_rate = 1.0\n')
    with pytest.raises(ValueError, match=r"mine\.toml': epochs=0"):
        load_recipe(str(path))
    with pytest.raises(ValueError, match=r"cannot read recipe .*absent\.toml': No such file"):
        load_recipe(str(tmp_path / "absent.toml"))
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"cannot read recipe .*mine\.toml'"):
        load_recipe(str(path))
    with pytest.raises(
        ValueError,
        match=r"unknown recipe 'mlpp'; choose one of: airbench, benchmark, cnn, compact, compact-wide, conservative, mlp, or give a path to a \.toml file",
    ):
        load_recipe("mlpp")
