"""Poisons of the benchmark and its relatives held against a training set: what they replace, how far they move, what they are for.

What comes of it is a `PoisonPack` like any other, or one line that says what contradicts what. Clean labels are checked, not assumed: a
poison whose base image has another label, a target that is a training image, or a movement beyond epsilon is refused.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from certidote.attacks.benchmark_format import FoundPoisons, Levels, read_poisons, trial_folders
from certidote.attacks.pack import PoisonPack, make_pack
from certidote.attacks.selection import check_task
from certidote.attacks.triggers import LARGEST_PATCH
from certidote.data.checks import quoted
from certidote.data.names import escaped
from certidote.streams import Key
from certidote.types import Budget, BudgetExceeded, Goal, ImageDataset, Poison, Target, Task, Trigger

TRUNCATED = 1
"""Levels by which a stored target may differ from the test image: normalizing, and truncating on the way back, shifts some down by one."""

MOST_UNASKED = 26
"""Levels that poisons may move without the user's having said so: epsilon 0.1 is the largest that the references use."""


def import_trials(
    path: Path, train: ImageDataset, test: ImageDataset, name: str, *, epsilon: float | None = None, visible_trigger: bool | None = None,
    attack: str = "",
) -> PoisonPack:  # fmt: skip
    """A pack of all trials in a folder of folders, as `export_pack` leaves them, in the order of their names. Arguments as `import_poisons`.

    Their budget is the least that all of them keep.

    Raises: as `import_poisons`, naming the folder; ValueError if there is none, or they do not make one pack.
    """
    folders = trial_folders(path)
    if not folders:
        read_poisons(path)  # says what it should be
        raise ValueError(f"{quoted(path)} holds the poisons of one trial; give a folder of such folders")
    packs = []
    for folder in folders:
        try:
            packs.append(import_poisons(folder, train, test, name, epsilon=epsilon, visible_trigger=visible_trigger, attack=attack))
        except ValueError as error:
            raise type(error)(f"{quoted(folder)}: {error}") from None
    trials = [pack.poisons[0] for pack in packs]
    _check_different(trials, folders)
    most, farthest = (max(getattr(trial.budget, part) for trial in trials) for part in ("num_poisons", "epsilon"))
    shared = [replace(trial, budget=replace(trial.budget, num_poisons=most, epsilon=farthest)) for trial in trials]
    notes = [f"trial {number}: {note}" for number, pack in enumerate(packs) for note in pack.notes] + _shared_targets(trials)
    return make_pack(shared, train, name, packs[0].recipe, notes)


def _check_different(trials: Sequence[Poison], folders: Sequence[Path]) -> None:
    """Raises: ValueError if two folders hold the same poisons: they would count as two trials."""
    for later, poison in enumerate(trials):
        for earlier in range(later):
            other = trials[earlier]
            if torch.equal(other.indices, poison.indices) and torch.equal(other.images, poison.images):
                raise ValueError(
                    f"{quoted(folders[earlier])} and {quoted(folders[later])} hold the same poisons, which are one trial; take one of them out"
                )


def _shared_targets(trials: Sequence[Poison]) -> list[str]:
    """A note for each test image that several trials are about."""
    about: dict[int, list[int]] = {}
    for number, poison in enumerate(trials):
        if isinstance(poison.goal, Target):
            about.setdefault(poison.goal.test_index, []).append(number)
    return [
        f"trials {', '.join(map(str, numbers))} are about test image {row}, so they are not independent"
        for row, numbers in about.items()
        if len(numbers) > 1
    ]


def import_poisons(
    path: Path,
    train: ImageDataset,
    test: ImageDataset,
    name: str,
    *,
    epsilon: float | None = None,
    visible_trigger: bool | None = None,
    target_index: int | None = None,
    attack: str = "",
) -> PoisonPack:
    """A pack with one trial made of files in any dialect that `read_poisons` knows.

    Args:
        train: the set that the poisons replace rows of; the benchmark's indices count in it.
        test: its test images.
        name: what the user calls the data.
        epsilon: linf bound, [0, 1] pixel units; None: the least number of levels that the poisons keep, up to `MOST_UNASKED`.
        visible_trigger: whether poisons may carry the trigger in plain sight, as `Budget` has it; None: as a file of `export_pack` says, else only
            in the arrays of the label-consistent backdoor.
        target_index: the test image that the poisons are about, for files that do not say.
        attack: what to call it; "" for the dialect's name.
    Raises: ValueError, in one line, if files and data do not fit; BudgetExceeded if a poison moved further than epsilon, or its base
        image has another label.
    """
    found = read_poisons(path)
    notes = [f"imported from {found.dialect}: {escaped(str(path))}"]
    indices, images = _replaced(found, train, notes)
    goal = _goal(found, test, train.image_shape, target_index, notes)
    if images.shape[1:] != train.image_shape:
        raise ValueError(
            f"{found.dialect}: poisons of shape {tuple(images.shape[1:])}, but the data has {train.image_shape} (channels, height, width)"
        )
    visible = visible_trigger
    if visible is None:
        visible = found.whole_test is not None or (found.said is not None and found.said.visible_trigger)
    poison = Poison(indices, images, goal, Budget(len(indices), "linf", 1.0 if epsilon is None else epsilon, visible))
    try:
        poison.verify(train)
    except BudgetExceeded as error:
        if _kept_in_sight(poison, train):
            raise BudgetExceeded(
                f"{error}; with the trigger in plain sight they keep it: say visible_trigger if that is meant"
            ) from None
        raise
    check_task(Task(train, goal, poison.budget, indices))
    if epsilon is None:
        poison = _measured(poison, train)
        needed = round(poison.budget.epsilon * 255)
        if needed > MOST_UNASKED:
            raise ValueError(
                f"{found.dialect}: these poisons move by {needed}/255 in linf, more than the field's do; they may be of other data or in another "
                f"order. If it is meant, give epsilon {needed}/255{_or_in_sight(poison, train)}"
            )
        notes.append(f"epsilon is what these poisons need, {needed}/255")
    if found.norms is not None:
        _check_norms(found.norms, poison, train)
    recipe = {"attack": attack or found.dialect, "scenario": {"kind": "unknown"}, "imported": {"dialect": found.dialect}}
    return make_pack([poison], train, name, recipe, notes)


# -------------------------------------------------------------------------------------------------------- what they replace


def _replaced(found: FoundPoisons, train: ImageDataset, notes: list[str]) -> tuple[Int64[Tensor, "m"], UInt8[Tensor, "m c h w"]]:
    """Rows, and what lies in them."""
    if found.whole_train is not None:
        return _altered(found, train)
    images = torch.from_numpy(np.stack(found.images))
    if found.indices is not None:
        if max(found.indices) >= len(train):
            raise ValueError(
                f"{found.dialect}: base image {max(found.indices)} of a training set of {len(train)}; give the data that the poisons are for"
            )
        return torch.tensor(found.indices), images
    notes.append("rows were found by the nearest training image of the poisons' class, in linf")
    return _nearest(images, found.adversarial_label, train), images


def _altered(found: FoundPoisons, train: ImageDataset) -> tuple[Int64[Tensor, "m"], UInt8[Tensor, "m c h w"]]:
    """Rows in which a whole training set differs from ours, or that it names."""
    assert found.whole_train is not None
    assert found.labels is not None
    theirs = torch.from_numpy(found.whole_train)
    if theirs.shape != train.images.shape:
        raise ValueError(
            f"{found.dialect}: a training set of shape {tuple(theirs.shape)}, but the data has {tuple(train.images.shape)}; give its data"
        )
    wrong = int((torch.from_numpy(found.labels) != train.labels).sum())
    if wrong:
        raise ValueError(
            f"{found.dialect}: {wrong} labels differ from the data's; clean-label poisons keep labels, or the order is another"
        )
    differing = (theirs != train.images).flatten(1).any(1)
    if found.indices is None:
        rows = differing.nonzero().squeeze(1)
        if not len(rows):
            raise ValueError(f"{found.dialect}: no image differs from the data's; these are no poisons of it")
        return rows, theirs[rows]
    rows = torch.tensor(found.indices)
    others = differing.clone()
    others[rows] = False
    if bool(others.any()):
        count, first = int(others.sum()), int(others.nonzero()[0])
        raise ValueError(
            f"{found.dialect}: {count} images that are no poisons differ from the data's, image {first} first; give its data"
        )
    return rows, theirs[rows]


def _nearest(images: UInt8[Tensor, "m c h w"], label: int, train: ImageDataset) -> Int64[Tensor, "m"]:
    """For each poison the training image of its class that is nearest in linf.

    Raises: ValueError if two poisons have one nearest image, or one poison has two.
    """
    rows = (train.labels == label).nonzero().squeeze(1)
    if not len(rows) or images.shape[1:] != train.image_shape:
        raise ValueError(
            f"the data has no images of class {label} and shape {tuple(images.shape[1:])}; give the data that the poisons are for"
        )
    candidates = train.images[rows].to(torch.int16)
    chosen = []
    for number, image in enumerate(images.to(torch.int16)):
        distances = (candidates - image).abs().flatten(1).amax(1)
        best = (distances == distances.min()).nonzero().squeeze(1)
        if len(best) > 1:
            raise ValueError(
                f"poison {number} is as near to training image {int(rows[best[0]])} as to {int(rows[best[1]])}; its base is unknown"
            )
        chosen.append(int(rows[best[0]]))
    if len(set(chosen)) < len(chosen):
        raise ValueError("two poisons have the same nearest training image, so their bases are unknown")
    return torch.tensor(chosen)


def _measured(poison: Poison, train: ImageDataset) -> Poison:
    """The poison with the smallest budget in whole levels that it keeps."""
    low, high = 0, 255
    while low < high:
        middle = (low + high) // 2
        smaller = replace(poison, budget=replace(poison.budget, epsilon=middle / 255))
        try:
            smaller.verify(train)
            high = middle
        except BudgetExceeded:
            low = middle + 1
    return replace(poison, budget=replace(poison.budget, epsilon=high / 255))


def _kept_in_sight(poison: Poison, train: ImageDataset) -> bool:
    """Whether a poison that may not carry its trigger in plain sight would keep its budget if it might."""
    if poison.budget.visible_trigger or isinstance(poison.goal, Target) or poison.goal.place is None:
        return False
    try:
        replace(poison, budget=replace(poison.budget, visible_trigger=True)).verify(train)
    except BudgetExceeded:
        return False
    return True


def _or_in_sight(poison: Poison, train: ImageDataset) -> str:
    """The other way out, for poisons that move far because they carry their trigger."""
    usual = replace(poison, budget=replace(poison.budget, epsilon=MOST_UNASKED / 255))
    return "; or say visible_trigger, if the trigger is pasted on them in plain sight" if _kept_in_sight(usual, train) else ""


def _check_norms(norms: Sequence[float], poison: Poison, train: ImageDataset) -> None:
    """Raises: ValueError if a recorded norm is not what its poison moved by, but for the levels that 8 bits lose."""
    moved = (poison.images.int() - train.images[poison.indices].int()).abs().flatten(1).amax(1).double() / 255
    for number, (recorded, found) in enumerate(zip(norms, moved.tolist(), strict=True)):
        if not abs(recorded - found) <= 2 / 255:
            raise ValueError(
                f"poison {number} is recorded to move by {recorded:.4f}, but moves by {found:.4f} ([0, 1] pixel units, linf); the files do not "
                "belong together, or not to this data"
            )


# ------------------------------------------------------------------------------------------------------- what they are for


def _goal(
    found: FoundPoisons, test: ImageDataset, image_shape: tuple[int, int, int], target_index: int | None, notes: list[str]
) -> Goal:
    wanted = found.adversarial_label
    if wanted >= test.num_classes:
        raise ValueError(f"{found.dialect}: poisons of class {wanted}, but the data has {test.num_classes} classes; give its data")
    if target_index is not None and (found.whole_test is not None or found.pasted or found.patch is not None):
        raise ValueError(
            f"{found.dialect}: these files are about a trigger, and not about test image {target_index}; leave the target out"
        )
    if found.whole_test is not None:
        return _everywhere(found.whole_test, test, wanted, found.dialect)
    if found.pasted:
        trigger = recovered_trigger(found.sources, test, wanted)
        notes.append(
            f"the trigger is where images of source.pickle ({len(found.sources)}) differ from test images, {trigger.patch.shape[1]}x"
            f"{trigger.patch.shape[2]} pixels: an edge of it in the images' own colors would be missing"
        )
        return trigger
    if found.patch is not None:
        return _patched(found, found.patch, test, image_shape, notes)
    if not found.sources:
        if target_index is None:
            raise ValueError(f"{found.dialect}: these files do not say which test image they are about; give its row as the target")
        if not 0 <= target_index < len(test):
            raise ValueError(f"target {target_index}; the test images are rows 0 to {len(test) - 1}")
        return Target(test.images[target_index], int(test.labels[target_index]), wanted, target_index)
    image, label = found.sources[0]
    row = _test_row(image, label, test, found.dialect)
    if target_index not in (None, row):
        raise ValueError(f"{found.dialect}: these files are about test image {row}, not {target_index}; leave the target out")
    return Target(torch.from_numpy(image), label, wanted, row)


def _patched(
    found: FoundPoisons, levels: Levels, test: ImageDataset, image_shape: tuple[int, int, int], notes: list[str]
) -> Trigger:
    """The trigger whose patch and places the files name, and what they leave open.

    Raises: ValueError if sources are no test images, or a file of ours says otherwise.
    """
    rows = [_test_row(image, label, test, found.dialect) for image, label in found.sources]
    labels, places, said = {label for _, label in found.sources}, set(found.places), found.said
    where = f"{found.dialect}: the trigger"
    every = said is not None and said.all_classes
    if len(labels) > 1 and not every:
        raise ValueError(
            f"{where} is on images of several classes, and no trigger.json says that it is for all; a trigger is for images of one"
        )
    if every and found.adversarial_label in labels:
        raise ValueError(
            f"{where} is for other classes than {found.adversarial_label}, but is on one of its images; export it anew"
        )
    if said is not None and said.place is not None and places != {said.place}:
        raise ValueError(
            f"{where} is at {said.place} (row, column) by trigger.json, but elsewhere by target.pickle; export it anew"
        )
    if said is None and len(rows) == 1:
        notes.append(f"the trigger lies at {found.places[0]} (row, column) in every image, as far as one image can tell")
    place = said.place if said is not None else found.places[0] if len(places) == 1 else None
    patch = torch.from_numpy(levels)
    true = None if every else found.sources[0][1]
    trigger = Trigger(patch, torch.ones(patch.shape[1:], dtype=torch.bool), place, true, found.adversarial_label)
    for each in places:
        replace(trigger, place=each).places(0, image_shape, Key(0))
    scored = f"one image, test image {rows[0]}" if len(rows) == 1 else f"one image at a time, {len(rows)} of them"
    notes.append(f"the benchmark scores the trigger on {scored}; here on all of {'the other classes' if every else 'its class'}")
    return trigger


def _test_row(image: Levels, label: int, test: ImageDataset, dialect: str) -> int:
    """The test image of that label that a stored one is, give or take `TRUNCATED` levels."""
    shown = torch.from_numpy(image)
    rows = (test.labels == label).nonzero().squeeze(1)
    if tuple(shown.shape) == test.image_shape and len(rows):
        distances = (test.images[rows].to(torch.int16) - shown.to(torch.int16)).abs().flatten(1).amax(1)
        nearest = int(distances.argmin())
        if int(distances[nearest]) <= TRUNCATED:
            return int(rows[nearest])
    raise ValueError(
        f"{dialect}: its target is no test image of class {label} of this data; give the data that the poisons are for"
    )


def recovered_trigger(sources: Sequence[tuple[Levels, int]], test: ImageDataset, adversarial_label: int) -> Trigger:
    """The trigger that was pasted on test images, all of one class, wherever it was pasted.

    Each source is compared with the test images of its class; the one from which it differs in fewest pixels is what it was made of.

    Raises: ValueError if sources are of several classes, or are not test images with one patch on them.
    """
    labels = {label for _, label in sources}
    if len(labels) != 1:
        raise ValueError("the patched images are of several classes; a trigger is for images of one class")
    true = labels.pop()
    candidates = test.images[(test.labels == true).nonzero().squeeze(1)]
    pairs = []
    for image, _ in sources:
        shown = torch.from_numpy(image)
        if tuple(shown.shape) != test.image_shape or not len(candidates):
            raise ValueError(f"a patched image of shape {tuple(shown.shape)} is none of class {true} of this data; give its data")
        changed = (candidates != shown).any(1)
        nearest = int(changed.flatten(1).sum(1).argmin())
        pairs.append((shown, candidates[nearest], changed[nearest]))
    boxes = [_box(changed) for _, _, changed in pairs]
    sides = max(bottom - top for top, bottom, _, _ in boxes), max(right - left for _, _, left, right in boxes)
    if not 0 < sides[0] * sides[1] <= LARGEST_PATCH * test.image_shape[1] * test.image_shape[2]:
        raise ValueError("the patched images are not test images of this data with a small patch on them; give its data")
    patch = _common_patch(pairs, boxes, sides)
    places = [_place_of(patch, shown, box) for (shown, _, _), box in zip(pairs, boxes, strict=True)]
    fixed = places[0] if len(set(places)) == 1 else None
    return Trigger(patch, torch.ones(sides, dtype=torch.bool), fixed, true, adversarial_label)


Box = tuple[int, int, int, int]


def _box(changed: Tensor) -> Box:
    """First and behind-last row and column that changed."""
    rows, columns = changed.any(1).nonzero().squeeze(1), changed.any(0).nonzero().squeeze(1)
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _common_patch(
    pairs: Sequence[tuple[Tensor, Tensor, Tensor]], boxes: Sequence[Box], sides: tuple[int, int]
) -> UInt8[Tensor, "c s t"]:
    """From a source whose box has the whole size: where a patch has the image's own color, a box is smaller than the patch."""
    for (shown, _, _), (top, bottom, left, right) in zip(pairs, boxes, strict=True):
        if (bottom - top, right - left) == sides:
            return shown[:, top:bottom, left:right].clone()
    raise ValueError("no patched image shows the whole patch; give more of them")


def _place_of(patch: Tensor, shown: Tensor, box: Box) -> tuple[int, int]:
    """Where the patch lies so that it covers the box. Raises: ValueError if it does not lie there."""
    (top, bottom, left, right), (height, width) = box, patch.shape[1:]
    for row in range(max(0, bottom - height), min(top, shown.shape[1] - height) + 1):
        for column in range(max(0, right - width), min(left, shown.shape[2] - width) + 1):
            if torch.equal(shown[:, row : row + height, column : column + width], patch):
                return row, column
    raise ValueError("the patched images do not carry one and the same patch; triggers that blend or vary are not imported")


def _everywhere(stamped: UInt8[np.ndarray, "m c h w"], test: ImageDataset, adversarial_label: int, dialect: str) -> Trigger:
    """The trigger that every image of a whole test set carries at one place."""
    shown = torch.from_numpy(stamped)
    if shown.shape != test.images.shape:
        raise ValueError(
            f"{dialect}: test images of shape {tuple(shown.shape)}, but the data has {tuple(test.images.shape)}; give its data"
        )
    mask = (shown != test.images).any(1).any(0)
    if not bool(mask.any()):
        raise ValueError(f"{dialect}: its test images carry no trigger; give those with it")
    top, bottom, left, right = _box(mask)
    patches = shown[:, :, top:bottom, left:right]
    inside = mask[top:bottom, left:right]
    if not bool((patches[:, :, inside] == patches[:1, :, inside]).all()):
        raise ValueError(
            f"{dialect}: its trigger does not overwrite pixels alike on all test images (a reduced amplitude?); not imported"
        )
    patch = torch.where(inside, patches[0], torch.zeros_like(patches[0]))
    return Trigger(patch, inside, (top, left), None, adversarial_label)
