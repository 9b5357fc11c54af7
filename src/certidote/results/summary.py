"""Figures that sum up a run: rates with intervals, and what certificates are worth once the true classes are known.

Everything returned is made of Python numbers and lists, ready for JSON, except arrays that are said to be arrays.
"""

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64, Int64

from certidote.types import ABSTAIN, Certificate, Json


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Two-sided confidence interval for a success rate.

    The rates p that a score test at level 1 - `level` does not reject: |successes/trials - p| <= z sqrt(p (1 - p) / trials). It
    covers the true rate with a probability close to `level`, for small counts and extreme rates too; it is no certificate.

    Args:
        successes: 0 to `trials`.
        trials: independent trials, at least 1.
        level: nominal coverage, in (0, 1).
    Returns: (low, high) with 0 <= low <= successes/trials <= high <= 1; low is 0 without successes, high is 1 without failures.
    Raises: ValueError if an argument is out of range.
    Source: Wilson (1927), without continuity correction.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials; give at least 1 trial, and 0 to that many successes")
    if not 0 < level < 1:
        raise ValueError(f"level={level} is no coverage; give a number between 0 and 1, 0.95 say")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    rate = successes / trials
    center = (successes + z2 / 2) / (trials + z2)
    half = math.sqrt(z2 * (trials * rate * (1 - rate) + z2 / 4)) / (trials + z2)
    low = 0.0 if successes == 0 else max(0.0, min(center - half, rate))
    high = 1.0 if successes == trials else min(1.0, max(center + half, rate))
    return low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the hypothesis that two treatments succeed equally often, from trials that had both.

    If they do, each trial in which they differ is a fair coin: the p-value is the chance of a split as uneven, or more so. Trials in
    which both succeed, or none, say nothing.

    Args:
        only_first: trials in which only the first succeeded.
        only_second: trials in which only the second did.
    Returns: in (0, 1]; 1 where they never differ.
    Raises: ValueError if a count is negative.
    Source: McNemar (1947), exact.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"{only_first} and {only_second} trials; counts are at least 0")
    differing, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(differing, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**differing)


def certified_accuracy(
    certificate: Certificate, labels: Int64[np.ndarray, "n_test"], grid: Float64[np.ndarray, "r"]
) -> Float64[np.ndarray, "r"]:
    """CA(r): the share of test images whose certified class is the true one and whose radius is greater than r.

    Strictly greater, as the theorem is; an abstention counts as wrong.

    Args:
        labels: (n_test,) true classes.
        grid: radii r >= 0, in the units of `certificate.radii`.
    Raises: ValueError if lengths disagree, there is no test image, or a radius is negative or NaN.
    """
    if not (grid >= 0).all():
        raise ValueError(f"grid holds {grid[~(grid >= 0)][0]}; radii are at least 0")
    radii = np.sort(_correct_radii(certificate, labels))
    return (len(radii) - np.searchsorted(radii, grid, side="right")) / len(radii)


def curve(certificate: Certificate, labels: Int64[np.ndarray, "n_test"]) -> Json:
    """The whole certified accuracy curve, exactly: every radius where it drops.

    Returns: {"radius": [0, r_1, r_2, ...], "certified_accuracy": [CA(0), CA(r_1), CA(r_2), ...]} with ascending radii. CA has the
        i-th value from the i-th radius (included) to the next (excluded), the last value beyond. The last value is 0 unless a
        radius is infinite.
    Raises: ValueError as `certified_accuracy`.
    """
    radii = _correct_radii(certificate, labels)
    steps = np.unique(np.append(radii[np.isfinite(radii)], 0.0))
    return {"radius": steps.tolist(), "certified_accuracy": certified_accuracy(certificate, labels, steps).tolist()}


def average_radius(certificate: Certificate, labels: Int64[np.ndarray, "n_test"]) -> float:
    """Mean certified radius over all test images, 0 where it is wrong or abstains: the area under the certified accuracy curve."""
    return float(_correct_radii(certificate, labels).mean())


def median_radius(certificate: Certificate, labels: Int64[np.ndarray, "n_test"]) -> float:
    """Median certified radius over all test images, 0 where it is wrong or abstains."""
    return float(np.median(_correct_radii(certificate, labels)))


def _correct_radii(certificate: Certificate, labels: Int64[np.ndarray, "n_test"]) -> Float64[np.ndarray, "n_test"]:
    """(n_test,) certified radii, 0 where the certified class is not the true one."""
    if len(labels) != len(certificate.labels) or len(labels) == 0:
        raise ValueError(f"{len(certificate.labels)} certificates but {len(labels)} true labels; give one for each, at least 1")
    if not (certificate.radii >= 0).all():
        raise ValueError("the certificate holds a negative or NaN radius; it is damaged, certify again")
    correct = (certificate.labels == labels) & (certificate.labels != ABSTAIN)
    return np.where(correct, certificate.radii, 0.0)
