"""The benchmark's fixed trials on the digits, from a setup file to a pack."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from certidote import verbs
from certidote.attacks.benchmark_export import setups_file
from certidote.attacks.pack import make_pack
from certidote.attacks.pack_files import write_pack
from certidote.data.digits import load_some_digits
from certidote.scenarios.crafting import Crafting, craft_group
from certidote.scenarios.fixed import fixed_trials
from certidote.types import Budget, Poison, Target, Trigger

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
    left_out = (
        f"setup 2 is left out: it has 2 different base images and others 3, because it names image {CLASS_2[6]} more than once"
    )
    assert pack.notes[0] == left_out
    one = verbs.poison("bullseye-polytope", "digits-5-9", out=tmp_path / "one", targets=1, **options).pack
    assert len(one) == 1
    assert not any("setup" in note for note in one.notes)


def test_trials_keep_the_numbers_of_their_setups_and_notes_are_about_these_trials(tmp_path: Path) -> None:
    again = [CLASS_2[6], CLASS_2[7], CLASS_2[6]]
    file = written(tmp_path / "setups.pickle", [CLASS_2[:3], again, CLASS_2[3:6], again[::-1], CLASS_2[6:9], again])
    whole = fixed_trials(file, TRAIN, TEST)
    assert whole.numbers == (0, 2, 4)

    def left_out(count: int | None, skip: int) -> list[int]:
        found = fixed_trials(file, TRAIN, TEST, count, skip)
        assert found.numbers == whole.numbers[:count]
        return [int(note.split()[1]) for note in found.notes if "is left out" in note]

    assert left_out(None, 0) == [1, 3, 5]
    assert left_out(1, 0) == []
    assert left_out(2, 0) == [1]
    assert left_out(3, 1) == [1, 3]
    assert left_out(None, 2) == [3, 5]
    assert not any("used once" in note for note in whole.notes), "what is left out is not used at all"
    many = written(tmp_path / "many.pickle", [CLASS_2[:3], *[again] * 6])
    assert fixed_trials(many, TRAIN, TEST).notes[4] == (
        "2 more setups are left out, because they have fewer different base images than others"
    )
    assert fixed_trials(many, TRAIN, TEST, 1).notes == ()


def test_pack_info_gives_each_trial_its_setup(tmp_path: Path) -> None:
    fixed = fixed_trials(written(tmp_path / "setups.pickle", [CLASS_2[:3], [CLASS_2[0]] * 3, CLASS_2[3:6]]), TRAIN, TEST)
    poisons = [
        Poison(rows, TRAIN.images[rows], goal, Budget(3, "linf", 0.1)) for goal, rows in zip(fixed.goals, fixed.bases, strict=True)
    ]
    shown: dict[str, Any] = {}
    for name, some, recipe in (
        ("whole", poisons, {"setups": list(fixed.numbers)}),
        ("part", poisons[1:], {"setups": list(fixed.numbers), "first_trial": 1}),
        ("other", poisons, {"setups": "0, 2"}),
    ):
        write_pack(make_pack(some, TRAIN, "digits-5-9", {"attack": "test", **recipe}), tmp_path / name)
        shown[name] = [(each["trial"], each.get("setup")) for each in verbs.pack_info(tmp_path / name)["trials"]]
    assert shown == {"whole": [(0, 0), (1, 2)], "part": [(1, 2)], "other": [(0, None), (1, None)]}


def test_setups_about_one_test_image_are_noted_where_both_are_in_the_pack(tmp_path: Path) -> None:
    rows = [(0, [0, 1]), (0, [2, 3]), (1, [4, 5])]
    targets = (TEST.labels != 2).nonzero().squeeze(1).tolist()
    made = [(targets[row], int(TEST.labels[targets[row]]), 2, [CLASS_2[each] for each in bases]) for row, bases in rows]
    (tmp_path / "setups.pickle").write_bytes(setups_file(made))

    def shared(count: int | None, skip: int) -> list[str]:
        notes = fixed_trials(tmp_path / "setups.pickle", TRAIN, TEST, count, skip).notes
        return [note for note in notes if "attack the same test image" in note]

    assert shared(None, 0) == [f"setups 0 and 1 attack the same test image {targets[0]}; these trials are not independent"]
    assert shared(1, 0) == []
    assert shared(None, 1) == []


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
    with pytest.raises(ValueError, match=r"has 1 trial of 3 base images each; --targets 2 must lie in 1 to 1"):
        fixed_trials(file, TRAIN, TEST, 2)
