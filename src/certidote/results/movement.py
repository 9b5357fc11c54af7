"""How far sanitizing moved each image, as tables; and the ranking of those that moved unusually far for their class."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from certidote.data.atomic import replacing
from certidote.data.names import as_cell
from certidote.types import Json, Movement

CAUTION = (
    "Movement is not proof: unusual but honest images move far too, and a poison may move little. Look at the images before you "
    "remove any; a set from which images were removed by hand carries no certificate of the whole."
)
"""Stands with every suspicion list."""


def z_scores(values: Float64[np.ndarray, "n"], classes: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """How far each value lies above the median of its class, in robust standard deviations; 0 where a class has no spread.

    Median and 1.4826 times the median absolute deviation stand for mean and standard deviation (equal for normal values), because
    poisons of one class would raise both of the latter and hide behind them.
    """
    scores = np.zeros(len(values))
    for label in np.unique(classes):
        of_class = classes == label
        above = values[of_class] - np.median(values[of_class])
        spread = 1.4826 * np.median(np.abs(above))
        if spread > 0:
            scores[of_class] = above / spread
    return scores


def ranking(moved: Movement, classes: Int64[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """Rows by their l2 z-score within their class, largest first, ties by row; and the z-score of every row."""
    scores = z_scores(moved.l2, classes)
    return np.argsort(-scores, kind="stable").astype(np.int64), scores


def write_movement(
    path: Path, name: Callable[[int], str], source: Callable[[int], str], label: Callable[[int], str], moved: Movement
) -> None:
    """CSV with one line for each image, in the order of the set.

    Args:
        name, source: of each image, as it is called in the sanitized set and as it was in the source.
    """
    rows = (
        (row, as_cell(name(row)), as_cell(source(row)), as_cell(label(row)), moved.l2[row], moved.linf[row])
        for row in range(len(moved.l2))
    )
    write_lines(path, ("row", "file", "source", "class", "movement_l2", "movement_linf"), rows)


def write_suspicious(
    path: Path,
    name: Callable[[int], str],
    source: Callable[[int], str],
    label: Callable[[int], str],
    moved: Movement,
    classes: Int64[np.ndarray, "n"],
) -> None:
    """CSV with one line for each image, the most suspicious first. Arguments as for `write_movement`."""
    order, scores = ranking(moved, classes)
    rows = (
        (rank, as_cell(name(row)), as_cell(source(row)), as_cell(label(row)), moved.l2[row], moved.linf[row], scores[row])
        for rank, row in enumerate(order.tolist(), start=1)
    )
    write_lines(path, ("rank", "file", "source", "class", "movement_l2", "movement_linf", "z_score"), rows)


def summary(moved: Movement) -> Json:
    """Quartiles of the movements, for the manifest."""
    quartiles = {
        name: np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist() for name, values in (("l2", moved.l2), ("linf", moved.linf))
    }
    return {"unit": "[0, 1] pixel units", "quartiles": quartiles}


def write_lines(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file written line by line, so that it may be longer than memory; complete or not there."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([float(cell) if isinstance(cell, np.floating) else cell for cell in row] for row in rows)
        text.flush()
        text.detach()
