"""The plurality of private trainings: what differential privacy proves about poisons, by counting votes.

One private model carries no guarantee for any image: the statement is about the chance of an answer over the coins of training. So many
models with coins of their own vote, and the likeliest answer is certified against images altered in any way, with a failure probability.
Members read their pixels as they are, and their lineage says so; what protects them is how they learn.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from certidote.certification.binomial import check_alpha
from certidote.certification.lineage import first_difference, stack_objections
from certidote.certification.privacy import LARGEST_USEFUL, certifiable, certify_private, models_needed, privacy_statement
from certidote.defenses.dp_sgd import PrivateTrainer
from certidote.streams import Key
from certidote.types import Ballots, CountCertificate, Json, Prediction, Unproved, Untrusted, View

REASON = "all images as they are, for a private training"


@dataclass(frozen=True)
class PrivateVote:
    """n members that each train privately on all images; the plurality answers, and the likeliest answer is certified.

    Args:
        trainer: how they learn; certificates are refused for votes of members that learned otherwise.
        num_samples: images of the training set. Training divides by it, so that the certificate speaks of sets of this size.
        n: members, fixed beforehand.
        alpha: failure probability for each test image.
        device: where members train.
    Raises: ValueError for numbers out of range, or views of a set of another size.
    Source: Ma et al. (2019), as `certification.privacy`. The certificate assumes that whoever made the data could not know the members'
        coins, and, as opacus' accountant does, that the noise is Gaussian in spite of rounding.
    """

    trainer: PrivateTrainer
    num_samples: int
    n: int = 1
    alpha: float = 1e-3
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if self.n < 1 or self.num_samples < 1:
            raise ValueError(f"n={self.n}, num_samples={self.num_samples}; give at least 1 model and 1 training image")

    @property
    def members(self) -> int:
        return self.n

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        if len(data) != self.num_samples:
            raise ValueError(
                f"{len(data)} training images, but this scheme was made for num_samples={self.num_samples}; give their number"
            )
        traced = data.unsealed(REASON).to(self.device)
        return View(traced.images, data.labels.to(self.device), len(data.class_names), traced.lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of the members, ties to the smaller class index; no statistical claim."""
        return Prediction(ballots.counts(0, len(ballots)).argmax(axis=1).astype(np.int64))

    def certify(self, ballots: Ballots) -> CountCertificate | Unproved:
        """How many images may be altered in their place, labels included, for each test image, or why nothing follows."""
        found = self._objections(ballots)
        return Unproved(tuple(found)) if found else self.certificate(ballots.counts(0, len(ballots)))

    def certificate(self, counts: Int64[np.ndarray, "n_test classes"]) -> CountCertificate:
        """What the votes of n members say, as long as nothing else speaks against it. Raises: ValueError if epsilon is infinite."""
        return certify_private(
            counts, self.n, epsilon=self.trainer.epsilon, delta=self.trainer.delta, num_samples=self.num_samples, alpha=self.alpha
        )

    @property
    def guarantees(self) -> bool:
        """Whether epsilon is small enough for anything to be proved."""
        return self.trainer.epsilon <= LARGEST_USEFUL

    def certifiable(self, num_classes: int) -> int:
        """The most altered images that a unanimous vote certifies; -1 where nothing can be."""
        if not self.guarantees:
            return -1
        epsilon, delta = self.trainer.epsilon, self.trainer.delta
        return certifiable(self.n, num_classes, epsilon=epsilon, delta=delta, num_samples=self.num_samples, alpha=self.alpha)

    def models_needed(self, num_classes: int) -> int | None:
        """The fewest members that certify one altered image if they agree; None if that is out of reach."""
        epsilon, delta = self.trainer.epsilon, self.trainer.delta
        return models_needed(num_classes, epsilon=epsilon, delta=delta, num_samples=self.num_samples, alpha=self.alpha)

    def describe(self) -> Json:
        return {
            "scheme": "private vote",
            "num_samples": self.num_samples,
            "n": self.n,
            "alpha": self.alpha,
            "privacy": self.trainer.describe()["privacy"],
        }

    def _objections(self, ballots: Ballots) -> list[str]:
        found, recorded = [], ballots.provenance
        if not self.guarantees:
            found.append(privacy_statement(self.trainer.epsilon, self.trainer.delta))
        if recorded.trainer is None:
            found.append("there is no record of how the members learned; only private trainings prove anything")
        for old, new in ((recorded.scheme, self.describe()), (recorded.trainer, self.trainer.describe())):
            if old is not None and old != new:
                name, was, claimed = first_difference(old, new)
                found.append(
                    f"the members were trained for {name}={was}, but the claim is about {name}={claimed}; start another run"
                )
        if len(ballots) != self.n:
            found.append(f"{len(ballots)} members have voted, but {self.n} were fixed beforehand; resume the run until all have")
        if any(lineage.unsealed != (REASON,) for lineage in ballots.lineages):
            found.append("members did not learn from the images alone; certify them by the scheme that made them")
        if any(lineage.start == "untrusted" for lineage in ballots.lineages):
            found.append("members started from weights trained on the data; start fresh or from trusted data")
        if recorded.mixture:
            found.append(
                "members were computed with different numerics, so votes are not draws of one kind; use machines of one kind"
            )
        return found + stack_objections(recorded.retrained)
