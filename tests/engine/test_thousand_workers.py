"""The driver under the completion events of a thousand workers: every block is committed once, and none is kept in memory.

How fast is for `benchmarks/thousand_workers.py` to say; here nothing depends on the clock.
"""

import importlib.util
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from certidote.engine.jobs import BlockRecord, Job, Payload


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "thousand_workers.py"
    spec = importlib.util.spec_from_file_location("thousand_workers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_block_is_committed_and_none_is_kept(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[BlockRecord] = weakref.WeakSet()
    kept, groups = [], []
    honest = benchmark.Simulated.map

    def watched(self: object, payload: Payload, jobs: Iterable[Job]) -> Iterator[list[BlockRecord]]:
        for records in honest(self, payload, jobs):
            kept.append(len(alive - weakref.WeakSet(records)))
            alive.update(records)
            groups.append(len(records))
            yield records

    monkeypatch.setattr(benchmark.Simulated, "map", watched)
    row = benchmark.measure(tmp_path / "ledger.sqlite", workers=1_000, blocks=2_500, num_tests=100, window=0.05)
    assert row["blocks"] == 2_500
    assert row["commits"] == len(groups) < 500, "what comes in together is committed together"
    assert max(groups) > 10
    assert max(kept) <= max(groups), "the group before this one may still be held, nothing older"
