"""No defense: one member trained on the untrusted images as they are. The baseline every defense is compared with."""

from dataclasses import dataclass

import numpy as np

from certidote.streams import Key
from certidote.types import Ballots, Certificate, Json, Prediction, Unproved, Untrusted, View


@dataclass(frozen=True)
class PlainTraining:
    """Members (usually one) that view everything without noise."""

    members: int = 1
    device: str = "cpu"

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        traced = data.unsealed("plain training").to(self.device)
        return View(traced.images, data.labels.to(self.device), len(data.class_names), traced.lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of the members, ties to the smaller class index."""
        return Prediction(ballots.counts(0, len(ballots)).argmax(axis=1).astype(np.int64))

    def certify(self, ballots: Ballots) -> Certificate | Unproved:
        """Nothing is proved about models that saw the untrusted pixels as they are."""
        reasons = [reason for lineage in ballots.lineages for reason in lineage.unsealed]
        return Unproved(tuple(f"untrusted pixels were read without noise ({reason})" for reason in reasons))

    def describe(self) -> Json:
        return {"scheme": "plain training", "members": self.members}
