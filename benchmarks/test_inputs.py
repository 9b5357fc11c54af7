"""Three ways to look at a test image, measured: clean, denoised, noised and denoised; on the digits with our denoiser at sigma 0.5.

`python benchmarks/test_inputs.py` makes one run of 100 + 1,000 models for each, goes on with interrupted runs, keeps
results/benchmarks/test_inputs.json and writes the table of docs/test-input.md. `--table` writes it from what is kept.
"""

import argparse
import json
from pathlib import Path

from machine import keep
from pages import fill_table, row_of, share_at

from certidote import verbs
from certidote.defenses.inputs import TEST_INPUTS
from certidote.engine.local import Pool
from certidote.progress import progress_named
from certidote.reporting.words import length, percent
from certidote.types import Json

SIGMA = 0.5
RADII = (0.0, 0.25, 0.5, 1.0)
KEPT, PAGE = Path("results/benchmarks/test_inputs.json"), Path("docs/test-input.md")


def measure(runs: Path, models: int, workers: int) -> list[Json]:
    rows = []
    with Pool(workers) as pool:
        for name in TEST_INPUTS:
            made = verbs.certify(
                "digits", out=runs / name, sigma=SIGMA, models=models, n0=100, denoiser="digits", dtype="float32", test_input=name,
                pool=pool, progress=progress_named("auto"), label=name,
            )  # fmt: skip
            assert isinstance(made, verbs.Certified)
            rows.append(row_of(name, made.record))
    return rows


def table(rows: list[Json]) -> str:
    heads = " | ".join(f"certified at {radius:g}" for radius in RADII)
    lines = [
        f"| test input | one model right | vote right | abstained | {heads} | mean radius |",
        "|---|" + "---|" * (4 + len(RADII)),
    ]
    for row in rows:
        name = f"{row['label']}, sigma_x = {row['sigma_x']:g}" if row["sigma_x"] else row["label"]
        shares = " | ".join(percent(share_at(row["certified_accuracy"], radius)) for radius in RADII)
        right = f"{percent(row['member_accuracy'])} | {percent(row['vote_accuracy'])}"
        lines.append(f"| {name} | {right} | {row['abstained']} | {shares} | {length(row['average_radius'])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/test-inputs"))
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="write the table from the kept record, train nothing")
    options = parser.parse_args()
    if not options.table:
        options.runs.mkdir(parents=True, exist_ok=True)
        rows = measure(options.runs, options.models, options.workers)
        keep(KEPT, {"rows": rows})
    fill_table(PAGE, "test input", table(json.loads(KEPT.read_text(encoding="utf-8"))["rows"]))


if __name__ == "__main__":
    main()
