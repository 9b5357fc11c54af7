"""The Ray back end: a cluster of three nodes on this machine gives the votes of one process, whatever dies."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import certidote
from certidote import engine, verbs
from certidote.engine.cluster import RayWorkers
from certidote.engine.jobs import BlockRecord
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.engine.workers import JobFailed, WorkerLost, Workers
from certidote.types import Ballots, Untrusted
from faulty import SCHEME, TEST, TRAIN, Faulty

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.filterwarnings("ignore"),
]  # Ray warns about itself and leaves sockets to the collector


class RemovesANode:
    """Removes one node of the cluster as soon as the first votes are committed."""

    def __init__(self, cluster: Any) -> None:
        self._cluster, self.removed = cluster, False

    def see(self, records: list[BlockRecord]) -> None:
        if not self.removed:
            self._cluster.remove_node(self._cluster.worker_nodes.copy().pop(), allow_graceful=False)
            self.removed = True

    def note(self) -> str:
        return ""

    def decided(self) -> bool:
        return False


def run(path: Path, trainer: Faulty, pool: Workers, observer: RemovesANode | None = None) -> Ballots:
    data = Untrusted(TRAIN)
    with Ledger(path) as ledger:
        config = engine.configuration(SCHEME, trainer, data, TEST, {})
        engine.fill(SCHEME, trainer, data, TEST, ledger=ledger, pool=pool, config=config, seed=5, observer=observer)
        return engine.ballots(ledger, TEST)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ballots:
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(folder / "l", Faulty(folder), Pool(0))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    source, tests = Path(certidote.__file__).parents[1], Path(__file__).parents[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{source}{os.pathsep}{tests}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        small = {"num_cpus": 1, "include_log_monitor": False, "object_store_memory": 100 << 20}
        started = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
        for _ in range(2):
            started.add_node(**small)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def workers(cluster: Any) -> Iterator[RayWorkers]:
    with RayWorkers(cluster.address) as pool:
        assert pool.workers == 3
        yield pool


def assert_same(ballots: Ballots, undisturbed: Ballots) -> None:
    assert np.array_equal(ballots.votes, undisturbed.votes)
    assert np.array_equal(ballots.failed, undisturbed.failed)
    assert np.array_equal(ballots.noise_ids, undisturbed.noise_ids)


def test_a_killed_worker_cannot_change_a_vote(workers: RayWorkers, tmp_path: Path, undisturbed: Ballots) -> None:
    trainer = Faulty(tmp_path, "die")
    assert_same(run(tmp_path / "l", trainer, workers), undisturbed)
    assert trainer.trained() == 2


def test_a_worker_that_hangs_ends_itself_and_its_job_runs_again(cluster: Any, tmp_path: Path, undisturbed: Ballots) -> None:
    trainer = Faulty(tmp_path, "hang")
    assert_same(run(tmp_path / "l", trainer, RayWorkers(cluster.address, timeout=15.0)), undisturbed)
    assert trainer.trained() == 2


def test_a_worker_that_raises_leaves_its_traceback(workers: RayWorkers, tmp_path: Path, undisturbed: Ballots) -> None:
    with pytest.raises(JobFailed, match="members 8 to 11 failed: ValueError: made to fail"):
        run(tmp_path / "l", Faulty(tmp_path, "raise"), workers)
    with Ledger(tmp_path / "l") as ledger:
        assert 'raise ValueError("made to fail")' in ledger.failures()[0].traceback
    assert_same(run(tmp_path / "l", Faulty(tmp_path), workers), undisturbed)


def test_a_job_that_loses_every_worker_stops_the_run(workers: RayWorkers, tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match="members 8 to 11 lost their worker 3 times"):
        run(tmp_path / "l", Faulty(tmp_path, "die", times=99), workers)


def test_poisons_are_replayed_on_a_cluster(cluster: Any, workers: RayWorkers, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "targets": 2,
        "num_poisons": 3,
        "epsilon": "0.43",
        "option": ["steps=5"],
        "seed": 1,
        "gallery": False,
    }
    verbs.poison("bullseye-polytope", "digits-5-9", out=tmp_path / "pack", **options)
    here = verbs.replay(tmp_path / "pack", "digits-5-9", out=tmp_path / "here", workers=0, seed=2, dtype="float32")
    there = verbs.replay(
        tmp_path / "pack", "digits-5-9", out=tmp_path / "there", engine="ray", address=cluster.address, seed=2, dtype="float32"
    )
    assert there.record["trials"] == here.record["trials"]
    assert (here.record["workers"], there.record["workers"]) == (0, workers.workers)


def test_a_node_removed_in_the_middle_cannot_change_a_vote(
    cluster: Any, workers: RayWorkers, tmp_path: Path, undisturbed: Ballots
) -> None:
    remover = RemovesANode(cluster)
    assert_same(run(tmp_path / "l", Faulty(tmp_path, stack_size=1), workers, remover), undisturbed)
    assert remover.removed
    assert len(cluster.worker_nodes) == 1


def test_without_a_cluster_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def nobody(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(ValueError, match=r"no Ray cluster at 'auto' .*start one with 'ray start --head', or give --address local"):
        RayWorkers().__enter__()
