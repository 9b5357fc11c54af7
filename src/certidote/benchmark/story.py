"""The front page's two pictures: how often attacks succeed under each defense, and what is proved (figure 2). Drawn only where records exist."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from certidote.benchmark import figure2
from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.outcomes import clean_accuracy, is_void, rate
from certidote.benchmark.scales import SCALES
from certidote.benchmark.source import Source
from certidote.benchmark.tables import COMPARED_SIGMA, compared_poisonings, through, unmeasured
from certidote.defenses.catalogue import PURIFYING_STEPS
from certidote.reporting.rates import Line, Mark, Share, rate_panels

SCALES_SHOWN = ("cifar10-compact", "digits")
"""In this order, where they can be drawn; of what is proved the first one that can."""

FEWEST = 2
"""Attacks that a picture needs."""

TITLES = {
    "bullseye-polytope": "Bullseye Polytope\ntransfer learning",
    "witches-brew": "Witches' Brew\nfrom scratch",
    "sleeper-agent": "Sleeper Agent\nfrom scratch",
}
IMAGES = {"cifar10-compact": "CIFAR-10 (JPEG) with a compact network", "digits": "handwritten digits (8x8)"}


@dataclass(frozen=True)
class Shown:
    """One line: a name, and the cell that it shows for a set of poisons."""

    name: str
    cell: Callable[[Poisoning], Cell]
    ours: bool = False


def _of(name: str, defense: str, sigma: float | None = None, ours: bool = False) -> Shown:
    return Shown(name, lambda poisoning: Cell(poisoning, defense, sigma), ours)


LINES = (
    _of("no defense", "none"),
    _of("denoise, sigma 0.1", "denoise", 0.1, ours=True),
    _of(f"denoise, sigma {COMPARED_SIGMA:g}", "denoise", COMPARED_SIGMA, ours=True),
    Shown(
        "same, attacker knows",
        lambda poisoning: Cell(through(poisoning, COMPARED_SIGMA), "denoise", COMPARED_SIGMA),
        ours=True,
    ),
    _of(f"{PURIFYING_STEPS} steps, sigma {COMPARED_SIGMA:g}", "purification-deterministic", COMPARED_SIGMA, ours=True),
    _of(f"noise only, sigma {COMPARED_SIGMA:g}", "noise", COMPARED_SIGMA),
    _of("Deep k-NN", "deep-knn"),
    _of("FrieNDs", "friends"),
    _of("DP-SGD", "dp-sgd"),
    _of("adversarial training", "adversarial-training"),
    _of("run-off election", "run-off-dpa"),
)


def draw(source: Source) -> str:
    """Success by defense at this scale, of attacks that were tried undefended and against ours at `COMPARED_SIGMA`; "" if there are too few."""
    poisonings = [
        each
        for each in compared_poisonings()
        if all(source.read(cell) is not None for cell in (Cell(each), Cell(each, "denoise", COMPARED_SIGMA)))
    ]
    if len(poisonings) < FEWEST:
        return ""
    lines = [Line(shown.name, [_mark(source, shown, each) for each in poisonings], shown.ours) for shown in LINES]
    lines = [line for line in lines if any(mark.success is not None for mark in line.marks)]
    titles = []
    for each in poisonings:
        plain = source.read(Cell(each))
        titles.append(TITLES[each.attack] + (" (void)" if plain is not None and is_void(plain) else ""))
    description = (
        "Share of trials in which each attack reaches its goal, one line for each defense, with 95% intervals and controls."
    )
    return rate_panels(f"success-{source.scale.name}", titles, lines, description)


def picture(scale: str) -> str:
    """Its file beside the pages."""
    return f"success-{scale}.svg"


def front_page(text: str, kept: Path, docs: Path) -> str:
    """README.md with the pictures that can be drawn, between `<!-- pictures -->` and `<!-- end of pictures -->`; as it is without these lines."""
    begin, end = "<!-- pictures -->\n", "<!-- end of pictures -->\n"
    if text.count(begin) != 1 or text.count(end) != 1:
        return text
    parts = []
    drawn = [name for name in SCALES_SHOWN if draw(Source(kept, docs, SCALES[name]))]
    parts += [_success(name, docs, first=name == drawn[0]) for name in drawn]
    curves = [SCALES[name] for name in SCALES_SHOWN if figure2.is_run(figure2.Curves(kept, SCALES[name]))]
    if curves:
        parts.append(
            f"![Certified accuracy against the radius]({docs.name}/{figure2.picture(curves[0])})\n\n*What is proved, on {IMAGES[curves[0].name]}: the share "
            "of test images whose answer is right and stays the same whatever anyone changes in the training set within the radius, by the paper's "
            "algorithm, ours, noise without a denoiser, and votes over parts. The triangle is the largest radius that so many models can prove "
            f"([{docs.name}/results.md]({docs.name}/results.md)).{figure2.in_short(figure2.Curves(kept, curves[0]))}*\n"
        )
    before, rest = text.split(begin)
    return before + begin + "\n".join(parts) + end + rest.split(end)[1]


def _success(scale: str, docs: Path, *, first: bool) -> str:
    shown = f"![Attack success by defense, {IMAGES[scale]}]({docs.name}/{picture(scale)})\n\n"
    if not first:
        return f"{shown}*The same on {IMAGES[scale]}, where budgets are larger beside the noise.*\n"
    return (
        f"{shown}*What is measured, on {IMAGES[scale]}: in how many trials each attack reaches its goal "
        "under each defense, and, hollow, on the clean training set. Shaded: this library's. A low rate is worth something only where the rate without a "
        f"defense is high and clean accuracy stays up ([{docs.name}/results.md]({docs.name}/results.md), [{docs.name}/claims.md]({docs.name}/claims.md)).*\n"
    )


def _mark(source: Source, shown: Shown, poisoning: Poisoning) -> Mark:
    cell = shown.cell(poisoning)
    if unmeasured(poisoning, cell.defense):
        return Mark(instead="from scratch only")
    kept = source.read(cell)
    if kept is None:
        return Mark()
    if kept.refused:
        return Mark(instead="refused")
    shares = [Share(found.successes / found.trials, found.low, found.high) for found in (rate(kept), rate(kept, "control"))]
    return Mark(shares[0], shares[1], clean_accuracy(kept))
