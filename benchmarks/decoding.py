"""How long 60,000 JPEG files take to become arrays: `python benchmarks/decoding.py --archive cifar10-jpeg.tar.xz`.

The archive holds train/CLASS/* and test/CLASS/*. Each round is a process of its own, from `load` to the arrays of both splits, with
the names, checks and notes that every command pays for. Writes results/benchmarks/decoding.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from machine import busy_elsewhere, keep

from certidote.engine.local import available_cores

ROUND = """
import json, resource, sys, time
import certidote.data
begin, used = time.perf_counter(), time.process_time()
images = sum(len(certidote.data.load(sys.argv[1], split)) for split in ("train", "test"))
print(json.dumps({"images": images, "seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - used,
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/decoding.json"))
    given = parser.parse_args()
    busy, rounds = [busy_elsewhere()], []
    for _ in range(given.rounds):
        done = subprocess.run([sys.executable, "-c", ROUND, str(given.archive)], capture_output=True, text=True, check=True)
        rounds.append(json.loads(done.stdout))
        busy.append(busy_elsewhere())
        print(rounds[-1], flush=True)
    measured = {
        "archive": given.archive.name,
        "archive_bytes": given.archive.stat().st_size,
        "cores_used": available_cores(),
        "images": rounds[0]["images"],
        "seconds_median": median(each["seconds"] for each in rounds),
        "rounds": rounds,
    }
    keep(given.out, measured, max(busy))


if __name__ == "__main__":
    main()
