"""The driver and the ledger under the completion events of a thousand workers: `python benchmarks/thousand_workers.py`.

Workers are simulated: each takes a job, is done after a random time, and takes the next. Everything else is the real thing: the loop of
`engine.fill`, group commits into a SQLite ledger that waits for the disk, the interim figure, progress. The simulated clock does
not slow the driver down: events come as fast as it takes them.
"""

import argparse
import heapq
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch
from machine import busy_elsewhere, keep, peak_mib

from certidote import engine
from certidote.certification.binomial import lower_confidence_bound
from certidote.data.tiny import tiny
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.diffusion.denoiser import load
from certidote.engine.jobs import BlockRecord, Job, Payload
from certidote.engine.ledger import Ledger
from certidote.numerics import rounding
from certidote.results.interim import Interim
from certidote.streams import Key
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import RECIPES
from certidote.types import ImageDataset, Json, Lineage, Untrusted

CLASSES = 10


class Simulated:
    """A back end of `workers` workers that vote at random, in blocks of one member, each in 1 +- 0.5 simulated seconds.

    Args:
        window: seconds of simulated time whose completions reach the driver together.
    """

    def __init__(self, workers: int, num_tests: int, window: float) -> None:
        self.workers, self._num_tests, self._window = workers, num_tests, window
        self.megabytes: list[float] = []

    def numerics(self, device: str) -> Json:
        return rounding(device)

    def map(self, payload: Payload, jobs: Iterable[Job]) -> Iterator[list[BlockRecord]]:
        random = (Key(0) / "completions").numpy()
        queue, process = iter(jobs), psutil.Process()
        events = [(random.gamma(4, 0.25), job.first, job) for job in islice(queue, self.workers)]
        heapq.heapify(events)
        while events:
            until = events[0][0] + self._window
            records = []
            while events and events[0][0] <= until:
                now, _, job = heapq.heappop(events)
                records.append(self._record(job, random))
                following = next(queue, None)
                if following is not None:
                    heapq.heappush(events, (now + random.gamma(4, 0.25), following.first, following))
            self.megabytes.append(process.memory_info().rss / 2**20)
            yield records

    def _record(self, job: Job, random: np.random.Generator) -> BlockRecord:
        members = np.arange(job.first, job.last)
        votes = random.integers(0, CLASSES, size=(len(members), self._num_tests))
        return BlockRecord(job, votes, np.zeros(len(members), dtype=bool), members, Lineage(sigma=1.0, draws=1), 1.0, 0.5)


def measure(path: Path, workers: int, blocks: int, num_tests: int, window: float) -> Json:
    """Drive `blocks` blocks of one member with `num_tests` votes each through the driver into a new ledger at `path`."""
    train = tiny(4, CLASSES, (1, 8, 8), Key(0) / "train")
    images = torch.zeros((num_tests, 1, 1, 1), dtype=torch.uint8)
    test = ImageDataset(images, torch.arange(num_tests) % CLASSES, train.class_names)
    scheme = DenoisedSmoothing(load("none"), sigma=1.0, n0=10, n=blocks - 10)
    trainer = PooledTrainer(RECIPES["mlp"], stack_size=1)
    data, simulated = Untrusted(train), Simulated(workers, num_tests, window)
    interim = Interim(test.labels.numpy(), CLASSES, scheme.n0, scheme.alpha, lower_confidence_bound)
    with Ledger(path) as ledger:
        config = engine.configuration(scheme, trainer, data, test, {})
        begin = time.perf_counter()
        missing = engine.fill(scheme, trainer, data, test, ledger=ledger, pool=simulated, config=config, seed=0, observer=interim)
        seconds = time.perf_counter() - begin
        assert missing == 0
        committed = len(ledger.jobs())
    memory = simulated.megabytes
    return {
        "workers": workers, "blocks": committed, "votes_in_a_block": num_tests, "window_s": window, "seconds": seconds,
        "blocks_per_minute": 60 * committed / seconds, "commits": len(memory),
        "driver_mib_after_a_quarter": memory[len(memory) // 4], "driver_mib_at_the_end": memory[-1],
        "ledger_bytes_per_vote": path.stat().st_size / (committed * num_tests),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--blocks", type=int, default=5_000)
    parser.add_argument("--tests", type=int, default=10_000, help="votes in a block")
    parser.add_argument("--folder", type=Path, help="where the ledger goes: on the disk to be measured; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/thousand_workers.json"))
    options = parser.parse_args()
    busy, rows = busy_elsewhere(), []
    # One block in each commit is the worst case; a window of 10 ms is what 1,000 workers with jobs of 1 s give a driver whose commit
    # takes that long.
    for window, blocks in ((0.0, min(1_000, options.blocks)), (0.01, options.blocks)):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            row = measure(Path(folder) / "ledger.sqlite", options.workers, blocks, options.tests, window)
        rows.append(row)
        print(
            f"{row['blocks']} blocks of {row['votes_in_a_block']} votes in {row['commits']} commits: {row['blocks_per_minute']:.0f} blocks "
            f"a minute; driver {row['driver_mib_after_a_quarter']:.0f} MiB after a quarter, {row['driver_mib_at_the_end']:.0f} MiB at the "
            f"end; {row['ledger_bytes_per_vote']:.3f} bytes a vote",
            flush=True,
        )
    keep(options.out, {"rows": rows, "peak_mib": peak_mib(psutil.Process())}, busy)


if __name__ == "__main__":
    main()
