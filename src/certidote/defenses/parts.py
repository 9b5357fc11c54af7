"""Disjoint parts (or buckets) of a training set: which images fall into which, what a member sees of them, what its ballots owe to that.

An image falls into a part by its place in the set, through a fixed public permutation; by its place among the images of its class; or by
a hash of its pixels. Under the first two an attacker who alters images in place reaches one part with each; under the last one an image
that is inserted or removed reaches one part, and moves no other, in whatever order images are stored.

A member is a function of its images as a set, of its number and of public coins. A part without images is learned from as from a blank
image of each class: its member's vote is a constant, and no attacker gains by emptying a part.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from certidote.streams import Key
from certidote.types import BUCKETS, Ballots, Json, Provenance, Unit, Untrusted, View, rows_digest

PUBLIC_ROOT = 0
"""The root of members' coins: a member is a function of its part and its number, and of nothing secret."""

REASON = "a part of the data, as it is"

Identity = Literal["row number", "row number within its class", "hash of pixels"]
"""What decides where an image falls."""

UNITS: dict[Identity, Unit] = {
    "row number": "images altered in place",
    "row number within its class": "pixels altered in place",
    "hash of pixels": "samples inserted or removed",
}
"""What buys an attacker one part."""


def identity_of(by_label: bool, by_content: bool) -> Identity:
    """Raises: ValueError if both are asked for."""
    if by_label and by_content:
        raise ValueError("parts go by label and row number, or by a hash of pixels; ask for one of the two")
    if by_content:
        return "hash of pixels"
    return "row number within its class" if by_label else "row number"


def buckets_of(data: Untrusted, count: int, identity: Identity) -> Int64[np.ndarray, "n"]:
    """The bucket of each image, from 0 to count - 1.

    Raises: ValueError if places are dealt to more buckets than there are images. Buckets by content may be empty.
    """
    if identity == "hash of pixels":
        return data.buckets(count)
    return buckets_of_places(data.labels, count, identity == "row number within its class")


def buckets_of_places(labels: Int64[Tensor, "n"], count: int, by_label: bool = False) -> Int64[np.ndarray, "n"]:
    """Each image's place in a fixed public permutation, modulo `count`.

    Args:
        labels: of all images; only their number is used unless `by_label`, which sorts the permutation by label first.
    Raises: ValueError if there are more buckets than images.
    """
    if count > len(labels):
        raise ValueError(f"{count} parts of {len(labels)} images; every part needs at least 1 image to learn from")
    order = (Key(PUBLIC_ROOT) / "deep partition" / "identity").numpy().permutation(len(labels))
    if by_label:
        order = order[np.argsort(labels.numpy()[order], kind="stable")]
    buckets = np.empty(len(labels), dtype=np.int64)
    buckets[order] = np.arange(len(labels)) % count
    return buckets


def part_rows(labels: Int64[Tensor, "n"], parts: int, part: int, by_label: bool = False) -> Int64[Tensor, "m"]:
    """The rows of one part of places, ascending; arguments and errors as `buckets_of_places`, and ValueError if there is no such part."""
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts}; parts are numbered from 0 to {parts - 1}")
    return torch.from_numpy(np.flatnonzero(buckets_of_places(labels, parts, by_label) == part))


def part_view(data: Untrusted, rows: Int64[Tensor, "m"], device: str) -> View:
    """These images as a set: in an order that follows from pixels and labels alone. Of no images, a blank one of each class."""
    traced, classes = data.unsealed(REASON, rows), len(data.class_names)
    if not len(rows):
        blank = torch.full((classes, *data.image_shape), 0.5, device=device)
        return View(blank, torch.arange(classes, device=device), classes, traced.lineage)
    labels = data.labels[rows]
    columns = torch.cat([labels[:, None].to(torch.float32), traced.images.flatten(1)], dim=1).numpy()
    order = torch.from_numpy(np.lexsort(columns.T))
    return View(traced.images[order].to(device), labels[order].to(device), classes, traced.lineage)


def part_objections(
    ballots: Ballots, members: int, identity: Identity, described: Json, groups: Sequence[Sequence[int]]
) -> list[str]:
    """Why votes of members that each learned from parts of the data prove nothing; empty if they do.

    Args:
        members: as many as must have voted.
        described: the scheme's description, compared with the one recorded before the first member trained.
        groups: for each member, the buckets that it may read.
    """
    found = []
    if len(ballots) != members:
        found.append(f"{len(ballots)} of {members} parts have voted; resume the run until all have")
    for name in ("parts", "shifts", "identity", "root"):
        recorded = (ballots.provenance.scheme or described).get(name)
        if recorded != described.get(name):
            found.append(f"members were trained with {name}={recorded}, but the claim is about {name}={described.get(name)}")
    allowed = {REASON, BUCKETS} if identity == "hash of pixels" else {REASON}
    for lineage in ballots.lineages:
        found += [f"members read more than their part ({reason})" for reason in lineage.unsealed if reason not in allowed]
        if REASON not in lineage.unsealed or not allowed.issuperset(lineage.unsealed):
            found.append("members did not learn from parts of the data; certify them by the scheme that made them")
        if lineage.start == "untrusted":
            found.append("members started from weights trained on all of the data; start fresh or from trusted data")
    if len(ballots) == members:
        found += _row_objections(ballots, identity, groups)
    found += _repeat_objections(ballots.provenance)
    if ballots.provenance.root_source != "given":
        found.append(
            f"members' coins are not public; run with root {PUBLIC_ROOT}, so that a member follows from its part and number"
        )
    return found


def _row_objections(ballots: Ballots, identity: Identity, groups: Sequence[Sequence[int]]) -> list[str]:
    """Whether members read rows of the buckets that they may read, and no others, where that is on record.

    Without labels and pixels at hand, only places decide buckets exactly. Otherwise it is known that all images were read, each as often
    as buckets are, and by how many members; records of members without images cannot be told apart.
    """
    recorded = [lineage.open_rows for lineage in ballots.lineages]
    if all(rows is None for rows in recorded):
        return []  # a ledger of a release that kept no record of it
    told = sorted(digest for rows in recorded for digest in rows or ())
    copies = sum(map(len, groups)) // len(groups)
    if identity == "hash of pixels" and (0, 0) in told:
        return ["some parts have no image, and nobody can tell how many members learned from nothing; use fewer parts"]
    images = sum(count for count, _ in told) // copies
    right = len(told) == len(groups) and images >= len(groups) // copies
    if right and identity == "row number":
        labels = torch.zeros(images, dtype=torch.int64)  # their number decides
        count = 1 + max(max(group) for group in groups)
        right = images >= count
        if right:
            buckets = buckets_of_places(labels, count)
            right = told == sorted(rows_digest(np.flatnonzero(np.isin(buckets, group))) for group in groups)
    elif right:
        right = sum(total for _, total in told) % 2**64 == copies * rows_digest(np.arange(images))[1] % 2**64
    if right:
        return []
    return ["members read rows of other parts, so an image can reach several votes; every member may read its own part only"]


def _repeat_objections(provenance: Provenance) -> list[str]:
    """Nothing is estimated here, so a part's vote must be a function of the part: the same, bit for bit, whenever it is cast."""
    found, again = [], provenance.retrained
    if again is not None and again.differing:
        found.append(
            f"member {again.member}, trained again alone, cast {again.differing} of {again.votes} votes otherwise; parts that do not "
            "repeat bit for bit must be smoothed over their coins"
        )
    if again is not None and not again.exact:
        found.append("arithmetic on this device depends on which members train together, so parts do not repeat; train on a CPU")
    if provenance.mixture:
        found.append("members were computed with different numerics, so parts do not repeat; use machines of one kind")
    return found
