"""The interim figure: counts in any order of arrival, against counting everything at once."""

import numpy as np
import pytest

from certidote.certification.anytime import anytime_lower_bound
from certidote.certification.binomial import lower_confidence_bound
from certidote.certification.smoothing import certify_counts
from certidote.engine.jobs import BlockRecord, Job
from certidote.results.interim import Interim
from certidote.results.summary import wilson
from certidote.streams import Key
from certidote.types import Ballots, Lineage, Provenance

LABELS = np.arange(40) % 3
RANDOM = (Key(3) / "interim").numpy()
RIGHT = RANDOM.random((90, 40)) < np.linspace(0.2, 1.0, 40)
VOTES = np.where(RIGHT, LABELS, (LABELS + 1) % 3)
FAILED = RANDOM.random(90) < 0.1
N0, ALPHA = 10, 0.01


def record(first: int, last: int) -> BlockRecord:
    members = np.arange(first, last)
    return BlockRecord(Job(first, last), VOTES[first:last], FAILED[first:last], members, Lineage(), 0.0, 0.0)


def ballots(members: int) -> Ballots:
    ids = np.arange(members)
    return Ballots(VOTES[:members], FAILED[:members], 3, (Lineage(),), ids, Provenance("", "given", None))


def certified_by_a_certificate(members: int) -> int:
    counted = ballots(members)
    labels, *_ = certify_counts(counted.counts(0, N0), counted.counts(N0, members), members - N0, 1.0, ALPHA)
    return int((labels == LABELS).sum())


def test_the_figure_is_that_of_a_certificate_by_the_votes_before_the_first_gap() -> None:
    interim = Interim(LABELS, 3, N0, ALPHA, lower_confidence_bound)
    interim.see([record(0, 7)])
    assert interim.note() == ""
    interim.see([record(20, 30), record(60, 90)])
    assert interim.certified() == (0, 40)
    interim.see([record(7, 20)])
    assert interim.certified()[0] == certified_by_a_certificate(30) > 5
    interim.see([record(30, 60)])
    assert interim.certified()[0] == certified_by_a_certificate(90) > certified_by_a_certificate(30)
    low, high = wilson(certified_by_a_certificate(90), 40)
    assert interim.note() == f"interim certified accuracy {certified_by_a_certificate(90) / 40:.3f} ({low:.3f} to {high:.3f})"


def test_the_figure_after_the_last_votes_is_exact_however_soon_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certidote.results.interim.time.monotonic", lambda: 5.0)  # the clock stands still
    interim = Interim(LABELS, 3, N0, ALPHA, lower_confidence_bound)

    def share() -> str:
        return interim.note().split()[3]

    interim.see([record(0, 30)])
    early = f"{certified_by_a_certificate(30) / 40:.3f}"
    assert share() == early
    interim.see([record(30, 90)])
    assert share() == early, "while votes come in, the figure is not worked out at once"
    assert share() == f"{certified_by_a_certificate(90) / 40:.3f}" != early


def test_votes_of_an_earlier_run_count() -> None:
    interim = Interim(LABELS, 3, N0, ALPHA, lower_confidence_bound)
    interim.resume(ballots(50))
    interim.see([record(50, 90)])
    assert interim.certified()[0] == certified_by_a_certificate(90)


def test_a_run_is_decided_when_every_answer_is_above_or_below_one_half() -> None:
    def unanimous(share: float, members: int) -> Interim:
        interim = Interim(np.zeros(2, dtype=np.int64), 2, 1, 0.001, anytime_lower_bound)
        votes = np.zeros((members, 2), dtype=np.int64)
        votes[1 + round((members - 1) * share) :, 1] = 1  # the second image: its answer has this share
        ids = np.arange(members)
        interim.resume(Ballots(votes, np.zeros(members, dtype=bool), 2, (Lineage(),), ids, Provenance("", "given", None)))
        return interim

    assert unanimous(1.0, 101).decided()
    assert unanimous(0.0, 101).decided(), "certain to abstain"
    assert not unanimous(0.5, 101).decided()
    assert not unanimous(1.0, 5).decided(), "four votes decide nothing"


def test_without_selecting_members_the_counted_ones_select() -> None:
    interim = Interim(LABELS, 3, 0, ALPHA / 2, lower_confidence_bound)
    interim.resume(ballots(90))
    labels, *_ = certify_counts(None, ballots(90).counts(0, 90), 90, 1.0, ALPHA)
    assert interim.certified()[0] == int((labels == LABELS).sum()) > 5
