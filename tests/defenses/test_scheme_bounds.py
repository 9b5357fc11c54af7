"""Which bound a run uses is fixed beforehand, decides what may be done with its votes, and is printed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from certidote.certification.smoothing import certify_counts, radius_cap
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.types import Ballots, Certificate, Lineage, Provenance, Unproved
from oracles import IdentityDenoiser, InnerProductTrainer, linear_case
from running import ballots_of


def ballots(members: int = 70, classes: int = 4) -> Ballots:
    votes = np.array([[0, 0, 0, 0, 1, 2, 3][i % 7] for i in range(members)], dtype=np.int64)
    return Ballots(
        votes=np.stack([votes, np.zeros_like(votes)], axis=1),
        failed=np.zeros(members, dtype=bool),
        num_classes=classes,
        lineages=(Lineage(sigma=0.5, draws=1),),
        noise_ids=np.arange(members, dtype=np.int64),
        provenance=Provenance("digest", "operating system", 0),
    )


def first(all_votes: Ballots, members: int) -> Ballots:
    return replace(
        all_votes, votes=all_votes.votes[:members], failed=all_votes.failed[:members], noise_ids=all_votes.noise_ids[:members]
    )


def scheme(bound: str, n0: int = 10) -> DenoisedSmoothing:
    return DenoisedSmoothing(IdentityDenoiser(), 0.5, n0, 70 - n0, bound=bound, num_classes=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", ["clopper-pearson", "multi-class", "anytime"])
@pytest.mark.parametrize("n0", [0, 10])
def test_certificate_is_that_of_the_counts_and_names_its_bound(bound: str, n0: int) -> None:
    all_votes = ballots()
    certificate = scheme(bound, n0).certify(all_votes)
    assert isinstance(certificate, Certificate)
    selection = all_votes.counts(0, n0) if n0 else None
    labels, radii, lower, hits = certify_counts(selection, all_votes.counts(n0, 70), 70 - n0, 0.5, 0.001, bound)  # type: ignore[arg-type]
    assert np.array_equal(certificate.labels, labels)
    assert np.array_equal(certificate.radii, radii)
    assert np.array_equal(certificate.lower_bounds, lower)
    assert np.array_equal(certificate.top_counts, hits)
    assert certificate.cap == radii[1] == radius_cap(0.5, 70 - n0, 0.001, bound, 4, n0 > 0)  # type: ignore[arg-type]
    assert certificate.bound == bound == scheme(bound, n0).describe()["bound"]
    assert {"anytime": "anytime-valid", "multi-class": "strongest rival"}.get(bound, "Clopper-Pearson") in certificate.claim
    assert ("10 other models" if n0 else "from the counted votes") in certificate.claim


def test_only_the_anytime_bound_may_stop_early() -> None:
    for bound in ("clopper-pearson", "multi-class"):
        refused = scheme(bound).certify(first(ballots(), 69))
        assert isinstance(refused, Unproved)
        assert "69 members have voted, but 70 were fixed beforehand" in refused.reasons[0]
    part, whole = scheme("anytime").certify(first(ballots(), 45)), scheme("anytime").certify(ballots())
    assert isinstance(part, Certificate)
    assert isinstance(whole, Certificate)
    assert (part.n, whole.n) == (35, 60)
    assert 0 < part.radii[1] < whole.radii[1]
    assert "35 votes are counted" in part.claim
    assert any("may depend on the votes" in item.text for item in part.assumptions)
    too_few = scheme("anytime").certify(first(ballots(), 10))
    assert isinstance(too_few, Unproved)
    assert "first 10 only select" in too_few.reasons[0]
    too_many = scheme("anytime").certify(ballots(71))
    assert isinstance(too_many, Unproved)


def test_the_bound_is_recorded_before_the_first_member_trains(tmp_path: Path) -> None:
    case = linear_case()
    chosen = DenoisedSmoothing(IdentityDenoiser(), 0.5, 10, 30)
    ballots_of(chosen, InnerProductTrainer(), case.train, case.train, tmp_path / "l")
    with pytest.raises(ValueError, match=r"scheme\.bound=clopper-pearson, but this command asks for scheme\.bound=anytime"):
        ballots_of(replace(chosen, bound="anytime"), InnerProductTrainer(), case.train, case.train, tmp_path / "l")


@pytest.mark.parametrize(
    ("bound", "n0", "least"),
    [("clopper-pearson", 10, 10), ("clopper-pearson", 0, 11), ("anytime", 10, 12), ("multi-class", 10, 11), ("multi-class", 0, 13)],
)
def test_too_few_models_for_the_bound_are_refused_with_the_number_needed(bound: str, n0: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"with the {bound} bound.*at least {least} are needed"):
        DenoisedSmoothing(IdentityDenoiser(), 0.5, n0, least - 1, bound=bound, num_classes=4)  # type: ignore[arg-type]
    DenoisedSmoothing(IdentityDenoiser(), 0.5, n0, least, bound=bound, num_classes=4)  # type: ignore[arg-type]
