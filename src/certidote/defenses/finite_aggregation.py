"""Finite Aggregation: images fall into k * d buckets, each bucket reaches d of k * d members by fixed shifts, and the vote is certified.

A member sees about 1/k of the images, as with k parts; an attacker who reaches d members with one image finds many of them among those
that do not support the answer, or reached already, so that a unit buys less than d whole votes.
"""

from dataclasses import dataclass

import numpy as np
import torch

from certidote.certification.finite_aggregation import certify_finite_aggregation, check_spread
from certidote.certification.rankings import votes_with_failures
from certidote.certification.run_off import certify_run_off_finite_aggregation
from certidote.defenses.parts import PUBLIC_ROOT, UNITS, buckets_of, identity_of, part_objections, part_view
from certidote.streams import Key
from certidote.types import Ballots, CountCertificate, Json, Prediction, Unit, Unproved, Untrusted, View


@dataclass(frozen=True)
class FiniteAggregation:
    """k * d members, each on the images of d buckets; plurality of their votes, or a run-off election.

    Args:
        parts: k, the inverse share of the images that one member sees.
        shifts: d distinct numbers below k * d: bucket h reaches the members (h + shift) mod k * d. They are part of the scheme's
            description, which a ledger stores before the first member trains, and are never drawn again.
            `certification.finite_aggregation.published_shifts(k, d)` gives those of the paper's code. One shift is `DeepPartition`.
        by_label, run_off, device, by_content: as for `DeepPartition`.
    Raises: ValueError for fewer than 2 parts, shifts that are no d distinct numbers in range, or buckets both by label and by content.
    Source: Wang et al. 2022; the run-off: Rezaei et al. 2023, section 4.2. Differs from the papers as `DeepPartition` does.
    """

    parts: int
    shifts: tuple[int, ...]
    by_label: bool = False
    run_off: bool = False
    device: str = "cpu"
    by_content: bool = False

    def __post_init__(self) -> None:
        if self.parts < 2:
            raise ValueError(f"parts={self.parts}; a vote over parts needs at least 2, and certifies at most half as many images")
        check_spread(self.members, self.parts, self.shifts)
        identity_of(self.by_label, self.by_content)

    @property
    def members(self) -> int:
        return self.parts * len(self.shifts)

    @property
    def keeps_rankings(self) -> bool:
        """Always: the same ledger serves the plurality and the run-off."""
        return True

    def buckets_of_member(self, member: int) -> tuple[int, ...]:
        """The buckets that reach this member."""
        return tuple((member - shift) % self.members for shift in self.shifts)

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """The images of the member's buckets as a set."""
        buckets = buckets_of(data, self.members, identity_of(self.by_label, self.by_content))
        return part_view(data, torch.from_numpy(np.flatnonzero(np.isin(buckets, self.buckets_of_member(member)))), self.device)

    def aggregate(self, ballots: Ballots) -> Prediction:
        return Prediction(self._certificate(ballots).labels)

    def certify(self, ballots: Ballots) -> CountCertificate | Unproved:
        """How many units (`unit`) an attacker may spend, for each test image, or why nothing follows."""
        groups = [self.buckets_of_member(member) for member in range(self.members)]
        found = part_objections(ballots, self.members, identity_of(self.by_label, self.by_content), self.describe(), groups)
        return Unproved(tuple(found)) if found else self._certificate(ballots)

    @property
    def unit(self) -> Unit:
        """What the certificate counts."""
        return UNITS[identity_of(self.by_label, self.by_content)]

    def _certificate(self, ballots: Ballots) -> CountCertificate:
        ids = range(len(ballots))
        if self.run_off:
            return certify_run_off_finite_aggregation(
                ballots.rankings(), model_ids=ids, parts=self.parts, shifts=self.shifts, unit=self.unit
            )
        return certify_finite_aggregation(
            votes_with_failures(ballots.votes, ballots.failed),
            model_ids=ids,
            num_classes=ballots.num_classes,
            parts=self.parts,
            shifts=self.shifts,
            unit=self.unit,
        )

    def describe(self) -> Json:
        name = "finite aggregation" + (" with run-off election" if self.run_off else "")
        identity = identity_of(self.by_label, self.by_content)
        return {"scheme": name, "parts": self.parts, "shifts": list(self.shifts), "identity": identity, "root": PUBLIC_ROOT}
