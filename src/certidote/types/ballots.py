"""The votes of many members, and how they came about."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt

from certidote.types.lineage import Lineage
from certidote.types.values import Json


@dataclass(frozen=True)
class Retrained:
    """One member trained again without the others of its stack: votes that differ show that something crosses the stack.

    Attributes:
        member: its number, drawn from the operating system after its votes were committed.
        votes: how many it cast.
        differing: how many of them came out otherwise, all of them if it diverged only once.
        exact: whether arithmetic on this device does not depend on the stack, so that none may differ.
        same_noise: whether it drew the noise that is on record for it.
        among: members that had voted when it was picked; 0 where that is not on record.
    """

    member: int
    votes: int
    differing: int
    exact: bool
    same_noise: bool = True
    among: int = 0


@dataclass(frozen=True)
class Provenance:
    """Facts about a run that decide what its ballots may prove, recorded before the first member trained.

    Attributes:
        data_digest: of the untrusted training set.
        root_source: who drew the root of all random streams: "operating system" after the data digest was recorded, or "given".
        denoiser_overlap: images of the untrusted set that the denoiser was trained on; None where its training set is unknown.
        mixture: which members were computed with which numerics, if not all with the same; assigned before any of them voted.
        scheme: the recorded description of the scheme that the ballots were cast for; None if none was recorded.
        retrained: the member that was trained again, alone; None if none was.
        noise: what drew the noise: "SFC64" on a CPU, "Philox" on a GPU, or both.
        trainer: the recorded description of how members learned; None if none was recorded.
    """

    data_digest: str
    root_source: Literal["operating system", "given"]
    denoiser_overlap: int | None
    mixture: tuple[str, ...] = ()
    scheme: Json | None = None
    retrained: Retrained | None = None
    noise: str = "SFC64"
    trainer: Json | None = None


@dataclass(frozen=True, eq=False)
class Ballots:
    """The raw evidence: what every member predicted for every test image.

    Attributes:
        votes: (members, n_test) predicted classes; row i is member i.
        failed: (members,) members that diverged: counted, voting for nobody.
        num_classes: votes are below it.
        lineages: the distinct lineages among the members.
        noise_ids: (members,) identity of each member's noise stream.
        provenance: facts about the run.
        ranks: each member's place for each class, 0 for its first choice, if the scheme asked for them (`KeepsRankings`).
    """

    votes: Integer[np.ndarray, "members n_test"]
    failed: Bool[np.ndarray, "members"]
    num_classes: int
    lineages: tuple[Lineage, ...]
    noise_ids: Int64[np.ndarray, "members"]
    provenance: Provenance
    ranks: UInt[np.ndarray, "members n_test classes"] | None = None

    def __len__(self) -> int:
        return len(self.votes)

    def rankings(self) -> UInt[np.ndarray, "members n_test classes"]:
        """The places of classes, all equal for members that failed.

        Raises: ValueError if no rankings were kept.
        """
        if self.ranks is None:
            raise ValueError("these ballots hold first choices only; a run-off needs every member's ranking of the classes")
        ranks = self.ranks.copy()
        ranks[self.failed] = 0
        return ranks

    def of_members(self, first: int, last: int) -> "Ballots":
        """Those of members first..last-1, as of a vote of their own. Lineages are those of all."""
        some = slice(first, last)
        ranks = None if self.ranks is None else self.ranks[some]
        return replace(self, votes=self.votes[some], failed=self.failed[some], noise_ids=self.noise_ids[some], ranks=ranks)

    def counts(self, first: int, last: int) -> Int64[np.ndarray, "n_test classes"]:
        """Votes of members first..last-1 for each test image and class; failed members vote for nobody."""
        counts = np.zeros((self.num_classes, self.votes.shape[1]), dtype=np.int64)
        for start in range(first, min(last, len(self)), 255):  # so many that a count of them fits into a byte
            stop = min(start + 255, last)
            block = self.votes[start:stop]
            if self.failed[start:stop].any():
                block = block[~self.failed[start:stop]]
            for c in range(self.num_classes):
                counts[c] += (block == c).view(np.uint8).sum(axis=0, dtype=np.uint8)
        return np.ascontiguousarray(counts.T)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the defended classifier answers: classes, or ABSTAIN."""

    labels: Int64[np.ndarray, "n_test"]
