"""Poison packs: what is crafted comes back bit for bit, and whatever is wrong with a pack is one line."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote.attacks.pack import PoisonPack, make_pack
from certidote.attacks.pack_files import ARRAYS, JSON, read_beside, read_pack, write_pack
from certidote.data.tiny import tiny
from certidote.streams import Key
from certidote.types import Budget, BudgetExceeded, Goal, ImageDataset, Poison, Target, Trigger

TRAIN, TEST = (tiny(12, 4, (3, 10, 12), Key(0) / split) for split in ("train", "test"))


def poison(goal: Goal, budget: Budget, key: Key) -> Poison:
    rows = (TRAIN.labels == goal.adversarial_label).nonzero().squeeze(1)[: budget.num_poisons]
    levels = 2 if budget.norm == "l2" else int(budget.epsilon * 255)
    step = key.numpy().integers(-levels, levels + 1, size=(len(rows), 3, 10, 12))
    images = (TRAIN.images[rows].int() + torch.from_numpy(step)).clamp(0, 255).to(torch.uint8)
    return Poison(rows, images, goal, budget)


def targets() -> PoisonPack:
    goals = [Target(TEST.images[row], int(TEST.labels[row]), (int(TEST.labels[row]) + 1) % 4, row) for row in (0, 13, 25)]
    poisons = [poison(goal, Budget(5, "linf", 16 / 255), Key(1) / i) for i, goal in enumerate(goals)]
    return make_pack(poisons, TRAIN, "tiny", {"attack": "noise", "options": {"steps": 3, "size": 0.1}}, ["a note"])


def triggers() -> PoisonPack:
    patch = torch.from_numpy((Key(2)).numpy().integers(0, 256, (3, 2, 3)).astype("uint8"))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    goals = [Trigger(patch, mask, (1, 2), 0, 1), Trigger(255 - patch, mask, None, None, 2)]
    poisons = [poison(goal, Budget(4, "l2", 0.2), Key(3) / i) for i, goal in enumerate(goals)]
    return make_pack(poisons, TRAIN, "tiny", {"attack": "noise"})


def same_goal(one: Goal, other: Goal) -> bool:
    if isinstance(one, Target) and isinstance(other, Target):
        facts = [(g.true_label, g.adversarial_label, g.test_index) for g in (one, other)]
        return facts[0] == facts[1] and torch.equal(one.image, other.image)
    assert isinstance(one, Trigger)
    assert isinstance(other, Trigger)
    facts = [(g.true_label, g.adversarial_label, g.place, g.amplitude) for g in (one, other)]
    return facts[0] == facts[1] and torch.equal(one.patch, other.patch) and torch.equal(one.mask, other.mask)


@pytest.mark.parametrize("make", [targets, triggers])
def test_a_pack_comes_back_bit_for_bit(make: Callable[[], PoisonPack], tmp_path: Path) -> None:
    pack = make()
    pack = replace(pack, poisons=tuple(replace(each, objective=1 / (3 + i)) if i else each for i, each in enumerate(pack.poisons)))
    write_pack(pack, tmp_path / "pack", {"notes.txt": b"beside"})
    back = read_pack(tmp_path / "pack")
    back.check(TRAIN)
    assert len(back) == len(pack)
    for one, other in zip(pack.poisons, back.poisons, strict=True):
        assert one.images.dtype == other.images.dtype == torch.uint8
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
        assert one.budget == other.budget
        assert one.objective == other.objective
        assert same_goal(one.goal, other.goal)
    assert (back.recipe, back.data, back.bases, back.notes) == (pack.recipe, pack.data, pack.bases, pack.notes)
    assert read_beside(back, tmp_path / "pack", "notes.txt") == b"beside"
    write_pack(pack, tmp_path / "again", {"notes.txt": b"beside"})
    for name in (JSON, ARRAYS, "notes.txt"):
        assert (tmp_path / "pack" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_pack_knows_its_training_set() -> None:
    pack = targets()
    pack.check(TRAIN)
    other = tiny(12, 4, (3, 10, 12), Key(9))
    with pytest.raises(ValueError, match=r"made for 'tiny' with digest \w{12}\.\.\., but this training set has"):
        pack.check(other)
    with pytest.raises(ValueError, match="made for classes"):
        pack.check(replace(TRAIN, class_names=("a", "b", "c", "d")))
    with pytest.raises(ValueError, match=r"poisons have shape \(3, 10, 12\), but the data \(1, 8, 8\)"):
        pack.check(tiny(12, 4, (1, 8, 8), Key(0)))
    with pytest.raises(ValueError, match="replaces other images than it was made for"):
        replace(pack, bases=("0" * 64, *pack.bases[1:])).check(TRAIN)
    far = replace(pack.poisons[0], images=255 - pack.poisons[0].images)
    with pytest.raises(BudgetExceeded):
        make_pack([far], TRAIN, "tiny", {"attack": "x"})
    with pytest.raises(BudgetExceeded):
        replace(pack, poisons=(far, *pack.poisons[1:])).check(TRAIN)


def described(folder: Path) -> dict:
    return json.loads((folder / JSON).read_text())


def changed(folder: Path, change: Callable[[dict], object]) -> None:
    value = described(folder)
    change(value)
    (folder / JSON).write_text(json.dumps(value))


def arrays_changed(folder: Path, change: Callable[[dict], object]) -> None:
    """New arrays, with the right digest."""
    import hashlib

    with np.load(folder / ARRAYS) as held:
        arrays = dict(held)
    change(arrays)
    np.savez_compressed(folder / ARRAYS, **arrays)
    digest = hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()
    changed(folder, lambda value: value.update(arrays_sha256=digest))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no poison pack in"),
    "no json": (lambda f: (f / JSON).unlink(), "has no file pack.json"),
    "no arrays": (lambda f: (f / ARRAYS).unlink(), "has no file poisons.npz"),
    "cut json": (lambda f: (f / JSON).write_text("{"), "is damaged: pack.json: "),
    "cut arrays": (lambda f: (f / ARRAYS).write_bytes((f / ARRAYS).read_bytes()[:-9]), "poisons.npz has another SHA-256"),
    "format": (lambda f: changed(f, lambda v: v.update(format="other")), "pack.json: format: "),
    "version": (lambda f: changed(f, lambda v: v.update(version=2)), "pack.json: version: "),
    "unknown key": (lambda f: changed(f, lambda v: v.update(more=1)), "pack.json: more: "),
    "missing key": (lambda f: changed(f, lambda v: v.pop("budget")), "pack.json: budget: "),
    "epsilon of text": (lambda f: changed(f, lambda v: v["budget"].update(epsilon="16/255")), "pack.json: budget.epsilon: "),
    "epsilon above 1": (lambda f: changed(f, lambda v: v["budget"].update(epsilon=16.0)), r"epsilon=16.0 is outside \[0, 1\]"),
    "norm": (lambda f: changed(f, lambda v: v["budget"].update(norm="l1")), "pack.json: budget.norm: "),
    "no trials": (lambda f: changed(f, lambda v: v.update(trials=[])), "pack.json: trials: "),
    "digest": (lambda f: changed(f, lambda v: v["data"].update(digest="x")), "pack.json: data.digest: "),
    "huge claim": (lambda f: changed(f, lambda v: v["trials"][0].update(poisons=9_000_000)), r"expected \(9000010, 10, 12, 3\)"),
    "more than the budget": (lambda f: changed(f, lambda v: v["budget"].update(num_poisons=4)), "has 5 poisons; its budget allows 1 to 4"),
    "label": (lambda f: changed(f, lambda v: v["trials"][1]["goal"].update(true_label=7)), r"labels \[\d, 7\] of its goal"),
    "equal labels": (lambda f: changed(f, lambda v: v["trials"][1]["goal"].update(true_label=2)), r"trial 1 of the pack: labels \[2, 2\]"),
    "test image": (lambda f: changed(f, lambda v: v["trials"][1]["goal"].update(test_index=-1)), "test image -1; rows are counted from 0"),
    "kinds of goals": (
        lambda f: changed(
            f,
            lambda v: v["trials"][1].update(
                goal={"kind": "trigger", "place": None, "true_label": 0, "adversarial_label": 1, "amplitude": 1.0, "patch_sides": [2, 2]}
            ),
        ),
        "trial 1 has another kind of goal than trial 0",
    ),
    "recipe": (lambda f: changed(f, lambda v: v.update(recipe={})), "names its 'attack'"),
    "other shape": (lambda f: arrays_changed(f, lambda a: a.update(images=a["images"][:, :, :9])), r"expected \(15, 10, 12, 3\) and uint8"),
    "other type": (lambda f: arrays_changed(f, lambda a: a.update(images=a["images"] / 255)), "dtype float64; expected"),
    "more arrays": (lambda f: arrays_changed(f, lambda a: a.update(more=a["indices"])), "holds 'images', 'indices', 'more', 'targets'; expected"),
    "objects": (lambda f: arrays_changed(f, lambda a: a.update(indices=np.array([{}] * 15))), "dtype object; expected"),
    "row twice": (lambda f: arrays_changed(f, lambda a: a["indices"].__setitem__(1, a["indices"][0])), "indices must be distinct rows"),
    "row too far": (lambda f: arrays_changed(f, lambda a: a["indices"].__setitem__(1, 48)), "indices must be distinct rows, 0 to 47"),
    "row negative": (lambda f: arrays_changed(f, lambda a: a["indices"].__setitem__(1, -1)), "indices must be distinct rows"),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packs") / "pack"
    write_pack(targets(), path)
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_wrong_with_a_pack_is_one_line(
    fault: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpickled(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    folder = tmp_path / "pack"
    shutil.copytree(written, folder)
    commit, message = FAULTS[fault]
    commit(folder)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, unpickled)
    with pytest.raises(ValueError, match=message) as caught:
        read_pack(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_file_beside_a_pack_that_is_not_the_one_written(tmp_path: Path) -> None:
    write_pack(targets(), tmp_path / "pack", {"weights": b"1234"})
    back = read_pack(tmp_path / "pack")
    (tmp_path / "pack" / "weights").write_bytes(b"1235")
    with pytest.raises(ValueError, match="weights has another SHA-256"):
        read_beside(back, tmp_path / "pack", "weights")
    with pytest.raises(ValueError, match="has no file 'other'"):
        read_beside(back, tmp_path / "pack", "other")


def test_nothing_is_half_written_or_replaced_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = targets()
    write_pack(pack, tmp_path / "pack")
    before = (tmp_path / "pack" / JSON).read_bytes()
    with pytest.raises(ValueError, match="exists already.*--force"):
        write_pack(pack, tmp_path / "pack")
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        write_pack(replace(pack, recipe={"attack": "x", "what": object()}), tmp_path / "pack", force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds no poison pack, which is all that --force replaces"):
        write_pack(pack, tmp_path / "mine", force=True)
    with pytest.raises(ValueError, match="does not exist; create it first"):
        write_pack(pack, tmp_path / "no" / "pack")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("certidote.data.atomic.os.fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            write_pack(replace(pack, notes=()), tmp_path / "pack", force=True)
        with pytest.raises(OSError, match="No space left"):
            write_pack(pack, tmp_path / "new")
    assert (tmp_path / "pack" / JSON).read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine", "pack"]
    write_pack(replace(pack, notes=()), tmp_path / "pack", force=True)
    assert read_pack(tmp_path / "pack").notes == ()


def test_packs_hold_what_belongs_together() -> None:
    pack, other = targets(), triggers()
    with pytest.raises(ValueError, match="at least one trial"):
        make_pack([], TRAIN, "tiny", {"attack": "x"})
    with pytest.raises(ValueError, match="trial 1 of the pack has another budget than trial 0"):
        make_pack(
            [pack.poisons[0], poison(pack.poisons[1].goal, Budget(5, "linf", 8 / 255), Key(0))], TRAIN, "tiny", {"attack": "x"}
        )
    target_too = poison(pack.poisons[0].goal, other.budget, Key(0))
    with pytest.raises(ValueError, match="another kind of goal"):
        make_pack([other.poisons[0], target_too], TRAIN, "tiny", {"attack": "x"})
    data: ImageDataset = TRAIN
    assert pack.poisons[0].apply(data).digest() != data.digest()
