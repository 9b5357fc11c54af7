"""How long the certificates themselves take, at sizes far above a usual run: `python benchmarks/certificates.py`.

- partition: 10,000 test images, 250 parts, 10 classes, every row of the threat table;
- bounds: counts of 10,000 test images among 10,000 models, with each of the three bounds.

Votes are drawn at random. Prints one line for each with the seconds it took and how many cores it may use.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from certidote.certification import partition
from certidote.certification.bounds import BOUNDS
from certidote.certification.smoothing import certify_counts
from certidote.engine.local import available_cores
from certidote.streams import Key
from certidote.types import ABSTAIN


def timed(name: str, work: Callable[[], object]) -> None:
    begin = time.perf_counter()
    work()
    print(f"{name}: {time.perf_counter() - begin:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--parts", type=int, default=250)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--models", type=int, default=10_000)
    given = parser.parse_args()
    points, parts, classes = given.points, given.parts, given.classes
    print(f"{available_cores()} cores; {points} test images, {parts} parts, {classes} classes, {given.models} models")

    generator = (Key(0) / "certificates").numpy()
    likely = generator.integers(0, classes, size=(points, 1))
    votes = np.where(generator.random((points, parts)) < 0.5, likely, generator.integers(ABSTAIN, classes, size=(points, parts)))
    radii = np.where(votes == ABSTAIN, 0.0, generator.gamma(2.0, 0.3, size=votes.shape))
    sizes = np.full(parts, 200)
    timed("partition, Frobenius norm", lambda: partition.frobenius_radius(votes, radii, classes))
    timed("partition, sum of norms", lambda: partition.sum_radius(votes, radii, classes))
    timed("partition, altered images", lambda: partition.altered_images(votes, radii, sizes, classes, 0.1))
    timed("partition, replaced images", lambda: partition.replaced_images(votes, radii, sizes, classes))

    counts = generator.multinomial(given.models, generator.dirichlet(np.full(classes, 0.2), size=points))
    for bound in BOUNDS:
        timed(f"bound {bound}", lambda bound=bound: certify_counts(None, counts, given.models, 0.5, 0.001, bound))


if __name__ == "__main__":
    main()
