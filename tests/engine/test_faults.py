"""Every fault: no committed vote is lost, none is counted twice, and the final votes are those of an undisturbed run."""

import multiprocessing
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from certidote import engine
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.engine.workers import JobFailed, WorkerLost, Workers
from certidote.types import Ballots, Untrusted
from faulty import SCHEME, TEST, TRAIN, Faulty


def run(path: Path, trainer: Faulty, pool: Workers) -> Ballots:
    data = Untrusted(TRAIN)
    with Ledger(path) as ledger:
        config = engine.configuration(SCHEME, trainer, data, TEST, {})
        return engine.run(SCHEME, trainer, data, TEST, ledger=ledger, pool=pool, config=config, seed=5)


def committed(path: Path) -> set[int]:
    with Ledger(path) as ledger:
        return {member for job in ledger.jobs() for member in range(job.first, job.last)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ballots:
    folder = tmp_path_factory.mktemp("undisturbed")
    ballots = run(folder / "l", Faulty(folder), Pool(0))
    assert len(ballots) == 30
    assert len(np.unique(ballots.votes.sum(axis=1))) > 10, "members must disagree, or the comparisons show nothing"
    return ballots


def assert_same(ballots: Ballots, undisturbed: Ballots) -> None:
    assert np.array_equal(ballots.votes, undisturbed.votes)
    assert np.array_equal(ballots.failed, undisturbed.failed)
    assert np.array_equal(ballots.noise_ids, undisturbed.noise_ids)


@pytest.mark.parametrize("fault", ["die", "hang"])
def test_a_job_whose_worker_is_lost_runs_again_under_the_same_keys(fault: str, tmp_path: Path, undisturbed: Ballots) -> None:
    trainer = Faulty(tmp_path, fault)
    with Pool(2, timeout=6.0 if fault == "hang" else None) as pool:
        assert_same(run(tmp_path / "l", trainer, pool), undisturbed)
    assert trainer.trained() == 2, "once with the fault, once without"


def test_a_job_that_loses_every_worker_stops_the_run_and_the_next_one_goes_on(tmp_path: Path, undisturbed: Ballots) -> None:
    with Pool(1) as pool:
        with pytest.raises(WorkerLost, match=r"members 8 to 11 lost their worker 3 times .*run the same command again"):
            run(tmp_path / "l", Faulty(tmp_path, "die", times=3), pool)
        assert set(range(8)) <= committed(tmp_path / "l")
        assert not {8, 9, 10, 11} & committed(tmp_path / "l")
        assert_same(run(tmp_path / "l", Faulty(tmp_path, "die", times=3), pool), undisturbed)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children(), "no process outlives its pool"


def test_a_worker_does_not_outlive_a_driver_that_is_killed() -> None:
    """Not even for the job that it is at, which may take hours."""
    code = "from certidote.engine.local import Pool; from faulty import never_ends; list(Pool(1).each(never_ends, None, [0]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        try:
            worker = psutil.Process(int(driver.stdout.readline()))
        finally:
            driver.kill()
    try:
        worker.wait(timeout=60)
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_that_raises_leaves_its_traceback_and_what_was_committed(
    workers: int, tmp_path: Path, undisturbed: Ballots
) -> None:
    with Pool(workers) as pool:
        with pytest.raises(JobFailed, match="members 8 to 11 failed: ValueError: made to fail"):
            run(tmp_path / "l", Faulty(tmp_path, "raise"), pool)
        before = committed(tmp_path / "l")
        assert before, "whoever raised had done another job first"
        assert not {8, 9, 10, 11} & before
        with Ledger(tmp_path / "l") as ledger:
            (failure,) = ledger.failures()
        assert (failure.first, failure.last) == (8, 12)
        assert 'raise ValueError("made to fail")' in failure.traceback
        assert_same(run(tmp_path / "l", Faulty(tmp_path), pool), undisturbed)


def test_a_member_that_diverges_is_counted_and_never_trained_again(tmp_path: Path, undisturbed: Ballots) -> None:
    trainer = Faulty(tmp_path, "nan", times=99)
    ballots = run(tmp_path / "l", trainer, Pool(0))
    assert len(ballots) == 30
    assert ballots.failed.nonzero()[0].tolist() == [9]
    assert ballots.counts(9, 10).sum() == 0, "it votes for nobody"
    others = np.arange(30) != 9
    assert np.array_equal(ballots.votes[others], undisturbed.votes[others])
    assert_same(run(tmp_path / "l", trainer, Pool(0)), ballots)
    assert trainer.trained() == 1


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(
    tmp_path: Path, undisturbed: Ballots, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Ledger._open_to_write

    def small(ledger: Ledger) -> None:
        honest(ledger)
        pages = ledger.db.execute("PRAGMA page_count").fetchone()[0]
        ledger.db.execute(f"PRAGMA max_page_count={pages}")

    monkeypatch.setattr(Ledger, "_open_to_write", small)
    with pytest.raises(OSError, match="the disk is full. Committed members are kept"):
        run(tmp_path / "l", Faulty(tmp_path, stack_size=1), Pool(0))
    monkeypatch.undo()
    assert 0 < len(committed(tmp_path / "l")) < 30
    assert_same(run(tmp_path / "l", Faulty(tmp_path, stack_size=1), Pool(0)), undisturbed)
