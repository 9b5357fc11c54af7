import numpy as np
import pytest
import scipy.stats

from certidote.certification.binomial import lower_confidence_bound
from certidote.certification.smoothing import certify_counts, radius, radius_cap
from certidote.certification.threats import image_norm, k_max
from certidote.types import ABSTAIN
from oracles import linear_case


def test_radius_identities() -> None:
    sigma = 0.3
    p = np.array([0.5, scipy.stats.norm.cdf(1.0), 0.2, 0.0, 0.99])
    radii = radius(p, sigma)
    assert radii[0] == radii[2] == radii[3] == 0
    assert radii[1] == pytest.approx(sigma, rel=1e-8)
    two_class_form = sigma / 2 * (scipy.stats.norm.ppf(0.99) - scipy.stats.norm.ppf(0.01))
    assert radii[4] == pytest.approx(two_class_form, rel=1e-8)
    assert np.all(radii[[1, 4]] < sigma * scipy.stats.norm.ppf(p[[1, 4]])), "radii are rounded down, never up"


@pytest.mark.parametrize(("n", "in_sigmas"), [(100, 1.500), (1_000, 2.463), (2_500, 2.775), (10_000, 3.199)])
def test_cap_of_a_unanimous_vote(n: int, in_sigmas: float) -> None:
    assert radius_cap(2.0, n, 0.001) / 2.0 == pytest.approx(in_sigmas, abs=5e-4)


def test_linear_learner_radius_is_the_distance_to_the_boundary() -> None:
    case = linear_case()
    sigma = 0.7
    certified = float(radius(np.array([case.probability(sigma)]), sigma)[0])
    assert certified == pytest.approx(case.distance(), rel=2e-9)
    # Moving the training set along the gradient by the radius decides the answer; a hair less and a hair more differ.
    direction = -case.weights() / np.linalg.norm(case.weights()) * (1 if case.answer() else -1)
    for factor, flips in ((1 - 1e-6, False), (1 + 1e-6, True)):
        attacked = case.pixels() + factor * certified * direction
        assert (int(case.margin(attacked) > 0) != case.answer()) == flips


def test_certified_radius_never_exceeds_the_exact_one_more_often_than_alpha() -> None:
    # Exact: the certified radius exceeds the true distance iff the bound exceeds the true probability.
    for p in np.linspace(0.501, 0.999, 50):
        pmf = scipy.stats.binom.pmf(np.arange(1_001), 1_000, p)
        radii = radius(lower_confidence_bound(np.arange(1_001), 1_000, 0.001), 1.0)
        assert pmf[radii > scipy.stats.norm.ppf(p)].sum() <= 0.001 * (1 + 1e-9)


def test_false_certificates_at_a_coin_flip_are_as_rare_as_alpha() -> None:
    # Two classes at exactly 1/2: no class may be certified. Selection from separate votes leaves one bound at level alpha.
    pmf = scipy.stats.binom.pmf(np.arange(1_001), 1_000, 0.5)
    bounds = lower_confidence_bound(np.arange(1_001), 1_000, 0.001)
    assert pmf[bounds > 0.5].sum() <= 0.001
    # Selecting by the counted votes at the same level is the classic mistake; it is wrong nearly twice as often.
    assert pmf[np.maximum(bounds, bounds[::-1]) > 0.5].sum() > 0.001


def test_certify_counts_takes_the_candidate_from_selection_alone() -> None:
    selection = np.array([[3, 7, 0], [5, 5, 0], [0, 0, 10]])
    estimation = np.array([[90, 10, 0], [99, 1, 0], [0, 0, 100]])
    labels, radii, bounds, hits = certify_counts(selection, estimation, 100, 0.5, 0.001)
    assert labels.tolist() == [ABSTAIN, 0, 2], "row 0 was selected as class 1, which the counted votes do not support"
    assert hits.tolist() == [10, 99, 100]
    assert radii[0] == 0
    assert radii[2] == radius_cap(0.5, 100, 0.001)
    assert radii[1] < radii[2]
    assert bounds[2] == pytest.approx(0.001 ** (1 / 100), rel=1e-12)


def test_failed_members_lower_the_bound_because_n_counts_them() -> None:
    selection = np.array([[10, 0]])
    all_voted = certify_counts(selection, np.array([[100, 0]]), 100, 1.0, 0.001)[1]
    ten_failed = certify_counts(selection, np.array([[90, 0]]), 100, 1.0, 0.001)[1]
    dropped = certify_counts(selection, np.array([[90, 0]]), 90, 1.0, 0.001)[1]
    assert ten_failed < dropped < all_voted


def test_selecting_votes_counted_again_and_numbers_out_of_range_are_refused() -> None:
    selection, estimation = np.array([[10, 0]]), np.array([[95, 5]])
    assert certify_counts(selection, estimation, 100, 1.0, 0.001)[0][0] == 0
    with pytest.raises(
        ValueError, match=r"110 votes are counted for a test image, but there are n=100 counted members; the n0 members"
    ):
        certify_counts(selection, estimation + selection, 100, 1.0, 0.001)
    for sigma in (0.0, -0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"is no noise std; give a number > 0"):
            certify_counts(selection, estimation, 100, sigma, 0.001)
    for alpha in (0.0, 0.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="is not a failure probability"):
            certify_counts(selection, estimation, 100, 1.0, alpha)


def test_k_max_is_the_largest_count_strictly_inside() -> None:
    generator = np.random.default_rng(0)
    for norm in ("linf", "l2"):
        for _ in range(200):
            r, epsilon, pixels = generator.uniform(0, 3), generator.uniform(0.01, 0.5), int(generator.integers(1, 200))
            k = int(k_max(np.array([r]), epsilon, norm, pixels, 10**9)[0])
            size = image_norm(epsilon, norm, pixels)
            assert k < (r / size) ** 2 <= k + 1
    assert k_max(np.array([0.5]), 0.25, "l2", 1, 100)[0] == 3, "k = 4 would reach the radius exactly, which is not certified"
    assert k_max(np.array([5.0]), 0.001, "l2", 1, 100)[0] == 100, "no more images than there are"
    assert k_max(np.array([0.0]), 0.1, "l2", 1, 100)[0] == -1
    with pytest.raises(ValueError, match="bound > 0"):
        k_max(np.array([1.0]), 0.0, "l2", 1, 100)


def test_the_papers_attack_is_far_outside() -> None:
    assert image_norm(16 / 255, "linf", 3_072) * 500**0.5 == pytest.approx(77.8, abs=0.05)
    assert radius_cap(0.25, 1_000, 0.001) == pytest.approx(0.616, abs=5e-4)
