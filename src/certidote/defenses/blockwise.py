"""Sanitizing a set block by block into a folder that survives a kill.

A block of `streams.ROW_BLOCK` rows is the unit: it is read, noised, denoised, written, and only then entered in the journal, one
small file for each finished block. What is not in the journal is made again from the same noise, so an interrupted run ends with
the same bytes as an undisturbed one, whoever made which block. Nothing here holds more than one block of pixels.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from certidote.data.atomic import replacing
from certidote.data.names import portable
from certidote.data.stream import ImageStream, Part, png_names
from certidote.defenses.sanitize import as_levels, sanitized_block
from certidote.numerics import give_back_freed_memory
from certidote.streams import ROW_BLOCK, Key
from certidote.types import Denoiser, ImageDataset, Json, Untrusted

WORK = ".sanitizing"
"""Hidden folder inside the unfinished output: the journal, and finished blocks of array input. No class can have this name."""


@dataclass(frozen=True, eq=False)
class Cleaning:
    """What every block needs.

    Attributes:
        key: the noise stream, as `defenses.sanitize.sanitized` takes it.
        out: the unfinished output folder.
    """

    denoiser: Denoiser
    sigma: float
    key: Key
    out: Path
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Block:
    """One job: the rows, where they are read, and the files to write below `Cleaning.out`; no files for array input."""

    rows: range
    source: Part
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"images {self.rows.start} to {self.rows.stop - 1}"

    @property
    def number(self) -> int:
        return self.rows.start // ROW_BLOCK


def clean_block(cleaning: Cleaning, block: Block) -> int:
    """Sanitize one block and enter it in the journal. A pure function of its arguments but for the files it writes.

    Returns: the number of images.
    Raises: ValueError if the input changed meanwhile; OSError if the disk fails. Then no file of this block is half-written, and the
        block is made again by the next run.
    """
    data, rows = block.source.read(), block.rows
    untrusted = Untrusted(data, first_row=rows.start)
    made = sanitized_block(untrusted, rows, cleaning.denoiser, cleaning.sigma, cleaning.key, cleaning.device)
    levels = as_levels(made.images.cpu())
    moved = untrusted.movement(levels, rows)
    known = cleaning.denoiser.card.training_images
    if block.files:
        for file, image in zip(block.files, levels.numpy(), strict=True):
            write_png(cleaning.out / file, image)
    else:
        with replacing(_array(cleaning.out, block.number)) as archive:
            np.save(archive, levels.numpy())
    entry = {
        "first": rows.start,
        "last": rows.stop,
        "digest": ImageDataset(levels, data.labels, data.class_names).digest(),
        "overlap": None if known is None else untrusted.overlap(known),
        "l2": moved.l2.tolist(),
        "linf": moved.linf.tolist(),
    }
    with replacing(entry_path(cleaning.out, block.number)) as journal:
        journal.write(json.dumps(entry).encode())
    give_back_freed_memory()
    return len(rows)


def entry_path(out: Path, block: int) -> Path:
    """Where the journal enters one finished block."""
    return out / WORK / f"{block:06d}.json"


def finished(out: Path, rows: range) -> Json | None:
    """The journal's entry of one block; None if it is not finished, or its entry is damaged."""
    try:
        entry = json.loads(entry_path(out, rows.start // ROW_BLOCK).read_bytes())
        sizes = {len(entry["l2"]), len(entry["linf"]), entry["last"] - entry["first"]}
        return entry if entry["first"] == rows.start and sizes == {len(rows)} else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_array(out: Path, block: int) -> UInt8[np.ndarray, "n c h w"]:
    """One finished block of array input."""
    return np.load(_array(out, block), allow_pickle=False)


def output_names(source: ImageStream) -> list[str]:
    """Path of each output image, in the layout of the input, every character printable; empty for array input."""
    if source.files is None:
        return []
    return [
        "/".join(part for part in (portable(source.prefix), name, file) if part)
        for name, files in zip(source.class_names, source.files, strict=True)
        for file in png_names(files)
    ]


def write_png(path: Path, levels: UInt8[np.ndarray, "c h w"]) -> None:
    """One image as PNG; if the disk fails or somebody interrupts, no half of it stays behind."""
    content = io.BytesIO()
    Image.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))).save(content, "PNG")
    try:
        write_bytes(path, content.getvalue())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _array(out: Path, block: int) -> Path:
    return out / WORK / f"{block:06d}.npy"
