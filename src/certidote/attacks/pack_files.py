"""Poison packs on disk: a folder with pack.json, which says what there is, and poisons.npz, which holds the exact 8-bit images.

The folder appears complete or not at all. Packs come from strangers: nothing is unpickled, every number is checked, sizes are
compared with what pack.json says before anything is unpacked, and whatever is wrong is one ValueError.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from certidote.attacks.pack import PackedData, PoisonPack
from certidote.data.atomic import replace_folder, replacing, unfinished_beside
from certidote.data.checks import quoted
from certidote.data.names import escaped
from certidote.data.npz import read_exactly
from certidote.types import Budget, Goal, Json, Norm, Poison, Target, Trigger

FORMAT, VERSION = "certidote poison pack", 1
JSON, ARRAYS = "pack.json", "poisons.npz"
MAX_JSON = 16 * 2**20
MAX_BESIDE = 2 * 2**30
"""Bytes of pack.json, and of a file beside it."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Label = Annotated[int, Field(ge=0, lt=1_000)]
Side = Annotated[int, Field(ge=1, le=224)]
MAX_TRIALS, MAX_POISONS = 100_000, 10_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Budget(_Strict):
    num_poisons: int
    norm: Norm
    epsilon: float
    visible_trigger: bool


class _Target(_Strict):
    kind: Literal["target"]
    test_index: int
    true_label: Label
    adversarial_label: Label


class _Trigger(_Strict):
    kind: Literal["trigger"]
    place: tuple[int, int] | None = Field(strict=False)
    true_label: Label | None
    adversarial_label: Label
    amplitude: float
    patch_sides: tuple[Side, Side] = Field(strict=False)


class _Trial(_Strict):
    poisons: int = Field(ge=1, le=MAX_POISONS)
    bases_digest: Digest
    goal: _Target | _Trigger = Field(discriminator="kind")
    objective: float | None = None


class _Data(_Strict):
    name: str
    images: int = Field(ge=1)
    image_shape: tuple[Literal[1, 3], Side, Side] = Field(strict=False)
    classes: tuple[str, ...] = Field(strict=False, min_length=2, max_length=1_000)
    digest: Digest


class _Pack(_Strict):
    format: Literal["certidote poison pack"]
    version: Literal[1]
    recipe: dict[str, Any]
    budget: _Budget
    data: _Data
    notes: tuple[str, ...] = Field(strict=False)
    trials: tuple[_Trial, ...] = Field(strict=False, min_length=1, max_length=MAX_TRIALS)
    arrays_sha256: Digest
    files: dict[str, Digest]


def write_pack(pack: PoisonPack, path: Path, beside: Mapping[str, bytes] | None = None, *, force: bool = False) -> None:
    """Write a pack as a folder; equal packs give equal bytes.

    Args:
        beside: more files for the folder, by name; their digests go into pack.json.
        force: replace a pack that is there.
    Raises: ValueError if `path` exists (or, with `force`, is no pack), its folder does not, or the recipe is no JSON value; OSError if
        the disk fails. In every case nothing is left behind, and what was there stays.
    """
    target = check_target(path, force)
    arrays = _packed(pack)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in (beside or {}).items()}
    try:
        text = json.dumps(_described(pack, hashlib.sha256(arrays).hexdigest(), files), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the recipe of this pack cannot be written as JSON ({error}); use plain numbers and text") from None
    unfinished = unfinished_beside(target)
    try:
        unfinished.mkdir()
        for name, content in {ARRAYS: arrays, **(beside or {}), JSON: f"{text}\n".encode()}.items():
            with replacing(unfinished / name) as file:
                file.write(content)
        replace_folder(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_target(path: Path, force: bool = False) -> Path:
    """The real path of a folder that can become a pack. Raises: ValueError as `write_pack`."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {str(path)!r}: folder {str(target.parent)!r} does not exist; create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write {str(path)!r}: nothing can be written into {str(target.parent)!r}; give another place")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return target
    if not force:
        raise ValueError(f"{str(path)!r} exists already; choose another folder, or replace an earlier pack with --force")
    if not (target / JSON).is_file() or not (target / ARRAYS).is_file():
        raise ValueError(f"{str(path)!r} holds no poison pack, which is all that --force replaces; choose another folder")
    return target


def read_pack(path: Path) -> PoisonPack:
    """The pack in a folder, bit for bit what was written.

    Raises: ValueError, in one line, if there is none, or anything in it is not as it must be. Whether it fits a training set is for
        `PoisonPack.check` to say.
    """
    where = f"poison pack {quoted(path)}"
    described = _description(path, where)
    shape, trials = described.data.image_shape, described.trials
    arrays = _arrays(path / ARRAYS, described, where)
    images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()
    indices = torch.from_numpy(arrays["indices"])
    poisons, first = [], 0
    try:
        budget = Budget(**described.budget.model_dump())
        for number, trial in enumerate(trials):
            rows = slice(first, first := first + trial.poisons)
            poisons.append(Poison(indices[rows], images[rows], _goal(trial.goal, number, arrays), budget, trial.objective))
        data = PackedData(**{**described.data.model_dump(), "image_shape": shape})
        bases = tuple(trial.bases_digest for trial in trials)
        return PoisonPack(tuple(poisons), bases, data, described.recipe, described.notes, described.files)
    except ValueError as error:
        raise ValueError(f"{where} is damaged: {error}") from None


def read_beside(pack: PoisonPack, path: Path, name: str) -> bytes:
    """A file that lies beside the poisons of a pack that was read from `path`.

    Raises: ValueError if the pack has none of that name, or it is not the one that was written.
    """
    where = f"poison pack {quoted(path)}"
    if name not in pack.files:
        raise ValueError(f"{where} has no file {name!r}; craft it again, or choose another scenario")
    content = _content(path / name, MAX_BESIDE, where)
    if hashlib.sha256(content).hexdigest() != pack.files[name]:
        raise ValueError(f"{where} is damaged: {name} has another SHA-256 than pack.json says; get it anew")
    return content


# ------------------------------------------------------------------------------------------------------------------ writing


def _packed(pack: PoisonPack) -> bytes:
    arrays = {
        "images": np.concatenate([poison.images.numpy() for poison in pack.poisons]).transpose(0, 2, 3, 1),
        "indices": np.concatenate([poison.indices.numpy() for poison in pack.poisons]),
    }
    goals = [poison.goal for poison in pack.poisons]
    targets = [goal.image.numpy() for goal in goals if isinstance(goal, Target)]
    triggers = [goal for goal in goals if isinstance(goal, Trigger)]
    if targets:
        arrays["targets"] = np.stack(targets).transpose(0, 2, 3, 1)
    else:
        arrays["patches"] = np.stack([goal.patch.numpy() for goal in triggers]).transpose(0, 2, 3, 1)
        arrays["masks"] = np.stack([goal.mask.numpy() for goal in triggers])
    content = io.BytesIO()
    np.savez_compressed(content, **{name: np.ascontiguousarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    return content.getvalue()


def _described(pack: PoisonPack, arrays: str, files: dict[str, str]) -> Json:
    budget, data = pack.budget, pack.data
    return {
        "format": FORMAT,
        "version": VERSION,
        "recipe": pack.recipe,
        "budget": {
            "num_poisons": budget.num_poisons,
            "norm": budget.norm,
            "epsilon": float(budget.epsilon),
            "visible_trigger": budget.visible_trigger,
        },
        "data": {
            "name": escaped(data.name),
            "images": data.images,
            "image_shape": list(data.image_shape),
            "classes": list(data.classes),
            "digest": data.digest,
        },
        "notes": list(pack.notes),
        "trials": [
            {
                "poisons": len(poison.indices),
                "bases_digest": digest,
                "goal": _goal_json(poison.goal),
                **({} if poison.objective is None else {"objective": poison.objective}),
            }
            for poison, digest in zip(pack.poisons, pack.bases, strict=True)
        ],
        "arrays_sha256": arrays,
        "files": files,
    }


def _goal_json(goal: Goal) -> Json:
    labels: Json = {"true_label": goal.true_label, "adversarial_label": goal.adversarial_label}
    if isinstance(goal, Target):
        return {"kind": "target", "test_index": goal.test_index, **labels}
    place = None if goal.place is None else list(goal.place)
    sides = list(goal.patch.shape[1:])
    return {"kind": "trigger", "place": place, **labels, "amplitude": float(goal.amplitude), "patch_sides": sides}


# ------------------------------------------------------------------------------------------------------------------ reading


def _description(path: Path, where: str) -> _Pack:
    if not path.is_dir():
        raise ValueError(f"there is no poison pack in {quoted(path)}; give a folder that 'certidote poison' made")
    content = _content(path / JSON, MAX_JSON, where)
    try:
        return _Pack.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = escaped((str(first["msg"]).splitlines() or [""])[0])[:200]
        raise ValueError(f"{where} is damaged: {JSON}: {escaped(place)[:80] + ': ' if place else ''}{said}; get it anew") from None


def _content(file: Path, most: int, where: str) -> bytes:
    try:
        size = file.stat().st_size if file.is_file() else -1
        if not 0 <= size <= most:
            raise ValueError(f"{where} has no file {file.name} of at most {most:,} bytes; get it anew")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{where}: {file.name} cannot be read ({error.strerror}); check its permissions") from None


def _arrays(file: Path, described: _Pack, where: str) -> dict[str, Any]:
    """The arrays, if they are just what pack.json says."""
    if not file.is_file():
        raise ValueError(f"{where} has no file {file.name}; get it anew")
    with open(file, "rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != described.arrays_sha256:
            raise ValueError(f"{where} is damaged: {file.name} has another SHA-256 than {JSON} says; get it anew")
    (channels, height, width), trials = described.data.image_shape, described.trials
    total = sum(trial.poisons for trial in trials)
    expected = {"images": ((total, height, width, channels), "uint8"), "indices": ((total,), "int64")}
    goals = [trial.goal for trial in trials]
    first = goals[0]
    if isinstance(first, _Target):
        expected["targets"] = ((len(trials), height, width, channels), "uint8")
    else:
        expected["patches"] = ((len(trials), *first.patch_sides, channels), "uint8")
        expected["masks"] = ((len(trials), *first.patch_sides), "bool")
    for number, goal in enumerate(goals):
        other = goal.patch_sides if isinstance(goal, _Trigger) else None
        if type(goal) is not type(first) or other != (first.patch_sides if isinstance(first, _Trigger) else None):
            raise ValueError(f"{where} is damaged: trial {number} has another kind of goal than trial 0; get it anew")
    return read_exactly(file, expected)


def _goal(goal: _Target | _Trigger, number: int, arrays: Mapping[str, Any]) -> Goal:
    if isinstance(goal, _Target):
        image = torch.from_numpy(arrays["targets"][number]).permute(2, 0, 1).contiguous()
        return Target(image, goal.true_label, goal.adversarial_label, goal.test_index)
    patch = torch.from_numpy(arrays["patches"][number]).permute(2, 0, 1).contiguous()
    mask = torch.from_numpy(arrays["masks"][number])
    return Trigger(patch, mask, goal.place, goal.true_label, goal.adversarial_label, goal.amplitude)
