"""Result files: text, JSON and CSV, each either complete or not written at all, alone or with others that belong to it."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from certidote.data.atomic import replace_all, replacing


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, replacing the file in one step.

    Raises: ValueError if the text cannot be encoded, the folder does not exist or `path` is no regular file; OSError if the disk
        fails (full, say). In every case an older file is still there, whole, and no unfinished one is.
    """
    encoded = text.encode()
    with replacing(path) as file:
        file.write(encoded)


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write files that belong together as UTF-8, all of them or none, in the order given.

    Raises: as `write_text`; the OSError says which file failed.
    """
    replace_all({path: text.encode() for path, text in texts.items()})


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, as `json_text` makes it; raises as that and `write_text` do."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """A JSON value as text, indented, keys in the order given.

    Raises: ValueError if a number is NaN or infinite, which JSON cannot express, naming its place; TypeError if something is no
        JSON value (a NumPy array, say).
    """
    for place, number in _floats(value, ""):
        if not math.isfinite(number):
            raise ValueError(f"the value at {place or 'the top'} is {number}, which JSON cannot express; leave it out or use null")
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table with one header line; floats are written so that reading gives the same float. Raises as `write_text` does.

    Raises: ValueError if a row is longer or shorter than the header.
    """
    write_text(path, csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The text of a table, as `write_csv` writes it."""
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, but the header has {len(header)}; give one cell per column")
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _floats(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Every float in a JSON value, with its place as in "tables[2].radius"."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _floats(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _floats(item, f"{place}[{number}]")
