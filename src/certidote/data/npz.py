"""Images and labels in a NumPy archive (.npz) as an `ImageDataset`. Archives come from strangers: nothing in them is unpickled."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from certidote.data.checks import MAX_CLASSES, check_class_names, check_image_size, check_memory, check_ratio, quoted, readable
from certidote.types import ImageDataset

SPLITS = ("train", "test")
ONE_SET = (("images", "labels"), ("x", "y"))
CHUNK = 1_024
"""Float images are checked and rounded this many at a time, so that no second copy of them is made."""

Array = np.ndarray[Any, np.dtype[Any]]


def read_npz(path: Path, split: str, any_size: bool = False) -> ImageDataset:
    """The images and labels of one archive.

    Arrays, by name: `images` and `labels` (or `x` and `y`) for one set; `x_train`, `y_train`, `x_test`, `y_test` (or
    `train_images`, `train_labels`, ...) for two, chosen by `split`. Optionally `class_names`; without it the classes are "0", "1",
    ... up to the largest label of the archive, both splits considered. Other arrays are ignored.

    Images are (n, h, w) or channels-last (n, h, w, c) with c = 1 or 3; where the last axis is neither 1 nor 3, channels-first
    (n, c, h, w) is accepted too. They are uint8, or floats in [0, 1]. Floats are rounded to the nearest of 255 levels, and a
    perturbation budget or certified radius then speaks of the rounded images: rounding can stretch a change of 1e-6 to 1/255.

    Labels are (n,) or (n, 1): integers from 0, or floats that are integers.

    Args:
        any_size: accept sides out of range, for images that are resized next.
    Raises: ValueError, naming the archive and array, and the first offending entry, for anything else.
    """
    with readable(path, ".npz archive"):
        shapes = _headers(path)
    where = f"archive {quoted(path)}"
    image_key, label_key = _pair(set(shapes), split, where)
    all_labels = [key for key in shapes if key in _label_keys(label_key)]
    _check_loadable({key: shapes[key] for key in (image_key, *all_labels, *({"class_names"} & set(shapes)))}, path)
    with readable(path, ".npz archive"), np.load(path, allow_pickle=False) as arrays:
        raw = {key: arrays[key] for key in (*all_labels, "class_names") if key in shapes}

    labels = {key: _labels(raw[key], f"{where}, array {key!r}") for key in all_labels}
    if "class_names" in raw:
        names = _names(raw["class_names"], where)
    else:
        names = tuple(str(c) for c in range(1 + max(int(each.max(initial=-1)) for each in labels.values())))
    check_class_names(names, where)
    _check_labels_below(labels[label_key], len(names), f"{where}, array {label_key!r}")

    shape = shapes[image_key][0]
    image_where = f"{where}, array {image_key!r}"
    _channels_first(shape, image_where, any_size)
    if shape[0] != len(labels[label_key]):
        raise ValueError(
            f"{where}: {shape[0]} images in {image_key!r} but {len(labels[label_key])} labels in {label_key!r}; "
            "each image needs exactly one label"
        )
    images = _stored_images(path, image_key, shape, image_where, any_size)
    return ImageDataset(torch.from_numpy(images), torch.from_numpy(labels[label_key]), names)


def read_npz_images(path: Path, split: str, any_size: bool = False) -> UInt8[np.ndarray, "n c h w"]:
    """The images of one archive, whether or not there are labels beside them: names and forms as in `read_npz`.

    Raises: ValueError, naming the archive, if it holds no images of this split, several such arrays, or they have another form.
    """
    with readable(path, ".npz archive"):
        shapes = _headers(path)
    where = f"archive {quoted(path)}"
    split_names = [name for name in (f"x_{split}", f"{split}_images") if name in shapes]
    found = split_names or [name for name, _ in ONE_SET if name in shapes]
    if len(found) != 1:
        held = ", ".join(sorted(map(repr, shapes))) or "no arrays"
        raise ValueError(f"{where} holds {held}; one array of images is needed, 'images' or 'x_{split}'")
    image_where = f"{where}, array {found[0]!r}"
    _check_loadable({found[0]: shapes[found[0]]}, path)
    return _stored_images(path, found[0], shapes[found[0]][0], image_where, any_size)


def _stored_images(path: Path, key: str, shape: tuple[int, ...], where: str, any_size: bool) -> UInt8[np.ndarray, "n c h w"]:
    channels_first = _channels_first(shape, where, any_size)
    if shape[0] == 0:
        raise ValueError(f"{where} is empty; a data set needs at least one image")
    with readable(path, ".npz archive"), np.load(path, allow_pickle=False) as arrays:
        stored = arrays[key]
    levels = _levels(stored, where)
    if levels.ndim == 3:
        levels = levels[:, None]
    elif not channels_first:
        levels = levels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(levels)


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array, read without unpacking any of them."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            headers[member.removesuffix(".npy")] = (shape, dtype)
    return headers


def _pair(keys: set[str], split: str, where: str) -> tuple[str, str]:
    found = {name: [pair for pair in _split_pairs(name) if keys.issuperset(pair)] for name in SPLITS}
    splits = [name for name in SPLITS if found[name]]
    one_set = [pair for pair in ONE_SET if keys.issuperset(pair)]
    if splits and split not in splits and not one_set:
        raise ValueError(f"{where} has no split {split!r}; choose one of: {', '.join(splits)}")
    candidates = [*found.get(split, []), *one_set]
    if not candidates:
        raise ValueError(
            f"{where} holds {', '.join(sorted(map(repr, keys))) or 'no arrays'}; "
            "it needs 'images' and 'labels', or 'x_train', 'y_train', 'x_test' and 'y_test'"
        )
    if len(candidates) > 1:
        several = " and ".join(f"{x!r} with {y!r}" for x, y in candidates)
        raise ValueError(f"{where} holds several sets, {several}; keep only one of them")
    if not splits and split != "train":
        raise ValueError(
            f"{where} has no split {split!r}, it is one set; give the archive of the {split} images, "
            f"or store them as 'x_{split}' and 'y_{split}'"
        )
    return candidates[0]


def _label_keys(label_key: str) -> tuple[str, ...]:
    """The label arrays that share their classes with this one: the same name for every split."""
    for name in SPLITS:
        if name in label_key:
            return tuple(label_key.replace(name, other) for other in SPLITS)
    return (label_key,)


def _check_loadable(arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], path: Path) -> None:
    """Raises: ValueError if one of these arrays holds objects, or they unpack to more than memory or than an honest archive."""
    where, total = f"archive {quoted(path)}", 0
    for key, (shape, dtype) in arrays.items():
        if dtype.hasobject:
            raise ValueError(
                f"{where}, array {key!r} holds Python objects, which can run code when read; store numbers, and names as dtype=str"
            )
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        check_memory(size, f"{where}, array {key!r}")
        total += size
    check_ratio(total, path.stat().st_size, where)


def _labels(raw: Array, where: str) -> Int64[np.ndarray, "n"]:
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1:
        raise ValueError(f"{where} has shape {raw.shape}; labels are one integer per image, shape (n,)")
    if raw.dtype.kind == "f":
        wrong = ~np.isfinite(raw) | (np.rint(raw) != raw)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"{where}: label {raw[row]} of image {row} is not an integer; labels are integers from 0")
    elif raw.dtype.kind not in "iub":
        raise ValueError(f"{where} has dtype {raw.dtype}; labels are integers from 0")
    _check_labels_below(raw, MAX_CLASSES, where)
    return raw.astype(np.int64)


def _check_labels_below(labels: Array, num_classes: int, where: str) -> None:
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{where}: label {labels[row]} of image {row} is out of range; {num_classes} classes allow 0 to {num_classes - 1}"
        )


def _names(raw: Array, where: str) -> tuple[str, ...]:
    if raw.ndim != 1 or raw.dtype.kind not in "US":
        raise ValueError(f"{where}, array 'class_names' has shape {raw.shape} and dtype {raw.dtype}; store one string per class")
    if raw.dtype.kind == "U":
        return tuple(str(name) for name in raw)
    return tuple(bytes(name).decode("utf-8", "replace") for name in raw)


def npz_splits(path: Path) -> tuple[str, ...]:
    """The splits that `read_npz` finds in this archive; none if it is one set, whose name for `read_npz` is "train"."""
    with readable(path, ".npz archive"):
        keys = set(_headers(path))
    return tuple(name for name in SPLITS if any(keys.issuperset(pair) for pair in _split_pairs(name)))


def _split_pairs(name: str) -> list[tuple[str, str]]:
    return [(f"x_{name}", f"y_{name}"), (f"{name}_images", f"{name}_labels")]


def _channels_first(shape: tuple[int, ...], where: str, any_size: bool) -> bool:
    """The layout of images of this shape, by the rule of `read_npz`; refuses shapes that are no images."""
    channels_last = len(shape) == 4 and shape[3] in (1, 3)
    channels_first = len(shape) == 4 and not channels_last and shape[1] in (1, 3)
    if not (len(shape) == 3 or channels_last or channels_first):
        raise ValueError(f"{where} has shape {shape}; images are (n, h, w) or (n, h, w, c) with c = 1 or 3")
    if not any_size:
        height, width = shape[2:] if channels_first else shape[1:3]
        check_image_size(height, width, where)
    return channels_first


def _levels(stored: Array, where: str) -> UInt8[np.ndarray, "..."]:
    """Stored images as 8-bit levels."""
    if stored.dtype == np.uint8:
        return stored
    if stored.dtype.kind != "f":
        raise ValueError(f"{where} has dtype {stored.dtype}; images are uint8, or floats in [0, 1]")
    levels = np.empty(stored.shape, dtype=np.uint8)
    for start in range(0, len(stored), CHUNK):
        pixels = stored[start : start + CHUNK].astype(np.float64)
        wrong = ~((pixels >= 0) & (pixels <= 1))  # so written that NaN is wrong
        if wrong.any():
            place = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
            index = (start + place[0], *place[1:])
            hint = "divide by 255 if these are levels from 0 to 255" if pixels[place] > 1 else "repair that image"
            raise ValueError(f"{where}: the pixel at {index} is {pixels[place]:g}; float images lie in [0, 1], {hint}")
        levels[start : start + CHUNK] = np.rint(pixels * 255)
    return levels


def read_exactly(path: Path, expected: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, Array]:
    """The arrays of an archive that holds just these, of these shapes and types. Sizes are compared before anything is unpacked.

    Args:
        expected: name -> shape and NumPy type, as in {"labels": ((10,), "int64")}.
    Raises: ValueError, naming the archive and array, if it holds others, or is damaged.
    """
    with readable(path, ".npz archive"):
        found = _headers(path)
    where = f"archive {quoted(path)}"
    if set(found) != set(expected):
        held, wanted = (", ".join(sorted(map(repr, names))) or "no arrays" for names in (found, expected))
        raise ValueError(f"{where} holds {held}; expected {wanted}")
    for name, (shape, kind) in expected.items():
        if found[name] != (shape, np.dtype(kind)):
            given = f"shape {found[name][0]} and dtype {found[name][1]}"
            raise ValueError(f"{where}, array {name!r} has {given}; expected {shape} and {kind}")
    _check_loadable(found, path)
    with readable(path, ".npz archive"), np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in expected}
