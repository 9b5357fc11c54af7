"""Partitioned smoothing through the real pipeline, and beside the pure functions it is made of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote.certification.partition import frobenius_radius
from certidote.certification.smoothing import certify_counts
from certidote.data.tiny import tiny
from certidote.defenses.partition import PartitionedSmoothing, rows_of_parts
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.results.record import _proved_results
from certidote.streams import Key
from certidote.types import ABSTAIN, Ballots, Certificate, Lineage, Provenance, Unproved, Untrusted
from oracles import IdentityDenoiser, InnerProductTrainer
from running import ballots_of

TRAIN, TEST = tiny(13, 3, (1, 8, 8), Key(0)), tiny(2, 3, (1, 8, 8), Key(1))
BASE = DenoisedSmoothing(IdentityDenoiser(), 0.4, 6, 24, num_classes=3)
SCHEME = PartitionedSmoothing(BASE, 3)


def test_every_member_sees_its_own_part_noised_once() -> None:
    parts = rows_of_parts(len(TRAIN), (2, 7), 3)
    assert sorted(set().union(*parts)) == list(range(len(TRAIN)))
    scheme = PartitionedSmoothing(replace(BASE, sigma=1e-6), 3)
    for member in (0, 29, 30, 89):
        data = Untrusted(TRAIN, (2, 7)).watched(Key(0))
        view = scheme.view(data, member, Key(4) / member)
        rows = parts[member // 30]
        assert torch.equal(view.labels, TRAIN.labels[rows])
        torch.testing.assert_close(view.images, TRAIN.pixels()[rows], rtol=0, atol=1e-5)
        exempt = [rows.index(2), rows.index(7)]
        untouched = (view.images == TRAIN.pixels()[rows]).flatten(1).all(1).nonzero().flatten().tolist()
        assert untouched == exempt, "trusted images are in every part, as they are"
        lineage = data.reads.amend(view.lineage)
        assert (lineage.sigma, lineage.draws, lineage.unsealed, lineage.trusted) == (1e-6, 1, (), 2)


def test_certificate_is_the_partition_certificate_of_the_parts_counts(tmp_path: Path) -> None:
    ballots = ballots_of(SCHEME, InnerProductTrainer(stack_size=32), TRAIN, TEST, tmp_path / "l")
    assert len(ballots) == SCHEME.members == 90
    assert len(np.unique(ballots.noise_ids)) == 90
    certificate = SCHEME.certify(ballots)
    assert isinstance(certificate, Certificate)
    votes, radii = [], []
    for part in range(3):
        block = ballots.counts(30 * part, 30 * part + 6), ballots.counts(30 * part + 6, 30 * part + 30)
        labels, certified, _, _ = certify_counts(*block, 24, 0.4, 0.001 / 3)
        votes.append(labels)
        radii.append(certified)
    whole = np.stack(votes, axis=1), np.stack(radii, axis=1)
    assert (certificate.radii > 0).any()
    assert np.array_equal(certificate.radii, frobenius_radius(*whole, 3))
    assert np.array_equal(certificate.labels == ABSTAIN, certificate.radii == 0)
    assert certificate.radii.max() <= certificate.cap
    assert "plurality of 3 disjoint parts" in certificate.claim
    assert any("another of the 3 parts" in item.text for item in certificate.assumptions)
    results = _proved_results(certificate, TEST.labels.numpy(), {"images": len(TRAIN), "image_shape": list(TRAIN.image_shape)})
    assert results["cap"] == SCHEME.cap() == certificate.cap


def ballots(votes: np.ndarray) -> Ballots:
    return Ballots(
        votes=votes[:, None],
        failed=np.zeros(len(votes), dtype=bool),
        num_classes=3,
        lineages=(Lineage(sigma=0.4, draws=1),),
        noise_ids=np.arange(len(votes), dtype=np.int64),
        provenance=Provenance("digest", "operating system", 0),
    )


def test_unanimous_parts_reach_the_cap_and_a_divided_part_counts_for_nobody() -> None:
    agreed = SCHEME.certify(ballots(np.zeros(90, dtype=np.int64)))
    assert isinstance(agreed, Certificate)
    assert agreed.radii[0] == pytest.approx(agreed.cap, rel=1e-8)
    assert agreed.top_counts[0] == 3
    divided = np.zeros(90, dtype=np.int64)
    divided[60:] = np.arange(30) % 3
    less = SCHEME.certify(ballots(divided))
    assert isinstance(less, Certificate)
    assert less.parts is not None
    assert less.parts.votes[0].tolist() == [0, 0, ABSTAIN]
    assert less.labels[0] == 0
    # The attacker has the third part for nothing and needs one more: gap 3 to class 1, minus 1, closed by one flip.
    assert less.radii[0] == pytest.approx(less.parts.radii[0, 0], rel=1e-8)
    nobody = SCHEME.certify(ballots(np.arange(90, dtype=np.int64) % 3))
    assert isinstance(nobody, Certificate)
    assert nobody.labels[0] == ABSTAIN
    assert SCHEME.aggregate(ballots(divided)).labels.tolist() == [0]


def test_unfinished_runs_are_refused() -> None:
    outcome = SCHEME.certify(ballots(np.zeros(89, dtype=np.int64)))
    assert isinstance(outcome, Unproved)
    assert "89 members have voted, but 90 were fixed" in outcome.reasons[0]


@pytest.mark.parametrize(
    ("base", "parts", "text"),
    [
        (BASE, 1, "parts=1; give at least 2"),
        (replace(BASE, bound="anytime"), 3, "anytime bound does not go with parts"),
        (replace(BASE, test_input="noised-denoised", sigma_x=0.4), 3, "does not go with parts; use clean"),
        (replace(BASE, n=10), 3, "at least 12 are needed"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(base: DenoisedSmoothing, parts: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PartitionedSmoothing(base, parts)
