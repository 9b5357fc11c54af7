"""What does the denoiser buy? Five denoisers at four noise levels on the digits, each a run of 100 + 1,000 models.

`python benchmarks/ablation.py` goes on with an interrupted run, keeps every finished ledger in results/ablation as a compressed file
written once, and draws docs/ablation.svg and the table of docs/ablation.md from what is kept. `--figure` draws only; `--records` first
makes the certificates again from the kept ledgers, as this release words them. `--repeat` makes the chosen runs once more, under noise of their own, and
keeps in results/benchmarks/ablation_repeats.json how far their mean radii lie from those of the kept runs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from machine import keep
from pages import fill_table, row_of, share_at

from certidote import verbs
from certidote.engine.evidence import COMPRESSED, Evidence, pack
from certidote.engine.local import Pool
from certidote.progress import progress_named
from certidote.reporting import svg
from certidote.reporting.figures import Curve, Panel, radius_panels
from certidote.reporting.words import length, percent
from certidote.results.audit import record_of
from certidote.results.files import write_json, write_text

SIGMAS = (0.1, 0.25, 0.5, 1.0)
DDPM = Path("runs/tiny-ddpm")
DENOISERS = {
    "none": ("noise only", "none"),
    "linear": ("linear MMSE", "linear-mmse:digits:trusted"),
    "kernel": ("kernel posterior mean", "kernel:digits:trusted"),
    "network": ("our network", "digits"),
    "ddpm": ("DDPM", str(DDPM)),
}
"""Name of the run -> what figures call it, and what `certidote certify --denoiser` takes."""

KEPT = Path("results/ablation")
REPEATS = Path("results/benchmarks/ablation_repeats.json")
PAGE, FIGURE = Path("docs/ablation.md"), Path("docs/ablation.svg")


def certify_all(runs: Path, workers: int, only: list[str], sigmas: list[float]) -> None:
    with Pool(workers) as pool:
        for name in only:
            label, denoiser = DENOISERS[name]
            if name == "ddpm":
                from tiny_ddpm import train

                train(DDPM)
            for sigma in sigmas:
                kept = KEPT / f"{name}-{sigma:g}"
                if (kept / COMPRESSED).is_file():
                    continue
                record = certified(runs / kept.name, label, denoiser, sigma, pool)
                kept.mkdir(parents=True, exist_ok=True)
                write_json(kept / "certificate.json", record)
                pack(runs / kept.name / "ledger.sqlite", kept / COMPRESSED)


def certified(out: Path, label: str, denoiser: str, sigma: float, pool: Pool) -> dict:
    made = verbs.certify(
        "digits", out=out, sigma=sigma, models=1000, n0=100, denoiser=denoiser, dtype="float32", pool=pool,
        progress=progress_named("auto"), label=f"{label}, sigma {sigma:g}",
    )  # fmt: skip
    assert isinstance(made, verbs.Certified)
    return made.record


def repeat(runs: Path, workers: int, only: list[str], sigmas: list[float]) -> None:
    found, rows = kept_records(), []
    with Pool(workers) as pool:
        for name in only:
            label, denoiser = DENOISERS[name]
            for sigma in sigmas:
                again, kept = certified(runs / f"{name}-{sigma:g}-again", label, denoiser, sigma, pool), found[name][sigma]
                shift = again["results"]["average_radius"] - kept["results"]["average_radius"]
                print(f"{again['label']}: mean radius {shift:+.4f} against the kept run")
                rows.append({"shift": shift, "kept_votes_digest": kept["votes_digest"], **row_of(again["label"], again)})
    keep(REPEATS, {"rows": rows})


def kept_records() -> dict[str, dict[float, dict]]:
    """Denoiser -> sigma -> certificate, of the runs that are kept."""
    found: dict[str, dict[float, dict]] = {}
    for name in DENOISERS:
        for sigma in SIGMAS:
            path = KEPT / f"{name}-{sigma:g}" / "certificate.json"
            if path.is_file():
                found.setdefault(name, {})[sigma] = json.loads(path.read_text(encoding="utf-8"))
    return found


def remake_records() -> None:
    for path in sorted(KEPT.glob(f"*/{COMPRESSED}")):
        with Evidence(path) as ledger:
            write_json(path.parent / "certificate.json", record_of(ledger))


def draw(found: dict[str, dict[float, dict]]) -> str:
    """Certified accuracy against the radius, one panel for each sigma, one line for each denoiser."""
    styles = {
        "none": (svg.MUTED, (0, (4, 2.5))),
        "linear": (svg.SERIES[1], "solid"),
        "kernel": (svg.SERIES[2], (0, (1.5, 1.5))),
        "network": (svg.SERIES[0], "solid"),
        "ddpm": (svg.SERIES[3], (0, (6, 1.5, 1.5, 1.5))),
    }
    panels = []
    for sigma in SIGMAS:
        curves = []
        for key, (label, _) in DENOISERS.items():
            if (record := found.get(key, {}).get(sigma)) is not None:
                radii, shares = (list(column) for column in zip(*record["results"]["certified_accuracy"], strict=True))
                curves.append(Curve(label, radii, shares, *styles[key]))
        panels.append(Panel(f"sigma {sigma:g}", curves, 2.6 * sigma))
    return radius_panels("ablation", panels, "Certified accuracy falling with the radius, one panel for each noise level.")


def table(found: dict[str, dict[float, dict]]) -> str:
    rows = [
        "| sigma | denoiser | one model right | vote right | certified accuracy at 0 | at 0.5 sigma | at 1 sigma | at 2 sigma | mean radius | "
        "against noise only |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for sigma in SIGMAS:
        for key, (label, _) in DENOISERS.items():
            record = found.get(key, {}).get(sigma)
            if record is None:
                rows.append(f"| {sigma:g} | {label} | not run |" + " |" * 7)
                continue
            results = record["results"]
            curve = [share_at(results["certified_accuracy"], factor * sigma) for factor in (0, 0.5, 1, 2)]
            shares = [results["member_accuracy"], results["vote_accuracy"], *curve]
            gained = "" if key == "none" else gain(record, found["none"][sigma])
            numbers = " | ".join([*map(percent, shares), length(results["average_radius"]), gained])
            rows.append(f"| {sigma:g} | {label} | {numbers} |")
    return "\n".join(rows) + "\n"


def gain(record: dict, base: dict) -> str:
    """Mean difference of the radii (0 where wrong) over the test images, and the half-width of its 95% interval: these are pairs."""
    ours, theirs = (
        np.where(np.equal(each["per_image"]["label"], each["per_image"]["true"]), each["per_image"]["radius"], 0.0)
        for each in (record, base)
    )
    difference = ours - theirs
    return f"{difference.mean():+.3f} ± {1.96 * difference.std(ddof=1) / len(difference) ** 0.5:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(DENOISERS), choices=list(DENOISERS))
    parser.add_argument("--sigmas", nargs="*", type=float, default=list(SIGMAS))
    parser.add_argument("--figure", action="store_true", help="draw from the kept records, train nothing")
    parser.add_argument(
        "--records", action="store_true", help="make the kept certificates again from their ledgers; trains nothing"
    )
    parser.add_argument("--repeat", action="store_true", help="make the chosen runs once more and compare")
    options = parser.parse_args()
    if options.repeat:
        options.runs.mkdir(parents=True, exist_ok=True)
        return repeat(options.runs, options.workers, options.only, options.sigmas)
    if not (options.figure or options.records):
        options.runs.mkdir(parents=True, exist_ok=True)
        certify_all(options.runs, options.workers, options.only, options.sigmas)
    if options.records:
        remake_records()
    found = kept_records()
    write_text(FIGURE, draw(found))
    fill_table(PAGE, "ablation", table(found))


if __name__ == "__main__":
    main()
