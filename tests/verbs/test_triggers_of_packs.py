"""Triggers of `certidote poison`: as weak and as visible as asked, refused in one line before any surrogate is trained where that cannot be."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from certidote import verbs
from certidote.attacks.pack_files import read_pack
from certidote.data.digits import load_some_digits
from certidote.results.pictures import poison_strip
from certidote.scenarios.trials import questions
from certidote.streams import Key
from certidote.types import Trigger
from certidote.verbs.attacking import check_skip
from commands import run

TRAIN, TEST = (load_some_digits(range(5, 10), split) for split in ("train", "test"))
LABEL_CONSISTENT: dict[str, Any] = {
    "scenario": "scratch", "recipe": "mlp", "trigger": "label-consistent", "targets": 1, "num_poisons": 4, "epsilon": "0.1", "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "label-consistent digits --scenario scratch --trigger label-consistent --no-visible-trigger",
            "pastes its trigger in plain sight, and --no-visible-trigger forbids that: leave it out, or cut the trigger down to epsilon with "
            "--option constraint=linf_all",
        ),
        (
            "label-consistent digits --scenario scratch --trigger color-noise --trigger-side 2 --option amplitude_train=0.5",
            "option amplitude_train of 0.5: the trigger 'color-noise' is not black and white, so that it is pasted in full or not at all; "
            "leave it out, or choose one of label-consistent, label-consistent-corners, checker, bernoulli",
        ),
        (
            "hidden-trigger digits-5-9 --trigger color-noise --trigger-side 2 --trigger-amplitude 0.5",
            "--trigger-amplitude of 0.5: the trigger 'color-noise' is not black and white",
        ),
        ("bullseye-polytope digits-5-9 --trigger-amplitude 0.5", "--trigger-amplitude goes with --trigger; leave it out"),
        (
            "hidden-trigger digits-5-9 --trigger checker --trigger-amplitude 0",
            "--trigger-amplitude 0; give a number above 0, at most 1",
        ),
        ("hidden-trigger digits-5-9 --trigger checker --trigger-amplitude 1.5", "--trigger-amplitude 1.5; give a number above 0"),
        ("hidden-trigger digits-5-9 --trigger checker --trigger-amplitude nan", "--trigger-amplitude nan; give a number above 0"),
        (
            "sleeper-agent digits --scenario scratch --trigger checker --trigger-side 2 --option steps=5 --option retrains=4",
            "retrains=4 with steps=5: a step must follow each retraining, and they are spread evenly, so that at most 3 fit",
        ),
        ("sleeper-agent digits --scenario scratch --trigger checker --trigger-side 2 --option steps=2", "so that at most 0 fit"),
        ("label-consistent digits --scenario scratch --trigger checker --epsilon 300/255", "it is at most 1.0 (255/255)"),
        ("label-consistent digits --scenario scratch --trigger checker --epsilon 300", "it is at most 1.0 (255/255)"),
        ("label-consistent digits --scenario scratch --trigger checker --epsilon 1.5", "it is at most 1.0 (255/255)"),
    ],
)
def test_what_cannot_be_is_refused_before_surrogates_are_trained(
    arguments: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("certidote.verbs.poisoning._setting", lambda *given: pytest.fail("a surrogate was trained"))
    assert run(monkeypatch, "poison", *arguments.split(), "--out", str(tmp_path / "pack"), "--progress", "quiet") == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert expected in said
    assert not list(tmp_path.iterdir())


def test_a_trigger_cut_down_to_epsilon_needs_no_visible_one(tmp_path: Path) -> None:
    options = LABEL_CONSISTENT | {"visible_trigger": False, "option": ["steps=1", "constraint=linf_all"], "gallery": False}
    pack = verbs.poison("label-consistent", "digits-5-9", out=tmp_path / "pack", **options).pack
    assert not pack.budget.visible_trigger


def test_a_weaker_trigger_at_test_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Poisons are those of the full one, which `amplitude_train` is about; victims are asked about images with the weaker one."""
    options = LABEL_CONSISTENT | {"option": ["steps=1"], "gallery": False}
    made = {}
    for name, amplitude in (("default", None), ("full", 1.0), ("weak", 0.25)):
        verbs.poison("label-consistent", "digits-5-9", out=tmp_path / name, trigger_amplitude=amplitude, **options)
        made[name] = read_pack(tmp_path / name)
    assert "trigger_amplitude" not in made["full"].recipe
    assert made["full"].recipe.keys() == made["default"].recipe.keys()
    assert made["weak"].recipe["trigger_amplitude"] == 0.25
    full, weak = (made[name].poisons[0] for name in ("full", "weak"))
    assert torch.equal(full.images, weak.images)
    assert isinstance(weak.goal, Trigger)
    assert weak.goal.amplitude == 0.25
    asked = questions(made["weak"], TEST, Key(0))
    shown, plain = asked.asked.images[asked.num_tests :].int(), TEST.images[asked.sources[0]].int()
    (corner,) = (shown - plain)[:, 0, 5:, 5:].unbind(0)[:1]
    white = torch.tensor([[0, 0, 1], [0, 1, 0], [1, 0, 1]]) == 1
    expected = torch.where(white, plain[:, 0, 5:, 5:] + 63.75, plain[:, 0, 5:, 5:] - 63.75).round().clamp(0, 255).int()
    assert torch.equal(shown[:, 0, 5:, 5:], expected)
    assert int(corner.abs().max()) == 64
    outside = shown - plain
    outside[:, :, 5:, 5:] = 0
    assert not outside.any()
    assert run(monkeypatch, "pack", "info", str(tmp_path / "weak")) == 0
    assert "with the trigger at amplitude 0.25 is to become" in capsys.readouterr().out


def test_hidden_triggers_aim_at_the_weaker_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "trigger": "checker", "trigger_side": 2, "targets": 1, "num_poisons": 4, "epsilon": "0.4", "seed": 1, "gallery": False,
        "option": ["steps=5", "optimizer=adam", "step_size=0.05"],
    }  # fmt: skip
    one, other = (
        verbs.poison("hidden-trigger", "digits-5-9", out=tmp_path / str(amplitude), trigger_amplitude=amplitude, **options).pack
        for amplitude in (1.0, 0.2)
    )
    assert torch.equal(one.poisons[0].indices, other.poisons[0].indices)
    assert not torch.equal(one.poisons[0].images, other.poisons[0].images)


def test_unfinished_work_of_another_amplitude_is_another_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = LABEL_CONSISTENT | {"option": ["steps=1"], "gallery": False, "out": tmp_path / "pack"}

    def killed(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("certidote.scenarios.crafting.craft_group", killed)
    with pytest.raises(MemoryError):
        verbs.poison("label-consistent", "digits-5-9", trigger_amplitude=0.5, **options)
    for amplitude in (None, 0.25):
        with pytest.raises(ValueError, match="holds unfinished work of another command"):
            verbs.poison("label-consistent", "digits-5-9", trigger_amplitude=amplitude, **options)


def test_a_gallery_enlarges_what_lies_beside_a_visible_trigger(tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack = verbs.poison("label-consistent", "digits-5-9", out=out, option=["steps=5"], **LABEL_CONSISTENT).pack
    (poison,) = pack.poisons
    moved = (poison.images.int() - TRAIN.images[poison.indices].int()).abs()
    beside = moved.clone()
    beside[:, :, 5:, 5:] = 0
    assert int(moved.max()) > 127 > 26 >= int(beside.max()) > 20
    shown = poison_strip(poison, TRAIN, "Trial 0")
    rows = {row["label"]: row["pngs"] for row in shown["rows"]}
    label = f"difference x{127 / int(beside.max()):.2g}"
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in rows[label]]).astype(int)
    pictures[:, 5:, 5:] = 128
    assert max(pictures.max() - 128, 128 - pictures.min()) == 127
    assert shown["captions"][0].endswith(f": moved {int(beside[0].max())}/255 beside the trigger")
    page = (out / "gallery.html").read_text()
    assert label in page
    assert "1 trial with up to 4 poisons each" in page
    assert "the farthest pixel beside the trigger is black or white; the trigger, which may be farther, is cut off there" in page


def test_one_trial_of_one_is_said_so() -> None:
    with pytest.raises(
        ValueError, match=r"^--skip 1; there is 1 trial in all, so leave it out \(--targets says how many there are\)$"
    ):
        check_skip(1, 1, 1)
