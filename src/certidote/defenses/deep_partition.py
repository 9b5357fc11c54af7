"""Deep Partition Aggregation of a training set: every member learns from its own part, without noise, and the vote is certified.

The part of an image follows from its place in the training set, through a fixed public permutation: an attacker who alters images in
place, labels included, reaches one member with each, and the certificate counts such images. Parts may also be made by label, so that
each has images of every class; then labels must stay as they are. Nothing of this is a smoothing certificate: members read their
pixels as they are, and their lineage says so.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from certidote.certification.deep_partition import certify_deep_partition
from certidote.certification.run_off import certify_run_off
from certidote.streams import Key
from certidote.types import (
    Ballots,
    CountCertificate,
    Json,
    Prediction,
    Provenance,
    Unit,
    Unproved,
    Untrusted,
    View,
    rows_digest,
)

PUBLIC_ROOT = 0
"""The root of members' coins: a member is a function of its part and its number, and of nothing secret."""

REASON = "a part of the data, as it is"


@dataclass(frozen=True)
class DeepPartition:
    """As many members as parts; plurality of their votes, or a run-off election between the two most voted classes.

    Args:
        parts: disjoint parts of (almost) equal size.
        by_label: deal the images of each class out to the parts in turn. Members learn better, and the certificate is clean-label.
        run_off: decide between the two most voted classes by every member's ranking of these two.
        device: where members train.
    Raises: ValueError for fewer than 2 parts.
    Source: Levine and Feizi 2021; the run-off: Rezaei et al. 2023. Differs from the papers: parts follow from an image's place and not
        from a hash of its pixels, so that an altered image stays in its part and costs the attacker one unit, not two. Insertion and
        removal are not covered.
    """

    parts: int
    by_label: bool = False
    run_off: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.parts < 2:
            raise ValueError(f"parts={self.parts}; a vote over parts needs at least 2, and certifies at most half as many images")

    @property
    def members(self) -> int:
        return self.parts

    @property
    def keeps_rankings(self) -> bool:
        """Always: the same ledger serves the plurality and the run-off."""
        return True

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """The member's part as a set: in an order that follows from its images and labels alone."""
        rows = part_rows(data.labels, self.parts, member, self.by_label)
        traced = data.unsealed(REASON, rows)
        labels = data.labels[rows]
        order = _content_order(traced.images, labels)
        images = traced.images[order].to(self.device)
        return View(images, labels[order].to(self.device), len(data.class_names), traced.lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        return Prediction(self._certificate(ballots).labels)

    def certify(self, ballots: Ballots) -> CountCertificate | Unproved:
        """How many images may be altered in their place, for each test image, or why nothing follows."""
        found = self._objections(ballots)
        return Unproved(tuple(found)) if found else self._certificate(ballots)

    @property
    def unit(self) -> Unit:
        """What the certificate counts."""
        return "pixels altered in place" if self.by_label else "images altered in place"

    def _certificate(self, ballots: Ballots) -> CountCertificate:
        if not self.run_off:
            return certify_deep_partition(ballots.counts(0, len(ballots)), unit=self.unit)
        if ballots.ranks is None:
            raise ValueError("these ballots hold first choices only; a run-off needs every member's ranking of the classes")
        ranks = ballots.ranks.copy()
        ranks[ballots.failed] = 0
        return certify_run_off(ranks, model_ids=range(len(ballots)), unit=self.unit)

    def _objections(self, ballots: Ballots) -> list[str]:
        found = []
        if len(ballots) != self.parts:
            found.append(f"{len(ballots)} of {self.parts} parts have voted; resume the run until all have")
        for lineage in ballots.lineages:
            found += [f"members read more than their part ({reason})" for reason in lineage.unsealed if reason != REASON]
            if lineage.unsealed != (REASON,):
                found.append("members did not learn from parts of the data; certify them by the scheme that made them")
            if lineage.start == "untrusted":
                found.append("members started from weights trained on all of the data; start fresh or from trusted data")
        if len(ballots) == self.parts and not self._own_parts(ballots):
            found.append(
                "members read rows of other parts, so an image can reach several votes; every member may read its own part only"
            )
        found += _repeat_objections(ballots.provenance)
        if ballots.provenance.root_source != "given":
            found.append(
                f"members' coins are not public; run with root {PUBLIC_ROOT}, so that a member follows from its part and number"
            )
        return found

    def _own_parts(self, ballots: Ballots) -> bool:
        """Whether every member read one part and no row of another, where that is on record.

        Without labels at hand, parts by label are only known to be disjoint and complete, which is what the certificate needs.
        """
        recorded = [lineage.open_rows for lineage in ballots.lineages]
        if all(rows is None for rows in recorded):
            return True  # a ledger of a release that kept no record of it
        told = sorted(digest for rows in recorded for digest in rows or ())
        images = sum(count for count, _ in told)
        if len(told) != self.parts or images < self.parts:
            return False
        if self.by_label:
            return sum(total for _, total in told) % 2**64 == rows_digest(np.arange(images))[1]
        labels = torch.zeros(images, dtype=torch.int64)  # their number decides
        return told == sorted(rows_digest(part_rows(labels, self.parts, part).numpy()) for part in range(self.parts))

    def describe(self) -> Json:
        name = "deep partition aggregation" + (" with run-off election" if self.run_off else "")
        identity = "row number within its class" if self.by_label else "row number"
        return {"scheme": name, "parts": self.parts, "identity": identity, "root": PUBLIC_ROOT}


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


def part_rows(labels: Int64[Tensor, "n"], parts: int, part: int, by_label: bool = False) -> Int64[Tensor, "m"]:
    """The rows of one part: those whose place in a fixed public permutation is `part` modulo `parts`.

    Args:
        labels: of all images; only their number is used unless `by_label`, which sorts the permutation by label first.
    Raises: ValueError if there are more parts than images, or no such part.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts}; parts are numbered from 0 to {parts - 1}")
    if parts > len(labels):
        raise ValueError(f"{parts} parts of {len(labels)} images; every part needs at least 1 image to learn from")
    order = (Key(PUBLIC_ROOT) / "deep partition" / "identity").numpy().permutation(len(labels))
    if by_label:
        order = order[np.argsort(labels.numpy()[order], kind="stable")]
    return torch.from_numpy(np.sort(order[part::parts]))


def _content_order(images: Tensor, labels: Tensor) -> Int64[Tensor, "m"]:
    """Sorted by pixels, then label: the same for a part's images in whatever order they come."""
    columns = torch.cat([labels[:, None].to(torch.float32), images.flatten(1)], dim=1).numpy()
    return torch.from_numpy(np.lexsort(columns.T))
