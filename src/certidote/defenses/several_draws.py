"""Several noised and denoised copies of the training set, all of which one model learns from. No certificate.

Copies of one image average out part of its noise, and of what an attacker hid under it: a model sees more of the image, and of the attack.
"""

from dataclasses import dataclass

import torch

from certidote.defenses.one_shot import OneShot
from certidote.defenses.sanitize import sanitized
from certidote.streams import Key
from certidote.types import Ballots, Certificate, Json, Prediction, Unproved, Untrusted, View


@dataclass(frozen=True)
class SeveralDraws:
    """Members that each train on `draws` copies of their own, one behind the other, each noised once and denoised in one call.

    An epoch passes through all copies, so a member takes `draws` times the steps of one that `once` makes. Votes are counted as there.

    Attributes:
        once: what makes one copy.
        draws: copies for each member.
    Raises: ValueError if there are fewer than 2 draws.
    """

    once: OneShot
    draws: int = 4

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise ValueError(f"draws={self.draws}; give at least 2, or use the scheme that noises once")

    @property
    def members(self) -> int:
        return self.once.members

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """(draws n, c, h, w) images, copy by copy."""
        once = self.once
        copies = [sanitized(data, once.denoiser, once.sigma, key / "noise" / draw, once.device) for draw in range(self.draws)]
        labels = data.labels_on(once.device).repeat(self.draws)
        return View(torch.cat([copy.images for copy in copies]), labels, len(data.class_names), copies[0].lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        return self.once.aggregate(ballots)

    def certify(self, ballots: Ballots) -> Certificate | Unproved:
        """Nothing is proved: a proof counts every draw that a model saw (`certification.lineage`)."""
        return self.once.certify(ballots)

    def describe(self) -> Json:
        return {**self.once.describe(), "scheme": "sanitize several times", "draws": self.draws}
