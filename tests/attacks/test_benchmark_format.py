"""Poisons of the benchmark and its relatives: read without unpickling, written so that the benchmark's own reader takes them."""

import codecs
import io
import json
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from certidote.attacks import benchmark_pickles
from certidote.attacks.benchmark_export import export_pack, fewer_sources, setups_file
from certidote.attacks.benchmark_format import MEAN, STD, read_poisons, read_setups
from certidote.attacks.benchmark_import import import_poisons, import_trials
from certidote.attacks.benchmark_pickles import as_array, read_benchmark
from certidote.attacks.pack import PoisonPack, make_pack
from certidote.attacks.triggers import TRIGGERS
from certidote.data.tiny import tiny
from certidote.streams import Key
from certidote.types import Budget, BudgetExceeded, Goal, ImageDataset, Poison, Target, Trigger

TRAIN, TEST = (tiny(20, 4, (3, 16, 16), Key(0) / split) for split in ("train", "test"))
EPSILON = 8 / 255


def crafted(goal: Goal, number: int = 5) -> Poison:
    """Poisons that use up their budget."""
    rows = (TRAIN.labels == goal.adversarial_label).nonzero().squeeze(1)[2 : 2 + number]
    step = torch.from_numpy((Key(1) / goal.adversarial_label).numpy().choice([-8, 8], size=(number, 3, 16, 16)))
    images = (TRAIN.images[rows].int() + step).clamp(0, 255).to(torch.uint8)
    return Poison(rows, images, goal, Budget(number, "linf", EPSILON))


def target(row: int = 5) -> Target:
    return Target(TEST.images[row], int(TEST.labels[row]), (int(TEST.labels[row]) + 1) % 4, row)


def trigger(place: tuple[int, int] | None = (10, 9)) -> Trigger:
    patch = torch.from_numpy(Key(2).numpy().choice([0, 77, 255], (3, 5, 5)).astype("uint8"))
    return Trigger(patch, torch.ones(5, 5, dtype=torch.bool), place, 1, 2)


def pack(*goals: Goal) -> PoisonPack:
    return make_pack([crafted(goal) for goal in goals], TRAIN, "tiny", {"attack": "test"})


def picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.numpy().transpose(1, 2, 0)))


def write(folder: Path, **values: Any) -> Path:
    """Files as pickle.dump leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(value, 4))
    return folder


def parts(poison: Poison) -> dict[str, Any]:
    label = poison.goal.adversarial_label
    goal = poison.goal
    assert isinstance(goal, Target)
    return {
        "poisons": [(picture(image), label) for image in poison.images],
        "base_indices": poison.indices.tolist(),
        "target": (picture(goal.image), goal.true_label),
    }


# ------------------------------------------------------------------------------------------------------------- round trips


def as_the_benchmark_reads(folder: Path, train: ImageDataset) -> tuple[torch.Tensor, Any, list[int]]:
    """The reader of `poison_test.py` and `learning_module.py`, in its own terms: plain pickle, lists, torch.tensor of a patch."""

    def to_tensor(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    tuples, indices, found = (
        pickle.loads((folder / f"{name}.pickle").read_bytes()) for name in ("poisons", "base_indices", "target")
    )
    assert isinstance(indices, list)
    assert all(type(row) is int for row in indices)
    for (image, label), row in zip(tuples, indices, strict=True):
        assert label == int(train.labels[row])
        assert (to_tensor(image) - train.images[row].float() / 255).abs().max() <= 9 / 255 + 1e-5
    if len(found) == 4:
        image, label, patch, (startx, starty) = found
        shown = to_tensor(image)
        patch = torch.tensor(patch)
        shown[:, starty : starty + patch.shape[1], startx : startx + patch.shape[2]] = patch
        return shown, label, indices
    return to_tensor(found[0]), found[1], indices


def test_a_pack_goes_to_the_benchmark_and_back(tmp_path: Path) -> None:
    made = pack(target(5), target(22))
    folders = export_pack(made, TRAIN, TEST, tmp_path / "out")
    assert [folder.name for folder in folders] == ["trial-000", "trial-001"]
    for folder, poison in zip(folders, made.poisons, strict=True):
        shown, label, indices = as_the_benchmark_reads(folder, TRAIN)
        assert isinstance(poison.goal, Target)
        assert torch.equal((shown * 255).round().to(torch.uint8), poison.goal.image)
        assert (label, indices) == (poison.goal.true_label, poison.indices.tolist())
        back = import_poisons(folder, TRAIN, TEST, "tiny")
        (again,) = back.poisons
        assert torch.equal(again.images, poison.images)
        assert torch.equal(again.indices, poison.indices)
        assert isinstance(again.goal, Target)
        assert (again.goal.test_index, again.goal.true_label, again.goal.adversarial_label) == (
            poison.goal.test_index, poison.goal.true_label, poison.goal.adversarial_label,
        )  # fmt: skip
        assert again.budget == poison.budget
        assert back.notes == (
            f"imported from the poisoning benchmark: {folder}", "epsilon is what these poisons need, 8/255",
        )  # fmt: skip
    with pytest.raises(ValueError, match="exists already"):
        export_pack(made, TRAIN, TEST, tmp_path / "out")


def test_all_trials_in_a_folder_become_one_pack_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    made = pack(*(target(row) for row in (5, 22, 40)))
    folders = export_pack(made, TRAIN, TEST, tmp_path / "out")
    for folder, name in zip(folders, ("run-1", "run-2", "run-10"), strict=True):
        folder.rename(folder.with_name(name))
    (tmp_path / "out" / "notes").mkdir()
    back = import_trials(tmp_path / "out", TRAIN, TEST, "tiny")
    assert len(back) == 3
    for again, poison in zip(back.poisons, made.poisons, strict=True):
        assert torch.equal(again.images, poison.images)
        assert torch.equal(again.indices, poison.indices)
        assert again.budget == poison.budget
        assert isinstance(again.goal, Target)
        assert isinstance(poison.goal, Target)
        assert again.goal.test_index == poison.goal.test_index
    assert back.notes[0] == f"trial 0: imported from the poisoning benchmark: {tmp_path / 'out' / 'run-1'}"


def test_trials_that_need_different_budgets_share_the_larger_one(tmp_path: Path) -> None:
    few, many = crafted(target(5), 3), crafted(target(22), 5)
    half = replace(few, images=TRAIN.images[few.indices])
    for number, poison in enumerate((half, many)):
        alone = make_pack([poison], TRAIN, "tiny", {"attack": "test"})
        export_pack(alone, TRAIN, TEST, tmp_path / "one")[0].rename(tmp_path / f"trial-{number}")
        (tmp_path / "one").rmdir()
    back = import_trials(tmp_path, TRAIN, TEST, "tiny")
    assert back.budget == Budget(5, "linf", 8 / 255)
    assert [len(poison.indices) for poison in back.poisons] == [3, 5]


def test_of_several_trials_the_one_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folders = export_pack(pack(target(5), target(22)), TRAIN, TEST, tmp_path / "out")
    (folders[1] / "base_indices.pickle").write_bytes(pickle.dumps([999, 1, 2, 3, 4], 4))
    with pytest.raises(
        ValueError, match=r"trial-001': the poisoning benchmark: base image 999 of a training set of 80; give the data"
    ):
        import_trials(tmp_path / "out", TRAIN, TEST, "tiny")
    with pytest.raises(ValueError, match="trial-000' holds the poisons of one trial; give a folder of such folders"):
        import_trials(folders[0], TRAIN, TEST, "tiny")
    with pytest.raises(ValueError, match="holds no poisons that are known: give one with .*, or a folder of such folders"):
        import_trials(tmp_path, TRAIN, TEST, "tiny")
    with pytest.raises(BudgetExceeded, match="trial-000"):
        folders[1].rename(tmp_path / "away")
        import_trials(tmp_path / "out", TRAIN, TEST, "tiny", epsilon=4 / 255)


@pytest.mark.parametrize("missing", ["poisons.pickle", "target.pickle", "base_indices.pickle", "everything"])
def test_a_trial_that_lacks_a_file_is_not_left_out_without_a_word(missing: str, tmp_path: Path) -> None:
    folders = export_pack(pack(*(target(row) for row in (5, 22, 40))), TRAIN, TEST, tmp_path / "out")
    for file in folders[1].iterdir():
        if missing in (file.name, "everything"):
            file.unlink()
    with pytest.raises(ValueError, match="trial-001"):
        import_trials(tmp_path / "out", TRAIN, TEST, "tiny")


def test_a_trial_that_is_there_twice_is_refused_and_a_target_that_is_there_twice_is_noted(tmp_path: Path) -> None:
    one, other = crafted(target(5)), crafted(target(5), 4)
    for number, poison in enumerate((one, other)):
        alone = make_pack([poison], TRAIN, "tiny", {"attack": "test"})
        export_pack(alone, TRAIN, TEST, tmp_path / "one")[0].rename(tmp_path / f"trial-{number}")
        (tmp_path / "one").rmdir()
    back = import_trials(tmp_path, TRAIN, TEST, "tiny")
    assert back.notes[-1] == "trials 0, 1 are about test image 5, so they are not independent"
    shutil.copytree(tmp_path / "trial-0", tmp_path / "trial-2")
    with pytest.raises(
        ValueError, match=r"trial-0' and .*trial-2' hold the same poisons, which are one trial; take one of them out"
    ):
        import_trials(tmp_path, TRAIN, TEST, "tiny")


@pytest.mark.parametrize("place", [(10, 9), None])
def test_a_trigger_goes_to_the_benchmark_and_to_sleeper_agents_relatives_and_back(
    place: tuple[int, int] | None, tmp_path: Path
) -> None:
    goal = trigger(place)
    made = pack(goal)
    folders = export_pack(made, TRAIN, TEST, tmp_path / "out", sources=3)
    assert [folder.name for folder in folders] == ["source-000", "source-001", "source-002"]
    rows = (TEST.labels == 1).nonzero().squeeze(1)
    for folder, row in zip(folders, rows.tolist(), strict=False):
        shown, label, _ = as_the_benchmark_reads(folder, TRAIN)
        levels = (shown * 255).round().to(torch.uint8)
        changed = (levels != TEST.images[row]).any(0)
        assert label == 1
        assert 15 <= int(changed.sum()) <= 25
        if place is not None:
            assert torch.equal(levels, goal.stamped(TEST.images[row : row + 1], Key(0))[0])
    for folder in (folders[0], tmp_path / "out" / "trial-000"):
        assert_same(import_poisons(folder, TRAIN, TEST, "tiny").poisons[0], made.poisons[0])

    relatives = tmp_path / "relatives"  # source.pickle is a list of images with the trigger on them, and all there is
    shutil.copytree(tmp_path / "out" / "trial-000", relatives, ignore=shutil.ignore_patterns("source-*", "trigger.json"))
    assert_same(import_poisons(relatives, TRAIN, TEST, "tiny").poisons[0], made.poisons[0])


def assert_same(again: Poison, poison: Poison) -> None:
    """The same poisons of the same images, for the same trigger."""
    assert torch.equal(again.images, poison.images)
    assert torch.equal(again.indices, poison.indices)
    goal, read = poison.goal, again.goal
    assert isinstance(read, Trigger)
    assert isinstance(goal, Trigger)
    assert torch.equal(read.patch, goal.patch)
    assert torch.equal(read.mask, goal.mask)
    assert (read.place, read.true_label, read.adversarial_label, read.amplitude) == (
        goal.place, goal.true_label, goal.adversarial_label, goal.amplitude,
    )  # fmt: skip
    assert again.budget.visible_trigger == poison.budget.visible_trigger


def plain_test_images() -> ImageDataset:
    """Black and white test images, every other one black: edges of patches hide in them."""
    levels = torch.from_numpy(Key(3).numpy().choice([0, 255], (len(TEST), 3, 16, 16)).astype("uint8"))
    levels[::2] = 0
    return replace(TEST, images=levels)


@pytest.mark.parametrize("sources", [1, 4])
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", sorted(set(TRIGGERS) - {"label-consistent-corners"}))
def test_every_rectangular_trigger_comes_back_as_it_was(name: str, fixed: bool, every: bool, sources: int, tmp_path: Path) -> None:
    test = plain_test_images()
    goals = []
    for trial, wanted in enumerate((2, 3)):
        drawn = TRIGGERS[name]((3, 16, 16), None if every else trial, wanted, Key(4) / trial)
        small = drawn.patch[:, :2, :3]
        goals.append(replace(drawn, patch=small, mask=torch.ones(2, 3, dtype=torch.bool), place=(11, 8 + trial) if fixed else None))
    made = make_pack([crafted(goal, 1) for goal in goals], TRAIN, "tiny", {"attack": "test"})
    folders = export_pack(made, TRAIN, test, tmp_path / "out", sources=sources)
    assert len(folders) == 2 * sources
    back = import_trials(tmp_path / "out", TRAIN, test, "tiny")
    assert len(back) == 2
    for again, poison in zip(back.poisons, made.poisons, strict=True):
        assert_same(again, poison)
    assert_same(import_poisons(folders[-1], TRAIN, test, "tiny").poisons[0], made.poisons[1])


def test_without_our_own_file_places_and_classes_are_what_target_pickles_show(tmp_path: Path) -> None:
    goal, test = trigger(None), plain_test_images()
    folders = export_pack(pack(goal), TRAIN, test, tmp_path / "out", sources=3)
    whole = tmp_path / "out" / "trial-000"
    for file in whole.rglob("trigger.json"):
        file.unlink()
    assert_same(import_poisons(whole, TRAIN, test, "tiny").poisons[0], crafted(goal))
    alone = import_poisons(folders[0], TRAIN, test, "tiny")
    read = alone.poisons[0].goal
    assert isinstance(read, Trigger)
    assert read.place is not None
    assert f"the trigger lies at {read.place} (row, column) in every image, as far as one image can tell" in alone.notes

    export_pack(pack(replace(goal, true_label=None)), TRAIN, test, tmp_path / "all", sources=3)
    for file in (tmp_path / "all").rglob("trigger.json"):
        file.unlink()
    with pytest.raises(ValueError, match="is on images of several classes, and no trigger.json says that it is for all"):
        import_poisons(tmp_path / "all" / "trial-000", TRAIN, test, "tiny")


def said(**changes: Any) -> str:
    return json.dumps(
        {"format": "certidote trigger", "version": 1, "place": None, "all_classes": False, "visible_trigger": False} | changes
    )


AGAINST_EACH_OTHER: dict[str, tuple[Callable[[Path], object], str]] = {
    "another patch": (
        lambda folder: changed(folder / "source-001" / "target.pickle", lambda made: (*made[:2], [[[0.5] * 5] * 5] * 3, made[3])),
        r"has folders source-\* without one and the same patch in target.pickle",
    ),
    "no patch": (
        lambda folder: changed(folder / "source-001" / "target.pickle", lambda made: made[:2]),
        r"has folders source-\* without one and the same patch in target.pickle",
    ),
    "another place": (
        lambda folder: changed(folder / "source-001" / "target.pickle", lambda made: (*made[:3], [0, 1])),
        r"has other images in source.pickle than its folders source-\* with their patch",
    ),
    "a place outside": (
        lambda folder: changed(folder / "source-001" / "target.pickle", lambda made: (*made[:3], [14, 14])),
        r"has other images in source.pickle than its folders source-\* with their patch",
    ),
    "fewer folders": (lambda folder: shutil.rmtree(folder / "source-001"), "has other images in source.pickle than its folders"),
    "no folders": (
        lambda folder: [shutil.rmtree(each) for each in folder.glob("source-*")],
        r"has trigger.json, but no target.pickle with a patch, there or in folders source-\*",
    ),
    "other poisons": (
        lambda folder: changed(folder / "source-001" / "poisons.pickle", lambda made: made[::-1]),
        "and its folder source-001 have other files poisons.pickle",
    ),
    "another fixed place": (
        lambda folder: (folder / "trigger.json").write_text(said(place=[10, 8], all_classes=True)),
        r"the trigger is at \(10, 8\) \(row, column\) by trigger.json, but elsewhere by target.pickle",
    ),
    "one class": (lambda folder: (folder / "trigger.json").write_text(said()), "is on images of several classes"),
    "the wanted class": (
        lambda folder: [
            changed(each, lambda made: (made[0], 2, *made[2:]) if len(made) == 4 else [(made[0][0], 2), *made[1:]])
            for each in (folder / "source-000" / "target.pickle", folder / "source.pickle")
        ],
        "its target is no test image of class 2",
    ),
    "no JSON": (lambda folder: (folder / "trigger.json").write_text("{" * 2_000), "is not a readable file of what a trigger is"),
    "large": (lambda folder: (folder / "trigger.json").write_text(" " * 5_000), "no file of at most 4,096 bytes"),
    "more": (lambda folder: (folder / "trigger.json").write_text(said(**{"a\nb": 1})), r"\(a.nb: Extra inputs"),
    "a word for a truth value": (
        lambda folder: (folder / "trigger.json").write_text(said(all_classes="yes")),
        "all_classes: Input should be a valid boolean",
    ),
}  # fmt: skip


def changed(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes())), 4))


@pytest.mark.parametrize("name", AGAINST_EACH_OTHER)
def test_folders_of_a_trigger_that_contradict_each_other_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    change, message = AGAINST_EACH_OTHER[name]
    made = make_pack([crafted(replace(trigger(), true_label=None), 2)], TRAIN, "tiny", {"attack": "test"})
    export_pack(made, TRAIN, TEST, tmp_path / "out", sources=2)
    folder = tmp_path / "out" / "trial-000"
    assert import_poisons(folder, TRAIN, TEST, "tiny").poisons[0].goal.true_label is None
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        import_poisons(folder, TRAIN, TEST, "tiny")
    assert "\n" not in str(caught.value)


def test_a_trigger_in_plain_sight_is_no_movement(tmp_path: Path) -> None:
    goal = trigger()
    bare = crafted(goal)
    seen = replace(bare, images=goal.stamped(bare.images, Key(0)), budget=replace(bare.budget, visible_trigger=True))
    made = make_pack([seen], TRAIN, "tiny", {"attack": "test"})
    (folder,) = export_pack(made, TRAIN, TEST, tmp_path / "out")
    for path in (folder, folder.parent):
        assert import_poisons(path, TRAIN, TEST, "tiny").poisons[0].budget == seen.budget
        assert_same(import_poisons(path, TRAIN, TEST, "tiny", epsilon=EPSILON).poisons[0], seen)
        (path / "trigger.json").unlink()
        with pytest.raises(
            BudgetExceeded, match=r"with the trigger in plain sight they keep it: say visible_trigger if that is meant$"
        ):
            import_poisons(path, TRAIN, TEST, "tiny", epsilon=EPSILON)
        with pytest.raises(ValueError, match=r"give epsilon \d+/255; or say visible_trigger, if the trigger is pasted on them"):
            import_poisons(path, TRAIN, TEST, "tiny")
        assert_same(import_poisons(path, TRAIN, TEST, "tiny", visible_trigger=True).poisons[0], seen)
    folder.parent.rename(tmp_path / "in" if (tmp_path / "in").mkdir() else tmp_path / "in" / "trial-000")
    assert import_trials(tmp_path / "in", TRAIN, TEST, "tiny", visible_trigger=True).budget == seen.budget
    loud = import_poisons(tmp_path / "in" / "trial-000", TRAIN, TEST, "tiny", epsilon=1.0, visible_trigger=False)
    assert not loud.budget.visible_trigger
    (about_one,) = export_pack(pack(target(5)), TRAIN, TEST, tmp_path / "target")
    with pytest.raises(ValueError, match="allows a visible trigger, but the goal has no trigger but one target image"):
        import_poisons(about_one, TRAIN, TEST, "tiny", visible_trigger=True)


def test_fewer_test_images_than_were_asked_for_are_told(tmp_path: Path) -> None:
    made = pack(trigger(), replace(trigger(), true_label=None, adversarial_label=3))
    assert fewer_sources(made, TEST, 20) == []
    assert fewer_sources(made, TEST, 50) == [
        "trial 0: 20 test images instead of 50, because there are no more that the trigger is for"
    ]
    assert len(fewer_sources(made, TEST, 61)) == 2
    assert fewer_sources(pack(target(5)), TEST, 10**6) == []


def test_grey_images_are_kept_grey(tmp_path: Path) -> None:
    train, test = (tiny(10, 2, (1, 8, 8), Key(0) / split) for split in ("train", "test"))
    rows = torch.tensor([1, 3])
    poison = Poison(rows, train.images[rows], Target(test.images[0], 0, 1, 0), Budget(2, "linf", 0.1))
    (folder,) = export_pack(make_pack([poison], train, "grey", {"attack": "test"}), train, test, tmp_path / "out")
    again = import_poisons(folder, train, test, "grey", epsilon=0.1)
    assert torch.equal(again.poisons[0].images, poison.images)


def test_triggers_that_the_form_cannot_express(tmp_path: Path) -> None:
    goal = trigger()
    mask = goal.mask.clone()
    mask[0, 0] = False
    with pytest.raises(ValueError, match="rectangular patches that overwrite pixels"):
        export_pack(pack(replace(goal, mask=mask)), TRAIN, TEST, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------- dialects


def test_indices_in_the_containers_that_are_seen_in_the_wild(tmp_path: Path) -> None:
    poison = crafted(target())
    for number, indices in enumerate(
        [
            poison.indices.tolist(),
            tuple(poison.indices.tolist()),
            poison.indices.numpy(),
            poison.indices.numpy().astype(">i4"),
            poison.indices,
            list(poison.indices.numpy()),
            list(poison.indices),
        ]
    ):
        folder = write(tmp_path / str(number), **{**parts(poison), "base_indices": indices})
        assert read_poisons(folder).indices == tuple(poison.indices.tolist())


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_any_protocol(protocol: int, tmp_path: Path) -> None:
    poison = crafted(target())
    values = {**parts(poison), "base_indices": poison.indices.numpy(), "perturbation_norms": [EPSILON] * 5}
    for name, value in values.items():
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(value, protocol))
    found = import_poisons(tmp_path, TRAIN, TEST, "tiny", epsilon=EPSILON).poisons[0]
    assert torch.equal(found.images, poison.images)
    assert torch.equal(found.indices, poison.indices)


def test_images_that_came_from_files(tmp_path: Path) -> None:
    poison = crafted(target())
    opened = []
    for image in poison.images:
        content = io.BytesIO()
        picture(image).save(content, "PNG")
        opened.append((Image.open(content), poison.goal.adversarial_label))
    folder = write(tmp_path, **{**parts(poison), "poisons": opened})
    assert b"PngImageFile" in (folder / "poisons.pickle").read_bytes()
    assert torch.equal(import_poisons(folder, TRAIN, TEST, "tiny").poisons[0].images, poison.images)


@pytest.mark.parametrize("single", [True, False])
def test_sleeper_agents_source(single: bool, tmp_path: Path) -> None:
    goal, poison = trigger(), crafted(trigger())
    stamped = goal.stamped(TEST.images[TEST.labels == 1], Key(0))
    sources: Any = [(picture(image), 1) for image in stamped[:4]]
    values = {"poisons": [(picture(image), 2) for image in poison.images], "base_indices": poison.indices.tolist()}
    folder = write(tmp_path, **values, source=sources[0] if single else sources)
    back = import_poisons(folder, TRAIN, TEST, "tiny")
    assert_same(back.poisons[0], poison)
    assert back.recipe["attack"] == "the poisoning benchmark with source.pickle"
    assert back.notes[1] == (
        f"the trigger is where images of source.pickle ({1 if single else 4}) differ from test images, 5x5 pixels: an edge of it in the images' "
        "own colors would be missing"
    )
    with pytest.raises(ValueError, match="these files are about a trigger, and not about test image 1; leave the target out"):
        import_poisons(folder, TRAIN, TEST, "tiny", target_index=1)
    write(folder, source=[(picture(TEST.images[1]), 1)])  # no patch on it
    with pytest.raises(ValueError, match="are not test images of this data with a small patch"):
        import_poisons(folder, TRAIN, TEST, "tiny")


def test_metapoisons_single_file(tmp_path: Path) -> None:
    poison = crafted(target())
    train = poison.apply(TRAIN).images.permute(0, 2, 3, 1).numpy()
    goal = poison.goal
    assert isinstance(goal, Target)
    for number, kind in enumerate((np.uint8, np.float32)):
        value = {
            "xtrain": train.astype(kind),
            "ytrain": TRAIN.labels.numpy(),
            "xtarget": goal.image.permute(1, 2, 0).numpy()[None].astype(kind),
            "ytarget": np.array([goal.true_label]),
            "ytargetadv": [goal.adversarial_label],
        }
        (tmp_path / f"{number}.pkl").write_bytes(pickle.dumps(value, 4))
        found = import_poisons(tmp_path / f"{number}.pkl", TRAIN, TEST, "tiny").poisons[0]
        assert torch.equal(found.indices, poison.indices.sort().values)
        assert torch.equal(found.images, poison.images)
        assert isinstance(found.goal, Target)
        assert found.goal.test_index == goal.test_index
    with pytest.raises(ValueError, match="no image differs from the data's"):
        import_poisons(tmp_path / "0.pkl", poison.apply(TRAIN), TEST, "tiny")
    with pytest.raises(ValueError, match="training set of shape"):
        import_poisons(tmp_path / "0.pkl", TRAIN.subset(range(40)), TEST, "tiny")


@pytest.mark.parametrize("zipped", [True, False])
def test_the_polytope_attacks_own_files(zipped: bool, tmp_path: Path) -> None:
    poison = crafted(target())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    tensors = [(poison.images.float() / 255 - mean) / std][0]
    value = {
        "poison": [(tensor, poison.goal.adversarial_label) for tensor in tensors],
        "idx": [3, 1, 4, 1, 5],
        "opt_dict": {"state": {0: {"step": 7, "exp_avg": torch.zeros(2)}}, "param_groups": [OrderedDict(lr=0.04)]},
    }
    torch.save(value, tmp_path / "poison.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="do not say which test image they are about"):
        import_poisons(tmp_path / "poison.pth", TRAIN, TEST, "tiny")
    found = import_poisons(tmp_path / "poison.pth", TRAIN, TEST, "tiny", target_index=5)
    assert torch.equal(found.poisons[0].images, poison.images)
    assert torch.equal(found.poisons[0].indices, poison.indices)
    assert any("nearest training image" in note for note in found.notes)


@pytest.mark.parametrize("bits", [0x7FF0000000000000, 0x7FE1CCF385EBC8A0, 0x7FF0000000000001, 0x7FF8000000000000])
def test_damaged_numbers_are_refused_and_nothing_else_is_said(bits: int, tmp_path: Path) -> None:
    """Infinity, 1e308, and what is no number, signaling and quiet."""
    images = torch.full((5, 3, 16, 16), bits, dtype=torch.int64).view(torch.float64)
    torch.save({"poison": [(image, 2) for image in images], "idx": [0] * 5}, tmp_path / "poison.pth")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="its poisons leave the range of pixels"):
            import_poisons(tmp_path / "poison.pth", TRAIN, TEST, "tiny", target_index=5)
    assert not warned


def test_the_label_consistent_arrays(tmp_path: Path) -> None:
    patch, mask = torch.zeros(3, 16, 16, dtype=torch.uint8), torch.zeros(16, 16, dtype=torch.bool)
    for rows, columns in ((slice(0, 3), slice(0, 3)), (slice(13, 16), slice(13, 16))):
        mask[rows, columns] = True
        patch[:, rows, columns] = torch.tensor([0, 255, 0]).view(3, 1)
    goal = Trigger(patch, mask, (0, 0), None, 2)
    poison = crafted(goal)
    poison = replace(poison, images=goal.stamped(poison.images, Key(0)))

    def save(name: str, value: np.ndarray) -> None:
        np.save(tmp_path / f"{name}.npy", value)

    train = TRAIN.images.clone()
    train[poison.indices] = poison.images
    save("train_images", train.permute(0, 2, 3, 1).numpy().astype(np.float32))
    save("train_labels", TRAIN.labels.numpy().astype(np.uint8))
    save("test_images", goal.stamped(TEST.images, Key(0)).permute(0, 2, 3, 1).numpy())
    save("poisoned_train_indices", poison.indices.numpy())
    found = import_poisons(tmp_path, TRAIN, TEST, "tiny").poisons[0]
    assert torch.equal(found.images, poison.images)
    assert isinstance(found.goal, Trigger)
    assert torch.equal(found.goal.stamped(TEST.images, Key(0)), goal.stamped(TEST.images, Key(0)))
    assert (found.goal.true_label, found.goal.adversarial_label) == (None, 2)
    assert found.budget.visible_trigger
    assert found.budget.epsilon == EPSILON
    save("train_images", (train // 2).permute(0, 2, 3, 1).numpy())
    with pytest.raises(ValueError, match="images that are no poisons differ from the data's"):
        import_poisons(tmp_path, TRAIN, TEST, "tiny")
    np.save(tmp_path / "train_labels.npy", np.array([{}] * len(TRAIN)), allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects"):
        import_poisons(tmp_path, TRAIN, TEST, "tiny")


# ------------------------------------------------------------------------------------------------------------------ setups


def setups(repeat: bool = False, kind: Callable[[Any], Any] = np.int64) -> list[dict[str, Any]]:
    made = []
    for number in range(4):
        bases = np.arange(10 * number, 10 * number + 5)
        if repeat and number == 2:
            bases[3] = bases[1]
        made.append(
            {
                "target class": kind(number % 3),
                "target index": kind(17 if number in (1, 3) else number),
                "base class": kind(3),
                "base indices": bases,
            }
        )
    return made


def test_setups_are_read_and_their_oddities_reported(tmp_path: Path) -> None:
    path = tmp_path / "setups.pickle"
    path.write_bytes(pickle.dumps(setups(), 4))
    found = read_setups(path)
    assert found.setups[1].bases == (10, 11, 12, 13, 14)
    assert (found.setups[1].target_index, found.setups[1].true_label, found.setups[1].adversarial_label) == (17, 1, 3)
    assert found.notes == (
        "setups 1 and 3 attack the same test image 17; these trials are not independent",
        "targets are not spread evenly over the classes: 1 to 2 of each",
    )
    path.write_bytes(pickle.dumps(setups(repeat=True), 4))
    with pytest.raises(ValueError, match=r"setup 2 names base image 21 more than once \(a known defect.*repeated_bases='drop'"):
        read_setups(path)
    dropped = read_setups(path, repeated_bases="drop")
    assert dropped.setups[2].bases == (20, 21, 22, 24)
    assert dropped.notes[0] == "setup 2 names base image 21 more than once; it is used once"


def test_a_setup_becomes_a_task(tmp_path: Path) -> None:
    bases = (TRAIN.labels == 2).nonzero().squeeze(1)[:6].tolist()
    path = tmp_path / "setups.pickle"
    path.write_bytes(setups_file([(5, 1, 2, bases)]))
    (setup,) = read_setups(path).setups
    task = setup.task(TRAIN, TEST, Budget(25, "linf", EPSILON))
    assert task.bases is not None
    assert task.bases.tolist() == bases
    assert task.budget.num_poisons == 6
    assert isinstance(task.goal, Target)
    assert torch.equal(task.goal.image, TEST.images[5])
    with pytest.raises(ValueError, match="test image 6 of class 1 is the setup's target, and this test set has no such image"):
        replace(setup, target_index=6).task(TRAIN, TEST, Budget(25, "linf", EPSILON))
    with pytest.raises(ValueError, match="base images of a setup repeat"):
        setups_file([(5, 1, 2, [1, 1])])


# ----------------------------------------------------------------------------------------------------------- contradictions


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "fewer indices": (lambda v: v["base_indices"].pop(), "5 poisons but 4 base indices"),
    "a base twice": (lambda v: v["base_indices"].__setitem__(1, v["base_indices"][0]), "names base image 10 more than once"),
    "a base too far": (lambda v: v["base_indices"].__setitem__(1, 4_000), "base image 4000 of a training set of 80"),
    "a base of another class": (lambda v: v["base_indices"].__setitem__(1, 11), "1 base images are not of the adversarial class 2"),
    "order": (lambda v: v["base_indices"].reverse(), r"these poisons move by \d+/255 in linf, more than the field's do"),
    "labels": (lambda v: v["poisons"].__setitem__(0, (v["poisons"][0][0], 3)), "its poisons have other than one label"),
    "true label": (lambda v: v.update(target=(v["target"][0], 3)), "its target is no test image of class 3"),
    "adversarial label": (lambda v: v.update(target=(picture(TEST.images[6]), 2)), "choose another class"),
    "target": (lambda v: v.update(target=(picture(255 - TEST.images[5]), 1)), "its target is no test image of class 1"),
    "norms": (lambda v: v.update(perturbation_norms=[0.5] * 5), r"poison 0 is recorded to move by 0.5000, but moves by 0.0314"),
    "fewer norms": (lambda v: v.update(perturbation_norms=[0.5]), "5 poisons but 1 norms"),
    "shape": (lambda v: v.update(poisons=[(picture(TEST.images[0][:, :9]), 2)] * 5), r"poisons of shape \(3, 9, 16\)"),
    "no poisons": (lambda v: v.update(poisons=[]), "its poisons have other than one label"),
    "no image": (lambda v: v.update(poisons=[(3, 2)] * 5), "an image is expected where there is none"),
    "triples": (lambda v: v.update(poisons=[(1, 2, 3)] * 5), "a pair is expected where there is none"),
    "mode": (lambda v: v.update(target=(v["target"][0].convert("RGBA"), 1)), "neither RGB nor gray"),
    "patch": (lambda v: v.update(target=(*v["target"], [[[2.0]]] * 3, [0, 0])), "its patch is none"),
    "patch outside": (lambda v: v.update(target=(*v["target"], [[[1.0]]] * 3, [16, 0])), "does not fit at"),
    "dictionary": (lambda v: v.update(poisons={"a": 1}), "a list is expected where there is none"),
    "text": (lambda v: v.update(base_indices="12345"), "numbers are expected where there are none"),
    "ragged": (lambda v: v.update(base_indices=[[1, 2], [3]]), "is damaged or no pickle of the poisoning benchmark"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_contradicts_itself_or_the_data_is_one_line(name: str, tmp_path: Path) -> None:
    change, message = CONTRADICTIONS[name]
    values = parts(crafted(target()))
    change(values)
    with pytest.raises(ValueError, match=message) as caught:
        import_poisons(write(tmp_path, **values), TRAIN, TEST, "tiny")
    assert "\n" not in str(caught.value)


def test_epsilon_and_targets_are_checked(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", **parts(crafted(target())))
    with pytest.raises(BudgetExceeded, match=r"moved by 0.031373 in linf, but epsilon is 0.027451"):
        import_poisons(folder, TRAIN, TEST, "tiny", epsilon=7 / 255)
    leaked = replace(TRAIN, images=torch.cat([TEST.images[5:6], TRAIN.images[1:]]))
    with pytest.raises(ValueError, match="the target, test image 5, is image 0 of the training set too"):
        import_poisons(folder, leaked, TEST, "tiny")
    shifted = Target((TEST.images[5].int() - (TEST.images[5] > 9).int()).to(torch.uint8), 1, 2, 5)  # truncated on its way
    found = import_poisons(write(tmp_path / "two", **parts(crafted(shifted))), TRAIN, TEST, "tiny").poisons[0].goal
    assert isinstance(found, Target)
    assert found.test_index == 5
    assert torch.equal(found.image, shifted.image)
    for path, message in ((tmp_path, "holds no poisons that are known"), (tmp_path / "none", "there is no file or folder")):
        with pytest.raises(ValueError, match=message):
            import_poisons(path, TRAIN, TEST, "tiny")
    (folder / "target.pickle").unlink()
    with pytest.raises(ValueError, match=r"lacks target\.pickle \(or source\.pickle\)"):
        import_poisons(folder, TRAIN, TEST, "tiny")


# ------------------------------------------------------------------------------------------------------------------ hostile


@pytest.fixture
def no_unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("loads", "load", "Unpickler"):
        monkeypatch.setattr(pickle, name, called)
    monkeypatch.setattr(torch, "load", called)
    monkeypatch.setattr(codecs, "encode", called)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_names_os_system_is_refused_in_one_line(tmp_path: Path, protocol: int) -> None:
    folder = write(tmp_path, **parts(crafted(target())))
    (folder / "target.pickle").write_bytes(pickle.dumps((Evil(tmp_path / "ran"), 1), protocol))
    with pytest.raises(
        ValueError, match=r"target\.pickle' names '(posix|nt)\.system', which could run code; it is not read"
    ) as caught:
        read_poisons(folder)
    assert "\n" not in str(caught.value)
    torch.save({"poison": Evil(tmp_path / "ran"), "idx": []}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"names '(posix|nt)\.system'"):
        read_poisons(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def huge_array(sides: bytes) -> bytes:
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + sides
        + b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R\x89U\x08aaaaaaaatb."
    )  # fmt: skip


def huge_image() -> bytes:
    return b"\x80\x02cPIL.Image\nImage\n)\x81](}X\x03\x00\x00\x00RGBM\x00\x10M\x00\x10\x86NU\x04aaaaeb."


def huge_storage(count: int) -> bytes:
    """A file of torch's old form that claims `count` numbers."""
    stored = io.BytesIO()
    torch.save(torch.zeros(7), stored, _use_new_zipfile_serialization=False)
    content = stored.getvalue()
    return content.replace(b"K\x07Nt", b"\x8a\x05" + struct.pack("<q", count)[:5] + b"Nt").replace(
        struct.pack("<q", 7), struct.pack("<q", count)
    )


def zipped_storage() -> bytes:
    stored = io.BytesIO()
    torch.save(torch.zeros(7), stored)
    made = io.BytesIO()
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"K\x07", b"\x8a\x05" + struct.pack("<q", 10**11)[:5]))
    return made.getvalue()


def zip_bomb() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"poison": [], "idx": []}, 2))
        archive.writestr("archive/data/0", bytes(200_000_000))
    return made.getvalue()


def view_of_one_number() -> bytes:
    return pickle.dumps(torch.zeros(1).expand(40_000, 40_000), 4)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "array": (lambda: huge_array(b"M\xff\xffM\xff\xffM\xff\xff\x87"), "has other than that many bytes"),
    "sides": (lambda: huge_array(b"(" + b"K\x01" * 9 + b"t"), "a shape that is none"),
    "image": (huge_image, "its image of 4096x4096 pixels has 4 bytes"),
    "storage": (lambda: huge_storage(10**11), "claims 100000000000 numbers that are not there"),
    "zipped storage": (zipped_storage, "claims 100000000000 numbers that are not there"),
    "zip bomb": (zip_bomb, "at most 200 times are read"),
    "view": (view_of_one_number, "larger than what is stored"),
    "opcodes": (lambda: b"\x80\x02" + b"N" * 400_005 + b".", "more than 400,000 opcodes"),
    "list in list": (lambda: b"\x80\x02](" + b"K\x01" * 700 + b"eq\x000](" + b"h\x00" * 700 + b"e.", "opcode POP"),
    "shared lists": (
        lambda: b"\x80\x02](]q\x00(" + b"K\x01" * 700 + b"e" + b"h\x00" * 700 + b"e.",
        "lists more than 200,000 numbers one by one",
    ),
    "structured": (
        lambda: pickle.dumps(np.zeros(3, dtype=[("a", "i4")]), 4),
        "its array is not of numbers",
    ),
    "objects": (lambda: pickle.dumps(np.array([None, 1], dtype=object), 4), "its array is not of numbers"),
    "class": (lambda: b"\x80\x02cPIL.Image\nopen\n.", r"names 'PIL\.Image\.open'"),
    "plugin": (lambda: b"\x80\x02cPIL.EpsImagePlugin\nEpsImageFile\n)\x81.", r"names 'PIL\.EpsImagePlugin\.EpsImageFile'"),
    "image by reconstructor": (lambda: b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.", "makes an object in an unknown way"),
    "load from bytes": (lambda: b"\x80\x02ctorch.storage\n_load_from_bytes\nU\x04abcd\x85R.", "is damaged or no pickle"),
    "empty": (lambda: b"", "is damaged or no pickle"),
    "text": (lambda: b"hello world", "is damaged or no pickle|has the pickle opcode"),
    "deep": (lambda: b"\x80\x02" + b"]" * 1 + b"\x85" * 3_000 + b".", "numbers are expected"),
}  # fmt: skip


@pytest.mark.usefixtures("no_unpickling")
@pytest.mark.parametrize("name", HOSTILE)
def test_claims_and_tricks_are_refused_in_a_moment_and_in_little_memory(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    content = make()
    path = tmp_path / "file.pickle"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            benchmark_pickles.interpreted(path, read_benchmark(path), as_array)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert peak < 60 * len(content) + 40_000_000


FUZZING = """
import codecs, pickle, random, sys
from pathlib import Path
import torch
from certidote.attacks.benchmark_pickles import as_levels, interpreted, read_benchmark

def called(*_, **__):
    print("something was unpickled", flush=True)
    raise SystemExit(1)

for module, names in ((pickle, ("load", "loads", "Unpickler")), (torch, ("load",)), (codecs, ("encode",))):
    for name in names:
        setattr(module, name, called)
folder, draw, refused = Path(sys.argv[1]), random.Random(7), 0
contents = [path.read_bytes() for path in sorted(folder.iterdir())]
path = folder / "fuzzed"
for number in range(10_000):
    copy = bytearray(contents[number % len(contents)])
    for _ in range(draw.randint(1, 3)):
        copy[draw.randrange(len(copy))] = draw.randrange(256)
    path.write_bytes(copy)
    try:
        interpreted(path, read_benchmark(path), lambda value: [as_levels(image) for image, _ in value])
    except ValueError as error:
        refused += 1
        assert len(str(error).splitlines()) == 1
print(refused)
"""


def test_ten_thousand_files_with_flipped_bytes(tmp_path: Path) -> None:
    """Each is read, or refused in one line; nothing runs and nothing else is raised. In a process without type checks, for speed."""
    small = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    (tmp_path / "poisons").write_bytes(pickle.dumps([(small, 2)], 4))
    (tmp_path / "target").write_bytes(pickle.dumps((small, 1, torch.rand(3, 1, 1), np.array([1, 2])), 2))
    torch.save({"poison": [(torch.rand(3, 1, 1), 2)], "idx": [1]}, tmp_path / "torch", _use_new_zipfile_serialization=False)
    torch.save({"poison": [(torch.rand(3, 1, 1), 2)], "idx": [1]}, tmp_path / "zip")
    command = [sys.executable, "-W", "ignore", "-c", FUZZING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 7_000  # of the four files only one is what is asked for, so what is read otherwise is refused too
