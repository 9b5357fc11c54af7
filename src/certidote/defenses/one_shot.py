"""Sanitizing once in everyday use, as a scheme: members that each train on a noised and denoised copy, and a plain vote. No certificate.

With the denoiser "none" this is noise only. `smoothing` is the same view with the numbers of members that a proof needs.
"""

from dataclasses import dataclass

import numpy as np

from certidote.defenses.sanitize import check_sigma, sanitized
from certidote.streams import Key
from certidote.types import Ballots, Certificate, Denoiser, Json, Prediction, Unproved, Untrusted, View


@dataclass(frozen=True)
class OneShot:
    """Members (one is plain sanitizing) on copies of their own, each noised once at `sigma` and denoised.

    Raises: ValueError if `sigma` is outside the denoiser's range, or there are no members.
    """

    denoiser: Denoiser
    sigma: float
    members: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_sigma(self.sigma, self.denoiser)
        if self.members < 1:
            raise ValueError(f"members={self.members}; a defense needs at least 1 model")

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        traced = sanitized(data, self.denoiser, self.sigma, key / "noise", self.device)
        return View(traced.images, data.labels_on(self.device), len(data.class_names), traced.lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of the members, ties to the smaller class index."""
        return Prediction(ballots.counts(0, len(ballots)).argmax(axis=1).astype(np.int64))

    def certify(self, ballots: Ballots) -> Certificate | Unproved:
        """Nothing is proved: what these few members resist is measured."""
        return Unproved(("sanitizing once is measured, not proved; 'certidote certify' makes a certificate",))

    def describe(self) -> Json:
        card = self.denoiser.card
        return {
            "scheme": "noise once" if card.kind == "none" else "sanitize once",
            "sigma": self.sigma,
            "conditioning": self.denoiser.conditioning(self.sigma),
            "denoiser": card.identity,
            "members": self.members,
        }
