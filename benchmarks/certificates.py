"""How long certificates take to work out, at sizes far above a usual run: part of `make bench`.

- ledger: 10,000 test images x 10,000 ballots read from a ledger of 100 MB, counted, and certified by smoothing and by deep partition;
- partition: 10,000 test images, 250 parts, 10 classes, all four rows of the threat table;
- bounds: counts of 10,000 test images among 10,000 models, with each of the three bounds.

Votes are drawn at random, nothing trains. Two limits are promised for two cores: 30 s for the ledger, 60 s for the partition. A run at full size
that takes longer ends with status 1.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from machine import busy_elsewhere, keep, peak_mib

from certidote.certification import partition
from certidote.certification.bounds import BOUNDS
from certidote.certification.deep_partition import certify_deep_partition
from certidote.certification.smoothing import certify_counts
from certidote.engine.jobs import BlockRecord, Job
from certidote.engine.ledger import Ledger
from certidote.streams import Key
from certidote.types import ABSTAIN, Json, Lineage, Provenance

BLOCK = 100
LIMITS = {"ledger": 30.0, "partition": 60.0}
"""Seconds that each group may take at full size."""


def timed(name: str, work: Callable[[], object]) -> tuple[str, float]:
    begin = time.perf_counter()
    work()
    spent = time.perf_counter() - begin
    print(f"  {name}: {spent:.2f} s", flush=True)
    return name, spent


def write_ledger(path: Path, members: int, tests: int, classes: int) -> None:
    """Votes of members that are right on four of five test images, their other votes spread evenly."""
    generator = (Key(0) / "ledger").numpy()
    truth = generator.integers(0, classes, tests)
    with Ledger(path) as ledger:
        ledger.configure({"synthetic": True})
        for first in range(0, members, BLOCK):
            last = min(first + BLOCK, members)
            wrong = generator.integers(0, classes, (last - first, tests))
            votes = np.where(generator.random((last - first, tests), dtype=np.float32) < 0.8, truth, wrong)
            ids = np.arange(first, last, dtype=np.int64)
            lineage = Lineage(sigma=0.5, draws=1)
            ledger.commit(BlockRecord(Job(first, last), votes, np.zeros(last - first, dtype=bool), ids, lineage, 0.0, 0.0), classes)


def from_ledger(points: int, models: int, classes: int) -> dict[str, float]:
    """Read, count and certify; what smoothing certifies, the plurality answers too."""
    n0 = models // 100
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        write_ledger(path, models, points, classes)
        held = []

        def read() -> None:
            with Ledger(path) as ledger:
                held.append(ledger.ballots(points, classes, Provenance("synthetic", "given", None)))

        answers = []
        found |= [timed("read", read)]
        ballots = held[0]
        found |= [
            timed(
                "count and certify, deep partition",
                lambda: answers.append(certify_deep_partition(ballots.counts(0, models), unit="images altered in place").labels),
            ),
            timed(
                "count and certify, smoothing",
                lambda: answers.append(
                    certify_counts(ballots.counts(0, n0), ballots.counts(n0, models), models - n0, 0.5, 0.001)[0]
                ),
            ),
        ]
    counted, smoothed = answers
    assert np.array_equal(counted[smoothed != ABSTAIN], smoothed[smoothed != ABSTAIN])
    return found


def of_partitions(points: int, parts: int, classes: int) -> dict[str, float]:
    generator = (Key(0) / "certificates").numpy()
    likely = generator.integers(0, classes, size=(points, 1))
    votes = np.where(generator.random((points, parts)) < 0.5, likely, generator.integers(ABSTAIN, classes, size=(points, parts)))
    radii = np.where(votes == ABSTAIN, 0.0, generator.gamma(2.0, 0.3, size=votes.shape))
    sizes = np.full(parts, 200)
    return dict(
        [
            timed("Frobenius norm", lambda: partition.frobenius_radius(votes, radii, classes)),
            timed("sum of norms", lambda: partition.sum_radius(votes, radii, classes)),
            timed("altered images", lambda: partition.altered_images(votes, radii, sizes, classes, 0.1)),
            timed("replaced images", lambda: partition.replaced_images(votes, radii, sizes, classes)),
        ]
    )


def of_bounds(points: int, models: int, classes: int) -> dict[str, float]:
    generator = (Key(0) / "bounds").numpy()
    counts = generator.multinomial(models, generator.dirichlet(np.full(classes, 0.2), size=points))
    return dict(timed(bound, lambda bound=bound: certify_counts(None, counts, models, 0.5, 0.001, bound)) for bound in BOUNDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--parts", type=int, default=250)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    given = parser.parse_args()
    points, parts, classes, models = given.points, given.parts, given.classes, given.models
    busy = [busy_elsewhere()]
    groups: dict[str, Callable[[], dict[str, float]]] = {
        "ledger": lambda: from_ledger(points, models, classes),
        "partition": lambda: of_partitions(points, parts, classes),
        "bounds": lambda: of_bounds(points, models, classes),
    }
    seconds: Json = {}
    for name, work in groups.items():
        print(
            f"{name}: {points:,} test images, {classes} classes, {f'{parts} parts' if name == 'partition' else f'{models:,} models'}"
        )
        seconds[name] = work()
        busy.append(busy_elsewhere())
    totals = {name: sum(each.values()) for name, each in seconds.items()}
    sizes = {"points": points, "parts": parts, "classes": classes, "models": models}
    peak = peak_mib(psutil.Process())
    print(", ".join(f"{name} {total:.1f} s" for name, total in totals.items()) + f"; peak memory {peak:.0f} MiB")
    measured = {"sizes": sizes, "seconds": seconds, "totals": totals, "limits": LIMITS, "peak_mib": peak}
    keep(given.out / "certificates.json", measured, max(busy))
    full = all(size >= parser.get_default(name) for name, size in sizes.items())
    over = [name for name, limit in LIMITS.items() if full and totals[name] > limit]
    if over:
        sys.exit(f"over the limit: {', '.join(f'{name} {totals[name]:.1f} s of {LIMITS[name]:.0f} s' for name in over)}")


if __name__ == "__main__":
    main()
