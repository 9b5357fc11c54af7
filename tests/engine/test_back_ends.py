"""Which back end works on which job, in which order, in which company: none of it can change a vote."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote import engine
from certidote.engine.cluster import RayWorkers
from certidote.engine.jobs import BlockRecord, Job, Payload, plan, work
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool, available_cores, visible_gpus
from certidote.engine.until import Until, parse_until
from certidote.engine.workers import Workers
from certidote.numerics import rounding
from certidote.streams import Key
from certidote.types import Ballots, Json, Untrusted
from faulty import SCHEME, TEST, TRAIN, Faulty, visible_gpu


class Shuffled:
    """A back end that does jobs in a random order and returns random groups of them."""

    workers = 1

    def __init__(self, seed: int, numerics: Json | None = None) -> None:
        self._random = (Key(seed) / "shuffle").numpy()
        self._numerics = numerics

    def numerics(self, device: str) -> Json:
        return self._numerics or rounding(device)

    def map(self, payload: Payload, jobs: Iterable[Job]) -> Iterator[list[BlockRecord]]:
        waiting = list(jobs)
        while waiting:
            size = int(self._random.integers(1, 4))
            taken = [waiting.pop(int(self._random.integers(len(waiting)))) for _ in range(min(size, len(waiting)))]
            yield [work(payload, job) for job in taken]


def run(path: Path, pool: Workers, stack_size: int = 4, **options: object) -> Ballots:
    data, trainer = Untrusted(TRAIN), Faulty(path.parent, stack_size=stack_size)
    with Ledger(path) as ledger:
        config = engine.configuration(SCHEME, trainer, data, TEST, {})
        engine.fill(SCHEME, trainer, data, TEST, ledger=ledger, pool=pool, config=config, seed=5, **options)  # type: ignore[arg-type]
        return engine.ballots(ledger, TEST)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Ballots:
    return run(tmp_path_factory.mktemp("reference") / "l", Pool(0), stack_size=1)


@pytest.mark.parametrize(("workers", "stack_size"), [(0, 30), (0, 7), (1, 4), (2, 3), (3, 5)])
def test_workers_and_stacks_cannot_change_a_vote(workers: int, stack_size: int, tmp_path: Path, reference: Ballots) -> None:
    with Pool(workers) as pool:
        ballots = run(tmp_path / "l", pool, stack_size)
    assert np.array_equal(ballots.votes, reference.votes)
    assert np.array_equal(ballots.noise_ids, reference.noise_ids)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_jobs_cannot_change_a_vote(seed: int, tmp_path: Path, reference: Ballots) -> None:
    ballots = run(tmp_path / "l", Shuffled(seed))
    assert np.array_equal(ballots.votes, reference.votes)


def test_a_worker_that_may_round_differently_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a worker computes with cpu, .*use machines of one kind, or assign members to each kind"):
        run(tmp_path / "l", Shuffled(0, numerics=rounding("cpu") | {"processor": "another"}))
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.voted() == 0


def test_rounding_names_what_kernels_depend_on() -> None:
    assert set(rounding("cpu")) == {"device", "processor", "certidote", "torch", "numpy"}


# ------------------------------------------------------------------------------------------------------------ early stop


def test_a_number_of_models_is_met_exactly_and_the_run_goes_on(tmp_path: Path, reference: Ballots) -> None:
    assert len(run(tmp_path / "l", Pool(0), until=Until(models=10))) == 10
    assert len(run(tmp_path / "l", Pool(0), until=Until(models=10))) == 10
    ballots = run(tmp_path / "l", Pool(0))
    assert np.array_equal(ballots.votes, reference.votes)
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.jobs()[:5] == [Job(0, 4), Job(4, 8), Job(8, 10), Job(10, 12), Job(12, 16)]


def test_no_job_starts_after_the_time_is_up(tmp_path: Path, reference: Ballots, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 10))  # a clock that ticks 10 seconds whenever it is read
    monkeypatch.setattr("certidote.engine.monotonic", lambda: float(next(now)))
    assert len(run(tmp_path / "l", Pool(0), until=Until(seconds=45.0))) == 16, "it began at 0; jobs start at 10, 20, 30 and 40"
    monkeypatch.undo()
    assert np.array_equal(run(tmp_path / "l", Pool(0)).votes, reference.votes)


class Clock:
    """Decided once so many members have been seen."""

    def __init__(self, enough: int) -> None:
        self.enough, self.seen = enough, 0

    def see(self, records: list[BlockRecord]) -> None:
        self.seen += sum(record.job.last - record.job.first for record in records)

    def note(self) -> str:
        return ""

    def decided(self) -> bool:
        return self.seen >= self.enough


def test_a_run_stops_once_everything_is_decided_but_only_if_asked(tmp_path: Path) -> None:
    assert len(run(tmp_path / "a", Pool(0), until=Until(decided=True), observer=Clock(9))) == 12
    assert len(run(tmp_path / "b", Pool(0), observer=Clock(9))) == 30


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("", Until()),
        ("90s", Until(seconds=90.0)),
        ("30m", Until(seconds=1_800.0)),
        ("1.5h", Until(seconds=5_400.0)),
        ("2d", Until(seconds=172_800.0)),
        ("500", Until(models=500)),
        ("decided", Until(decided=True)),
    ],
)
def test_until_is_a_time_a_number_or_decided(text: str, until: Until) -> None:
    assert parse_until(text) == until


@pytest.mark.parametrize("text", ["0", "-3", "30 m", "m", "0s", "soon", "1e3", "5w"])
def test_other_ends_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"give a time such as 30m or 12h, a number of models such as 500, or decided"):
        parse_until(text)


# ------------------------------------------------------------------------------------------------------------------ plan


def test_plan_fills_any_gaps_with_aligned_jobs() -> None:
    """Against a list of members, whatever was committed."""
    random = (Key(0) / "plan").numpy()
    for _ in range(300):
        members, block = int(random.integers(1, 60)), int(random.integers(1, 9))
        first = int(random.integers(0, members))
        cuts = sorted(set(random.integers(0, members + 1, size=6).tolist()))
        committed = [Job(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b]
        done = {member for job in committed for member in range(job.first, job.last)}
        jobs = list(plan(range(first, members), block, committed))
        planned = [member for job in jobs for member in range(job.first, job.last)]
        assert planned == [member for member in range(first, members) if member not in done]
        assert all(job.first < job.last and job.first // block == (job.last - 1) // block for job in jobs)


def test_workers_take_turns_at_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Pool(device="cuda").workers == 2, "one for each GPU"
    assert Pool(device="cuda:1").workers == 1
    assert Pool(device="cpu").workers == available_cores()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert visible_gpus() == ["5", "3"]
    with Pool(3, device="cuda") as pool:  # three jobs, one for each
        seen = [gpu for answers in pool.each(visible_gpu, None, range(3)) for gpu in answers]
    assert sorted(seen) == ["3", "5", "5"]


def test_options_of_back_ends_are_checked() -> None:
    with pytest.raises(ValueError, match="give seconds > 0"):
        Pool(1, timeout=0.0)
    with pytest.raises(ValueError, match="a time limit needs worker processes"):
        Pool(0, timeout=3.0)
    with pytest.raises(ValueError, match="workers=-1"):
        Pool(-1)


def test_without_ray_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"the ray engine needs Ray, which is not installed; pip install 'certidote\[ray\]'"):
        RayWorkers()
    with pytest.raises(ValueError, match="give a share of a GPU > 0"):
        RayWorkers(gpus_per_task=0.0)
