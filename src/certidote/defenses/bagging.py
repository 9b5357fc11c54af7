"""Bagging: every member learns from a bag of images drawn with replacement, which a few altered images are likely to miss.

Votes are independent draws, so that what is certified is the most likely vote, with a failure probability, and not the vote that was
counted. Members read their pixels as they are, and their lineage says so.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from certidote.certification.bagging import certify_bagging, check_bags
from certidote.certification.binomial import check_alpha
from certidote.certification.lineage import first_difference, stack_objections
from certidote.streams import Key
from certidote.types import Ballots, CountCertificate, Json, Prediction, Traced, Unproved, Untrusted, View

REASON = "a random bag of images, as they are"


@dataclass(frozen=True)
class Bagging:
    """n members on bags of their own; the plurality answers, and the most likely vote is certified.

    Args:
        bag_size: k draws with replacement for each member.
        num_samples: images of the training set.
        n: members, fixed beforehand.
        alpha: failure probability for each test image.
        device: where members train.
    Raises: ValueError for numbers out of range, or views of a set of another size.
    Source: Jia et al. 2021; see `certification.bagging` for how bounds differ. The certificate assumes that whoever made the data could
        not know the members' coins.
    """

    bag_size: int
    num_samples: int
    n: int
    alpha: float = 1e-3
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_bags(self.num_samples, self.bag_size)
        check_alpha(self.alpha)
        check_members(self.n)

    @property
    def members(self) -> int:
        return self.n

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """The member's bag, in the order of its draws: images may be in it several times."""
        traced, labels = bag(data, self.bag_size, self.num_samples, key)
        return View(traced.images.to(self.device), labels.to(self.device), len(data.class_names), traced.lineage)

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of the members, ties to the smaller class index; no statistical claim."""
        return Prediction(ballots.counts(0, len(ballots)).argmax(axis=1).astype(np.int64))

    def certify(self, ballots: Ballots) -> CountCertificate | Unproved:
        """How many images may be altered in their place, labels included, for each test image, or why nothing follows."""
        found = bag_objections(ballots, self.n, self.bag_size, self.describe())
        if found:
            return Unproved(tuple(found))
        counts = ballots.counts(0, len(ballots))
        return certify_bagging(counts, self.n, num_samples=self.num_samples, bag_size=self.bag_size, alpha=self.alpha)

    def describe(self) -> Json:
        return {
            "scheme": "bagging",
            "bag_size": self.bag_size,
            "num_samples": self.num_samples,
            "n": self.n,
            "alpha": self.alpha,
        }


def check_members(n: int) -> None:
    """Raises: ValueError for no members."""
    if n < 1:
        raise ValueError(f"n={n}; a vote needs at least 1 model")


def bag(data: Untrusted, bag_size: int, num_samples: int, key: Key) -> tuple[Traced, Int64[Tensor, "k"]]:
    """Images and labels of the bag that `key / "bag"` draws, every draw uniform over all images.

    Raises: ValueError if the data are not as many images as the certificate is about.
    """
    if len(data) != num_samples:
        raise ValueError(f"{len(data)} training images, but this scheme was made for num_samples={num_samples}; give their number")
    rows = torch.from_numpy((key / "bag").numpy().integers(num_samples, size=bag_size))
    return data.unsealed(REASON, rows), data.labels[rows]


def bag_objections(ballots: Ballots, members: int, bag_size: int, described: Json) -> list[str]:
    """Why votes of members on bags prove nothing; empty if they do.

    Args:
        members: fixed before the first of them trained.
        described: the scheme's description, compared with the one on record.
    """
    found, recorded = [], ballots.provenance.scheme
    if recorded is not None and recorded != described:
        name, old, new = first_difference(recorded, described)
        found.append(f"the members were trained for {name}={old}, but the claim is about {name}={new}; start another run")
    if len(ballots) != members:
        found.append(f"{len(ballots)} members have voted, but {members} were fixed beforehand; resume the run until all have")
    for lineage in ballots.lineages:
        if lineage.unsealed != (REASON,):
            found.append("members did not learn from bags alone; certify them by the scheme that made them")
        if lineage.start == "untrusted":
            found.append("members started from weights trained on all of the data; start fresh or from trusted data")
        if any(count > bag_size for count, _ in lineage.open_rows or ()):
            found.append(f"a member read more than the {bag_size} images of its bag")
    found += stack_objections(ballots.provenance.retrained)
    if ballots.provenance.mixture:
        found.append("members were computed with different numerics, so votes are not draws of one kind; use machines of one kind")
    return found
