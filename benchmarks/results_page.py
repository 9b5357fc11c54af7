"""Makes the tables of docs/results.md from kept records: `python benchmarks/results_page.py`."""

import json
import statistics
from pathlib import Path

from breakthrough import EPSILONS, Attackers, breaks_through, scale_at
from breakthrough import attacks as attacked
from machine import TOO_BUSY
from pages import fill_table, share_at
from utility import TRAIN_IMAGES, VARIANTS, WHOLE

from certidote.benchmark import outcomes, records
from certidote.benchmark.figure2 import reach
from certidote.benchmark.paper import paper_cell
from certidote.reporting.figures import certified_accuracy_figure
from certidote.types import Json

PAGE = Path("docs/results.md")
RESULTS = Path("results")
MISSING = "Not measured yet.\n"
SIGMAS = (0.1, 0.25, 0.5, 1.0)
CURVES, WHOLE_CURVE = "certified-photographs.svg", "../results/cifar10/whole-0.25/certified_accuracy.svg"
CERTIFICATES = ("sigma-0.1", "sigma-0.25", "sigma-0.5", "whole-0.25")
"""Folders, those on the fixed 10,000 images first."""
RADII = (0.0, 0.1, 0.25, 0.5)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def record(path: Path) -> Json | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def denoisers() -> str:
    measured = record(RESULTS / "benchmarks" / "photograph-denoisers.json")
    if measured is None:
        return MISSING
    header = ["method", *(f"sigma {sigma:g}" for sigma in measured["sigmas"])]
    rows = [[name, *("-" if value is None else f"{value:.2f}" for value in values)] for name, values in measured["psnr"].items()]
    return table(header, rows)


def speed() -> str:
    measured = record(RESULTS / "benchmarks" / "photographs.json")
    if measured is None:
        return MISSING
    others = [record(RESULTS / "benchmarks" / f"photographs-{name}.json") for name in ("long", "gpu")]
    trainings = table(
        ["recipe", "epochs", "parameters", "on", "accuracy", "with mirror images", "seconds", "images/s", "share of peak"],
        [_training(row, each) for each in (measured, *others) if each is not None for row in each["trainings"]],
    )
    denoised = table(
        ["denoiser", "GFLOP an image", "images/s on one core", "share of its peak"],
        [
            [name, f"{row['gflop_per_image']:.2f}", f"{row['images_per_second']:,.0f}", _share_of_peak(row)]
            for name, row in measured["denoisers"].items()
        ],
    )
    return f"{trainings}\n{denoised}"


def _share_of_peak(row: Json) -> str:
    """The median, and where it was measured in rounds their range."""
    seen = row.get("fractions")
    return f"{row['fraction_of_peak']:.0%}" + (f" ({min(seen):.0%} to {max(seen):.0%})" if seen else "")


def _training(row: Json, measured: Json) -> list[str]:
    """One training; without its times if the machine did other work meanwhile."""
    mirrored = row.get("accuracy_with_mirror_images")
    about = [
        row["name"],
        str(row["recipe"]["epochs"]),
        f"{row['parameters']:,}",
        measured["gpu"] or ("1 core" if measured["threads"] == 1 else f"{measured['threads']} cores"),
        f"{row['accuracy']:.2%}",
        "-" if mirrored is None else f"{mirrored:.2%}",
    ]
    if (measured["busy_elsewhere"] or 0) > TOO_BUSY:
        return [*about, "-", "-", "-"]
    return [*about, f"{row['seconds']:.0f}", f"{row['images_per_second']:,.0f}", f"{row['fraction_of_peak']:.0%}"]


def certificates() -> str:
    rows, few, whole = [], [], []
    for folder in CERTIFICATES:
        made = record(RESULTS / "cifar10" / folder / "certificate.json")
        if made is None:
            continue
        found, images = made["results"], made["data"]["images"]
        of_all = images > TRAIN_IMAGES
        (whole if of_all else few).append(made)
        bare = undefended(WHOLE if of_all else "one model")
        rows.append(
            [
                f"[{made['sigma']:g}](../results/cifar10/{folder}/certificate.json)",
                f"{images:,}",
                f"{made['n0']} + {made['n']}",
                "a GPU" if made["device"] == "cuda" else "two cores",
                f"{found['member_accuracy']:.2%}",
                f"{found['vote_accuracy']:.2%}",
                *(f"{share_at(found['certified_accuracy'], radius):.2%}" for radius in RADII),
                "-" if bare is None else f"{reach(made, bare / 2):.3f}",
                f"{found['cap']:.3f}",
            ]
        )
    if not rows:
        return MISSING
    pictures = []
    if few:
        (PAGE.parent / CURVES).write_text(certified_accuracy_figure(few), encoding="utf-8")
        pictures.append(f"![Certified accuracy against the radius: each sigma, 10,000 images]({CURVES})\n")
    if whole:
        pictures.append(f"![Certified accuracy against the radius: sigma 0.25, all 50,000 images]({WHOLE_CURVE})\n")
    header = [
        "sigma",
        "images",
        "models",
        "made on",
        "one model",
        "vote",
        *(f"certified at {radius:g}" for radius in RADII),
        "above half of undefended up to",
        "largest possible radius",
    ]
    return "\n".join([table(header, rows), *pictures])


def undefended(variant: str = "one model") -> float | None:
    """Accuracy of one model of the same network on the same images without a defense, the mean over seeds; None if it was not measured."""
    rows = [record(file) or {} for file in sorted((RESULTS / "utility" / "rows").glob("*.json"))]
    found = [row["accuracy"] for row in rows if (row["sigma"], row["variant"]) == (0.0, variant)]
    return statistics.mean(found) if found else None


def utility() -> str:
    rows = [record(file) or {} for file in sorted((RESULTS / "utility" / "rows").glob("*.json"))]
    found: dict[tuple[float, str], dict[int, float]] = {}
    for row in rows:
        found.setdefault((row["sigma"], row["variant"]), {})[row["seed"]] = row["accuracy"]
    bare = found.get((0.0, "one model"))
    if bare is None:
        return MISSING

    def kept(sigma: float, name: str) -> str:
        """The mean over seeds of what is kept of the undefended accuracy under the same seed."""
        cell = found.get((sigma, name), {})
        ratios = [value / bare[seed] for seed, value in cell.items() if seed in bare]
        return f"{statistics.mean(ratios):.3f}" if ratios else ""

    lines = [["no defense, one model (absolute)", "", f"{statistics.mean(bare.values()):.2%}", "", "", ""]]
    lines += [
        [f"no defense, {name}", "", kept(0.0, name), "", "", ""] for sigma, name in found if sigma == 0 and name != "one model"
    ]
    lines.append(["the paper's victims from scratch (ResNet-18, 50,000 images; table 1)", "", *_of_the_paper()])
    for name, (holds, _) in VARIANTS.items():
        if any((sigma, name) in found for sigma in SIGMAS):
            lines.append([name, "yes" if holds else "no", *(kept(sigma, name) for sigma in SIGMAS)])
    seeds = sorted({len(values) for values in found.values()})
    counted = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    return table(["variant", "certifiable", *(f"sigma {s:g}" for s in SIGMAS)], lines) + f"\nSeeds of a cell: {counted}.\n"


def _of_the_paper() -> list[str]:
    """Clean accuracy at each sigma relative to that without a defense, of victims of Witches' Brew with one surrogate."""
    cells = [("none", 0.0), *(("denoise", sigma) for sigma in SIGMAS)]
    found = [paper_cell("1", "witches-brew", "scratch", "white-box", 1, defense, "random", sigma) for defense, sigma in cells]
    bare, *others = (0.0 if cell is None or cell.accuracy is None else cell.accuracy for cell in found)
    return [f"{accuracy / bare:.3f}" for accuracy in others]


def attacks() -> str:
    rows = []
    for file in sorted((RESULTS / "attacks").glob("*/replay.json")):
        made = record(file) or {}
        arms = [made["results"][arm] for arm in ("poisoned", "control")]
        budget = made["budget"]
        shown = [
            f"{arm['successes']} of {arm['trials']} ({arm['low']:.0%} to {arm['high']:.0%})"
            + (f", {arm['reached']:.0%} of images" if made["goal"] != "target" else "")
            for arm in arms
        ]
        control = made["results"]["control"]
        gone = control["lost"] + control["reached"]
        lost = f"{round(gone * control['trials'])} of {control['trials']}" if made["goal"] == "target" else f"{gone:.0%} of images"
        rows.append(
            [
                file.parent.name, made["recipe"]["scenario"]["kind"], f"{budget['num_poisons']} of {made['data']['images']:,}",
                f"{budget['epsilon'] * 255:.0f}/255", f"{made['objective']['median']:.2f}" if "objective" in made else "", *shown, lost, *(f"{arm['clean_accuracy']:.1%}" for arm in arms), str(int(made["root"], 16)),
            ]
        )  # fmt: skip
    header = [
        "attack", "victims", "poisons", "epsilon", "objective", "success", "control", "lost before", "accuracy", "accuracy, control", "seed",
    ]  # fmt: skip
    return table(header, rows) if rows else MISSING


def breakthrough() -> str:
    """For docs/attacks.md: each attack at each epsilon, and where half of the adaptive ones get through."""
    rows = []
    for attack in attacked():
        breaks = breaks_through(attack, RESULTS / "breakthrough")
        for epsilon in EPSILONS:
            cells = Attackers.of(attack).cells
            found = [records.read(records.folder_of(RESULTS / "breakthrough", scale_at(epsilon), cell)) for cell in cells]
            if None in found:
                continue
            plain, unaware, adaptive = (each for each in found if each is not None)
            shown = [shown_rate(outcomes.rate(each)) for each in (plain, unaware, adaptive)]
            name = f"**{attack.attack}**" if epsilon == breaks else attack.attack
            rows.append(
                [name, f"{epsilon:g}", *shown, shown_chance(outcomes.difference(unaware, adaptive)),
                 shown_rate(outcomes.rate(adaptive, "control")), f"{outcomes.clean_accuracy(adaptive):.1%}"]
            )  # fmt: skip
    header = [
        "attack",
        "epsilon",
        "no defense",
        "unaware, behind it",
        "adaptive, behind it",
        "p, these two",
        "control behind it",
        "accuracy",
    ]
    return table(header, rows) if rows else MISSING


def broken_variants() -> str:
    measured = record(RESULTS / "benchmarks" / "broken_variants.json")
    if measured is None:
        return MISSING
    header = ["what the tests guard", "what is broken", "seen", "the first failure"]
    return table(
        header,
        [
            [
                row["guard"],
                row["variant"],
                "yes" if row["seen"] else "**no**",
                f"`{row['failure'].replace('|', '/').replace('`', '')[:90]}`",
            ]
            for row in measured["variants"]
        ],
    )


def shown_chance(p: float) -> str:
    return f"{p:.2f}" if p >= 0.005 else f"{p:.0e}"


def shown_rate(found: outcomes.Rate) -> str:
    return f"{found.successes}/{found.trials} ({found.low:.0%} to {found.high:.0%})"


def main() -> None:
    fill_table(Path("docs/attacks.md"), "breakthrough", breakthrough())
    fill_table(Path("docs/attacks.md"), "broken variants", broken_variants())
    fill_table(PAGE, "denoisers", denoisers())
    fill_table(PAGE, "speed", speed())
    fill_table(PAGE, "certificate", certificates())
    fill_table(PAGE, "utility", utility())
    fill_table(PAGE, "attacks", attacks())


if __name__ == "__main__":
    main()
