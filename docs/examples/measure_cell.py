"""One row of the paper's table 4, measured again on digits with two trials: poisons crafted once, tried against each defense. Seconds."""

import sys
from pathlib import Path

import certidote

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
found = certidote.bench(
    "table4",
    cell="bullseye-polytope-transfer-white-box",
    trials=2,
    out=folder / "bench",
    records=folder / "records",
    workers=0,
)
print(*found.lines, sep="\n")
