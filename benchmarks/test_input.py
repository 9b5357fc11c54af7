"""What the three ways to look at a test image give on the digits: three runs of 100 + 300 models.

`python benchmarks/test_input.py` goes on with an interrupted run, keeps every finished ledger in results/test-input as a compressed
file written once, and writes the table of docs/test-input.md from what is kept. `--table` writes the table only.
"""

import argparse
import json
from pathlib import Path

from pages import fill_table, share_at

from certidote import verbs
from certidote.engine.evidence import COMPRESSED, pack
from certidote.engine.local import Pool
from certidote.progress import progress_named
from certidote.reporting.words import length, percent
from certidote.results.files import write_json

WAYS = {"clean": "clean", "denoised": "denoised", "noised-denoised": "noised-denoised, sigma_x = 0.5"}
RADII = (0.0, 0.25, 0.5)
KEPT, PAGE = Path("results/test-input"), Path("docs/test-input.md")


def certify_all(runs: Path, workers: int) -> None:
    with Pool(workers) as pool:
        for way in WAYS:
            kept = KEPT / way
            if (kept / COMPRESSED).is_file():
                continue
            made = verbs.certify(
                "digits", out=runs / way, sigma=0.5, models=300, n0=100, dtype="float32", test_input=way, pool=pool,
                progress=progress_named("auto"), label=f"test input {way}",
            )  # fmt: skip
            assert isinstance(made, verbs.Certified)
            kept.mkdir(parents=True, exist_ok=True)
            write_json(kept / "certificate.json", made.record)
            pack(runs / way / "ledger.sqlite", kept / COMPRESSED)


def table() -> str:
    rows = [
        "| test input | vote correct | one model correct | abstained | "
        + " | ".join(f"{'certified ' * (radius == 0)}at {radius:g}" for radius in RADII)
        + " | mean radius |",
        "|---|" + "---|" * (4 + len(RADII)),
    ]
    for way, label in WAYS.items():
        results = json.loads((KEPT / way / "certificate.json").read_text(encoding="utf-8"))["results"]
        certified = " | ".join(percent(share_at(results["certified_accuracy"], radius)) for radius in RADII)
        rows.append(
            f"| {label} | {percent(results['vote_accuracy'])} | {percent(results['member_accuracy'])} | {results['abstained']} | "
            f"{certified} | {length(results['average_radius'])} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/test-input"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="write the table from the kept records, train nothing")
    given = parser.parse_args()
    if not given.table:
        certify_all(given.runs, given.workers)
    fill_table(PAGE, "test input", table())
    print(table(), end="")


if __name__ == "__main__":
    main()
