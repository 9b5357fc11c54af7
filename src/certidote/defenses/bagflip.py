"""BagFlip: bags of images whose pixels take few values, each of them replaced by another value with some probability.

Pixels fall into equal bins that nothing in the data decides. Every channel of every pixel is a feature that flips by itself, in training
images only: a trigger on test images is not covered. Labels stay as they are, and are not covered either.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from certidote.certification.bagflip import certify_bagflip, check_flips
from certidote.certification.bagging import check_bags
from certidote.certification.binomial import check_alpha
from certidote.defenses.bagging import bag, bag_objections, check_members
from certidote.streams import Key
from certidote.types import Ballots, CountCertificate, Images, Json, Prediction, SealedInputs, Unproved, Untrusted, View


@dataclass(frozen=True)
class BagFlip:
    """n members on flipped bags of their own; the plurality answers, and the most likely vote is certified.

    Args:
        bag_size: k draws with replacement for each member.
        num_samples: images of the training set.
        n: members, fixed beforehand.
        keep: the exact probability that a feature keeps its value.
        levels: other values of each feature: pixels are rounded to 0, 1/levels, ..., 1, in training and test images.
        features: the certificate is about images altered in at most so many features each.
        alpha: failure probability for each test image.
        device: where members train.
    Raises: ValueError for numbers out of range, or views of a set of another size.
    Source: Zhang et al. 2022, with the defaults of its code. Differs from the code: channels flip independently (its CIFAR-10 variant
        shifts the three of them by one draw but counts them as one feature), and the proof uses the very fraction trained with. The
        certificate assumes that whoever made the data could not know the members' coins.
    """

    bag_size: int
    num_samples: int
    n: int
    keep: Fraction = Fraction(8, 10)
    levels: int = 2
    features: int = 1
    alpha: float = 1e-3
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_bags(self.num_samples, self.bag_size)
        check_flips(self.keep, self.levels, self.features)
        check_alpha(self.alpha)
        check_members(self.n)

    @property
    def members(self) -> int:
        return self.n

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        """The member's bag with flips of its own: an image that is in it twice is flipped twice, independently."""
        traced, labels = bag(data, self.bag_size, self.num_samples, key)
        values = flipped(binned(traced.images, self.levels), self.levels, self.keep, key / "flips")
        images = (values / self.levels).to(torch.float32).to(self.device)
        return View(images, labels.to(self.device), len(data.class_names), traced.lineage)

    @property
    def inputs_per_member(self) -> bool:
        return False

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        """Test images with as many values as training images have, without flips."""
        assert isinstance(images, Tensor), "sealed only where members have inputs of their own"
        return binned(images, self.levels).to(torch.float32) / self.levels

    def aggregate(self, ballots: Ballots) -> Prediction:
        """Plurality of the members, ties to the smaller class index; no statistical claim."""
        return Prediction(ballots.counts(0, len(ballots)).argmax(axis=1).astype(np.int64))

    def certify(self, ballots: Ballots) -> CountCertificate | Unproved:
        """How many images may be altered in `features` features each, for each test image, or why nothing follows."""
        found = bag_objections(ballots, self.n, self.bag_size, self.describe())
        if found:
            return Unproved(tuple(found))
        return certify_bagflip(
            ballots.counts(0, len(ballots)),
            self.n,
            num_samples=self.num_samples,
            bag_size=self.bag_size,
            keep=self.keep,
            levels=self.levels,
            features=self.features,
            alpha=self.alpha,
        )

    def describe(self) -> Json:
        return {
            "scheme": "bagflip",
            "bag_size": self.bag_size,
            "num_samples": self.num_samples,
            "n": self.n,
            "keep": str(self.keep),
            "levels": self.levels,
            "features": self.features,
            "alpha": self.alpha,
        }


def binned(images: Images, levels: int) -> Int64[Tensor, "n c h w"]:
    """[0, 1] pixels -> the nearest of 0, 1/levels, ..., 1, as its number."""
    return (images * levels).round().to(torch.int64)


def flipped(values: Int64[Tensor, "..."], levels: int, keep: Fraction, key: Key) -> Int64[Tensor, "..."]:
    """Each value independently stays with probability `keep`, exactly, and else is one of the `levels` other ones, all equally likely."""
    generator = key.numpy()
    stays = generator.integers(keep.denominator, size=values.shape) < keep.numerator
    others = generator.integers(1, levels + 1, size=values.shape)
    return (values + torch.from_numpy(np.where(stays, 0, others)).to(values.device)) % (levels + 1)
