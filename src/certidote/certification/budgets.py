"""What a certificate in one unit says about an attacker with another: each conversion by name, and none that does not follow.

A substitution is one removal and one insertion. A certificate that counts inserted and removed samples pays 2 for it; one that counts
altered slots pays 1, but says nothing about insertion, which shifts the slots of others. A Frobenius radius bounds how far pixels
move and knows nothing of labels. In the other direction a count says nothing about a change of every image by a little, unless
pixels are whole numbers, so that each altered image has moved by one level at least.
"""

import numpy as np
from jaxtyping import Float64, Int64

from certidote.certification.smoothing import ROUND_DOWN
from certidote.certification.threats import k_max
from certidote.types import CountCertificate, Norm


def altered_in_place(certificate: CountCertificate, *, features: int | None = None) -> Int64[np.ndarray, "n_test"]:
    """Images whose pixels may be altered in any way in their place; number, order and labels as they are (clean-label).

    Args:
        features: of one sample, its label included; needed for a certificate that limits the changed features.
    Returns: (n_test,) counts, -1 where nothing is certified.
    Raises: ValueError where that does not follow.
    """
    match certificate.unit:
        case "samples inserted or removed":
            return _halved(certificate.radii)
        case "images altered in place" | "pixels altered in place":
            return certificate.radii
        case "labels flipped":
            raise ValueError(
                "a certificate against flipped labels says nothing about altered pixels, which every part may have learnt from"
            )
        case "images altered in few features":
            raise ValueError(
                f"this certificate limits how many features of an image change, and an altered image may change all {features or ''}".rstrip()
                + "; certify with features equal to all of them, or use certify_bagging"
            )


def labels_flipped(certificate: CountCertificate) -> Int64[np.ndarray, "n_test"]:
    """Labels that may be flipped. A label is part of its sample, except where parts ignore labels and nothing else may change.

    Raises: ValueError where that does not follow.
    """
    match certificate.unit:
        case "samples inserted or removed":
            return _halved(certificate.radii)
        case "images altered in place" | "labels flipped":
            return certificate.radii
        case "pixels altered in place":
            raise ValueError("parts were made by label here, so one flipped label may move images of two classes to other parts")
        case "images altered in few features":
            raise ValueError(
                "whether a label is one of the few features depends on how labels were flipped in training; certify that case by itself"
            )


def inserted_or_removed(certificate: CountCertificate, *, stable_names: bool = False) -> Int64[np.ndarray, "n_test"]:
    """Samples that may be inserted or removed, each counted once.

    Args:
        stable_names: parts follow from a name that each sample keeps whatever happens to others (a file name, not a row number).
    Raises: ValueError where that does not follow.
    """
    match certificate.unit:
        case "samples inserted or removed":
            return certificate.radii
        case "images altered in place" if stable_names:
            return certificate.radii
        case "images altered in place":
            raise ValueError(
                "inserting or removing a sample shifts the row numbers of others, and with them their parts; this follows only if parts "
                "are decided by names that samples keep (stable_names=True)"
            )
        case "pixels altered in place" | "labels flipped" | "images altered in few features":
            raise ValueError(f"a certificate that counts {certificate.unit} holds for a fixed number of samples")


def altered_by_at_most(
    certificate: CountCertificate, epsilon: float, norm: Norm, *, features: int | None = None
) -> Int64[np.ndarray, "n_test"]:
    """Images that may each move by at most epsilon: as many as may be altered in any way, whatever epsilon is.

    Raises: ValueError for an epsilon that is no bound, or where `altered_in_place` refuses.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon} in {norm}; give a perturbation bound > 0 in [0, 1] pixel units")
    return altered_in_place(certificate, features=features)


def frobenius_of_count(certificate: CountCertificate, *, levels: int | None) -> Float64[np.ndarray, "n_test"]:
    """The joint norm below which pixels stored as whole numbers can change in no more images than the certificate covers.

    k + 1 altered images move by one level in one pixel each at least, a joint norm of sqrt(k + 1) / levels.

    Args:
        levels: steps between black and white of the stored images, 255 for 8 bits. None: pixels are real numbers.
    Returns: (n_test,) radii, [0, 1] pixel units, 0 where nothing is certified. No change with a smaller joint norm matters.
    Raises: ValueError for real pixels, since every image might move by a little.
    """
    if levels is None:
        raise ValueError(
            "a count says nothing about the joint norm of real-valued pixels: every image may move by a little; give levels=255 if the "
            "attacker's images are stored with 8 bits"
        )
    if levels < 1:
        raise ValueError(f"levels={levels}; give at least 1 step between black and white")
    return np.sqrt(altered_in_place(certificate) + 1.0) / levels * ROUND_DOWN


def altered_under_frobenius(
    radii: Float64[np.ndarray, "n"], pixels: int, num_images: int, *, epsilon: float = 1.0, norm: Norm = "linf"
) -> Int64[np.ndarray, "n"]:
    """Images that may each move by at most epsilon under a Frobenius radius; by default in any way, since pixels lie in [0, 1].

    Number, order and labels of the images must stay as they are: a joint norm of pixel changes speaks of nothing else, and no function
    here converts it to flipped labels or inserted samples.

    Source: `threats.k_max`.
    """
    return k_max(radii, epsilon, norm, pixels, num_images)


def _halved(radii: Int64[np.ndarray, "n_test"]) -> Int64[np.ndarray, "n_test"]:
    return np.where(radii < 0, radii, radii // 2)
