"""Images that occur more than once, pixel for pixel: inside a set, under several labels, and in two sets."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from certidote.types import ImageDataset, Json, content_hashes

SHOWN = 5
"""Groups that are listed by name."""


def duplicates(data: ImageDataset) -> Json:
    """Exact duplicates among the decoded (and resized) images of one set.

    Returns: `extra` images beyond the first of each group of equal ones, `groups`, `across_classes` of these groups that have several
        labels, and the names of the first few groups.
    """
    groups = [rows for rows in _by_content(data).values() if len(rows) > 1]
    mixed = [rows for rows in groups if len({int(data.labels[row]) for row in rows}) > 1]
    return {
        "groups": len(groups),
        "extra": sum(len(rows) - 1 for rows in groups),
        "across_classes": len(mixed),
        "first": [[data.name_of(row) for row in rows[:SHOWN]] for rows in [*mixed, *(g for g in groups if g not in mixed)][:SHOWN]],
    }


def shared(sets: Sequence[tuple[str, ImageDataset]]) -> list[Json]:
    """For each two sets: how many images of the second occur, pixel for pixel, in the first; pairs without any are left out."""
    found = []
    hashes = {name: content_hashes(data.images) for name, data in sets}
    for (left, first), (right, second) in combinations(sets, 2):
        if first.image_shape != second.image_shape:
            continue
        known = set(hashes[left])
        rows = [row for row, value in enumerate(hashes[right]) if value in known]
        if rows:
            found.append({"of": right, "in": left, "images": len(rows), "first": [second.name_of(row) for row in rows[:SHOWN]]})
    return found


def _by_content(data: ImageDataset) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for row, value in enumerate(content_hashes(data.images)):
        groups[value].append(row)
    return groups
