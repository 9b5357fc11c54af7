"""Extractors that learned from what a trial is about, with its true label, are refused before any is trained; what else is odd is a note."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certidote import verbs
from certidote.attacks.pack_files import read_pack
from certidote.data.digits import load_some_digits
from certidote.scenarios.goals import choose_targets
from certidote.streams import Key
from certidote.types import ImageDataset, Target, content_hashes
from commands import run

TRAIN, TEST = (load_some_digits(range(5, 10), split) for split in ("train", "test"))
TRUSTED = load_some_digits(range(5), "trusted")
CHEAP: dict[str, Any] = {"num_poisons": 4, "epsilon": "0.4", "seed": 1, "gallery": False, "option": ["steps=1"]}


def written(path: Path, *parts: ImageDataset) -> Path:
    """An .npz of these images."""
    images = torch.cat([part.images for part in parts]).numpy()[:, 0]
    np.savez(path, x_train=images, y_train=torch.cat([part.labels for part in parts]).numpy())
    return path


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("bullseye-polytope --targets 3", "which has 0 besides"),
        ("bullseye-polytope --target 6", "the target of trial 0, test image 6, is among the images that the extractor learns from"),
        (
            "bullseye-polytope --goals {goals}",
            "the target of trial 1, test image 28, is among the images that the extractor learns from",
        ),
        (
            "hidden-trigger --trigger checker --trigger-side 2 --true-class 6 --adversarial-class 8",
            "trial 0 is counted on 49 test images with the trigger, and 49 of them are among the images that the extractor learns from",
        ),
    ],
)
def test_extractors_that_learned_from_what_trials_are_about_are_refused(
    command: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    goals = tmp_path / "goals.json"
    goals.write_text(
        json.dumps([{"test_image": row, "true_class": c, "adversarial_class": "9"} for row, c in ((56, "5"), (28, "6"))])
    )
    monkeypatch.setattr("certidote.verbs.poisoning._setting", lambda *given: pytest.fail("an extractor was trained"))
    pretrain = "digits-5-9:test"
    if "--goals" in command:
        pretrain = str(written(tmp_path / "some.npz", TRUSTED, TEST.subset([28])))
    out = tmp_path / "pack"
    arguments = (*command.format(goals=goals).split(), "--pretrain", pretrain, "--out", str(out), "--progress", "quiet")
    assert run(monkeypatch, "poison", arguments[0], "digits-5-9", *arguments[1:]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert expected in said
    assert "--pretrain" in said
    assert not out.exists()


def test_a_backdoor_is_about_the_test_images_of_the_class_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other classes may have been learned from."""
    eights = TEST.subset((TEST.labels == 3).nonzero().squeeze(1))
    pretrain = str(written(tmp_path / "some.npz", TRUSTED, eights))
    options = CHEAP | {"trigger": "checker", "trigger_side": 2, "targets": 1, "adversarial_class": "8", "pretrain": pretrain}
    pack = verbs.poison("hidden-trigger", "digits-5-9", out=tmp_path / "pack", true_class="6", **options).pack
    assert pack.notes == ()
    monkeypatch.setattr("certidote.verbs.poisoning._setting", lambda *given: pytest.fail("an extractor was trained"))
    options["adversarial_class"] = "9"
    with pytest.raises(ValueError, match=rf"and {len(eights)} of them are among the images that the extractor learns from"):
        verbs.poison("hidden-trigger", "digits-5-9", out=tmp_path / "other", true_class="all", **options)


def test_victims_that_start_from_a_target_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = CHEAP | {"option": ["steps=1", "restarts=1"], "scenario": "scratch", "recipe": "mlp"}
    made = verbs.poison("witches-brew", "digits-5-9", out=tmp_path / "pack", targets=2, **scratch).pack
    goal = made.poisons[1].goal
    assert isinstance(goal, Target)
    leaking = written(tmp_path / "leaking.npz", TRUSTED, TEST.subset([goal.test_index]))
    monkeypatch.setattr("certidote.scenarios.warm_start.started_from", lambda *given: pytest.fail("victims began to learn"))
    options = {"defense": "none", "workers": 0, "seed": 1}
    expected = (
        rf"target of trial 1, test image {goal.test_index}, is among the images that victims start from .* images as --start-from"
    )
    with pytest.raises(ValueError, match=expected):
        verbs.replay(tmp_path / "pack", "digits-5-9", out=tmp_path / "run", start_from=str(leaking), **options)
    with pytest.raises(pytest.fail.Exception, match="began to learn"):  # the first trial alone is about none of them
        verbs.replay(tmp_path / "pack", "digits-5-9", out=tmp_path / "run", start_from=str(leaking), trials=1, **options)
    assert not (tmp_path / "run").exists()


def test_targets_are_drawn_among_the_others(tmp_path: Path) -> None:
    drawn = choose_targets(TEST, 10, Key(1) / "poison" / "targets", TRAIN)
    learned = TEST.subset([goal.test_index for goal in drawn])
    options = CHEAP | {"targets": 10}
    pack = verbs.poison(
        "bullseye-polytope", "digits-5-9", out=tmp_path / "pack", pretrain=str(written(tmp_path / "some.npz", TRUSTED, learned)), **options
    ).pack  # fmt: skip
    known = set(content_hashes(learned.images))
    goals = [poison.goal for poison in pack.poisons]
    assert all(isinstance(goal, Target) and content_hashes(goal.image.unsqueeze(0))[0] not in known for goal in goals)
    assert pack.notes == ()


def test_images_that_overlap_with_nothing_change_no_draw() -> None:
    plain, apart = (choose_targets(TEST, 12, Key(3), TRAIN, *more) for more in ((), (TRUSTED,)))
    assert [(one.test_index, one.adversarial_label) for one in plain] == [(one.test_index, one.adversarial_label) for one in apart]


def test_images_that_are_under_attack_too_are_a_note(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_pack(pack).notes == ()  # the default
    pretrain = str(written(tmp_path / "some.npz", TRUSTED, TRAIN.subset(range(7))))
    command = ("poison", "bullseye-polytope", "digits-5-9", "--pretrain", pretrain, "--targets", "1", "--num-poisons", "1")
    assert run(monkeypatch, *command, "--option", "steps=1", "--no-gallery", "--out", str(tmp_path / "pack")) == 0
    expected = f"7 of the {len(TRUSTED) + 7} images that the extractor learned from are in DATA too"
    assert read_pack(tmp_path / "pack").notes == (expected,)
    said = capsys.readouterr()
    assert f"Note: {expected}.\n" in said.out
    assert "1 trial of bullseye-polytope, 1 poison each:" in said.out


@pytest.mark.parametrize("scenario", ["transfer", "scratch"])
def test_an_attack_on_all_weights_says_that_heads_hardly_follow_it(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--recipe", "mlp") if scenario == "scratch" else ()
    command = ("poison", "witches-brew", "digits-5-9", "--scenario", scenario, *more, "--targets", "1", "--num-poisons", "2")
    options = ("--option", "steps=1", "--option", "restarts=1", "--no-gallery")
    assert run(monkeypatch, *command, *options, "--out", str(tmp_path / "pack")) == 0
    said = capsys.readouterr().out
    assert ("Note: witches-brew is made for victims that learn all weights (--scenario scratch)" in said) == (
        scenario == "transfer"
    )
