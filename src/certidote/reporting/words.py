"""Numbers and certificates in plain words. Everything that enters a claim is rounded against us.

Radii and attack norms are rounded down (such a radius is still proved, such an attack really was that large), intervals are
rounded outward, and a share is printed as 0% or 100% only if it is exactly that.
"""

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from certidote.types import Json

NOTHING_PROVED = "No test image carries a certificate: no answer has enough of the votes to prove anything about it."


def percent(share: int | float, *, down: bool = False) -> str:
    """A share in [0, 1] as a percentage with one decimal: 0.9512 is "95.1%". Only an exact 0 or 1 prints as 0% or 100%.

    Args:
        down: round down, as an "at least" needs; otherwise to the nearest.
    """
    if share in (0, 1):
        return f"{share:.0%}"
    if share < 0.001:
        return "<0.1%"
    if share > 0.999:
        return ">99.9%"
    return f"{_rounded(100 * _exact(share), 1, ROUND_FLOOR if down else ROUND_HALF_EVEN)}%"


def interval(low: int | float, high: int | float) -> str:
    """A confidence interval of shares, rounded outward to one decimal: "3.1% to 26.1%"."""
    below = percent(low) if low == 0 else f"{_rounded(100 * _exact(low), 1, ROUND_FLOOR)}%"
    above = percent(high) if high == 1 else f"{_rounded(100 * _exact(high), 1, ROUND_CEILING)}%"
    return f"{below} to {above}"


def length(value: int | float, *, up: bool = False) -> str:
    """A radius or norm: three decimals, fewer from 10 on, three significant digits below 0.1.

    Args:
        value: [0, 1] pixel units.
        up: round up, as an "at most" needs; otherwise down, as an "at least" does.
    Raises: ValueError for a negative or infinite value, which is no radius.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{value} is no radius or norm; they are finite and at least 0")
    if value == 0:
        return "0"
    exact = _exact(value)
    magnitude = exact.adjusted()
    return str(_rounded(exact, max(1, 3 - max(magnitude, 0), 2 - magnitude), ROUND_CEILING if up else ROUND_FLOOR))


def plain(value: int | float) -> str:
    """A number as short as it goes: 0.5, 0.001, 1,000."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def counted(number: int, noun: str) -> str:
    """The number and its noun: "1 image", "1,200 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def epsilon(threat: Json) -> str:
    """How far one image may move: "1/255" where that is known, the number otherwise ([0, 1] pixel units)."""
    over_255 = threat.get("epsilon_255")
    return plain(threat["epsilon"]) if over_255 is None else f"{plain(over_255)}/255"


def change(threat: Json) -> str:
    """The change one image may undergo, for table rows: "every pixel by up to 1/255"."""
    if threat["norm"] == "linf":
        return f"every pixel by up to {epsilon(threat)}"
    return f"l2 norm up to {epsilon(threat)}"


def failure_probability(certificate: Json) -> str:
    """What alpha is about: one test image at a time, or all of them together."""
    about = {
        "per test image": "The statement about any one test image is",
        "simultaneous": "Any of the statements about all test images is",
    }
    return f"{about[certificate['statement']]} wrong with probability at most {plain(certificate['alpha'])}."


def certified_share(certificate: Json) -> float:
    """Test images that are certified with their correct answer, as a share of all; 0 where nothing is proved."""
    return float(certificate["results"]["certified_accuracy"][0][1]) if certificate["proved"] else 0.0


def claim_in_one_sentence(certificate: Json) -> str:
    """The recorded claim as one sentence for whoever reads nothing else; how probabilities were bounded is left to the claim itself."""
    if not certificate["proved"]:
        return str(certificate["claim"])
    if _all_abstain(certificate):
        return NOTHING_PROVED
    total = certificate["test"]["images"]
    pixels = "pixels of untrusted training images" if certificate.get("trusted") else "training pixels"
    sigma_x = certificate.get("sigma_x")
    also = " and of the test image" if sigma_x else ""
    weighted = f", the test image's part in it times {plain(certificate['sigma'])}/{plain(sigma_x)}," if sigma_x else ""
    about = {"per test image": "for each test image", "simultaneous": "for all of them together"}[certificate["statement"]]
    return (
        f"For {total - certificate['results']['abstained']:,} of {total:,} test images, no change of {pixels}{also} whose l2 norm over the "
        f"whole training set{weighted} is below that image's certified radius can change the smoothed classifier's answer: {about}, that "
        f"is wrong with probability at most {plain(certificate['alpha'])}, if the assumptions below hold."
    )


def verdict(certificate: Json) -> str:
    """What a record amounts to, in a few words: the badge of a report."""
    if not certificate["proved"]:
        return "Empirical only"
    share = certified_share(certificate)
    if share:
        return "Certified" if share >= 0.5 else "Certified in part"
    return "Nothing certified" if _all_abstain(certificate) else "No correct answer certified"


def radius_in_words(certificate: Json) -> list[str]:
    """What the radii mean against somebody who alters whole images, one sentence per threat.

    Args:
        certificate: a "certidote certificate"; each of its `results.threats` holds the number of altered images that the
            median test image survives, and the share of test images that survive one.
    Returns: the sentences, after one that says so if fewer than half of the test images are certified; none if nothing is proved.
    """
    if not certificate["proved"]:
        return []
    share = certified_share(certificate)
    if not share and _all_abstain(certificate):
        return [NOTHING_PROVED]
    if not share:
        return ["No test image is certified with its correct answer: those that carry a certificate are answered wrongly."]
    image = "untrusted training image" if certificate.get("trusted") else "training image"
    first = f"Fewer than half of the test images, {percent(share, down=True)}, are certified with their correct answer."
    return [first] * (share < 0.5) + [_survival(threat, image) for threat in certificate["results"]["threats"]]


def _all_abstain(certificate: Json) -> bool:
    return bool(certificate["results"]["abstained"] == certificate["test"]["images"])


def _survival(threat: Json, image: str) -> str:
    images = math.floor(threat["median_k"])
    if images:
        return f"Half of the test images keep their correct answer whatever anyone does to {_altered(threat, images, image)}."
    survive_one = next((share for k, share in threat["certified_accuracy_at_k"] if k == 1), 0.0)
    if not survive_one:
        return f"No test image is proved to keep its correct answer if anyone moves {_one_image(threat, image)}."
    share = percent(survive_one, down=True)
    return (
        f"{share} of the test images keep their correct answer whatever anyone does to {_altered(threat, 1, image)}; for the others "
        "that is more than the proof covers."
    )


def _altered(threat: Json, images: int, image: str) -> str:
    whom, each = (f"one {image}", "of it") if images == 1 else (f"up to {images:,} {image}s", "of them")
    if threat["norm"] == "linf":
        return f"{whom}, as long as no pixel {each} moves by more than {epsilon(threat)}"
    return f"{whom}, as long as the change of each has an l2 norm of at most {epsilon(threat)}"


def _one_image(threat: Json, image: str) -> str:
    if threat["norm"] == "linf":
        return f"every pixel of a single {image} by {epsilon(threat)}"
    return f"a single {image} by an l2 norm of {epsilon(threat)}"


def attack_is_outside(certificates: Sequence[Json], attack: Json) -> bool:
    """Whether each run of the attack changed the training set by no less than the largest radius any certificate can prove."""
    return all(attack["joint_norm_min"] >= each["results"]["cap"] for each in certificates if each["proved"])


def _exact(value: int | float) -> Decimal:
    return Decimal(repr(float(value)))


def _rounded(value: Decimal, decimals: int, rounding: str) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-decimals), rounding=rounding)
