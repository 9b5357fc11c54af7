"""What a Frobenius radius means for an attacker who alters at most k images, each by at most epsilon."""

import math

import numpy as np
from jaxtyping import Float64, Int64

from certidote.types import Norm


def image_norm(epsilon: float, norm: Norm, pixels: int) -> float:
    """The largest l2 norm of one image's change: epsilon itself, or epsilon * sqrt(pixels) for a bound on each pixel."""
    return epsilon * math.sqrt(pixels) if norm == "linf" else epsilon


def k_max(radii: Float64[np.ndarray, "n"], epsilon: float, norm: Norm, pixels: int, num_images: int) -> Int64[np.ndarray, "n"]:
    """The most training images that may each move by epsilon without leaving the certified ball.

    k images that move by at most e in l2 keep the Frobenius norm at most e * sqrt(k), which is below R iff k < R^2 / e^2.

    Args:
        radii: (n,) certified radii, 0 where nothing is certified.
        epsilon: bound on one image's change, [0, 1] pixel units, > 0.
        norm: of that bound.
        pixels: channels x height x width of one image.
        num_images: in the training set; no more than these can be altered.
    Returns: (n,) counts from -1 (not even an untouched training set is covered: nothing certified) to num_images.
    Source: k < R^2 / e^2 solved for whole k: ceil(R^2 / e^2) - 1.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon}; give a perturbation bound > 0 in [0, 1] pixel units")
    return np.minimum(np.ceil((radii / image_norm(epsilon, norm, pixels)) ** 2) - 1, num_images).astype(np.int64)
