"""What votes prove, or why they prove nothing."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

Verdict = Literal["enforced", "assumed", "reported"]


@dataclass(frozen=True)
class Assumption:
    """One thing the proof needs, whether software enforced it or the reader must believe it, and the evidence."""

    text: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, eq=False)
class PartVotes:
    """What each part of a partitioned training set answers.

    Attributes:
        votes: (n_test, parts) certified votes, or ABSTAIN.
        radii: (n_test, parts) certified Frobenius radius of each vote within its part; 0 where it abstains.
        num_classes: votes are below it.
    """

    votes: Int64[np.ndarray, "n_test parts"]
    radii: Float64[np.ndarray, "n_test parts"]
    num_classes: int


@dataclass(frozen=True, eq=False)
class Certificate:
    """A proved statement for each test image.

    Attributes:
        labels: (n_test,) the certified class, or ABSTAIN.
        radii: (n_test,) no training set with ||D' - D||_F < radius changes the answer; 0 where it abstains. Rounded down.
        lower_bounds: (n_test,) lower bound on the probability of the certified class.
        top_counts: (n_test,) votes for the selected class among the n counted members.
        sigma, n0, n, failed: noise std, selecting members, counted members, counted members that failed.
        alpha: failure probability of the statement; `alpha_each` the level used for each test image.
        statement: whether alpha holds for each test image separately or for all together.
        claim: the statement in words.
        assumptions: what it rests on.
        bound: how probabilities were bounded, one of `certification.bounds.BOUNDS`.
        cap: the radius of a unanimous vote; no test image can have a larger one.
        trusted: training images that the attacker cannot have touched, by assumption.
        parts: the votes behind a plurality of parts, which say more than `radii`; then `n0`, `n`, `top_counts` (parts that agree) and
            `alpha_each` speak of parts, and `lower_bounds` are 0.
        sigma_x: noise std on the test image, [0, 1] pixel units. If positive, the answer also stays the same when the test image
            moves by t and the training set by T, as long as sqrt(T^2 / sigma^2 + t^2 / sigma_x^2) < radius / sigma.
    """

    labels: Int64[np.ndarray, "n_test"]
    radii: Float64[np.ndarray, "n_test"]
    lower_bounds: Float64[np.ndarray, "n_test"]
    top_counts: Int64[np.ndarray, "n_test"]
    sigma: float
    n0: int
    n: int
    failed: int
    alpha: float
    alpha_each: float
    statement: Literal["per test image", "simultaneous"]
    claim: str
    assumptions: tuple[Assumption, ...]
    bound: str
    cap: float
    trusted: int = 0
    sigma_x: float = 0.0
    parts: PartVotes | None = None


Unit = Literal[
    "samples inserted or removed",
    "images altered in place",
    "pixels altered in place",
    "labels flipped",
    "images altered in few features",
]
"""What one unit of a counted budget buys an attacker; `certification.budgets` says how units compare.

"samples inserted or removed" is the symmetric difference of two sets. "images altered in place" leaves number and order of the images
alone, but may change an image and its label in any way; "pixels altered in place" leaves all labels alone, too (clean-label).
"images altered in few features" changes some features of each such image.
"""


@dataclass(frozen=True, eq=False)
class CountCertificate:
    """A proved statement for each test image, counted in whole units of an attacker's budget.

    Attributes:
        labels: (n_test,) the certified class, or ABSTAIN.
        radii: (n_test,) units the attacker may spend without changing the answer, this number included; -1 where it abstains.
        unit: what one unit is.
        alpha: failure probability for each test image; 0 where nothing is estimated.
    """

    labels: Int64[np.ndarray, "n_test"]
    radii: Int64[np.ndarray, "n_test"]
    unit: Unit
    alpha: float = 0.0


@dataclass(frozen=True)
class Unproved:
    """No certificate follows, and why. The ballots may still be worth reporting as "empirical only"."""

    reasons: tuple[str, ...]
