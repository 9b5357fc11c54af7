"""The ledger: what is committed survives, what is wrong is refused, nothing is counted twice."""

import errno
import os
import sqlite3
import struct
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


PAGE = 4_096
COMMITTED = 200


def sizes_to_try(length: int, step: int, seed: int) -> list[int]:
    """Around every multiple of `step`, and a hundred places in between."""
    edges = {edge + shift for edge in range(0, length + 1, step) for shift in (-1, 0, 1)}
    anywhere = np.random.default_rng(seed).integers(0, length + 1, size=100).tolist()
    return sorted(size for size in edges | set(anywhere) if 0 <= size <= length)


def complete_or_refused(path: Path) -> bool:
    """Whether everything committed is there, to the last bit; otherwise the ledger was refused, or is as good as new."""
    try:
        with Ledger(path) as ledger:
            if ledger.get("config") is None:
                assert path.stat().st_size == 0 or not ledger.voted()
                return False
            ballots, seconds = ledger.ballots(3, 10, PROVENANCE), ledger.seconds()
    except ValueError as error:
        return "damaged or not a ledger" not in str(error) and pytest.fail(f"refused for another reason: {error}")
    assert ballots.votes.tolist() == [[1, 2, 1]] * COMMITTED, "silently fewer, or wrong"
    assert ballots.noise_ids.tolist() == list(range(COMMITTED))
    assert seconds == (COMMITTED / 4 * 0.5, COMMITTED / 4 * 0.25)
    return True


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "l", *((first, first + 4) for first in range(0, COMMITTED, 4)))
    whole = path.read_bytes()
    assert len(whole) % PAGE == 0
    for size in sizes_to_try(len(whole), PAGE, seed=0):
        path.write_bytes(whole[:size])
        assert complete_or_refused(path) == (size == len(whole)), size


@pytest.mark.parametrize("spilled", [False, True], ids=["in memory", "pages written"])
@pytest.mark.parametrize("cut", ["ledger", "journal"])
def test_a_commit_cut_off_and_then_truncated_is_recovered_or_refused(tmp_path: Path, spilled: bool, cut: str) -> None:
    """A kill in the middle of a transaction, of which some pages had reached the file, and then the end of a file was lost."""
    path, journal = tmp_path / "l", tmp_path / "l-journal"
    filled(path, *((first, first + 4) for first in range(0, COMMITTED, 4)))
    before = path.stat().st_size
    with Ledger(path) as ledger:
        ledger.db.execute(f"PRAGMA cache_size={1 if spilled else 1_000}")
        ledger.db.execute("BEGIN IMMEDIATE")
        for first in range(COMMITTED, COMMITTED + 80, 4):
            ledger._insert(block(first, first + 4, num_tests=2_000), 10)
        whole = {"ledger": path.read_bytes(), "journal": journal.read_bytes()}
        ledger.db.execute("ROLLBACK")
    assert (len(whole["ledger"]) > before) == spilled
    for size in sizes_to_try(len(whole[cut]), PAGE if cut == "ledger" else PAGE + 8, seed=1):
        part = {**whole, cut: whole[cut][:size]}
        path.write_bytes(part["ledger"])
        journal.write_bytes(part["journal"])
        complete = complete_or_refused(path)
        journal.unlink(missing_ok=True)
        if cut == "ledger":
            assert complete == (size >= before), size
        elif size == len(whole[cut]):
            assert complete


@pytest.mark.parametrize("left", [b"", b"journal"], ids=["empty file", "first commit cut off"])
def test_a_run_that_was_stopped_before_it_began_begins(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "l"
    path.write_bytes(b"")
    if left:  # a header that says: before this transaction the file had no pages
        header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 0, 7, 0, 512, PAGE)
        (tmp_path / "l-journal").write_bytes(header.ljust(512, b"\0"))
    with Ledger(path, read_only=True) as ledger:
        assert ledger.get("config") is None
    filled(path, (0, 4))
    with Ledger(path) as ledger:
        assert ledger.voted() == 4


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(code: int) -> None:
        def fail(path: Path, *given: object) -> int:
            raise OSError(code, os.strerror(code), str(path))

        monkeypatch.setattr("certidote.engine.lock.os.open", fail)

    failing(errno.EROFS)
    with pytest.raises(ValueError, match=r"l cannot be used as a ledger \(Read-only file system\); give another run directory"):
        Ledger(tmp_path / "l")
    failing(errno.ENOSPC)
    with pytest.raises(OSError, match=r"could not write to .*l \(No space left on device\): the disk is full.* free space and run"):
        Ledger(tmp_path / "l")


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
