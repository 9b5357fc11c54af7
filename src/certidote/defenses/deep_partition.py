"""Deep Partition Aggregation of a training set: every member learns from its own part, without noise, and the vote is certified.

What decides an image's part, and what an attacker pays for one, is in `parts`: an image's place (labels may be altered, too), its place
within its class (members learn better; labels must stay), or a hash of its pixels. Nothing of this is a smoothing certificate: members
read their pixels as they are, and their lineage says so.
"""

from dataclasses import dataclass

import numpy as np
import torch

from certidote.certification.deep_partition import certify_deep_partition
from certidote.certification.run_off import certify_run_off
from certidote.defenses.parts import PUBLIC_ROOT, UNITS, buckets_of, identity_of, part_objections, part_view
from certidote.streams import Key
from certidote.types import Ballots, CountCertificate, Json, Prediction, Unit, Unproved, Untrusted, View


@dataclass(frozen=True)
class DeepPartition:
    """As many members as parts; plurality of their votes, or a run-off election between the two most voted classes.

    Args:
        parts: disjoint parts; of (almost) equal size, unless they go by content.
        by_label: deal the images of each class out to the parts in turn. Members learn better, and the certificate is clean-label.
        run_off: decide between the two most voted classes by every member's ranking of these two.
        device: where members train.
        by_content: a hash of its pixels decides an image's part, and the certificate counts inserted and removed images. Parts may be
            empty; a set with an empty part gets no certificate.
    Raises: ValueError for fewer than 2 parts, or parts both by label and by content.
    Source: Levine and Feizi 2021; the run-off: Rezaei et al. 2023. Differs from the papers: unless `by_content`, parts follow from an
        image's place and not from a hash of its pixels, so that an altered image stays in its part and costs the attacker one unit, not
        two. Insertion and removal are then not covered. DPA* is this with `summed.SummedTrainer`.
    """

    parts: int
    by_label: bool = False
    run_off: bool = False
    device: str = "cpu"
    by_content: bool = False

    def __post_init__(self) -> None:
        if self.parts < 2:
            raise ValueError(f"parts={self.parts}; a vote over parts needs at least 2, and certifies at most half as many images")
        identity_of(self.by_label, self.by_content)

    @property
    def members(self) -> int:
        return self.parts

    @property
    def keeps_rankings(self) -> bool:
        """Always: the same ledger serves the plurality and the run-off."""
        return True

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """The member's part as a set."""
        buckets = buckets_of(data, self.parts, identity_of(self.by_label, self.by_content))
        return part_view(data, torch.from_numpy(np.flatnonzero(buckets == member)), self.device)

    def aggregate(self, ballots: Ballots) -> Prediction:
        return Prediction(self._certificate(ballots).labels)

    def certify(self, ballots: Ballots) -> CountCertificate | Unproved:
        """How many units (`unit`) an attacker may spend, for each test image, or why nothing follows."""
        groups = [(part,) for part in range(self.parts)]
        found = part_objections(ballots, self.parts, identity_of(self.by_label, self.by_content), self.describe(), groups)
        return Unproved(tuple(found)) if found else self._certificate(ballots)

    @property
    def unit(self) -> Unit:
        """What the certificate counts."""
        return UNITS[identity_of(self.by_label, self.by_content)]

    def _certificate(self, ballots: Ballots) -> CountCertificate:
        if not self.run_off:
            return certify_deep_partition(ballots.counts(0, len(ballots)), unit=self.unit)
        return certify_run_off(ballots.rankings(), model_ids=range(len(ballots)), unit=self.unit)

    def describe(self) -> Json:
        name = "deep partition aggregation" + (" with run-off election" if self.run_off else "")
        identity = identity_of(self.by_label, self.by_content)
        return {"scheme": name, "parts": self.parts, "identity": identity, "root": PUBLIC_ROOT}
