"""How long it takes to certify a large vote from its ledger: 10,000 test images times 10,000 ballots by default.

The ledger is made of synthetic votes in a temporary folder, 100 MB of them, and read back as a finished run would be. Nothing trains.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from certidote.certification.deep_partition import certify_deep_partition
from certidote.certification.smoothing import certify_counts
from certidote.engine.jobs import BlockRecord, Job
from certidote.engine.ledger import Ledger
from certidote.types import Lineage, Provenance

CLASSES, BLOCK = 10, 100


def write_ledger(path: Path, members: int, tests: int) -> None:
    """Votes of members that are right on four of five test images, their other votes spread evenly."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, CLASSES, tests)
    with Ledger(path) as ledger:
        ledger.configure({"synthetic": True})
        for first in range(0, members, BLOCK):
            last = min(first + BLOCK, members)
            wrong = generator.integers(0, CLASSES, (last - first, tests))
            votes = np.where(generator.random((last - first, tests), dtype=np.float32) < 0.8, truth, wrong)
            ids = np.arange(first, last, dtype=np.int64)
            record = BlockRecord(
                Job(first, last), votes, np.zeros(last - first, dtype=bool), ids, Lineage(sigma=0.5, draws=1), 0.0, 0.0
            )
            ledger.commit(record, CLASSES)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--tests", type=int, default=10_000)
    options = parser.parse_args()
    n0 = options.members // 100
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        write_ledger(path, options.members, options.tests)
        before = peak_mib()
        begin, cpu = time.perf_counter(), time.process_time()
        with Ledger(path) as ledger:
            ballots = ledger.ballots(options.tests, CLASSES, Provenance("synthetic", "given", None))
        read = time.perf_counter()
        deep = certify_deep_partition(ballots.counts(0, len(ballots)), unit="images altered in place")
        counted = time.perf_counter()
        selection, estimation = ballots.counts(0, n0), ballots.counts(n0, len(ballots))
        labels, radii, _, _ = certify_counts(selection, estimation, len(ballots) - n0, 0.5, 0.001)
        done = time.perf_counter()
    print(
        f"{options.tests:,} test images x {options.members:,} ballots: read {read - begin:.1f} s, deep partition {counted - read:.1f} s, "
        f"smoothing {done - counted:.1f} s; together {done - begin:.1f} s ({time.process_time() - cpu:.1f} s of processor time), "
        f"peak memory {peak_mib():.0f} MiB ({before:.0f} before)"
    )
    print(f"median radius: {np.median(deep.radii):.0f} images altered in place; {np.median(radii):.3f} Frobenius at sigma 0.5")
    assert np.array_equal(deep.labels, labels)


if __name__ == "__main__":
    main()
