"""The whole pipeline where it can be solved exactly, and every fault it must refuse."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote.defenses.partition import PartitionedSmoothing
from certidote.defenses.plain import PlainTraining
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.streams import Key
from certidote.types import Ballots, Certificate, DenoiserCard, ImageDataset, Lineage, Provenance, Unproved, Untrusted, View
from false_alarms import assert_rate_is
from oracles import IdentityDenoiser, InnerProductTrainer, linear_case
from running import ballots_of

CASE = linear_case()
SIGMA = CASE.distance()  # so that a member is right with probability Phi(1) = 0.841
TEST = ImageDataset(torch.stack([CASE.test_image] * 2), torch.tensor([0, 1]), ("a", "b"))


@dataclass(frozen=True)
class HalvedNoise(DenoisedSmoothing):
    """Faulty: adds half the noise it claims."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return replace(self, sigma=self.sigma / 2).honest_view(data, member, key)

    def honest_view(self, data: Untrusted, member: int, key: Key) -> View:
        return DenoisedSmoothing.view(self, data, member, key)


@dataclass(frozen=True)
class AveragedDraws(DenoisedSmoothing):
    """Faulty: averages two noise draws of every image, and says nothing about it."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        first, second = (DenoisedSmoothing.view(self, data, member, key / draw) for draw in ("a", "b"))
        return replace(first, images=(first.images + second.images) / 2)


@dataclass(frozen=True)
class SharedNoise(DenoisedSmoothing):
    """Faulty: all members see the same noise."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return DenoisedSmoothing.view(self, data, member, Key(0) / "shared")


@dataclass(frozen=True)
class RawStatistics(DenoisedSmoothing):
    """Faulty: normalizes by the mean of the un-noised images, and says nothing about it."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        honest = DenoisedSmoothing.view(self, data, member, key)
        return replace(honest, images=honest.images - data.unsealed("normalization statistics").images.mean())


def scheme(kind: type[DenoisedSmoothing] = DenoisedSmoothing, n: int = 2_000) -> DenoisedSmoothing:
    return kind(IdentityDenoiser(), sigma=SIGMA, n0=50, n=n)


def hits(ballots: Ballots) -> int:
    return int((ballots.votes[:, 0] == CASE.answer()).sum())


def test_votes_have_exactly_the_probability_of_the_closed_form(tmp_path: Path) -> None:
    ballots = ballots_of(scheme(), InnerProductTrainer(), CASE.train, TEST, tmp_path / "l")
    assert_rate_is(hits(ballots), len(ballots), CASE.probability(SIGMA))


@pytest.mark.parametrize("faulty", [HalvedNoise, AveragedDraws, SharedNoise])
def test_the_closed_form_catches_wrong_noise(faulty: type[DenoisedSmoothing], tmp_path: Path) -> None:
    ballots = ballots_of(scheme(faulty), InnerProductTrainer(), CASE.train, TEST, tmp_path / "l")
    with pytest.raises(AssertionError, match="hits at rate"):
        assert_rate_is(hits(ballots), len(ballots), CASE.probability(SIGMA))


def test_certified_radius_approaches_the_exact_distance_from_below(tmp_path: Path) -> None:
    defense = scheme(n=4_000)
    certificate = defense.certify(ballots_of(defense, InnerProductTrainer(), CASE.train, TEST, tmp_path / "l"))
    assert isinstance(certificate, Certificate)
    assert certificate.labels.tolist() == [CASE.answer()] * 2
    assert 0.85 * CASE.distance() < certificate.radii[0] <= CASE.distance()


def refusal(faulty: type[DenoisedSmoothing], tmp_path: Path, trainer: InnerProductTrainer | None = None) -> str:
    defense = scheme(faulty, n=40)
    outcome = defense.certify(ballots_of(defense, trainer or InnerProductTrainer(), CASE.train, TEST, tmp_path / "l"))
    assert isinstance(outcome, Unproved)
    return " ".join(outcome.reasons)


def test_one_noise_draw_for_all_members_is_refused(tmp_path: Path) -> None:
    assert "share one noise draw" in refusal(SharedNoise, tmp_path)


def test_less_noise_than_claimed_is_refused(tmp_path: Path) -> None:
    assert "but the claim is about sigma" in refusal(HalvedNoise, tmp_path)


def test_un_noised_statistics_are_refused_even_if_the_scheme_hides_them(tmp_path: Path) -> None:
    assert "read without noise (normalization statistics)" in refusal(RawStatistics, tmp_path)


def test_warm_start_on_untrusted_data_is_refused(tmp_path: Path) -> None:
    assert "weights trained on the untrusted data" in refusal(DenoisedSmoothing, tmp_path, InnerProductTrainer(start="untrusted"))


def test_warm_start_on_trusted_data_is_named_as_an_assumption(tmp_path: Path) -> None:
    defense = scheme(n=40)
    outcome = defense.certify(ballots_of(defense, InnerProductTrainer(start="trusted"), CASE.train, TEST, tmp_path / "l"))
    assert isinstance(outcome, Certificate)
    assert any("start from" in item.text and item.verdict == "assumed" for item in outcome.assumptions)


def test_plain_training_proves_nothing(tmp_path: Path) -> None:
    outcome = PlainTraining().certify(ballots_of(PlainTraining(), InnerProductTrainer(), CASE.train, TEST, tmp_path / "l"))
    assert isinstance(outcome, Unproved)
    assert "plain training" in outcome.reasons[0]


def test_denoiser_trained_on_the_untrusted_set_is_refused(tmp_path: Path) -> None:
    card = DenoiserCard(name="mine", kind="network", digest="", trained_on=CASE.train.digest())
    defense = DenoisedSmoothing(IdentityDenoiser(card=card), sigma=SIGMA, n0=10, n=40)
    outcome = defense.certify(ballots_of(defense, InnerProductTrainer(), CASE.train, TEST, tmp_path / "l"))
    assert isinstance(outcome, Unproved)
    assert "denoiser was trained on the untrusted images" in outcome.reasons[0]


def made_ballots(lineage: Lineage, members: int = 50, votes: int = 0, num_tests: int = 1) -> Ballots:
    return Ballots(
        votes=np.full((members, num_tests), votes, dtype=np.int64),
        failed=np.zeros(members, dtype=bool),
        num_classes=2,
        lineages=(lineage,),
        noise_ids=np.arange(members, dtype=np.int64),
        provenance=Provenance("digest", "operating system", 0),
    )


def radii_of(change: Callable[[Ballots], Ballots], lineage: Lineage | None = None) -> np.ndarray | tuple[str, ...]:
    defense = DenoisedSmoothing(IdentityDenoiser(), sigma=0.5, n0=10, n=40)
    outcome = defense.certify(change(made_ballots(lineage or Lineage(sigma=0.5, draws=1))))
    return outcome.radii if isinstance(outcome, Certificate) else outcome.reasons


def test_two_noise_draws_shrink_the_radius_by_sqrt_two(tmp_path: Path) -> None:
    one, two = radii_of(lambda b: b), radii_of(lambda b: b, Lineage(sigma=0.5, draws=2))
    assert np.asarray(two) == pytest.approx(np.asarray(one) / np.sqrt(2), rel=1e-8)
    averaged = scheme(AveragedDraws, n=40)
    outcome = averaged.certify(ballots_of(averaged, InnerProductTrainer(), CASE.train, TEST, tmp_path / "l"))
    assert isinstance(outcome, Certificate)
    assert outcome.sigma == pytest.approx(SIGMA / np.sqrt(2)), "the engine counts draws itself"


def test_missing_members_are_refused() -> None:
    assert (
        "49 members have voted, but 50 were fixed"
        in radii_of(lambda b: replace(b, votes=b.votes[:49], failed=b.failed[:49], noise_ids=b.noise_ids[:49]))[0]
    )


def test_another_denoiser_is_refused() -> None:
    assert "denoiser abc" in radii_of(lambda b: b, Lineage(sigma=0.5, draws=1, denoiser="abc"))[0]


def test_failed_members_count_and_vote_for_nobody() -> None:
    failed = np.arange(50) >= 45
    whole, fewer = radii_of(lambda b: b), radii_of(lambda b: replace(b, failed=failed))
    assert 0 < np.asarray(fewer)[0] < np.asarray(whole)[0]
    many = np.arange(50) >= 20
    assert np.asarray(radii_of(lambda b: replace(b, failed=many)))[0] == 0


def test_a_given_seed_is_printed_as_an_assumption(tmp_path: Path) -> None:
    defense = scheme(n=40)
    for seed, verdict in ((5, "assumed"), (None, "enforced")):
        ballots = ballots_of(defense, InnerProductTrainer(), CASE.train, TEST, tmp_path / str(seed), seed)
        outcome = defense.certify(ballots)
        assert isinstance(outcome, Certificate)
        root = next(item for item in outcome.assumptions if "could not know the noise" in item.text)
        assert root.verdict == verdict


def test_simultaneous_statements_cost_radius() -> None:
    single = DenoisedSmoothing(IdentityDenoiser(), 0.5, 10, 40)
    joint = DenoisedSmoothing(IdentityDenoiser(), 0.5, 10, 40, simultaneous=True, num_tests=100)
    assert joint.alpha_each == 1e-5
    outcomes = [s.certify(made_ballots(Lineage(sigma=0.5, draws=1), num_tests=100)) for s in (single, joint)]
    assert all(isinstance(outcome, Certificate) for outcome in outcomes)
    assert outcomes[0].radii[0] > outcomes[1].radii[0] > 0
    assert outcomes[1].statement == "simultaneous"
    assert "together" in outcomes[1].claim


@pytest.mark.parametrize("together", [1, 99, 101])
def test_a_simultaneous_statement_is_about_as_many_test_images_as_alpha_was_divided_among(together: int) -> None:
    smoothing = DenoisedSmoothing(IdentityDenoiser(), 0.5, 10, 40, simultaneous=True, num_tests=together)
    parts = PartitionedSmoothing(smoothing, 3)
    for defense in (smoothing, parts):
        outcome = defense.certify(made_ballots(Lineage(sigma=0.5, draws=1), defense.members, num_tests=100))
        assert isinstance(outcome, Unproved)
        assert outcome.reasons[0].startswith(f"alpha was divided among {together} test images, but 100 were voted on")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sigma": 0.0}, "adds no noise"),
        ({"sigma": float("nan")}, "adds no noise"),
        ({"sigma": 9.0}, "exceeds this denoiser's sigma_max=2"),
        ({"n": 9}, "at least 10 are needed"),
        ({"n0": -1}, "give the number of models that select"),
        ({"alpha": 0.7}, "not a failure probability"),
        ({"num_tests": 0}, "num_tests=0; give the number of test images"),
        ({"n": 18, "simultaneous": True, "num_tests": 400}, "at least 19 are needed"),
    ],
)
def test_values_that_can_certify_nothing_are_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DenoisedSmoothing(**{"denoiser": IdentityDenoiser(sigma_max=2.0), "sigma": 0.5, "n0": 10, "n": 40} | change)
