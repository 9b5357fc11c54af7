"""The ledger: what is committed survives, what is wrong is refused, nothing is counted twice."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from certidote.engine.jobs import BlockRecord, Job, plan
from certidote.engine.ledger import Ledger
from certidote.types import Lineage, Provenance

PROVENANCE = Provenance("digest", "operating system", 0)
LINEAGE = Lineage(sigma=0.5, draws=1)


def block(first: int, last: int, num_tests: int = 3, vote: int = 1) -> BlockRecord:
    members = last - first
    votes = np.full((members, num_tests), vote, dtype=np.int64) + np.arange(num_tests) % 2
    ids = np.arange(first, last, dtype=np.int64)
    return BlockRecord(Job(first, last), votes, np.zeros(members, dtype=bool), ids, LINEAGE, 0.5, 0.25)


def filled(path: Path, *blocks: tuple[int, int]) -> Path:
    with Ledger(path) as ledger:
        ledger.configure({"n": 10})
        for first, last in blocks:
            ledger.commit(block(first, last), 10)
    return path


def test_votes_come_back_as_committed(tmp_path: Path) -> None:
    path = filled(tmp_path / "l", (0, 4), (4, 8), (8, 10))
    with Ledger(path) as ledger:
        ballots = ledger.ballots(3, 10, PROVENANCE)
        assert ledger.seconds() == (1.5, 0.75)
    assert ballots.votes.tolist() == [[1, 2, 1]] * 10
    assert ballots.noise_ids.tolist() == list(range(10))
    assert ballots.lineages == (LINEAGE,)


def test_more_than_256_classes_fit(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.configure({})
        ledger.commit(block(0, 2, vote=998), 1_000)
        assert ledger.ballots(3, 1_000, PROVENANCE).votes.max() == 999


def test_only_the_gap_free_prefix_counts(tmp_path: Path) -> None:
    path = filled(tmp_path / "l", (0, 4), (8, 12))
    with Ledger(path) as ledger:
        assert len(ledger.ballots(3, 10, PROVENANCE)) == 4
        assert list(plan(12, 4, ledger.jobs())) == [Job(4, 8)]


def test_the_first_committed_votes_stand(tmp_path: Path) -> None:
    path = filled(tmp_path / "l", (0, 4))
    with Ledger(path) as ledger:
        with pytest.raises(RuntimeError, match="have voted already"):
            ledger.commit(block(0, 4, vote=2), 10)
        assert ledger.ballots(3, 10, PROVENANCE).votes.tolist() == [[1, 2, 1]] * 4


def test_another_configuration_is_refused_with_both_values(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        ledger.configure({"scheme": {"n": 1_000, "sigma": 0.25}, "data": "aa"})
        ledger.configure({"scheme": {"n": 1_000, "sigma": 0.25}, "data": "aa"})
        with pytest.raises(ValueError, match=r"scheme\.n=1000, but this command asks for scheme\.n=2000"):
            ledger.configure({"scheme": {"n": 2_000, "sigma": 0.25}, "data": "aa"})
        with pytest.raises(ValueError, match="data=aa, but this command asks for data=bb"):
            ledger.configure({"scheme": {"n": 1_000, "sigma": 0.25}, "data": "bb"})


def test_root_is_drawn_once_after_the_configuration(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ledger:
        with pytest.raises(RuntimeError, match="configuration must be recorded"):
            ledger.key(None)
        ledger.configure({})
        key = ledger.key(None)
        assert ledger.get("root_source") == "operating system"
        assert ledger.key(None) == key
        with pytest.raises(ValueError, match="leave the seed out"):
            ledger.key(7)
    with Ledger(tmp_path / "m") as other:
        other.configure({})
        assert other.key(None).root != key.root
    with Ledger(tmp_path / "n") as given:
        given.configure({})
        assert given.key(7).root == 7
        assert given.get("root_source") == "given"
        assert given.key(7).root == 7


def test_a_second_run_on_one_ledger_is_locked_out(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as first:
        first.configure({})
        with pytest.raises(ValueError, match="in use by another run"):
            Ledger(tmp_path / "l")


def test_files_that_are_no_ledger_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database, whatever its name says" * 50)
    with pytest.raises(ValueError, match="damaged or not a ledger"):
        Ledger(tmp_path / "text")
    with pytest.raises(ValueError, match="cannot be used as a ledger"):
        Ledger(tmp_path)


def test_a_row_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "l", (0, 4))
    database = sqlite3.connect(path)
    database.execute("UPDATE blocks SET votes = substr(votes, 2)")
    database.commit()
    database.close()
    with Ledger(path) as ledger, pytest.raises(ValueError, match="row of the wrong size"):
        ledger.ballots(3, 10, PROVENANCE)


def test_a_vote_for_no_class_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "l", (0, 4))
    with Ledger(path) as ledger, pytest.raises(ValueError, match="vote for class 2 of 2"):
        ledger.ballots(3, 2, PROVENANCE)


def test_every_truncation_is_recovered_or_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "l", *((first, first + 4) for first in range(0, 40, 4)))
    whole = path.read_bytes()
    for size in range(0, len(whole), 997):
        path.write_bytes(whole[:size])
        try:
            with Ledger(path) as ledger:
                votes = ledger.ballots(3, 10, PROVENANCE).votes
        except ValueError:
            continue
        assert votes.tolist() == [[1, 2, 1]] * len(votes), "silently wrong"


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    path = filled(tmp_path / "l", (0, 4))
    with Ledger(path) as ledger:
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(OSError, match="the disk is full. Committed members are kept; free space and run the same command"):
            for first in range(4, 40_000, 4):
                ledger.commit(block(first, first + 4, num_tests=2_000), 10)
    with Ledger(path) as ledger:
        assert ledger.ballots(3, 10, PROVENANCE).votes[:4].tolist() == [[1, 2, 1]] * 4


def test_plan_is_aligned_and_complete() -> None:
    assert list(plan(10, 4)) == [Job(0, 4), Job(4, 8), Job(8, 10)]
    assert list(plan(10, 4, [Job(4, 8)])) == [Job(0, 4), Job(8, 10)]
