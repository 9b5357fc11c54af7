"""Saving a model, loading it, and what happens when either goes wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from certidote.streams import Key
from certidote.training.classifier import Classifier
from certidote.training.model_dir import CONFIG, WEIGHTS, check_vacant, load_model, read_config, save_model
from certidote.training.models import build
from certidote.training.recipe import RECIPES
from certidote.training.whitened import WHITENED
from certidote.types import Lineage

LINEAGE = Lineage(sigma=0.25, draws=1, denoiser="ab" * 32)
ARGUMENTS: dict[str, Any] = {
    "recipe": RECIPES["cnn"],
    "class_names": ("zero", "one", "two"),
    "image_shape": (3, 8, 8),
    "lineage": LINEAGE,
    "data_digest": "cd" * 32,
    "versions": {"torch": torch.__version__},
}


def model(seed: int = 1) -> Classifier:
    return build("cnn-32-64", (3, 8, 8), 3, Key(seed)).eval()


def saved(folder: Path) -> Path:
    save_model(folder, model(), **ARGUMENTS)
    return folder


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_round_trip(name: str, tmp_path: Path) -> None:
    shape = (3, 32, 32) if RECIPES[name].architecture in WHITENED else (3, 8, 8)
    original = build(RECIPES[name].architecture, shape, 3, Key(1)).to(memory_format=torch.channels_last).eval()
    folder = tmp_path / "made" / "too"
    save_model(folder, original, **{**ARGUMENTS, "recipe": RECIPES[name], "image_shape": shape})
    assert sorted(entry.name for entry in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert [entry.name for entry in folder.parent.iterdir()] == ["too"], "nothing unfinished is left beside it"
    state = torch.get_rng_state()
    again = load_model(folder)
    assert torch.equal(state, torch.get_rng_state())
    images = torch.from_numpy(Key(2).numpy().random((4, *shape), dtype="float32"))
    with torch.no_grad():
        torch.testing.assert_close(again(images), original(images), rtol=1e-5, atol=1e-6)
    for left, right in zip(original.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not again.training
    assert not any(weight.requires_grad for weight in again.parameters())
    config = read_config(folder)
    assert config.recipe == RECIPES[name]
    assert config.class_names == ("zero", "one", "two")
    assert config.image_shape == shape
    assert Lineage.from_json(config.lineage) == LINEAGE
    assert config.data_digest == "cd" * 32
    assert config.versions == {"torch": torch.__version__}


def test_only_vacant_folders_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    saved(folder)
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(ValueError, match=r"is not empty; choose another, or force \(--force\)"):
        save_model(folder, model(2), **ARGUMENTS)
    assert (folder / WEIGHTS).read_bytes() == before
    save_model(folder, model(2), **ARGUMENTS, force=True)
    assert (folder / WEIGHTS).read_bytes() != before
    assert torch.equal(load_model(folder).head.weight, model(2).head.weight)
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files than a model's \('diary\.txt'\)"):
        save_model(folder, model(), **ARGUMENTS, force=True)
    assert (folder / "diary.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="exists and is no folder"):
        check_vacant(folder / "diary.txt", force=True)
    check_vacant(tmp_path / "absent")


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_an_interrupted_save_changes_nothing(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails at the first, second, ... rename: weights, configuration, old folder away, new folder in place."""
    folder = saved(tmp_path / "model")
    before = (folder / WEIGHTS).read_bytes()
    calls = 0

    def renames(honest: Any) -> Any:
        def rename(source: Any, target: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(28, "No space left on device")
            honest(source, target)

        return rename

    monkeypatch.setattr(os, "replace", renames(os.replace))
    monkeypatch.setattr(os, "rename", renames(os.rename))
    with pytest.raises(OSError, match="No space left"):
        save_model(folder, model(2), **ARGUMENTS, force=True)
    assert calls >= failing
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (folder / WEIGHTS).read_bytes() == before
    load_model(folder)


def test_what_does_not_fit_its_description_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weight 'head\.weight' is .*'cnn-32-64' for images of shape .* and 2 classes has"):
        save_model(tmp_path / "model", model(), **{**ARGUMENTS, "class_names": ("a", "b")})
    with pytest.raises(ValueError, match=r"weight 'hidden\.weight' is missing"):
        save_model(tmp_path / "model", model(), **{**ARGUMENTS, "recipe": RECIPES["mlp"]})
    assert not list(tmp_path.iterdir())


def rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config.update(changes)
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


WRONG_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"extra": 1}, "extra: Extra inputs are not permitted"),
    ({"class_names": None}, "class_names: Field required"),
    ({"class_names": ["one"]}, "class_names"),
    ({"image_shape": [3, 8]}, "image_shape.2: Field required"),
    ({"image_shape": [3, 8, 10**9]}, "image_shape.2: Input should be less than or equal to 4096"),
    ({"format": 2}, "format: Input should be 1"),
    ({"recipe": {"architecture": "mlp-128", "epochs": 0, "learning_rate": 1.0}}, "recipe: Value error, epochs=0"),
    ({"recipe": {"architecture": "os.system", "epochs": 1, "learning_rate": 1.0}}, "unknown architecture 'os.system'"),
    ({"lineage": {"sigma": 0.5}}, "lineage: Value error, not a lineage"),
    ({"lineage": {"sigma": 0.5, "unsealed": [], "more": 1}}, "lineage: Value error, not a lineage"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_CONFIGS, ids=[str(change) for change, _ in WRONG_CONFIGS])
def test_a_wrong_configuration_is_named_in_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    rewrite(folder, **change)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        load_model(folder)
    assert "config.json in" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model in .*absent': cannot read config\.json: No such file"):
        load_model(tmp_path / "absent")
    folder = saved(tmp_path / "model")
    content = (folder / WEIGHTS).read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:], content[:-1] + bytes([content[-1] ^ 1])
    for damaged in (content[:-1], content[:50], b"", *flipped):
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors in .* is damaged: its SHA-256"):
            load_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"cannot read model\.safetensors"):
        load_model(folder)
    (folder / WEIGHTS).write_bytes(content)
    for damaged in (b"{", b"", b"\xff\xfe", b"[]"):
        (folder / CONFIG).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"config\.json in .* is damaged"):
            load_model(folder)


def test_files_made_to_deceive_are_refused(tmp_path: Path) -> None:
    """With a matching SHA-256: not safetensors at all, or weights that the configuration does not describe."""
    import hashlib

    folder = saved(tmp_path / "model")
    state = load((folder / WEIGHTS).read_bytes())
    for content, message in (
        (b"not safetensors", "is damaged"),
        (save({**state, "more": torch.zeros(1)}), "weight 'more' is .* has no such weight"),
        (save({name: value for name, value in state.items() if name != "head.bias"}), "weight 'head.bias' is missing"),
        (save({**state, "head.bias": state["head.bias"].double()}), "weight 'head.bias' is .*float64"),
    ):
        (folder / WEIGHTS).write_bytes(content)
        rewrite(folder, weights_sha256=hashlib.sha256(content).hexdigest())
        with pytest.raises(ValueError, match=message):
            load_model(folder)
