"""The benchmark's fixed trials on the digits, from a setup file to a pack."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from certidote import verbs
from certidote.data.digits import load_some_digits
from certidote.scenarios.crafting import Crafting, craft_group
from certidote.scenarios.fixed import fixed_trials
from certidote.types import Poison, Target, Trigger

TRAIN, TEST = (load_some_digits(range(5, 10), split) for split in ("train", "test"))
CLASS_2 = (TRAIN.labels == 2).nonzero().squeeze(1)[:9].tolist()


def written(path: Path, bases: list[list[int]], first: int = 0) -> Path:
    """Setups about test images of other classes than 2, in order."""
    targets = (TEST.labels != 2).nonzero().squeeze(1).tolist()[first:]
    names = ("target index", "target class", "base class", "base indices")
    rows = [(row, int(TEST.labels[row]), 2, each) for row, each in zip(targets, bases, strict=False)]
    path.write_bytes(pickle.dumps([dict(zip(names, row, strict=True)) for row in rows], 4))
    return path


def test_packs_have_the_targets_and_base_images_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path / "setups.pickle", [CLASS_2[2::-1], CLASS_2[3:6], [CLASS_2[6], CLASS_2[7], CLASS_2[6]]])
    options: dict[str, Any] = {"epsilon": "0.3", "option": ["steps=2"], "seed": 1, "gallery": False, "setups": file}
    pack = verbs.poison("bullseye-polytope", "digits-5-9", out=tmp_path / "pack", **options).pack
    assert [poison.indices.tolist() for poison in pack.poisons] == [CLASS_2[:3], CLASS_2[3:6]]
    assert [poison.goal.adversarial_label for poison in pack.poisons] == [2, 2]
    goals = [poison.goal for poison in pack.poisons]
    assert all(isinstance(goal, Target) and int(TEST.labels[goal.test_index]) == goal.true_label for goal in goals)
    assert pack.notes[-1] == "1 setups that name a base image twice are left out"
    one = verbs.poison("bullseye-polytope", "digits-5-9", out=tmp_path / "one", targets=1, **options).pack
    assert len(one) == 1


def test_backdoors_have_the_classes_and_base_images_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path / "setups.pickle", [CLASS_2[:3], CLASS_2[3:6]])
    options: dict[str, Any] = {"epsilon": "0.3", "option": ["steps=2"], "seed": 1, "gallery": False, "setups": file}
    options |= {"trigger": "checker", "trigger_side": 2}
    pack = verbs.poison("hidden-trigger", "digits-5-9", out=tmp_path / "pack", **options).pack
    assert [poison.indices.tolist() for poison in pack.poisons] == [CLASS_2[:3], CLASS_2[3:6]]
    goals = [poison.goal for poison in pack.poisons]
    trues = [int(TEST.labels[row]) for row in (TEST.labels != 2).nonzero().squeeze(1).tolist()[:2]]
    assert [(goal.true_label, goal.adversarial_label) for goal in goals] == [(true, 2) for true in trues]
    assert all(isinstance(goal, Trigger) and goal.patch.shape == (1, 2, 2) for goal in goals)


def test_more_base_images_than_are_named_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "setups.pickle", [CLASS_2[:3]])
    monkeypatch.setattr("certidote.verbs.poisoning._setting", None)
    options: dict[str, Any] = {"setups": file, "trigger": "checker", "trigger_side": 2, "option": ["crafted_per_kept=2"]}
    with pytest.raises(ValueError, match="asks for more base images than are kept, but --setups names them; leave one of them out"):
        verbs.poison("hidden-trigger", "digits-5-9", out=tmp_path / "pack", **options)


def test_finished_trials_are_not_taken_for_those_of_other_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same base images twice, for other targets: what an interrupted run left belongs to its own."""

    def interrupted(crafting: Crafting, trials: range) -> list[tuple[int, Poison]]:
        if 1 in trials:
            raise KeyboardInterrupt
        return craft_group(crafting, trials)

    options: dict[str, Any] = {"epsilon": "0.3", "option": ["steps=2"], "seed": 1, "gallery": False, "out": tmp_path / "pack"}
    files = [written(tmp_path / f"{first}.pickle", [CLASS_2[:3], CLASS_2[3:6]], first) for first in (0, 2)]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("certidote.scenarios.crafting.craft_group", interrupted)
        verbs.poison("bullseye-polytope", "digits-5-9", setups=files[0], **options)
    with pytest.raises(ValueError, match="holds unfinished work of another command"):
        verbs.poison("bullseye-polytope", "digits-5-9", setups=files[1], **options)
    assert len(verbs.poison("bullseye-polytope", "digits-5-9", setups=files[0], **options).pack) == 2


def test_setups_of_another_data_set_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "setups.pickle", [CLASS_2[:3]])
    with pytest.raises(ValueError, match="this test set has no such image; give the data set that the setups are for"):
        fixed_trials(file, TRAIN, TRAIN)
    other = written(tmp_path / "other.pickle", [(TRAIN.labels == 1).nonzero().squeeze(1)[:3].tolist()])
    with pytest.raises(ValueError, match="class"):
        fixed_trials(other, TRAIN, TEST)
    with pytest.raises(ValueError, match="1 trials of 3 base images each are in setup file .*give --targets from 1 to that number"):
        fixed_trials(file, TRAIN, TEST, 2)
