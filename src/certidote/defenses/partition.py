"""Partitioned smoothing: the training set is cut into q parts, each is smoothed and certified by itself, and the parts vote.

n models for each part cost about what n models of the whole set cost, since a part is 1/q of it. The radius grows like the root of half
the lead of the winning class times a part's radius; the accuracy of a part falls with its size.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from certidote.certification.lineage import assumptions, draws_divisor, objections
from certidote.certification.partition import frobenius_radius, part_rows, plurality
from certidote.certification.smoothing import ROUND_DOWN, certify_votes, radius_cap
from certidote.defenses import statement
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.streams import Key
from certidote.types import (
    ABSTAIN,
    Assumption,
    Ballots,
    Certificate,
    Denoiser,
    Json,
    PartVotes,
    Prediction,
    Unproved,
    Untrusted,
    View,
)

SPLIT = Key(0) / "parts"
"""The public constant stream that deals rows to parts: nothing anyone can change decides where an image goes."""


@lru_cache(maxsize=2)
def rows_of_parts(images: int, trusted: tuple[int, ...], parts: int) -> list[list[int]]:
    """The rows of each part; raises as `part_rows`."""
    return part_rows(images, trusted, parts, SPLIT.numpy().permutation(images))


@dataclass(frozen=True)
class PartitionedSmoothing:
    """q parts by row number, n0 + n members for each, at level alpha / q for each part.

    Member number `part * (n0 + n) + run` is run `run` of part `part`. Trusted images are in every part.

    Args:
        base: the smoothing of one part; its alpha is that of the whole statement.
        parts: q, at least 2.
    Raises: ValueError for values that make no sense together, or n too small for any part to be certified.
    Source: goes beyond the paper; one part is its certificate, parts without noise are Deep Partition Aggregation (Levine and Feizi
        2021) counted in images altered in place.
    """

    base: DenoisedSmoothing
    parts: int

    def __post_init__(self) -> None:
        if self.parts < 2:
            raise ValueError(f"parts={self.parts}; give at least 2, or leave it out to smooth the whole training set")
        if self.base.bound == "anytime":
            raise ValueError(
                "the anytime bound does not go with parts, whose members train one part after the other; use clopper-pearson or "
                "multi-class"
            )
        if self.base.test_input != "clean":
            raise ValueError(f"test input {self.base.test_input} does not go with parts; use clean test inputs")
        replace(self.base, alpha=self.base.alpha / self.parts)  # refuses an n that is not enough at this level

    @property
    def alpha_each(self) -> float:
        """The level spent on one part of one test image."""
        return self.base.alpha_each / self.parts

    @property
    def denoiser(self) -> Denoiser:
        return self.base.denoiser

    @property
    def sigma(self) -> float:
        return self.base.sigma

    @property
    def device(self) -> str:
        return self.base.device

    @property
    def members(self) -> int:
        return self.parts * self.base.members

    def cap(self) -> float:
        """The radius where all members of all parts agree on the first class."""
        return self._cap(self.sigma, self.base.num_classes)

    def _cap(self, sigma: float, num_classes: int) -> float:
        of_a_part = radius_cap(sigma, self.base.n, self.alpha_each, self.base.bound, num_classes, self.base.n0 > 0)
        return of_a_part * float(np.sqrt(self.parts // 2 + 1)) * ROUND_DOWN

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """One noised and denoised copy of one part."""
        rows = rows_of_parts(len(data), data.trusted, self.parts)[member // self.base.members]
        return self.base.view(data.restricted(rows), member, key)

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of the parts' pluralities, ties to the smaller class index; no statistical claim."""
        each = self.base.members
        votes = [ballots.counts(part * each, (part + 1) * each).argmax(axis=1) for part in range(self.parts)]
        return Prediction(plurality(np.stack(votes, axis=1).astype(np.int64), ballots.num_classes))

    def certify(self, ballots: Ballots) -> Certificate | Unproved:
        """The certificate for each test image, or why there is none."""
        base = self.base
        found = objections(ballots, base.sigma, self.members, base.denoiser.card, self.describe(), together=base.together)
        if found:
            return Unproved(found)
        sigma = base.sigma / draws_divisor(ballots)
        votes, radii = self._part_votes(ballots, sigma)
        answers = plurality(votes, ballots.num_classes)
        frobenius = frobenius_radius(votes, radii, ballots.num_classes)
        labels = np.where(frobenius > 0, answers, ABSTAIN).astype(np.int64)
        trusted = ballots.lineages[0].trusted
        agreeing = (votes == answers[:, None]).sum(axis=1).astype(np.int64)
        counted = ~np.isin(np.arange(self.members) % base.members, np.arange(base.n0))
        return Certificate(
            labels=labels,
            radii=frobenius,
            lower_bounds=np.zeros(len(labels)),
            top_counts=agreeing,
            sigma=sigma,
            n0=base.n0,
            n=base.n,
            failed=int(ballots.failed[counted].sum()),
            alpha=base.alpha,
            alpha_each=self.alpha_each,
            statement="simultaneous" if base.simultaneous else "per test image",
            claim=self._claim(int((labels != ABSTAIN).sum()), len(labels), trusted),
            assumptions=(*assumptions(ballots, base.denoiser.card), self._split_assumption()),
            bound=base.bound,
            cap=self._cap(sigma, ballots.num_classes),
            trusted=trusted,
            parts=PartVotes(votes, radii, ballots.num_classes),
        )

    def _part_votes(
        self, ballots: Ballots, sigma: float
    ) -> tuple[Int64[np.ndarray, "n_test parts"], Float64[np.ndarray, "n_test parts"]]:
        """Each part's certified vote and its radius, all of them valid together at the level of one test image."""
        base = self.base
        votes, radii = [], []
        for first in range(0, self.members, base.members):
            members = range(first, first + base.members)
            labels, certified, _, _ = certify_votes(ballots, members, base.n0, sigma, self.alpha_each, base.bound)
            votes.append(labels)
            radii.append(np.where(labels == ABSTAIN, 0.0, certified))
        return np.stack(votes, axis=1), np.stack(radii, axis=1)

    def _claim(self, certified: int, total: int, trusted: int) -> str:
        base = self.base
        return (
            f"{certified} of {total} test images carry a certificate: {statement.chance(base.alpha, base.simultaneous, total)}, "
            f"{statement.changes(trusted, 0.0)}: the plurality of {self.parts} disjoint parts of the training set, each with "
            f"{statement.noise(base.sigma, trusted, 0.0)[1:-1]}. {statement.bound_used(base.bound, base.n0, base.n)} All that for each "
            f"part, at alpha / {self.parts}."
        )

    def _split_assumption(self) -> Assumption:
        return Assumption(
            f"No change of pixels or labels moves an image to another of the {self.parts} parts.",
            "enforced",
            "rows are dealt out by a constant permutation of their numbers; a part's models see that part and trusted images only",
        )

    def describe(self) -> Json:
        described = self.base.describe()
        return described | {"scheme": f"partitioned {described['scheme']}", "parts": self.parts}
