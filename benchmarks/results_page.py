"""Makes the tables of docs/results.md from kept records: `python benchmarks/results_page.py`."""

import json
import statistics
from pathlib import Path

from breakthrough import EPSILONS, Attackers, breaks_through, scale_at
from breakthrough import attacks as attacked
from machine import TOO_BUSY
from pages import fill_table, share_at
from utility import VARIANTS

from certidote.benchmark import outcomes, records
from certidote.benchmark.figure2 import reach
from certidote.benchmark.paper import paper_cell
from certidote.reporting.figures import certified_accuracy_figure
from certidote.types import Json

PAGE = Path("docs/results.md")
RESULTS = Path("results")
MISSING = "Not measured yet.\n"
SIGMAS = (0.1, 0.25, 0.5, 1.0)
CURVES = "certified-photographs.svg"
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
    return table(header, [[name, *(f"{value:.2f}" for value in values)] for name, values in measured["psnr"].items()])


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
        ["denoiser", "images/s on one core", "share of its peak"],
        [
            [name, f"{row['images_per_second']:,.0f}", f"{row['fraction_of_peak']:.0%}"]
            for name, row in measured["denoisers"].items()
        ],
    )
    return f"{trainings}\n{denoised}"


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
    rows, certified, bare = [], [], undefended()
    for sigma in SIGMAS:
        made = record(RESULTS / "cifar10" / f"sigma-{sigma:g}" / "certificate.json")
        if made is not None:
            found = made["results"]
            shares = [f"{share_at(found['certified_accuracy'], radius):.2%}" for radius in RADII]
            folder = f"../results/cifar10/sigma-{sigma:g}"
            certified.append(made)
            rows.append(
                [
                    f"[{sigma:g}]({folder}/certificate.json)",
                    "a GPU" if made["device"] == "cuda" else "two cores",
                    f"{found['member_accuracy']:.2%}",
                    f"{found['vote_accuracy']:.2%}",
                    *shares,
                    *([] if bare is None else [f"{reach(made, bare / 2):.3f}"]),
                    f"{found['cap']:.3f}",
                ]
            )
    half = [] if bare is None else ["above half of undefended up to"]
    header = [
        "sigma",
        "made on",
        "one model",
        "vote",
        *(f"certified at {radius:g}" for radius in RADII),
        *half,
        "largest possible radius",
    ]
    if not rows:
        return MISSING
    (PAGE.parent / CURVES).write_text(certified_accuracy_figure(certified), encoding="utf-8")
    return f"{table(header, rows)}\n![Certified accuracy against the radius, one curve for each sigma]({CURVES})\n"


def undefended() -> float | None:
    """Accuracy of one model of the same network on the same images without a defense, the mean over seeds; None if it was not measured."""
    rows = [record(file) or {} for file in sorted((RESULTS / "utility" / "rows").glob("*.json"))]
    found = [row["accuracy"] for row in rows if (row["sigma"], row["variant"]) == (0.0, "one model")]
    return statistics.mean(found) if found else None


def utility() -> str:
    rows = [record(file) or {} for file in sorted((RESULTS / "utility" / "rows").glob("*.json"))]
    found: dict[tuple[float, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["sigma"], row["variant"]), []).append(row["accuracy"])
    if (bare := undefended()) is None:
        return MISSING
    lines = [["no defense, one model (absolute)", "", f"{bare:.2%}", "", "", ""]]
    lines += [
        [f"no defense, {name}", "", f"{statistics.mean(values) / bare:.3f}", "", "", ""]
        for (sigma, name), values in found.items()
        if sigma == 0 and name != "one model"
    ]
    lines.append(["the paper's victims from scratch (ResNet-18, 50,000 images; table 1)", "", *_of_the_paper()])
    for name, (holds, _) in VARIANTS.items():
        if not any((sigma, name) in found for sigma in SIGMAS):
            continue
        values = [statistics.mean(found[sigma, name]) / bare if (sigma, name) in found else None for sigma in SIGMAS]
        shown = ["" if value is None else f"{value:.3f}" for value in values]
        lines.append([name, "yes" if holds else "no", *shown])
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
