"""The certificate of data-set smoothing: from vote counts to a radius around the training set.

g(D) is the most likely prediction when Gaussian noise is added to every training pixel before anything else happens. If its
probability is at least p, then no training set D' with ||D' - D||_F < sigma * Phi^-1(p) has another most likely prediction.
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from certidote.certification.binomial import lower_confidence_bound
from certidote.types import ABSTAIN

ROUND_DOWN = 1 - 1e-9
"""Radii are shrunk by this factor before they are used or printed, so that floating point never rounds a claim up."""


def radius(lower_bounds: Float64[np.ndarray, "n"], sigma: float) -> Float64[np.ndarray, "n"]:
    """Certified Frobenius radius of a class with probability at least `lower_bounds`; 0 where that is at most 1/2.

    Args:
        lower_bounds: (n,) lower bounds on the top class's probability, in [0, 1).
        sigma: noise std, [0, 1] pixel units.
    Returns: (n,) radii in [0, 1] pixel units over all pixels of the training set, rounded down.
    Source: paper, section 3.2; Cohen et al. 2019, theorem 1, with p_B = 1 - p_A.
    Differs from the paper: the norm is Euclidean over the whole training set, which covers every set whose per-image l2 norms
        sum to less than the radius (the paper's definition) and more.
    """
    return np.where(lower_bounds > 0.5, sigma * stats.norm.ppf(np.maximum(lower_bounds, 0.5)) * ROUND_DOWN, 0.0)


def radius_cap(sigma: float, n: int, alpha_each: float) -> float:
    """The radius of a unanimous vote of n members: no test image can have a larger one."""
    return float(radius(lower_confidence_bound(np.array([n]), n, alpha_each), sigma)[0])


def certify_counts(
    selection: Int64[np.ndarray, "n_test classes"],
    estimation: Int64[np.ndarray, "n_test classes"],
    n: int,
    sigma: float,
    alpha: float,
) -> tuple[Int64[np.ndarray, "n_test"], Float64[np.ndarray, "n_test"], Float64[np.ndarray, "n_test"], Int64[np.ndarray, "n_test"]]:
    """Select a class by one set of votes, bound its probability by another, and turn the bound into a radius.

    Args:
        selection: votes of the n0 selecting members; the most voted class is the candidate, ties to the smaller index.
        estimation: votes of the n counted members, disjoint from the selecting ones. Failed members vote for nobody.
        n: counted members, failed ones included.
        sigma: noise std, [0, 1] pixel units.
        alpha: failure probability for each test image.
    Returns: labels (ABSTAIN where the bound is at most 1/2), radii, lower bounds, and the candidates' counts.
    Source: paper, Algorithm 1; Cohen et al. 2019, Certify.
    """
    candidates = selection.argmax(axis=1)
    hits = estimation[np.arange(len(estimation)), candidates]
    bounds = lower_confidence_bound(hits, n, alpha)
    labels = np.where(bounds > 0.5, candidates, ABSTAIN)
    return labels.astype(np.int64), radius(bounds, sigma), bounds, hits.astype(np.int64)
