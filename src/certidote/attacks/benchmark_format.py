"""Poisons as the poisoning benchmark and its relatives keep them, read into one form: setups, and what a set of poisons consists of.

Reads: the benchmark's setup files and poison folders, with a target or a trigger; `source.pickle` of relatives, one image or a list, with
what `export_pack` lays beside it; the single file of MetaPoison; the torch files of Convex and Bullseye Polytope; the arrays of the label-consistent backdoor. Only the form is
checked here; `benchmark_import` holds it against a training set. Nothing is unpickled: see `benchmark_pickles`.

Source: Schwarzschild et al. (2021) and the repositories named at each function.
"""

import filecmp
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pydantic import BaseModel, ConfigDict, ValidationError

from certidote.attacks.benchmark_pickles import (
    PickledImage,
    as_array,
    as_levels,
    as_list,
    as_number,
    as_pair,
    interpreted,
    read_benchmark,
)
from certidote.data.checks import Refused, check_memory, check_ratio, quoted, readable
from certidote.data.names import escaped
from certidote.types import Budget, ImageDataset, Target, Task

POISONS, INDICES, TARGET, SOURCE, NORMS = (
    "poisons.pickle",
    "base_indices.pickle",
    "target.pickle",
    "source.pickle",
    "perturbation_norms.pickle",
)
TRIGGER = "trigger.json"
"""A file of ours beside the pickles, which the benchmark's readers do not look at: `SaidTrigger`."""

MAX_TRIGGER = 4_096
"""Bytes of it."""

SOURCE_FOLDERS = re.compile(r"source-\d+")
LABEL_CONSISTENT = ("train_images.npy", "train_labels.npy", "test_images.npy", "poisoned_train_indices.npy")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""By which the polytope attacks' own files are normalized."""

MOST_LEVELS = 2**28
"""Of the poisons in one such file."""

Levels = UInt8[np.ndarray, "_ _ _"]


@dataclass(frozen=True)
class Setup:
    """One of the benchmark's fixed trials.

    Attributes:
        target_index: row of the test set.
        true_label, adversarial_label: "target class" and "base class" of the file.
        bases: rows of the training set, distinct.
        repeated: those of them that the file names more than once, ascending.
    """

    target_index: int
    true_label: int
    adversarial_label: int
    bases: tuple[int, ...]
    repeated: tuple[int, ...] = ()

    def task(self, train: ImageDataset, test: ImageDataset, budget: Budget) -> Task:
        """The trial as an attack takes it; `budget.num_poisons` is replaced by the number of bases.

        Raises: ValueError if the test set has no such image, or it is of another class.
        """
        if self.target_index >= len(test) or int(test.labels[self.target_index]) != self.true_label:
            raise ValueError(
                f"test image {self.target_index} of class {self.true_label} is the setup's target, and this test set has no such image; "
                "give the data set that the setups are for"
            )
        target = Target(test.images[self.target_index], self.true_label, self.adversarial_label, self.target_index)
        return Task(train, target, replace(budget, num_poisons=len(self.bases)), torch.tensor(self.bases))


@dataclass(frozen=True)
class Setups:
    """The trials of a setup file, and what is odd about it, in sentences."""

    setups: tuple[Setup, ...]
    notes: tuple[str, ...]


class SaidTrigger(BaseModel):
    """What the benchmark's form cannot say of a trigger, as `export_pack` writes it beside the pickles.

    Attributes:
        place: (row, column) of its corner in every image; None: every image has a place of its own.
        all_classes: whether it is for images of all classes but the adversarial one.
        visible_trigger: whether poisons may carry it in plain sight, as `Budget` has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["certidote trigger"] = "certidote trigger"
    version: Literal[1] = 1
    place: tuple[int, int] | None
    all_classes: bool
    visible_trigger: bool


@dataclass(frozen=True, eq=False)
class FoundPoisons:
    """What files of any dialect say, before it is held against a training set.

    Attributes:
        dialect: what the files are, for notes and messages.
        images: the poisons, (c, h, w) each.
        adversarial_label: their label.
        indices: rows that they replace; None where the files do not say so in terms of the training set.
        sources: test images that the attack is about, as they are in the files, with their true labels; none where files do not say.
        patch: levels (c, s, t); then sources are without it. None: no trigger, or it is pasted already.
        places: with a patch, (row, column) of its corner on each source.
        pasted: whether sources are test images with an unknown trigger on them.
        said: what files of ours say of the trigger beside that; None where there is no such file.
        norms: linf of each poison's movement as recorded, [0, 1] pixel units.
        whole_train: the whole training set, poisons among the other images, where files hold that; rows are then found by comparison.
        whole_test: the whole test set with the trigger on every image, where files hold that.
        labels: of the whole training set.
    """

    dialect: str
    images: tuple[Levels, ...]
    adversarial_label: int
    indices: tuple[int, ...] | None = None
    sources: tuple[tuple[Levels, int], ...] = ()
    patch: Levels | None = None
    places: tuple[tuple[int, int], ...] = ()
    pasted: bool = False
    said: SaidTrigger | None = None
    norms: tuple[float, ...] | None = None
    whole_train: UInt8[np.ndarray, "n c h w"] | None = None
    whole_test: UInt8[np.ndarray, "m c h w"] | None = None
    labels: Int64[np.ndarray, "n"] | None = None


# ------------------------------------------------------------------------------------------------------------------ setups


def read_setups(path: Path, *, repeated_bases: Literal["refuse", "drop"] = "refuse") -> Setups:
    """The benchmark's fixed trials, from `poison_setups/*.pickle`.

    The CIFAR-10 transfer file of the benchmark names one base image twice in its setups 78 and 84. That is refused, because one image
    cannot be replaced by two; "drop" uses it once, and the setup has one base image less. Its from-scratch file attacks test image
    4804 in two setups, which a note says: these two trials are not independent.

    Raises: ValueError, naming the file, if it holds something else, or bases repeat and are not to be dropped.
    """
    where = f"file {quoted(path)}"
    found: list[dict[str, Any]] = interpreted(path, read_benchmark(path), _setups)
    setups = tuple(
        Setup(
            each["target index"],
            each["target class"],
            each["base class"],
            tuple(dict.fromkeys(each["base indices"])),
            _repeated(each),
        )
        for each in found
    )
    twice = [(number, setup) for number, setup in enumerate(setups) if setup.repeated]
    said = ", ".join(f"setup {number} names base image {setup.repeated[0]} more than once" for number, setup in twice[:4])
    if twice and repeated_bases == "refuse":
        raise Refused(
            f"{where}: {said} (a known defect of the benchmark's CIFAR-10 transfer setups); each base image becomes one poison, so pass "
            "repeated_bases='drop' to use it once"
        )
    notes = [f"{said}; it is used once"] if twice else []
    return Setups(setups, (*notes, *oddities(list(enumerate(setups)))))


def _repeated(setup: dict[str, Any]) -> tuple[int, ...]:
    return tuple(sorted(base for base, times in Counter(setup["base indices"]).items() if times > 1))


def oddities(numbered: Sequence[tuple[int, Setup]]) -> list[str]:
    """What is odd about these setups together, each with its number in the file, in sentences: targets that several share, or an uneven spread."""
    notes = []
    attacked: dict[int, list[int]] = {}
    for number, setup in numbered:
        attacked.setdefault(setup.target_index, []).append(number)
    for row, numbers in attacked.items():
        if len(numbers) > 1:
            notes.append(
                f"setups {' and '.join(map(str, numbers))} attack the same test image {row}; these trials are not independent"
            )
    per_class = Counter(setup.true_label for _, setup in numbered)
    if len(set(per_class.values())) > 1:
        notes.append(
            f"targets are not spread evenly over the classes: {min(per_class.values())} to {max(per_class.values())} of each"
        )
    return notes


def _setups(made: Any) -> list[dict[str, Any]]:
    found = []
    for each in as_list(made):
        if not isinstance(each, dict):
            raise ValueError("a setup is no dictionary")
        setup: dict[str, Any] = {name: as_number(each[name]) for name in ("target index", "target class", "base class")}
        setup["base indices"] = _rows(each["base indices"])
        if min(setup["target index"], setup["target class"], setup["base class"]) < 0 or not setup["base indices"]:
            raise ValueError("a setup has a negative number, or no base images")
        if setup["target class"] == setup["base class"]:
            raise ValueError("a setup wants a class for its target that it has already")
        found.append(setup)
    if not found:
        raise ValueError("it holds no setups")
    return found


# ------------------------------------------------------------------------------------------------------------ poison folders


def trial_folders(path: Path) -> list[Path]:
    """The folders in a folder that hold files of the benchmark's or a relative's, trial-2 before trial-10; none if it holds such files itself, or
    is no folder. A folder that lacks some of its files, or is named like a trial and lacks all, is among them: readers refuse it."""
    known = {POISONS, INDICES, TARGET, SOURCE, NORMS, *LABEL_CONSISTENT}

    def holds(folder: Path) -> bool:
        return any((folder / name).is_file() for name in known)

    if not path.is_dir() or holds(path):
        return []
    folders = [each for each in path.iterdir() if each.is_dir()]
    if not any(map(holds, folders)):
        return []
    return sorted((each for each in folders if holds(each) or each.name.startswith("trial")), key=_in_order)


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Numbers in a name as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]


def read_poisons(path: Path) -> FoundPoisons:
    """What a folder or file of poisons says, in whichever dialect.

    Raises: ValueError, in one line that names the file, if it is none that is known, is damaged, or contradicts itself.
    """
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        if set(LABEL_CONSISTENT) <= names:
            return _label_consistent(path)
        if POISONS in names:
            return _folder(path, names)
        raise ValueError(
            f"folder {quoted(path)} holds no poisons that are known: give one with {POISONS}, {INDICES} and {TARGET} (or {SOURCE}), one "
            f"with {', '.join(LABEL_CONSISTENT)}, or a folder of such folders"
        )
    if not path.exists():
        raise ValueError(f"there is no file or folder {quoted(path)}; give poisons of the benchmark or of a relative")
    made = read_benchmark(path)
    if isinstance(made, dict) and {"xtrain", "ytrain"} <= set(made):
        return interpreted(path, made, _metapoison)
    if isinstance(made, dict) and {"poison", "idx"} <= set(made):
        return interpreted(path, made, _polytope)
    raise ValueError(
        f"file {quoted(path)} holds no poisons that are known: a single file has 'xtrain' and 'ytrain' (MetaPoison), or 'poison' and 'idx' "
        "(Convex and Bullseye Polytope); for the benchmark's own form give the folder"
    )


def _folder(path: Path, names: set[str]) -> FoundPoisons:
    """The benchmark's own form, and that with `source.pickle`."""
    if INDICES not in names or not {TARGET, SOURCE} & names:
        missing = INDICES if INDICES not in names else f"{TARGET} (or {SOURCE})"
        raise ValueError(f"folder {quoted(path)} lacks {missing}; each set of poisons has its own")

    def read(name: str, interpret: Callable[[Any], Any]) -> Any:
        return interpreted(path / name, read_benchmark(path / name), interpret)

    size = (path / POISONS).stat().st_size
    images, label = read(POISONS, lambda made: _labelled(made, size))
    indices = tuple(read(INDICES, _rows))
    found = FoundPoisons("the poisoning benchmark", images, label, indices)
    if TARGET in names:
        source, pasted = read(TARGET, _target)
        found = replace(found, sources=(source,))
        if pasted is not None:
            found = replace(found, patch=pasted[0], places=(pasted[1],))
    else:
        sources = read(SOURCE, lambda made: _sources(made, (path / SOURCE).stat().st_size))
        found = _with_sources(found, path, sources)
    if TRIGGER in names:
        if found.patch is None:
            raise ValueError(
                f"folder {quoted(path)} has {TRIGGER}, but no {TARGET} with a patch, there or in folders source-*; export it anew"
            )
        found = replace(found, said=_said(path / TRIGGER))
    if NORMS in names:
        found = replace(found, norms=tuple(read(NORMS, lambda made: [float(each) for each in _flat(made)])))
    if len(images) != len(indices):
        raise ValueError(
            f"folder {quoted(path)} has {len(images)} poisons but {len(indices)} base indices; each poison needs its own"
        )
    if len(set(indices)) < len(indices):
        row = Counter(indices).most_common(1)[0][0]
        raise ValueError(f"folder {quoted(path)} names base image {row} more than once; one image cannot be replaced by two")
    if found.norms is not None and len(found.norms) != len(images):
        raise ValueError(f"folder {quoted(path)} has {len(images)} poisons but {len(found.norms)} norms; each poison has one")
    return found


def _with_sources(found: FoundPoisons, path: Path, stamped: tuple[tuple[Levels, int], ...]) -> FoundPoisons:
    """What is known of the test images in a folder's `source.pickle`: from folders source-000 and so on, as `export_pack` leaves them, the
    images without the patch, the patch and its places; without such folders only what they look like with it."""
    inner = sorted((each for each in path.iterdir() if SOURCE_FOLDERS.fullmatch(each.name)), key=_in_order)
    if not inner:
        return replace(found, dialect="the poisoning benchmark with source.pickle", sources=stamped, pasted=True)
    where = f"folder {quoted(path)}"
    sources, places = [], []
    first: Levels | None = None
    for folder in inner:
        for name in (POISONS, INDICES):
            if not (folder / name).is_file() or not filecmp.cmp(path / name, folder / name, shallow=False):
                raise Refused(f"{where} and its folder {folder.name} have other files {name}; export it anew")
        file = folder / TARGET
        source, pasted = interpreted(file, read_benchmark(file), _target)
        if pasted is None or (first is not None and not np.array_equal(first, pasted[0])):
            raise Refused(f"{where} has folders source-* without one and the same patch in {TARGET}; export it anew")
        first = pasted[0]
        sources.append(source)
        places.append(pasted[1])
    assert first is not None, "there is a folder"
    if len(sources) != len(stamped) or not all(map(_is_stamped, stamped, sources, places, [first] * len(sources))):
        raise Refused(f"{where} has other images in {SOURCE} than its folders source-* with their patch; export it anew")
    return replace(found, sources=tuple(sources), patch=first, places=tuple(places))


def _is_stamped(stamped: tuple[Levels, int], source: tuple[Levels, int], place: tuple[int, int], patch: Levels) -> bool:
    """Whether an image is another one with a patch at (row, column), and of the same label."""
    (top, left), (height, width) = place, patch.shape[1:]
    image = source[0].copy()
    if image[:, top : top + height, left : left + width].shape != patch.shape:
        return False
    image[:, top : top + height, left : left + width] = patch
    return stamped[1] == source[1] and np.array_equal(stamped[0], image)


def _said(path: Path) -> SaidTrigger:
    """Raises: ValueError, in one line, if it is not as `export_pack` writes it."""
    with readable(path, "file of what a trigger is"):
        if not path.is_file() or path.stat().st_size > MAX_TRIGGER:
            raise ValueError(f"no file of at most {MAX_TRIGGER:,} bytes")
        try:
            return SaidTrigger.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(escaped(f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}")) from None


def _labelled(made: Any, size: int) -> tuple[tuple[Levels, ...], int]:
    """Images that all have one label, from a file of so many bytes."""
    pairs = [as_pair(each) for each in as_list(made)]
    labels = {as_number(label) for _, label in pairs}
    if len(labels) != 1:
        raise ValueError("its poisons have other than one label")
    return _alike([image for image, _ in pairs], size), _label(labels.pop())


def _alike(values: Sequence[Any], size: int) -> tuple[Levels, ...]:
    """Images of one shape. One image in a file can be named again and again, so their sizes together are compared with the file's."""
    if not values:
        raise ValueError("it holds no images")
    first = as_levels(values[0])
    check_memory(2 * first.nbytes * len(values), "its images")
    check_ratio(first.nbytes * len(values), size, "its images")
    images = tuple(as_levels(value) for value in values)
    if any(image.shape != first.shape for image in images):
        raise ValueError("its images have several shapes")
    return images


def _target(made: Any) -> tuple[tuple[Levels, int], tuple[Levels, tuple[int, int]] | None]:
    parts = as_list(made)
    if len(parts) not in (2, 4):
        raise ValueError("its target is neither an image with a label, nor these with a patch and its place")
    source = as_levels(parts[0]), _label(as_number(parts[1]))
    if len(parts) == 2:
        return source, None
    patch = as_array(parts[2])
    left, top = (as_number(each) for each in as_pair(_listed(parts[3])))  # [startx, starty], which column and row begin
    if patch.ndim != 3 or patch.dtype.kind not in "fiu" or not patch.size or not ((patch >= 0) & (patch <= 1)).all():
        raise ValueError("its patch is none: three axes, numbers in [0, 1]")
    if min(top, left) < 0:
        raise ValueError("its patch lies outside the image")
    return source, (np.rint(patch.astype(np.float64) * 255).astype(np.uint8), (top, left))


def _sources(made: Any, size: int) -> tuple[tuple[Levels, int], ...]:
    """One (image, label), or a list of such."""
    pairs = as_list(made)
    if len(pairs) == 2 and isinstance(pairs[0], PickledImage):
        pairs = [tuple(pairs)]
    split = [as_pair(each) for each in pairs]
    images = _alike([image for image, _ in split], size)
    return tuple((image, _label(as_number(label))) for image, (_, label) in zip(images, split, strict=True))


# ----------------------------------------------------------------------------------------------------------- other dialects


def _metapoison(made: dict[str, Any]) -> FoundPoisons:
    """MetaPoison's single file, as tianyu139/friendly-noise reads it: the whole training set and the target."""
    train, labels = _channels_first(as_array(made["xtrain"])), as_array(made["ytrain"]).reshape(-1)
    target = _channels_first(as_array(made["xtarget"]).reshape(-1, *train.shape[2:], train.shape[1]))
    true, wanted = (_label(_first_number(made[name])) for name in ("ytarget", "ytargetadv"))
    if labels.dtype.kind not in "iu" or len(labels) != len(train):
        raise ValueError("it has other than one label for each training image")
    return FoundPoisons("MetaPoison", (), wanted, sources=((target[0], true),), whole_train=train, labels=labels.astype(np.int64))


def _polytope(made: dict[str, Any]) -> FoundPoisons:
    """A file of the polytope attacks' authors: normalized tensors; `idx` counts in a split of their own, so it says nothing here."""
    pairs = [as_pair(each) for each in as_list(made["poison"])]
    labels = {as_number(label) for _, label in pairs}
    if len(labels) != 1:
        raise ValueError("its poisons have other than one label")
    arrays = [as_array(tensor) for tensor, _ in pairs]
    if sum(array.size for array in arrays) > MOST_LEVELS:
        raise ValueError(f"its poisons have more than {MOST_LEVELS:,} levels")
    images = []
    for array in arrays:
        pixels = array.astype(np.float64)
        if pixels.ndim != 3 or len(pixels) != len(MEAN):
            raise ValueError("its poisons are no RGB images, channels first")
        levels = (pixels * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]) * 255
        if not (np.abs(levels - np.clip(levels, 0, 255)) < 0.5).all():  # so written that NaN is wrong
            raise ValueError("its poisons leave the range of pixels")
        images.append(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    if not images or any(image.shape != images[0].shape for image in images):
        raise ValueError("its poisons have several shapes")
    return FoundPoisons("Convex or Bullseye Polytope", tuple(images), _label(labels.pop()))


def _label_consistent(path: Path) -> FoundPoisons:
    """The arrays of MadryLab/label-consistent-backdoor-code: whole sets, test images all with the trigger."""
    train, labels, test, rows = (_npy(path / name) for name in LABEL_CONSISTENT)
    where = f"folder {quoted(path)}"
    with readable(path, "set of label-consistent arrays"):
        images, tested = _channels_first(train), _channels_first(test)
        chosen = rows.reshape(-1)
        if labels.reshape(-1).shape != (len(images),) or labels.dtype.kind not in "iu" or chosen.dtype.kind not in "iu":
            raise Refused(f"{where} has other than one label for each training image, or no row numbers; get it anew")
        if not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= len(images) or len(np.unique(chosen)) < len(chosen):
            raise Refused(f"{where}: poisoned_train_indices must be distinct rows of the training images; get it anew")
        wanted = np.unique(labels.reshape(-1)[chosen])
        if len(wanted) != 1:
            raise Refused(f"{where} has poisons of several classes; clean-label poisons of one trial share theirs")
        return FoundPoisons(
            "label-consistent backdoor", tuple(images[chosen]), _label(int(wanted[0])), tuple(chosen.tolist()),
            whole_train=images, whole_test=tested, labels=labels.reshape(-1).astype(np.int64),
        )  # fmt: skip


def _npy(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """One array, its size compared with the file's before it is read; nothing is unpickled."""
    where = f"file {quoted(path)}"
    with readable(path, ".npy array"), open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.hasobject or size != path.stat().st_size - file.tell():
            raise Refused(f"{where} holds Python objects, or has other than the bytes of its {shape} array; get it anew")
        check_memory(size, where)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


# ------------------------------------------------------------------------------------------------------------------- pieces


def _channels_first(images: np.ndarray[Any, np.dtype[Any]]) -> UInt8[np.ndarray, "n c h w"]:
    """NHWC levels, uint8 or floats from 0 to 255 (or 0 to 1), as (n, c, h, w) uint8."""
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise ValueError("its images are not (n, h, w, c) with 1 or 3 channels")
    if images.dtype.kind == "f":
        if not ((images >= 0) & (images <= 255)).all():  # so written that NaN is wrong
            raise ValueError("its images leave the range of pixels")
        images = np.rint(images.astype(np.float64) * (255 if images.max() <= 1 else 1)).astype(np.uint8)
    if images.dtype != np.uint8:
        raise ValueError("its images are neither unsigned bytes nor floats")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _rows(made: Any) -> list[int]:
    """Row numbers from a list, an array or a tensor."""
    array = as_array(made).reshape(-1)
    if array.dtype.kind not in "iu" or (array.size and int(array.min()) < 0):
        raise ValueError("its rows are no whole numbers from 0")
    return [int(row) for row in array.tolist()]


def _flat(made: Any) -> list[Any]:
    return list(as_array(made).reshape(-1).tolist())


def _listed(made: Any) -> list[int]:
    return made if isinstance(made, list | tuple) else _rows(made)  # type: ignore[return-value]


def _first_number(made: Any) -> int:
    array = as_array(made).reshape(-1)
    if array.size != 1 or array.dtype.kind not in "iu":
        raise ValueError("a class number is expected where there is none")
    return int(array[0])


def _label(label: int) -> int:
    if not 0 <= label < 1_000:
        raise ValueError("a label is no class number")
    return label
