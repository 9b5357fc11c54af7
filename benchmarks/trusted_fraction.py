"""What do trusted images buy? Accuracy of the vote and certified accuracy on the digits against the share of trusted training images.

`python benchmarks/trusted_fraction.py` makes one run of 100 + 1,000 models for each share, with our denoiser and with noise only, goes on with
interrupted runs, keeps results/benchmarks/trusted_fraction.json and draws docs/trusted.svg. `--figure` draws only, from what is kept.

Which images are trusted is decided by a constant permutation of row numbers, never by their pixels; a smaller share is part of a larger one.
"""

import argparse
import json
from pathlib import Path

from machine import keep
from pages import fill_table, row_of, share_at

from certidote import verbs
from certidote.data.digits import load_digits
from certidote.engine.local import Pool
from certidote.progress import progress_named
from certidote.reporting import svg
from certidote.reporting.words import length, percent
from certidote.results.files import write_text
from certidote.streams import Key
from certidote.types import Json

FRACTIONS = (0.0, 0.1, 0.25, 0.5, 0.9)
SIGMA = 1.0
DENOISERS = {"denoised": "digits", "noise only": "none"}
KEPT, PAGE, FIGURE = Path("results/benchmarks/trusted_fraction.json"), Path("docs/the-claim.md"), Path("docs/trusted.svg")
RADII = (0.0, 1.0)
"""Radii at which certified accuracy is drawn and tabled."""


def trusted_rows(fraction: float, images: int) -> list[int]:
    order = (Key(0) / "trusted fraction").numpy().permutation(images)
    return sorted(order[: round(fraction * images)].tolist())


def measure(runs: Path, models: int, workers: int) -> list[Json]:
    images = len(load_digits("train"))
    rows: list[Json] = []
    with Pool(workers) as pool:
        for label, denoiser in DENOISERS.items():
            for fraction in FRACTIONS:
                out = runs / f"{denoiser}-{fraction:g}"
                out.mkdir(parents=True, exist_ok=True)
                trusted = trusted_rows(fraction, images)
                listed = out / "trusted.txt"
                write_text(listed, "".join(f"{row}\n" for row in trusted))
                made = verbs.certify(
                    "digits", out=out, sigma=SIGMA, models=models, n0=100, denoiser=denoiser, dtype="float32", pool=pool,
                    trusted=listed if trusted else None, progress=progress_named("auto"), label=f"{label}, {percent(fraction)} trusted",
                )  # fmt: skip
                assert isinstance(made, verbs.Certified)
                rows.append({"fraction": fraction, **row_of(label, made.record)})
    return rows


def draw(rows: list[Json]) -> str:
    name = "trusted"
    lines = [
        ("vote is right", svg.MUTED, (0, (4, 2.5)), lambda row: row["vote_accuracy"]),
        *(
            (
                f"certified accuracy at radius {radius:g}",
                svg.SERIES[i],
                "solid",
                lambda row, radius=radius: share_at(row["certified_accuracy"], radius),
            )
            for i, radius in enumerate(RADII)
        ),
    ]
    with svg.drawing(name):
        figure = svg.new_figure(720, 350, above=62, left=66)
        panels = figure.subplots(1, len(DENOISERS), sharey=True, gridspec_kw={"wspace": 0.08})
        for axes, label in zip(panels, DENOISERS, strict=True):
            mine = [row for row in rows if row["label"] == label]
            for text, color, dash, value in lines:
                places = [row["fraction"] for row in mine]
                axes.plot(places, [value(row) for row in mine], color=color, linestyle=dash, marker="o", markersize=4, label=text)
            axes.set_title(label)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.set_xticks(FRACTIONS, [f"{fraction:.0%}" for fraction in FRACTIONS])
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.set_xlabel("training images that are trusted")
        panels[0].set_ylabel("test images")
        figure.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="upper left", bbox_to_anchor=(0, 1))
        return svg.to_svg(
            figure, name, "Accuracy of the vote and certified accuracy rising with the share of trusted training images."
        )


def table(rows: list[Json]) -> str:
    head = "| trusted | run | one model right | vote right | " + " | ".join(f"certified at {radius:g}" for radius in RADII)
    lines = [f"{head} | mean radius |", "|---|---|---|---|" + "---|" * len(RADII) + "---|"]
    for row in sorted(rows, key=lambda row: (row["fraction"], row["label"])):
        shares = [row["member_accuracy"], row["vote_accuracy"], *(share_at(row["certified_accuracy"], radius) for radius in RADII)]
        trusted = f"{row['trusted']} ({row['fraction']:.0%})"
        lines.append(f"| {trusted} | {row['label']} | {' | '.join(map(percent, shares))} | {length(row['average_radius'])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/trusted-fraction"))
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--figure", action="store_true", help="draw from the kept record, train nothing")
    options = parser.parse_args()
    if not options.figure:
        rows = measure(options.runs, options.models, options.workers)
        keep(KEPT, {"rows": rows})
    rows = json.loads(KEPT.read_text(encoding="utf-8"))["rows"]
    write_text(FIGURE, draw(rows))
    fill_table(PAGE, "trusted", table(rows))


if __name__ == "__main__":
    main()
