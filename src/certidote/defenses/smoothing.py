"""Denoised smoothing of the training set: the defense this library is about.

Every member trains on its own copy of the untrusted images: Gaussian noise is added once, a denoiser takes it away in one call (or in several: `diffusion.multistep`).
With the denoiser "none" this is noise-only smoothing, the baseline that must always be shown beside it.
"""

from dataclasses import dataclass

import numpy as np

from certidote.certification.binomial import check_alpha
from certidote.certification.bounds import Bound, check_bound, minimum_models
from certidote.certification.lineage import assumptions, draws_divisor, objections
from certidote.certification.smoothing import certify_votes, radius_cap
from certidote.defenses import inputs, statement
from certidote.defenses.sanitize import check_sigma, sanitized
from certidote.streams import Key
from certidote.types import (
    ABSTAIN,
    Ballots,
    Certificate,
    Denoiser,
    Images,
    Json,
    Prediction,
    SealedInputs,
    Unproved,
    Untrusted,
    View,
)


@dataclass(frozen=True)
class DenoisedSmoothing:
    """n0 + n members, each on its own noised and denoised copy of the training set; the vote is certified.

    Args:
        denoiser: any Denoiser; `Identity` makes this noise-only smoothing.
        sigma: noise std, [0, 1] pixel units, within the denoiser's range.
        n0: members that select the answer; their votes are not counted. 0: the counted votes select it, at a stricter level.
        n: members whose votes are counted; at most so many with the anytime bound.
        alpha: failure probability, for each test image or (simultaneous) for all together.
        simultaneous: one statement about the whole test set, at alpha / num_tests for each image (Bonferroni).
        num_tests: test images; needed for a simultaneous statement only, which ballots of another number of test images do not get.
        device: where denoising and training run.
        bound: "clopper-pearson"; "multi-class", which also bounds the strongest rival and gains where the other votes are spread; or
            "anytime", which holds at every number of counted members, so that a run may be looked at and stopped.
        num_classes: of the data; decides the level of multi-class bounds where the counted votes select.
        test_input: what members see of a test image: "clean", "denoised" (without noise, a fixed function of the image) or
            "noised-denoised" (noise of std sigma_x, one draw for each member, then denoised).
        sigma_x: noise std on the test image, [0, 1] pixel units; 0 unless it is noised. A certificate with sigma_x > 0 also covers
            changes of the test image.
    Raises: ValueError for values outside their range or that make no sense together, or n too small for any vote to be certified.
    Source: paper, Algorithm 1. Differs from the paper: by default the test input is clean, as a certificate about changes of the
        training set needs no noise on it; sigma_x = sigma with "noised-denoised" is Algorithm 1. sigma is in [0, 1] units.
    """

    denoiser: Denoiser
    sigma: float
    n0: int
    n: int
    alpha: float = 1e-3
    simultaneous: bool = False
    num_tests: int = 1
    device: str = "cpu"
    bound: Bound = "clopper-pearson"
    num_classes: int = 2
    test_input: inputs.TestInput = "clean"
    sigma_x: float = 0.0

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_bound(self.bound)
        check_sigma(self.sigma, self.denoiser)
        inputs.check(self.test_input, self.sigma_x, self.denoiser)
        if self.n0 < 0:
            raise ValueError(
                f"n0={self.n0}; give the number of models that select the answer (default 100), or 0 to select it by the counted votes"
            )
        if self.num_tests < 1:
            raise ValueError(f"num_tests={self.num_tests}; give the number of test images, at least 1")
        needed = minimum_models(self.bound, self.alpha_each, self.num_classes, self.n0 > 0)
        if self.n < needed:
            raise ValueError(
                f"n={self.n} models can never certify anything at alpha={self.alpha_each:g} with the {self.bound} bound: even a "
                f"unanimous vote stays below 1/2; at least {needed} are needed (1000 is a good start)"
            )

    @property
    def members(self) -> int:
        return self.n0 + self.n

    @property
    def alpha_each(self) -> float:
        """The level spent on each test image."""
        return self.alpha / self.num_tests if self.simultaneous else self.alpha

    @property
    def together(self) -> int | None:
        """Test images that share one simultaneous statement; None if each has its own."""
        return self.num_tests if self.simultaneous else None

    def cap(self) -> float:
        """The radius of a unanimous vote of all n members."""
        return radius_cap(self.sigma, self.n, self.alpha_each, self.bound, self.num_classes, self.n0 > 0)

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """Member's own copy: one noise draw per image, one denoiser call. The only place here that touches untrusted pixels."""
        traced = sanitized(data, self.denoiser, self.sigma, key / "noise", self.device)
        return View(traced.images, data.labels_on(self.device), len(data.class_names), traced.lineage)

    @property
    def inputs_per_member(self) -> bool:
        return self.sigma_x > 0

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        """What the member with this key sees of the test images `rows`: its own noise draw, if there is noise."""
        return inputs.prepared(
            images, rows, self.denoiser, self.test_input, self.sigma, self.sigma_x, key / "test noise", self.device
        )

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of all members, ties to the smaller class index; no statistical claim."""
        return Prediction(ballots.counts(0, len(ballots)).argmax(axis=1).astype(np.int64))

    def certify(self, ballots: Ballots) -> Certificate | Unproved:
        """The certificate for each test image, or why there is none."""
        anytime = self.bound == "anytime"
        found = objections(
            ballots, self.sigma, self.members, self.denoiser.card, self.describe(),
            selecting=self.n0, anytime=anytime, together=self.together, sigma_x=self.sigma_x,
        )  # fmt: skip
        if found:
            return Unproved(found)
        sigma = self.sigma / draws_divisor(ballots)
        n, separate = len(ballots) - self.n0, self.n0 > 0
        labels, radii, bounds, hits = certify_votes(ballots, range(len(ballots)), self.n0, sigma, self.alpha_each, self.bound)
        trusted = ballots.lineages[0].trusted
        return Certificate(
            labels=labels,
            radii=radii,
            lower_bounds=bounds,
            top_counts=hits,
            sigma=sigma,
            n0=self.n0,
            n=n,
            failed=int(ballots.failed[self.n0 :].sum()),
            alpha=self.alpha,
            alpha_each=self.alpha_each,
            statement="simultaneous" if self.simultaneous else "per test image",
            claim=self._claim(int((labels != ABSTAIN).sum()), len(labels), n, trusted),
            assumptions=assumptions(ballots, self.denoiser.card, self.sigma_x, anytime),
            bound=self.bound,
            cap=radius_cap(sigma, n, self.alpha_each, self.bound, ballots.num_classes, separate),
            trusted=trusted,
            sigma_x=self.sigma_x,
        )

    def _claim(self, certified: int, total: int, n: int, trusted: int) -> str:
        return (
            f"{certified} of {total} test images carry a certificate: {statement.chance(self.alpha, self.simultaneous, total)}, "
            f"{statement.changes(trusted, self.sigma_x)} {statement.noise(self.sigma, trusted, self.sigma_x)}. "
            f"{statement.bound_used(self.bound, self.n0, n)}"
        )

    def describe(self) -> Json:
        card = self.denoiser.card
        return {
            "scheme": "denoised smoothing" if card.kind != "none" else "noise-only smoothing",
            "sigma": self.sigma,
            "conditioning": self.denoiser.conditioning(self.sigma),
            "denoiser": card.identity,
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "simultaneous": self.simultaneous,
            "bound": self.bound,
            "test_input": self.test_input,
            "sigma_x": self.sigma_x,
        }
