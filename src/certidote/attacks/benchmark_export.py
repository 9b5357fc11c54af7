"""Packs written as the poisoning benchmark reads them: one folder of pickles for each trial (and for a trigger, each source image).

Images are written as they are (8 bits, never rounded again), numbers as built-in ones and patches as lists of floats, in protocol 4: what
NumPy 2 or torch would write, the NumPy that the benchmark pins cannot read.
"""

import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from certidote.attacks.benchmark_format import INDICES, NORMS, POISONS, SOURCE, TARGET, TRIGGER, SaidTrigger
from certidote.attacks.pack import PoisonPack
from certidote.attacks.selection import source_rows
from certidote.data.atomic import replacing, sync_folder, unfinished_beside
from certidote.streams import Key
from certidote.types import ImageDataset, Poison, Target, Trigger

PROTOCOL = 4


def export_pack(pack: PoisonPack, train: ImageDataset, test: ImageDataset, out: Path, *, sources: int = 1) -> list[Path]:
    """Write every trial of a pack as folders of the benchmark.

    A trial about a target is one folder, trial-000. One about a trigger is a folder for each of `sources` test images of its class,
    trial-000/source-000, and trial-000/source.pickle, the list of these images with the trigger on them that Sleeper Agent's relatives read. Beside
    them lies trigger.json, for `import_poisons` alone: what pickles do not say of a trigger. Patches of another side than 5 (8 on TinyImageNet)
    need the benchmark's `patch_size` changed.

    Args:
        train: what the pack was made for; checked.
        test: its test images.
        out: appears complete or not at all.
        sources: for triggers, how many test images; the first ones of the class, and all of them if there are fewer (`fewer_sources`).
    Returns: the folders that the benchmark reads.
    Raises: ValueError if `out` exists, the pack is not one of `train`, or a trigger is no rectangle that overwrites pixels, which the
        form cannot express; OSError if the disk fails.
    """
    pack.check(train)
    if os.path.lexists(out):
        raise ValueError(f"{str(out)!r} exists already; choose another folder")
    target = Path(os.path.realpath(out))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {str(out)!r}: folder {str(target.parent)!r} does not exist; create it first")
    if sources < 1:
        raise ValueError(f"sources={sources}; give at least 1 test image for each trigger")
    files: dict[str, bytes] = {}
    places = []
    for trial, poison in enumerate(pack.poisons, pack.first_trial):
        made = _trial(poison, train, test, sources, Key(0) / "export" / trial)
        files |= {f"trial-{trial:03d}/{name}": content for name, content in made.items()}
        places += [f"trial-{trial:03d}/{name}" for name in made if name.endswith(TARGET)]
    unfinished = unfinished_beside(target)
    try:
        for name, content in files.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            with replacing(unfinished / name) as file:
                file.write(content)
        os.rename(unfinished, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return [out / Path(name).parent for name in places]


def fewer_sources(pack: PoisonPack, test: ImageDataset, sources: int) -> list[str]:
    """A sentence for each trial about a trigger whose class has fewer test images than `export_pack` was asked for."""
    found = [
        (trial, len(source_rows(test, poison.goal, "test")))
        for trial, poison in enumerate(pack.poisons, pack.first_trial)
        if isinstance(poison.goal, Trigger)
    ]
    return [
        f"trial {trial}: {count} test {'image' if count == 1 else 'images'} instead of {sources}, because there are no more that the trigger is for"
        for trial, count in found
        if count < sources
    ]


def _trial(poison: Poison, train: ImageDataset, test: ImageDataset, sources: int, key: Key) -> dict[str, bytes]:
    """File names below the trial's folder, and their contents."""
    label = int(poison.goal.adversarial_label)
    moved = (poison.images.int() - train.images[poison.indices].int()).abs().flatten(1).amax(1)
    common = {
        POISONS: _pickled([(_picture(image), label) for image in poison.images]),
        INDICES: _pickled([int(row) for row in poison.indices]),
        NORMS: _pickled([int(level) / 255 for level in moved]),
    }
    if isinstance(poison.goal, Target):
        return {**common, TARGET: _pickled((_picture(poison.goal.image), int(poison.goal.true_label)))}
    goal = poison.goal
    said = SaidTrigger(place=goal.place, all_classes=goal.true_label is None, visible_trigger=poison.budget.visible_trigger)
    return _triggered(goal, {**common, TRIGGER: f"{said.model_dump_json(indent=2)}\n".encode()}, test, sources, key)


def _triggered(goal: Trigger, common: dict[str, bytes], test: ImageDataset, sources: int, key: Key) -> dict[str, bytes]:
    if goal.amplitude < 1 or not bool(goal.mask.all()):
        raise ValueError(
            "the benchmark's form knows rectangular patches that overwrite pixels; this trigger is none, keep it as a pack"
        )
    chosen = source_rows(test, goal, "test")[:sources]
    images = test.images[chosen]
    (height, width), levels = goal.mask.shape, (goal.patch.double() / 255).tolist()
    corners = goal.places(len(chosen), test.image_shape, key)
    found: dict[str, bytes] = {}
    stamped = []
    for number, (image, row, (top, left)) in enumerate(zip(images, chosen.tolist(), corners.tolist(), strict=True)):
        true = int(test.labels[row])
        target = (_picture(image), true, levels, [left, top])
        folder = f"source-{number:03d}"
        found |= {f"{folder}/{name}": content for name, content in common.items()}
        found[f"{folder}/{TARGET}"] = _pickled(target)
        with_patch = image.clone()
        with_patch[:, top : top + height, left : left + width] = goal.patch
        stamped.append((_picture(with_patch), true))
    return {SOURCE: _pickled(stamped), **common, **found}


def _picture(levels: torch.Tensor) -> Image.Image:
    """An image as the benchmark has it: RGB, or grey where the data is."""
    array = levels.numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, PROTOCOL)


def setups_file(setups: Sequence[tuple[int, int, int, Sequence[int]]]) -> bytes:
    """The content of a setup file: (target index, target class, base class, base indices) of each trial, in built-in numbers."""
    names = ("target index", "target class", "base class", "base indices")
    made = []
    for row, true, wanted, bases in setups:
        if len(set(bases)) < len(bases):
            raise ValueError("base images of a setup repeat; each becomes one poison")
        made.append(dict(zip(names, (int(row), int(true), int(wanted), [int(base) for base in bases]), strict=True)))
    return _pickled(made)
