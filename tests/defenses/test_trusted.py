"""Trusted images: used as they are, outside the threat model, named wherever the certificate is printed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from certidote import engine
from certidote.data.tiny import tiny
from certidote.defenses.sanitize import sanitized
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.results.record import _proved_results
from certidote.streams import ROW_BLOCK, Key, normal_block, row_blocks
from certidote.types import Ballots, Certificate, ImageDataset, Lineage, Provenance, Traced, Untrusted
from false_alarms import assert_rate_is
from fixtures_transfer import KernelDenoiser
from oracles import IdentityDenoiser, InnerProductTrainer, linear_case
from running import ballots_of

CASE = linear_case()
TRUSTED = (0, 3, 4, 9, 11)
WEIGHTS = CASE.weights() * ~np.isin(np.arange(len(CASE.train)), TRUSTED)[:, None]
DISTANCE = abs(CASE.margin(CASE.pixels())) / float(np.linalg.norm(WEIGHTS))
SIGMA = DISTANCE  # so that a member is right with probability Phi(1)
TEST = ImageDataset(torch.stack([CASE.test_image] * 2), torch.tensor([0, 1]), ("a", "b"))


def test_votes_have_exactly_the_probability_of_noise_on_the_untrusted_rows(tmp_path: Path) -> None:
    scheme = DenoisedSmoothing(IdentityDenoiser(), SIGMA, 50, 1_200)
    ballots = ballots_of(scheme, InnerProductTrainer(), CASE.train, TEST, tmp_path / "t", trusted=TRUSTED)
    assert_rate_is(int((ballots.votes[:, 0] == CASE.answer()).sum()), len(ballots), float(scipy.stats.norm.cdf(1)))
    certificate = scheme.certify(ballots)
    assert isinstance(certificate, Certificate)
    assert 0.8 * DISTANCE < certificate.radii[0] <= DISTANCE
    with pytest.raises(AssertionError, match="hits at rate"):  # the rate if trusted rows were noised too
        assert_rate_is(int((ballots.votes[:, 0] == CASE.answer()).sum()), len(ballots), CASE.probability(SIGMA))


def test_the_radius_is_exact_for_changes_of_untrusted_rows() -> None:
    direction = -WEIGHTS / np.linalg.norm(WEIGHTS) * (1 if CASE.answer() else -1)
    assert not direction[list(TRUSTED)].any()
    for factor, flips in ((1 - 1e-6, False), (1 + 1e-6, True)):
        attacked = CASE.pixels() + factor * DISTANCE * direction
        assert (int(CASE.margin(attacked) > 0) != CASE.answer()) == flips
    assert CASE.distance() < DISTANCE, "fewer rows to move: the boundary is farther away"


def test_trusted_images_are_neither_noised_nor_denoised_and_leave_no_mark() -> None:
    known, data = tiny(5, 2, (1, 8, 8), Key(3)), tiny(ROW_BLOCK, 2, (1, 8, 8), Key(0))
    trusted = (5, *range(ROW_BLOCK, 2 * ROW_BLOCK))  # one of the first block, all of the second
    denoiser = KernelDenoiser(known)
    untrusted = Untrusted(data, trusted).watched(Key(0))
    made = sanitized(untrusted, denoiser, 0.3, Key(1))
    assert torch.equal(made.images[list(trusted)], data.pixels()[list(trusted)])
    rest = [row for row in range(ROW_BLOCK) if row != 5]
    noisy = data.pixels()[:ROW_BLOCK] + 0.3 * normal_block(Key(1), range(ROW_BLOCK), data.image_shape)
    torch.testing.assert_close(made.images[rest], denoiser(noisy[rest], torch.full((len(rest),), 0.3)), rtol=0, atol=1e-5)
    assert made.lineage.trusted == len(trusted)
    amended = untrusted.reads.amend(made.lineage)
    assert amended.unsealed == ()
    assert (amended.sigma, amended.draws) == (0.3, 1)


def test_without_trusted_images_nothing_changes() -> None:
    data = tiny(20, 2, (1, 8, 8), Key(0))
    blocks = [Untrusted(data).noised(0.3, Key(1), rows) for rows in row_blocks(len(data))]
    assert all(isinstance(block, Traced) and block.exempt == () for block in blocks)


def test_certificate_and_configuration_name_the_trusted_images(tmp_path: Path) -> None:
    scheme = DenoisedSmoothing(IdentityDenoiser(), SIGMA, 10, 40)
    ballots = ballots_of(scheme, InnerProductTrainer(), CASE.train, TEST, tmp_path / "l", trusted=TRUSTED)
    certificate = scheme.certify(ballots)
    assert isinstance(certificate, Certificate)
    assert certificate.trusted == 5
    assert "training pixels outside the 5 trusted images" in certificate.claim
    named = next(item for item in certificate.assumptions if "trusted images" in item.text)
    assert named.text.startswith("5 trusted images: the attacker cannot have touched them")
    assert named.verdict == "assumed"
    with pytest.raises(ValueError, match="trusted"):
        ballots_of(scheme, InnerProductTrainer(), CASE.train, TEST, tmp_path / "l", trusted=TRUSTED[:4])
    with pytest.raises(ValueError, match="trusted"):
        ballots_of(scheme, InnerProductTrainer(), CASE.train, TEST, tmp_path / "l")
    plain = engine.configuration(scheme, InnerProductTrainer(), Untrusted(CASE.train), TEST, {})
    assert "trusted" not in plain


def test_no_more_images_can_be_altered_than_are_untrusted() -> None:
    certificate = DenoisedSmoothing(IdentityDenoiser(), 500.0, 10, 40).certify(
        Ballots(
            votes=np.zeros((50, 2), dtype=np.int64),
            failed=np.zeros(50, dtype=bool),
            num_classes=2,
            lineages=(Lineage(sigma=500.0, draws=1, trusted=5),),
            noise_ids=np.arange(50),
            provenance=Provenance("digest", "operating system", 0),
        )
    )
    assert isinstance(certificate, Certificate)
    facts = {"images": len(CASE.train), "image_shape": list(CASE.train.image_shape)}
    results = _proved_results(certificate, np.array([0, 1]), facts)
    for threat in results["threats"]:
        assert threat["max_k"] == 7
        assert [k for k, _ in threat["certified_accuracy_at_k"]] == [1, 2, 5]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ((0, 12), "trusted row 12 does not exist; 12 images have rows 0 to 11"),
        ((-1,), "trusted row -1 does not exist"),
        ((4, 2, 4), "trusted row 4 is given twice"),
        (range(12), "all 12 images are trusted, so there is no attacker"),
    ],
)
def test_rows_that_cannot_be_are_refused(rows: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Untrusted(CASE.train, rows)


def test_order_of_trusted_rows_does_not_matter() -> None:
    assert Untrusted(CASE.train, (4, 2)).trusted == Untrusted(CASE.train, (2, 4)).trusted == (2, 4)
    assert replace(Untrusted(CASE.train, (2,)).noised(0.5, Key(0), range(12)).lineage, trusted=0).sigma == 0.5
