import numpy as np
import pytest
import scipy.stats

from certidote.certification.binomial import lower_confidence_bound
from certidote.certification.smoothing import certify_counts, certify_votes, radius, radius_cap
from certidote.certification.threats import image_norm, k_max
from certidote.types import ABSTAIN, Ballots, Lineage, Provenance
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


@pytest.mark.parametrize(("first", "n0", "n"), [(0, 10, 60), (20, 10, 40), (20, 0, 50)])
def test_votes_are_cut_so_that_no_member_selects_and_is_counted(first: int, n0: int, n: int) -> None:
    """Members that failed hide an overlap from counts: 10 selecting members counted again are no more votes than n."""
    votes = np.random.default_rng(3).choice(3, (70, 200), p=[0.7, 0.2, 0.1])
    failed = np.arange(70) % 3 == 0
    told = (Lineage(sigma=0.5, draws=1),), np.arange(70), Provenance("digest", "given", None)
    ballots = Ballots(votes, failed, 3, *told)
    found = certify_votes(ballots, range(first, first + n0 + n), n0, 0.5, 0.001)
    use = np.arange(70)[~failed]
    selecting, counted = ((use >= low) & (use < low + size) for low, size in ((first, n0), (first + n0, n)))
    tally = [np.stack([(votes[use[some]] == c).sum(0) for c in range(3)], axis=1) for some in (selecting, counted)]
    for ours, wanted in zip(found, certify_counts(tally[0] if n0 else None, tally[1], n, 0.5, 0.001), strict=True):
        assert np.array_equal(ours, wanted)
    overlapping = certify_counts(ballots.counts(first, first + n0) if n0 else None, ballots.counts(first, first + n), n, 0.5, 0.001)
    assert n0 == 0 or not np.array_equal(overlapping[3], found[3]), "which counts alone do not refuse"


@pytest.mark.parametrize(
    ("members", "n0", "text"),
    [
        (range(71), 10, "are not consecutive members of the 70"),
        (range(0, 70, 2), 10, "are not consecutive members"),
        (range(-1, 60), 10, "are not consecutive members"),
        (range(40), 40, "n0=40 of 40 members select the answer"),
        (range(40), -1, "n0=-1 of 40 members"),
    ],
)
def test_members_that_are_not_there_select_and_count_nothing(members: range, n0: int, text: str) -> None:
    told = (Lineage(sigma=0.5, draws=1),), np.arange(70), Provenance("digest", "given", None)
    ballots = Ballots(np.zeros((70, 2), dtype=np.int64), np.zeros(70, dtype=bool), 3, *told)
    with pytest.raises(ValueError, match=text):
        certify_votes(ballots, members, n0, 0.5, 0.001)


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
