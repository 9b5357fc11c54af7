"""Test inputs of members, and the joint certificate where it can be solved exactly: a decision linear in training set and input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from certidote.data.tiny import tiny
from certidote.defenses.inputs import prepared
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.streams import Key, normal_block
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import (
    Certificate,
    ImageDataset,
    Images,
    InputReads,
    Lineage,
    Reads,
    SealedInputs,
    Start,
    Unproved,
    View,
)
from false_alarms import assert_rate_is
from fixtures_transfer import KernelDenoiser
from oracles import IdentityDenoiser, linear_case
from running import ballots_of

SIGMA, SIGMA_X = 0.4, 0.25
CASE = linear_case(seed=2)
TRAIN_WEIGHTS = CASE.weights()
INPUT_WEIGHTS = (Key(5) / "input weights").numpy().normal(size=16)
STD = float(np.sqrt(SIGMA**2 * (TRAIN_WEIGHTS**2).sum() + SIGMA_X**2 * (INPUT_WEIGHTS**2).sum()))
CLEAN_INPUT = CASE.test_image.numpy().astype(np.float64).ravel() / 255
OFFSET = STD - float((TRAIN_WEIGHTS * CASE.pixels()).sum() + INPUT_WEIGHTS @ CLEAN_INPUT)
"""Puts the noiseless margin of class 1 at one standard deviation of the noised one."""
TEST = ImageDataset(torch.stack([CASE.test_image] * 2), torch.tensor([1, 1]), ("a", "b"))


def margin(pixels: np.ndarray, image: np.ndarray) -> float:
    return float((TRAIN_WEIGHTS * pixels).sum() + INPUT_WEIGHTS @ image + OFFSET)


class JointlyLinearStack:
    def __init__(self, offsets: torch.Tensor) -> None:
        self.offsets = offsets
        self.failed = torch.zeros(len(offsets), dtype=torch.bool)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        margins = self.offsets[:, None] + (images.flatten(1).double() @ torch.from_numpy(INPUT_WEIGHTS))[None]
        return torch.stack([-margins, margins], dim=2).float()

    def member(self, index: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: JointlyLinearStack(self.offsets[index : index + 1])(images)[0]


@dataclass(frozen=True)
class JointlyLinearTrainer:
    stack_size: int = 64
    start: Start = "fresh"

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> JointlyLinearStack:
        weights = torch.from_numpy(TRAIN_WEIGHTS)
        return JointlyLinearStack(torch.stack([(v.images.flatten(1).double() * weights).sum() + OFFSET for v in views]))

    def describe(self) -> dict[str, object]:
        return {"trainer": "jointly linear"}


@dataclass(frozen=True)
class SharedTestNoise(DenoisedSmoothing):
    """Faulty: the noise on the test image is one coin for all members."""

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        return DenoisedSmoothing.inputs(self, images, rows, Key(0) / "shared")


@dataclass(frozen=True)
class CleanAfterAll(DenoisedSmoothing):
    """Faulty: claims noise on the test image and adds none."""

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        assert isinstance(images, SealedInputs)
        return images.unsealed()


@dataclass(frozen=True)
class OneInputForAll(DenoisedSmoothing):
    """Faulty: claims noise on the test image, and says that all members see the same."""

    @property
    def inputs_per_member(self) -> bool:
        return False

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        assert not isinstance(images, SealedInputs)
        return images


@dataclass(frozen=True)
class CleanBesideNoised(DenoisedSmoothing):
    """Faulty: adds the noise, and looks at the clean test image as well."""

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        assert isinstance(images, SealedInputs)
        noised = DenoisedSmoothing.inputs(self, images, rows, key)
        return noised if bool(images.unsealed().mean() > 2) else noised + 0


@dataclass(frozen=True)
class WeakTestNoise(DenoisedSmoothing):
    """Faulty: less noise on the test image than claimed."""

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        return DenoisedSmoothing.inputs(replace(self, sigma_x=self.sigma_x / 2), images, rows, key)


@dataclass(frozen=True)
class AveragedTestNoise(DenoisedSmoothing):
    """Faulty: averages two draws."""

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        return (sum(DenoisedSmoothing.inputs(self, images, rows, key / draw) for draw in range(2)) / 2).float()  # type: ignore[union-attr]


@dataclass(frozen=True)
class TrainingNoiseAgain(DenoisedSmoothing):
    """Faulty: the test image gets the numbers that the first training images had."""

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        assert isinstance(images, SealedInputs)
        return images.noised(self.sigma_x, key / "noise", rows)


def scheme(kind: type[DenoisedSmoothing] = DenoisedSmoothing, n: int = 1_000) -> DenoisedSmoothing:
    return kind(IdentityDenoiser(), SIGMA, 50, n, test_input="noised-denoised", sigma_x=SIGMA_X)


def test_votes_have_exactly_the_probability_of_the_closed_form(tmp_path: Path) -> None:
    ballots = ballots_of(scheme(), JointlyLinearTrainer(), CASE.train, TEST, tmp_path / "l")
    for image in range(2):
        assert_rate_is(int(ballots.votes[:, image].sum()), len(ballots), float(scipy.stats.norm.cdf(1)))
    assert (ballots.votes[:, 0] != ballots.votes[:, 1]).any(), "every test image has its own noise"


@pytest.mark.parametrize("faulty", [SharedTestNoise, CleanAfterAll])
def test_the_closed_form_catches_wrong_noise_on_the_input(faulty: type[DenoisedSmoothing], tmp_path: Path) -> None:
    ballots = ballots_of(scheme(faulty), JointlyLinearTrainer(), CASE.train, TEST, tmp_path / "l")
    with pytest.raises(AssertionError, match="hits at rate"):
        assert_rate_is(int(ballots.votes[:, 0].sum()), len(ballots), float(scipy.stats.norm.cdf(1)))


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (SharedTestNoise, "noise on test images was drawn from a stream that is not the member's own"),
        (TrainingNoiseAgain, "or that its training images had already"),
        (CleanAfterAll, "test images were read without noise, but the claim is about sigma_x=0.25"),
        (CleanBesideNoised, "test images were read without noise, but the claim is about sigma_x=0.25"),
        (OneInputForAll, "test images were read without noise, but the claim is about sigma_x=0.25"),
        (WeakTestNoise, "test images with noise of std 0.125, but the claim is about sigma_x=0.25"),
        (AveragedTestNoise, "members saw 2 noise draws of one test image"),
    ],
)
def test_wrong_noise_on_the_input_voids_the_joint_certificate(faulty: type[DenoisedSmoothing], reason: str, tmp_path: Path) -> None:
    defense = scheme(faulty, n=40)
    ballots = ballots_of(defense, JointlyLinearTrainer(stack_size=16), CASE.train, TEST, tmp_path / "l")
    outcome = defense.certify(ballots)
    assert isinstance(outcome, Unproved)
    assert len(outcome.reasons) == 1
    assert reason in outcome.reasons[0]


class Overflowing(JointlyLinearStack):
    """Member 3 has no finite logit for the second test image."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().__call__(images)
        logits[3:4, 1] = torch.nan
        return logits

    def member(self, index: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: self(images)[index]


class Diverging(Overflowing):
    """Member 3 diverged in training, and has no finite logit for any test image."""

    def __init__(self, offsets: torch.Tensor) -> None:
        super().__init__(offsets.where(torch.arange(len(offsets)) != 3, torch.nan))
        self.failed = ~torch.isfinite(self.offsets)


@dataclass(frozen=True)
class FailingTrainer(JointlyLinearTrainer):
    kind: type[JointlyLinearStack] = Overflowing

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> JointlyLinearStack:
        return self.kind(super().fit(views, keys, common).offsets)


def test_no_test_image_may_take_a_members_vote_about_others(tmp_path: Path) -> None:
    joint, clean = scheme(n=40), DenoisedSmoothing(IdentityDenoiser(), SIGMA, 50, 40)
    for defense, kind, proved in (
        (joint, Overflowing, False),
        (joint, Diverging, True),
        (clean, Overflowing, True),
        (clean, Diverging, True),
    ):
        path = tmp_path / f"{defense.test_input} {kind.__name__}"
        ballots = ballots_of(defense, FailingTrainer(128, kind=kind), CASE.train, TEST, path)
        assert ballots.failed.nonzero()[0].tolist() == [3]
        alone = replace(ballots.provenance, retrained=None)  # there it is member 0 of its stack, and does not fail
        outcome = defense.certify(replace(ballots, provenance=alone))
        assert isinstance(outcome, Certificate) == proved
        assert proved or [reason.partition(" gave")[0] for reason in outcome.reasons] == ["a member with finite weights"]


def test_sealed_test_images_are_handed_out_noised_and_in_their_place() -> None:
    images, reads = tiny(700, 3, (1, 8, 8), Key(0)).pixels(), InputReads()
    member = Key(7) / "members" / 3
    sealed = SealedInputs(images[1_024:], range(1_024, 2_100), member, reads)
    noised = sealed.noised(0.25, member / "test noise", range(2_048, 2_100))
    assert torch.equal(noised, images[2_048:] + 0.25 * normal_block(member / "test noise", range(2_048, 2_100), (1, 8, 8)))
    lineage = reads.amend(Lineage(), Reads())
    assert (lineage.test_sigma, lineage.test_draws, lineage.test_own_noise) == (0.25, 1, True)
    assert {name for name in dir(sealed) if not name.startswith("_")} == {"noised", "rows", "unsealed"}
    for rows, text in ((range(1_024), "0 to 1023 are not all among 1024 to 2099"), (range(1_025, 1_030), "not one aligned block")):
        with pytest.raises(ValueError, match=text):
            sealed.noised(0.25, member, rows)
    with pytest.raises(ValueError, match="adds no noise"):
        sealed.noised(float("nan"), member, range(1_024, 2_048))


def test_the_joint_ball_is_exact() -> None:
    """rho is 1 here: the cheapest joint change, in the norm of the claim, flips at 1 + 1e-6 and not at 1 - 1e-6."""
    for factor, flips in ((1 - 1e-6, False), (1 + 1e-6, True)):
        delta_train, delta_input = -factor * SIGMA**2 * TRAIN_WEIGHTS / STD, -factor * SIGMA_X**2 * INPUT_WEIGHTS / STD
        size = np.sqrt((delta_train**2).sum() / SIGMA**2 + (delta_input**2).sum() / SIGMA_X**2)
        assert size == pytest.approx(factor, rel=1e-12)
        assert (margin(CASE.pixels() + delta_train, CLEAN_INPUT + delta_input) < 0) == flips


def test_joint_certificate_says_so(tmp_path: Path) -> None:
    defense = scheme(n=200)
    certificate = defense.certify(ballots_of(defense, JointlyLinearTrainer(), CASE.train, TEST, tmp_path / "l"))
    assert isinstance(certificate, Certificate)
    assert certificate.sigma_x == SIGMA_X
    assert 0 < certificate.radii[0] / SIGMA < 1
    assert "sqrt(T^2 / sigma^2 + t^2 / sigma_x^2) < radius / sigma" in certificate.claim
    assert any("secret until the test images were fixed" in item.text for item in certificate.assumptions)
    sealed = "test images are sealed; lineage of 250 members: noise std 0.25, one draw per test image and member"
    assert any(sealed in item.evidence and item.verdict == "enforced" for item in certificate.assumptions)


def test_a_ledger_without_a_record_of_test_noise_does_not_say_that_it_was_enforced(tmp_path: Path) -> None:
    defense = scheme(n=40)
    ballots = ballots_of(defense, JointlyLinearTrainer(), CASE.train, TEST, tmp_path / "l")
    told = {name: value for name, value in ballots.lineages[0].to_json().items() if not name.startswith("test_")}
    outcome = defense.certify(replace(ballots, lineages=(Lineage.from_json(told),)))
    assert isinstance(outcome, Certificate)
    assert not any("test images are sealed" in item.evidence for item in outcome.assumptions)
    failed = replace(ballots, lineages=(Lineage.from_json(told),), failed=np.arange(len(ballots)) == 3)
    outcome = defense.certify(failed)
    assert isinstance(outcome, Unproved)
    assert "does not tell whether they did so on a test image" in outcome.reasons[0]


def test_what_members_see() -> None:
    known, data = tiny(5, 3, (1, 8, 8), Key(3)), tiny(4, 3, (1, 8, 8), Key(0))
    denoiser, images = KernelDenoiser(known), data.pixels()
    key = Key(7) / "test noise"

    def seen(kind: str, sigma_x: float) -> torch.Tensor:
        rows = range(len(data))
        shown = SealedInputs(images, rows, key, InputReads()) if sigma_x else images
        return prepared(shown, rows, denoiser, kind, 0.3, sigma_x, key, "cpu")  # type: ignore[arg-type]

    assert torch.equal(seen("clean", 0.0), images)
    torch.testing.assert_close(seen("denoised", 0.0), denoiser(images, torch.full((len(data),), 0.3)))
    noisy = images + 0.2 * normal_block(key, range(len(data)), data.image_shape)
    torch.testing.assert_close(seen("noised-denoised", 0.2), denoiser(noisy, torch.full((len(data),), 0.2)), rtol=0, atol=1e-5)
    for kind, shown in (("clean", SealedInputs(images, range(len(data)), key, InputReads())), ("noised-denoised", images)):
        with pytest.raises(TypeError, match="needs (open|sealed) test images"):
            prepared(shown, range(len(data)), denoiser, kind, 0.3, 0.2, key, "cpu")  # type: ignore[arg-type]


def test_noise_does_not_depend_on_how_the_test_set_is_cut() -> None:
    images = tiny(700, 3, (1, 8, 8), Key(0)).pixels()
    key = Key(7)

    def noised(rows: range) -> torch.Tensor:
        part = SealedInputs(images[rows.start : rows.stop], rows, key, InputReads())
        return prepared(part, rows, IdentityDenoiser(), "noised-denoised", 0.5, 0.5, key, "cpu")

    assert len(images) > 2_048
    whole = noised(range(len(images)))
    assert torch.equal(whole[2_048:], noised(range(2_048, len(images))))
    assert not torch.equal((whole - images)[:1_024], (whole - images)[1_024:2_048])


def test_clean_and_denoised_inputs_leave_the_certificate_about_training_sets(tmp_path: Path) -> None:
    clean = DenoisedSmoothing(KernelDenoiser(linear_case(seed=9).train), 0.5, 10, 40)
    trainer = JointlyLinearTrainer(stack_size=8)
    for kind in ("clean", "denoised"):
        defense = replace(clean, test_input=kind)  # type: ignore[arg-type]
        outcome = defense.certify(ballots_of(defense, trainer, CASE.train, TEST, tmp_path / kind))
        assert isinstance(outcome, Certificate)
        assert outcome.sigma_x == 0
        assert "test image can change" not in outcome.claim


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sigma_x": 0.2}, "needs test input noised-denoised"),
        ({"sigma_x": 0.2, "test_input": "denoised"}, "needs test input noised-denoised"),
        ({"test_input": "noised-denoised"}, "sigma_x=0.0 adds no noise"),
        ({"test_input": "noised-denoised", "sigma_x": float("nan")}, "sigma_x=nan adds no noise"),
        ({"test_input": "noised-denoised", "sigma_x": 3.0}, "sigma_x=3 exceeds this denoiser's sigma_max=2"),
        ({"test_input": "denoised"}, "denoiser none changes nothing"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DenoisedSmoothing(**{"denoiser": IdentityDenoiser(sigma_max=2.0), "sigma": 0.5, "n0": 10, "n": 40} | change)


def test_votes_on_noised_inputs_do_not_depend_on_stacks(tmp_path: Path) -> None:
    train, test = tiny(8, 3, (1, 8, 8), Key(1) / "train"), tiny(20, 3, (1, 8, 8), Key(1) / "test")
    defense = DenoisedSmoothing(IdentityDenoiser(), 1.0, 3, 12, test_input="noised-denoised", sigma_x=1.0)
    recipe = Recipe(architecture="mlp-128", epochs=2, learning_rate=0.3)
    runs = [
        ballots_of(defense, StackedTrainer(recipe, stack_size=size), train, test, tmp_path / str(size)).votes for size in (1, 7)
    ]
    assert np.array_equal(*runs)
    assert (runs[0] != runs[0][:1]).any(), "at this noise members disagree, or the comparison shows nothing"
