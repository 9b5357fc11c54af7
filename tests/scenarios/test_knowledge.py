"""What an attacker knows, made from recipes: the number format that it is trained in, and what is recorded of that."""

from pathlib import Path

import pytest
import torch

from certidote import verbs
from certidote.data.tiny import tiny
from certidote.numerics import DType
from certidote.scenarios.knowledge import Setting, scratch_setting, transfer_setting
from certidote.streams import Key
from certidote.training.recipe import Recipe

RECIPE = Recipe(architecture="mlp-128", epochs=2, batch_size=16, learning_rate=0.05)
DATA = tiny(20, 3, (1, 8, 8), Key(0))


def setting(kind: str, dtype: DType) -> Setting:
    if kind == "scratch":
        return scratch_setting(DATA, RECIPE, Key(1), surrogates=2, dtype=dtype)
    trusted = ("tiny", tiny(20, 3, (1, 8, 8), Key(2)))
    return transfer_setting(DATA, trusted, Key(1), recipe=RECIPE, surrogates=2, grey_box=True, dtype=dtype)


@pytest.mark.parametrize("kind", ["scratch", "transfer"])
def test_surrogates_are_trained_in_the_number_format_asked_for_and_give_float32(kind: str) -> None:
    plain, short = setting(kind, "float32"), setting(kind, "bfloat16")
    assert (plain.described["dtype"], short.described["dtype"]) == ("float32", "bfloat16")
    images = DATA.pixels()
    for one, other in zip(plain.knowledge.surrogates, short.knowledge.surrogates, strict=True):
        features = one.penultimate(images), other.penultimate(images)
        assert {each.dtype for each in features} == {torch.float32}
        assert not torch.equal(*features)
        torch.testing.assert_close(*features, rtol=0.2, atol=0.2)
    if kind == "transfer":
        assert plain.described["victim"] != short.described["victim"]
    if kind == "scratch":
        assert short.knowledge.retrain is not None
        again = short.knowledge.retrain(DATA, Key(1) / "surrogates")
        assert torch.equal(again[0].penultimate(images), short.knowledge.surrogates[0].penultimate(images))


def test_a_pack_says_which(tmp_path: Path) -> None:
    options = {"targets": 1, "num_poisons": 3, "epsilon": "0.3", "option": ["steps=2"], "seed": 1, "scenario": "scratch"}
    made = verbs.poison("bullseye-polytope", "digits", out=tmp_path / "pack", dtype="bfloat16", gallery=False, **options)
    assert made.pack.recipe["scenario"]["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="unknown dtype 'float16'; choose one of: auto, bfloat16, float32"):
        verbs.poison("bullseye-polytope", "digits", out=tmp_path / "other", dtype="float16", **options)
    assert not (tmp_path / "other").exists()
