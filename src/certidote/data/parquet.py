"""Parquet files of images as Hugging Face `datasets` writes them: a column of encoded images, a column of class numbers."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from certidote.data.checks import MAX_CLASSES, Refused, check_class_names, check_ratio, quoted, readable
from certidote.data.decode import Reading, decoded
from certidote.data.folder import METADATA, SPLIT_NAMES, Loaded, is_hidden
from certidote.data.names import escaped
from certidote.types import ImageDataset

ROWS = 16
"""Rows read at a time."""

MAX_IMAGE = 64 * 2**20


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """The parquet files of each split, in the order of their names; empty if `path` is no .parquet file and holds none.

    The split is the name of the folder, or what stands before the first "-" or "." of the file name, as the hub has it
    (`data/train-00000-of-00002.parquet`, `train/0000.parquet`); a file that names none is one set, "train".
    """
    if path.suffix.lower() == ".parquet" and path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet") for file in path.glob(pattern))
        inside = [file.relative_to(path).parts for file in files]
        files = [
            file
            for file, parts in zip(files, inside, strict=True)
            if file.name not in METADATA and not any(is_hidden(part) for part in parts)
        ]
    else:
        return {}
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file) or "train", []).append(file)
    return {name: by_split[name] for name in SPLIT_NAMES if name in by_split}


def parquet_splits(files: dict[str, list[Path]]) -> tuple[str, ...]:
    """The splits of what `parquet_files` found; none if it is one set, whose name for `read_parquet` is "train"."""
    named = any(_split_of(file) for group in files.values() for file in group)
    return tuple(files) if named else ()


def _split_of(file: Path) -> str | None:
    stem = file.name.split("-")[0].split(".")[0]
    return next((name for name in (stem, file.parent.name) if name in SPLIT_NAMES), None)


def read_parquet(splits: dict[str, list[Path]], root: Path, split: str, reading: Reading) -> Loaded:
    """The images of one split.

    The image column is a struct with `bytes` (`datasets.Image`), named "image" or "img" if there are several. The label column has
    class names in the file's metadata (`datasets.ClassLabel`), named "label" if there are several; or it is the column "label"
    of integers, and the classes are "0", "1", ... up to the largest label of all splits. An image is named by its path in the file, if
    every image has its own, else by its number.

    Raises: ValueError, naming the file, if pyarrow is not installed, for a missing split or column, images that are not in the file,
        labels out of range, damage, and whatever `decode.decoded` refuses.
    """
    parquet = _pyarrow()
    if split not in splits:
        raise Refused(f"{quoted(root)} has no split {split!r}; choose one of: {', '.join(splits)}")
    if len({file.parent for file in splits[split]}) > 1:
        raise Refused(f"{quoted(root)} has parquet files of split {split!r} in several folders; give one of these folders")
    files = splits[split]
    opened = [_opened(parquet, file) for file in files]
    image, label, names = _columns(opened[0].schema_arrow, files[0])
    for file, each in zip(files, opened, strict=True):
        if _columns(each.schema_arrow, file) != (image, label, names):
            raise Refused(f"{quoted(file)} has other columns or classes than {quoted(files[0])}; keep one data set in a folder")
    labels = _labels(opened, files, label)
    if names is None:
        every = [
            _labels([_opened(parquet, file) for file in group], group, label) for name, group in splits.items() if name != split
        ]
        names = tuple(str(number) for number in range(1 + max(int(each.max(initial=-1)) for each in (labels, *every))))
    check_class_names(names, quoted(root))
    if len(labels) and int(labels.max()) >= len(names):
        raise Refused(f"{quoted(root)}: label {labels.max()}, but only {len(names)} class names; repair the file")
    paths: list[str] = []
    pictures = decoded(
        _sources(opened, files, image, paths), lambda row: f"{files[0].parent}: image {row} of {split}", len(labels), reading
    )
    distinct = len(set(paths)) == len(paths) and all(paths)
    every_name = [path if distinct else f"{split}/{row}" for row, path in enumerate(paths)]
    rows = np.flatnonzero(pictures.kept)
    data = ImageDataset(
        torch.from_numpy(pictures.images),
        torch.from_numpy(labels[rows]),
        names,
        tuple(every_name[row] for row in rows),
        pictures.treatment.notes(reading),
    )
    treatment = pictures.treatment
    skipped = tuple((every_name[row], reason) for row, reason in treatment.skipped)
    return Loaded(data, dict(treatment.kinds), dict(treatment.sizes), skipped)


def _pyarrow() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("parquet files need pyarrow, which is not installed; pip install 'certidote[hf]'") from error
    return parquet


def _opened(parquet: Any, file: Path) -> Any:
    if not file.is_file():
        raise Refused(f"{quoted(file)} is a broken link or not a regular file; remove it")
    with readable(file, "parquet file"):
        opened = parquet.ParquetFile(file)
        unpacked = sum(opened.metadata.row_group(group).total_byte_size for group in range(opened.num_row_groups))
    check_ratio(unpacked, file.stat().st_size, quoted(file))
    return opened


def _columns(schema: Any, file: Path) -> tuple[str, str, tuple[str, ...] | None]:
    """Image column, label column, class names if the metadata has them."""
    import pyarrow

    images = [
        field.name
        for field in schema
        if pyarrow.types.is_struct(field.type) and "bytes" in [field.type.field(i).name for i in range(field.type.num_fields)]
    ]
    image = next((name for name in ("image", "img") if name in images), images[0] if len(images) == 1 else None)
    if image is None:
        raise Refused(
            f"{quoted(file)} has no image column, a struct with 'bytes' as Hugging Face datasets writes it (columns: "
            f"{', '.join(map(ascii, schema.names))}); write one named 'image'"
        )
    classes = _class_labels(schema)
    numbers = [field.name for field in schema if pyarrow.types.is_integer(field.type)]
    label = next(iter(classes)) if len(classes) == 1 else "label"
    if label not in numbers:
        raise Refused(f"{quoted(file)} has no column 'label' of integers (columns: {', '.join(map(ascii, schema.names))}); add one")
    return image, label, classes.get(label)


def _class_labels(schema: Any) -> dict[str, tuple[str, ...]]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: each["names"] for name, each in features.items() if isinstance(each, dict) and "names" in each}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {
        name: tuple(names)
        for name, names in found.items()
        if isinstance(names, list) and all(isinstance(each, str) for each in names) and name in schema.names
    }


def _labels(opened: Sequence[Any], files: Sequence[Path], column: str) -> Any:
    """(n,) int64 of all these files."""
    parts = []
    for each, file in zip(opened, files, strict=True):
        with readable(file, "parquet file"):
            labels = each.read(columns=[column]).column(column)
            if labels.null_count:
                raise Refused(f"{quoted(file)} has {labels.null_count} images without a label; give every image a class number")
            parts.append(np.asarray(labels.to_numpy()).astype(np.int64))
        wrong = (parts[-1] < 0) | (parts[-1] >= MAX_CLASSES)
        if wrong.any():
            raise Refused(
                f"{quoted(file)}: label {parts[-1][wrong][0]} of row {int(wrong.argmax())} is out of range; classes are 0 to "
                f"{MAX_CLASSES - 1} (-1 marks a test set whose labels are withheld)"
            )
    return np.concatenate(parts)


def _sources(opened: Sequence[Any], files: Sequence[Path], column: str, paths: list[str]) -> Iterator[tuple[int, bytes]]:
    """(row, encoded image); what each image is called is added to `paths` on the way."""
    for each, file in zip(opened, files, strict=True):
        batches = each.iter_batches(batch_size=ROWS, columns=[column])
        while True:
            with readable(file, "parquet file"):
                batch = next(batches, None)
            if batch is None:
                break
            for place in range(len(batch)):
                with readable(file, "parquet file"):
                    value = batch.column(0)[place].as_py()  # one at a time: a batch of photographs is large enough once
                content = None if value is None else value["bytes"]
                if not isinstance(content, bytes):
                    raise Refused(f"{quoted(file)}: image {len(paths)} is not in the file, only its path; embed the images")
                if len(content) > MAX_IMAGE:
                    raise Refused(f"{quoted(file)}: image {len(paths)} has {len(content):,} bytes; at most {MAX_IMAGE:,} are read")
                paths.append(escaped(str(value.get("path") or "")))
                yield len(paths) - 1, content
