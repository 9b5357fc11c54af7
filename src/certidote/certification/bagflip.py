"""BagFlip: bagging, and every feature of a bagged sample is replaced by a random other value with some probability.

The flips make an altered feature look like an unaltered one, so that an attacker who may touch only a few features of each sample
buys less than under bagging alone. By the Neyman-Pearson lemma, in exact rationals.
"""

from fractions import Fraction
from typing import Literal

import numpy as np
from jaxtyping import Int64

from certidote.certification.bagging import certify_pairs, check_bags, check_probabilities, largest
from certidote.types import CountCertificate

Trigger = Literal["none", "test input"]


def certify_bagflip(
    counts: Int64[np.ndarray, "n_test classes"],
    trials: int,
    *,
    num_samples: int,
    bag_size: int,
    keep: Fraction,
    levels: int,
    features: int,
    alpha: float,
    trigger: Trigger = "none",
) -> CountCertificate:
    """How many samples may be modified, in at most so many features each, without changing the most likely vote.

    Args:
        counts: votes of independent models, each with its own bag and flips (with a trigger: on test inputs with flips too).
        trials: models, fixed before their votes were seen; those that failed vote for nobody.
        num_samples, bag_size: n samples, k draws with replacement.
        keep: the probability, as trained with and exactly, that a feature keeps its value.
        levels: other values that each feature has, each equally likely when it is replaced; a label is one more feature and needs
            the same number of values here.
        features: features of one sample that the attacker may change.
        alpha: failure probability for each test image.
        trigger: whether the test input, too, may be changed in as many features.
    Returns: unit "images altered in few features".
    Raises: ValueError for numbers out of range.
    Source: Zhang et al. 2022, theorem 1. Differs from the paper: the likelihood ratio's distribution is that of a sum of independent
        steps +1, 0, -1, one for each changed feature in the bag, which is the same and needs far fewer terms.
    """
    check_flips(keep, levels, features)
    check_bags(num_samples, bag_size)

    def radius_of(p_a: Fraction, p_b: Fraction) -> int:
        return bagflip_radius(
            p_a, p_b, num_samples=num_samples, bag_size=bag_size, keep=keep, levels=levels, features=features, trigger=trigger
        )

    return certify_pairs(counts, trials, alpha, "images altered in few features", radius_of)


def bagflip_radius(
    p_a: Fraction, p_b: Fraction, *, num_samples: int, bag_size: int, keep: Fraction, levels: int, features: int, trigger: Trigger = "none"
) -> int:  # fmt: skip
    """The largest number of modified samples that leaves the top class ahead; -1 if even none does not.

    Certified iff the least probability of the top class in the modified world exceeds the smaller of 1/2 and the greatest one of any
    other class there. Arguments as for `certify_bagflip`; `p_a` and `p_b` bound the two probabilities in the world as it is.
    """
    check_flips(keep, levels, features)
    check_bags(num_samples, bag_size)
    check_probabilities(p_a, p_b)

    def certified(r: int) -> bool:
        clean = step_distribution(
            r, num_samples=num_samples, bag_size=bag_size, keep=keep, levels=levels, features=features, trigger=trigger
        )
        ratio = keep * levels / (1 - keep)
        return lowest_probability(p_a, clean, ratio) > min(Fraction(1, 2), highest_probability(p_b, clean, ratio))

    return largest(certified, num_samples)


def step_distribution(
    r: int, *, num_samples: int, bag_size: int, keep: Fraction, levels: int, features: int, trigger: Trigger = "none"
) -> dict[int, Fraction]:
    """The distribution of T in the world as it is, where an outcome is ratio^T times as likely as in the modified one.

    Each of the k draws hits a modified sample with probability r/n; each of its s changed features adds +1 (it keeps its value), -1 (it
    flips to the attacker's) or 0, with probabilities keep, gamma and (levels - 1) gamma, where gamma = (1 - keep) / levels.
    """
    kept, unit = keep.numerator * levels, keep.denominator * levels
    flipped = keep.denominator - keep.numerator
    one = _power([flipped, (levels - 1) * flipped, kept], features)
    draw = [r * number for number in one]
    draw[features] += (num_samples - r) * unit**features
    total = _power(draw, bag_size)
    denominator, center = (num_samples * unit**features) ** bag_size, features * bag_size
    if trigger == "test input":
        total = _product(total, one)
        denominator, center = denominator * unit**features, center + features
    return {step - center: Fraction(number, denominator) for step, number in enumerate(total) if number}


def lowest_probability(p: Fraction, clean: dict[int, Fraction], ratio: Fraction) -> Fraction:
    """The least probability, in the modified world, of any event that has probability `p` in the world as it is."""
    return _fill(p, clean, ratio, sorted(clean, reverse=True))


def highest_probability(p: Fraction, clean: dict[int, Fraction], ratio: Fraction) -> Fraction:
    """The greatest probability, in the modified world, of any event that has probability `p` in the world as it is."""
    return _fill(p, clean, ratio, sorted(clean))


def _fill(p: Fraction, clean: dict[int, Fraction], ratio: Fraction, order: list[int]) -> Fraction:
    """Outcomes in this order until their mass reaches `p`, the last one in part; their mass in the modified world."""
    found = Fraction(0)
    for step in order:
        mass = min(p, clean[step])
        found += mass / ratio**step
        p -= mass
        if p == 0:
            break
    return found


def _power(polynomial: list[int], exponent: int) -> list[int]:
    """The coefficients of a power of a polynomial with nonnegative integer coefficients.

    One product of large integers does it: the polynomial is evaluated at a power of two above every coefficient of the result.
    """
    width = max(1, (sum(polynomial) ** exponent).bit_length() + 1)
    return _digits(_packed(polynomial, width) ** exponent, width, (len(polynomial) - 1) * exponent + 1)


def _product(left: list[int], right: list[int]) -> list[int]:
    width = max(1, (sum(left) * sum(right)).bit_length() + 1)
    return _digits(_packed(left, width) * _packed(right, width), width, len(left) + len(right) - 1)


def _packed(polynomial: list[int], width: int) -> int:
    size = -(-width // 8)
    return int.from_bytes(b"".join(number.to_bytes(size, "little") for number in polynomial), "little")


def _digits(number: int, width: int, length: int) -> list[int]:
    size = -(-width // 8)
    text = number.to_bytes(size * length, "little")
    return [int.from_bytes(text[start : start + size], "little") for start in range(0, len(text), size)]


def check_flips(keep: Fraction, levels: int, features: int) -> None:
    """Raises ValueError unless flips hide something and something is left to hide."""
    if levels < 1 or features < 1:
        raise ValueError(f"levels={levels}, features={features}; give at least 1 other value and 1 feature that may change")
    if not Fraction(1, levels + 1) <= keep < 1:
        raise ValueError(
            f"keep={keep} is outside [1/{levels + 1}, 1) for {levels} other values; without flips use certify_bagging, and give the "
            "exact fraction that the models were trained with, Fraction(8, 10) say"
        )
