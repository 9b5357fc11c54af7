"""Denoised smoothing of the training set: the defense this library is about.

Every member trains on its own copy of the untrusted images: Gaussian noise is added once, a denoiser takes it away in one call.
With the denoiser "none" this is noise-only smoothing, the baseline that must always be shown beside it.
"""

from dataclasses import dataclass

import numpy as np

from certidote.certification.binomial import check_alpha, minimum_trials
from certidote.certification.lineage import assumptions, draws_divisor, objections
from certidote.certification.smoothing import certify_counts
from certidote.defenses.sanitize import sanitized
from certidote.streams import Key
from certidote.types import ABSTAIN, Ballots, Certificate, Denoiser, Json, Prediction, Unproved, Untrusted, View


@dataclass(frozen=True)
class DenoisedSmoothing:
    """n0 + n members, each on its own noised and denoised copy of the training set; the vote is certified.

    Args:
        denoiser: any Denoiser; `Identity` makes this noise-only smoothing.
        sigma: noise std, [0, 1] pixel units, within the denoiser's range.
        n0: members that select the answer; their votes are not counted.
        n: members whose votes are counted.
        alpha: failure probability, for each test image or (simultaneous) for all together.
        simultaneous: one statement about the whole test set, at alpha / num_tests for each image (Bonferroni).
        num_tests: test images; needed for a simultaneous statement only.
        device: where denoising and training run.
    Raises: ValueError for values outside their range, or n too small for any vote to be certified.
    Source: paper, Algorithm 1 with a clean test input. Differs from the paper: the noise on the test input is left out, which a
        training-set certificate does not need; sigma is in [0, 1] units.
    """

    denoiser: Denoiser
    sigma: float
    n0: int
    n: int
    alpha: float = 1e-3
    simultaneous: bool = False
    num_tests: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_sigma(self.sigma, self.denoiser)
        if self.n0 < 1:
            raise ValueError(f"n0={self.n0}; at least 1 member must select the answer (default 100)")
        needed = minimum_trials(self.alpha_each)
        if self.n < needed:
            raise ValueError(
                f"n={self.n} models can never certify anything at alpha={self.alpha_each:g}: even a unanimous vote stays below "
                f"1/2; at least {needed} are needed (1000 is a good start)"
            )

    @property
    def members(self) -> int:
        return self.n0 + self.n

    @property
    def alpha_each(self) -> float:
        """The level spent on each test image."""
        return self.alpha / self.num_tests if self.simultaneous else self.alpha

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """Member's own copy: one noise draw per image, one denoiser call. The only place here that touches untrusted pixels."""
        traced = sanitized(data, self.denoiser, self.sigma, key / "noise", self.device)
        return View(traced.images, data.labels.to(self.device), len(data.class_names), traced.lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of all members, ties to the smaller class index; no statistical claim."""
        return Prediction(ballots.counts(0, len(ballots)).argmax(axis=1).astype(np.int64))

    def certify(self, ballots: Ballots) -> Certificate | Unproved:
        """The certificate for each test image, or why there is none."""
        found = objections(ballots, self.sigma, self.members, self.denoiser.card, self.describe())
        if found:
            return Unproved(found)
        sigma = self.sigma / draws_divisor(ballots)
        labels, radii, bounds, hits = certify_counts(
            ballots.counts(0, self.n0), ballots.counts(self.n0, self.members), self.n, sigma, self.alpha_each
        )
        return Certificate(
            labels=labels,
            radii=radii,
            lower_bounds=bounds,
            top_counts=hits,
            sigma=sigma,
            n0=self.n0,
            n=self.n,
            failed=int(ballots.failed[self.n0 :].sum()),
            alpha=self.alpha,
            alpha_each=self.alpha_each,
            statement="simultaneous" if self.simultaneous else "per test image",
            claim=self._claim(int((labels != ABSTAIN).sum()), len(labels)),
            assumptions=assumptions(ballots, self.denoiser.card),
        )

    def _claim(self, certified: int, total: int) -> str:
        chance = f"with probability at least {1 - self.alpha:g} over the noise"
        scope = (
            f"{chance}, for all {total} test images together" if self.simultaneous else f"for each test image separately, {chance}"
        )
        return (
            f"{certified} of {total} test images carry a certificate: {scope}, no change of training pixels whose Euclidean "
            "norm over the whole training set is below the image's radius can change the answer of the smoothed classifier "
            f"(the most likely vote under Gaussian noise of std {self.sigma:g} on every training pixel, [0, 1] pixel units)."
        )

    def describe(self) -> Json:
        card = self.denoiser.card
        return {
            "scheme": "denoised smoothing" if card.kind != "none" else "noise-only smoothing",
            "sigma": self.sigma,
            "conditioning": self.denoiser.conditioning(self.sigma),
            "denoiser": {"name": card.name, "kind": card.kind, "digest": card.digest},
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "simultaneous": self.simultaneous,
        }


def check_sigma(sigma: float, denoiser: Denoiser) -> None:
    """Raises ValueError unless sigma > 0 lies in the denoiser's range."""
    if not sigma > 0:
        raise ValueError(f"sigma={sigma} adds no noise and certifies nothing; give sigma > 0 ([0, 1] pixel units)")
    if sigma > denoiser.sigma_max:
        raise ValueError(
            f"sigma={sigma:g} exceeds this denoiser's sigma_max={denoiser.sigma_max:g} ([0, 1] pixel units); lower sigma or use a "
            "denoiser trained for more noise"
        )
    if sigma < denoiser.sigma_min:
        raise ValueError(
            f"sigma={sigma:g} is below this denoiser's sigma_min={denoiser.sigma_min:g} ([0, 1] pixel units); raise sigma or use a "
            "denoiser trained for less noise"
        )
