"""The paper's figure 2: certified accuracy against the radius, the paper's algorithm beside others at the same noise and as many models.

Runs are those of `certidote certify`. On the digits two of the methods were run already, with the same numbers of models: those kept runs
are taken as they are. Certificates that count images come from the kept threat map, on the axis of the joint l2 norm.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certidote import verbs
from certidote.benchmark import materials, outcomes, records
from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.costs import in_words
from certidote.benchmark.runner import recipe_of
from certidote.benchmark.scales import Scale
from certidote.benchmark.tables import SCRATCH_ATTACKS
from certidote.benchmark.wording import table
from certidote.engine.evidence import COMPRESSED, pack
from certidote.engine.ledger import Ledger
from certidote.engine.workers import Workers
from certidote.reporting import svg
from certidote.reporting.figures import Curve, Panel, radius_panels
from certidote.results.files import write_json
from certidote.types import Json, Progress

MODELS, SELECTING = 1_000, 100
CERTIFICATE = "certificate.json"


@dataclass(frozen=True)
class Method:
    """One way to certify.

    Attributes:
        name, label: of records and in figures.
        test_input: as `certidote certify` takes it.
        denoisers: by scale, as --denoiser takes it; "auto" elsewhere.
        kept: start of the names of runs on the digits that are kept in results/ablation; "" for none.
    """

    name: str
    label: str
    test_input: str
    denoisers: dict[str, str]
    kept: str
    color: str
    dash: Any = "solid"


METHODS = (
    Method("paper", "the paper's algorithm", "noised-denoised", {}, "", svg.SERIES[1]),
    Method("ours", "ours: test images as they are", "clean", {"digits": "linear-mmse:digits:trusted"}, "linear", svg.SERIES[0]),
    Method("noise", "noise only", "clean", {"digits": "none"}, "none", svg.MUTED, (0, (4, 2.5))),
)
"""The first is Algorithm 1: noise and denoise training and test images alike, one call of the packaged diffusion network. On the digits ours has the
closed-form denoiser that did best there (docs/ablation.md)."""

VOTES = {"DPA, 50 parts": (svg.SERIES[2], (0, (1.5, 1.5))), "DPA + run-off, 50 parts": (svg.SERIES[3], (0, (6, 1.5, 1.5, 1.5)))}
"""Methods of the threat map, and how they are drawn."""


@dataclass(frozen=True)
class Curves:
    """One scale's records of this figure.

    Attributes:
        kept: folder of all records of `bench`; the runs of `results/ablation` and the threat map are beside it.
    """

    kept: Path
    scale: Scale

    def folder(self, method: Method, sigma: float) -> Path:
        return self.kept / self.scale.name / "figure2" / f"{method.name}-{sigma:g}"

    def found(self, method: Method, sigma: float) -> Path | None:
        """Folder of the record, whichever has it."""
        places = [self.folder(method, sigma)]
        if self.scale.name == "digits" and method.kept:
            places.append(self.kept.parent / "ablation" / f"{method.kept}-{sigma:g}")
        return next((place for place in places if (place / CERTIFICATE).is_file()), None)

    def record(self, method: Method, sigma: float) -> Json | None:
        """The record, None if there is none. Raises: ValueError if it is damaged."""
        if (place := self.found(method, sigma)) is None:
            return None
        try:
            record = json.loads((place / CERTIFICATE).read_bytes())
            results, numbers = record["results"], [record["sigma"]]
            numbers += [results[name] for name in ("member_accuracy", "vote_accuracy", "average_radius", "cap")]
            numbers += [value for radius, share in results["certified_accuracy"] for value in (radius, share)]
            whole = bool(results["certified_accuracy"]) and all(isinstance(each, int | float) for each in numbers)
            whole = whole and record["sigma"] == sigma and int(record["root"], 16) >= 0
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise ValueError(records.damaged(place))
        return record

    def votes(self) -> list[Json]:
        """Curves of certificates that count images, as l2 norms. Raises: ValueError if the threat map is damaged."""
        path = self.kept.parent / "threat_map" / "threat_map.json"
        if self.scale.name != "digits" or not path.is_file():
            return []
        try:
            curves = json.loads(path.read_bytes())["curves"]
            return [
                curve
                for curve in curves
                if curve["axis"] == "frobenius" and curve["method"] in VOTES and curve["sizes"] and curve["shares"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(path)!r} is damaged; restore it, or make it again with certidote threat-map") from error


def names(scale: Scale) -> list[str]:
    """The runs of this figure, as --cell takes them."""
    return [f"{method.name}-{sigma:g}" for sigma in scale.sigmas for method in METHODS]


def run(
    curves: Curves, data: Path | None, runs: Path, pool: Workers, progress: Progress, *, cell: str, seed: int, device: str
) -> None:
    """Certify what has no record yet.

    Args:
        cell: only this run; "" for all.
        runs: folder of ledgers.
    """
    scale = curves.scale
    source = materials.place_of(scale.setups["scratch"].data, data, runs / "data")
    for method, sigma in left(curves, cell, seed):
        out = runs / scale.name / "figure2" / f"{method.name}-{sigma:g}-{seed}"
        made = verbs.certify(
            source, out=out, sigma=sigma, models=MODELS, n0=SELECTING, test_input=method.test_input,
            denoiser=method.denoisers.get(scale.name, "none" if method.name == "noise" else "auto"),
            recipe=recipe_of(scale.setups["scratch"]), dtype=scale.dtype, seed=seed, device=device, pool=pool, progress=progress,
            label=f"{method.label}, sigma {sigma:g}",
        )  # fmt: skip
        assert isinstance(made, verbs.Certified)
        command = f"certidote bench figure2 --scale {scale.name} --cell {method.name}-{sigma:g} --seed {seed}"
        with Ledger(
            out / "ledger.sqlite"
        ) as ledger:  # where things lay on this machine is nobody's business, in neither of the two
            ledger.replace("completed", {**ledger.get("completed"), "command": command})
        record = made.record | {"command": command}
        if data is not None:
            record = json.loads(json.dumps(record).replace(json.dumps(f"{data}/")[1:-1], ""))
        folder = curves.folder(method, sigma)
        folder.mkdir(parents=True, exist_ok=True)
        pack(out / "ledger.sqlite", folder / COMPRESSED)
        write_json(folder / CERTIFICATE, record)


def left(curves: Curves, cell: str, seed: int) -> list[tuple[Method, float]]:
    """What has no record yet.

    Raises: ValueError if a record is damaged, or has another seed; kept runs of results/ablation have seeds of their own.
    """
    every = [(method, sigma) for sigma in curves.scale.sigmas for method in METHODS]
    chosen = [(method, sigma) for method, sigma in every if cell in ("", f"{method.name}-{sigma:g}")]
    for method, sigma in chosen:
        record, place = curves.record(method, sigma), curves.folder(method, sigma)
        if record is not None and curves.found(method, sigma) == place and record["root"] != hex(seed):
            raise ValueError(
                f"{str(place)!r} holds a record of another seed ({int(record['root'], 16)}); repeat that one, give another --records, or remove it"
            )
    return [(method, sigma) for method, sigma in chosen if curves.found(method, sigma) is None]


def plan_lines(curves: Curves, cell: str, seed: int) -> list[str]:
    """What there is to do, for --dry-run. Raises: ValueError as `left`."""
    todo = left(curves, cell, seed)
    lines = [f"figure2 at scale {curves.scale.name}, {SELECTING} + {MODELS} models a curve:"]
    for name in [cell] if cell else names(curves.scale):
        missing = any(name == f"{method.name}-{sigma:g}" for method, sigma in todo)
        lines.append(f"  {name}: " + ("to do" if missing else "has its record"))
    seconds = (SELECTING + MODELS) * sum(_seconds_each(curves.scale, method) for method, _ in todo)
    return [
        *lines,
        f"{len(todo)} curves are to do: about {in_words(seconds)} on one {curves.scale.unit}, denoising of test images included",
    ]


def _seconds_each(scale: Scale, method: Method) -> float:
    """Of one model; test images take about as long to denoise as those that it learns from."""
    calls = 0 if method.name == "noise" else 2 if method.test_input == "noised-denoised" else 1
    return scale.seconds["scratch"] + calls * scale.seconds["denoise scratch"]


def draw(curves: Curves) -> str:
    """The figure, one panel for each sigma; "" if the paper's algorithm was not run at any."""
    if not is_run(curves):
        return ""
    panels = []
    for sigma in curves.scale.sigmas:
        drawn, cap = [], 0.0
        for method in METHODS:
            if (record := curves.record(method, sigma)) is not None:
                radii, shares = (list(column) for column in zip(*record["results"]["certified_accuracy"], strict=True))
                cap = max(cap, record["results"]["cap"])
                drawn.append(
                    Curve(
                        method.label,
                        [*radii, max(radii[-1], record["results"]["cap"])],
                        [*shares, shares[-1]],
                        method.color,
                        method.dash,
                    )
                )
        for vote in curves.votes():
            drawn.append(Curve(vote["method"], [*vote["sizes"], vote["sizes"][-1]], [*vote["shares"], 0.0], *VOTES[vote["method"]]))
        panels.append(Panel(f"sigma {sigma:g}", drawn, 1.06 * (cap or sigma), cap or None))
    description = "Certified accuracy falling with the radius, one panel for each noise level, one line for each method."
    return radius_panels(f"figure2-{curves.scale.name}", panels, description, height=564, above=66)


def is_run(curves: Curves) -> bool:
    """Whether the paper's algorithm was run at any sigma."""
    return any(curves.found(METHODS[0], sigma) is not None for sigma in curves.scale.sigmas)


def picture(scale: Scale) -> str:
    """Its file beside the page."""
    return f"figure2-{scale.name}.svg"


def block(curves: Curves, page: Path) -> str:
    """Picture and table for the page in this folder; "" if the paper's algorithm was not run at any sigma."""
    if not is_run(curves):
        return ""
    shown = f"![Certified accuracy against the radius, one panel for each sigma]({picture(curves.scale)})\n\n{_table(curves, page)}"
    return shown + reaches(curves)


def undefended(curves: Curves) -> float | None:
    """Clean accuracy of one model without a defense, on the same images and by the same recipe: the control of an attack from scratch; None if
    none was measured."""
    for attack in SCRATCH_ATTACKS:
        found = records.read(records.folder_of(curves.kept, curves.scale, Cell(Poisoning(attack, "scratch"))))
        if found is not None and not found.refused:
            return outcomes.clean_accuracy(found, "control")
    return None


def reach(record: Json, share: float) -> float:
    """The radius up to which certified accuracy is above this share; 0 if it never is."""
    curve = record["results"]["certified_accuracy"]
    ends = [start for start, _ in curve[1:]] + [record["results"]["cap"]]
    return max((end for (_, height), end in zip(curve, ends, strict=True) if height > share), default=0.0)


def farthest(curves: Curves, accuracy: float) -> dict[str, tuple[float, float]]:
    """By name of the method, how far it keeps half of this accuracy at its best sigma, and that sigma."""
    found = {}
    for method in METHODS:
        made = [(sigma, record) for sigma in curves.scale.sigmas if (record := curves.record(method, sigma)) is not None]
        if made:
            found[method.name] = max((reach(record, accuracy / 2), sigma) for sigma, record in made)
    return found


def reaches(curves: Curves) -> str:
    """How far each method keeps half of what an undefended model has; "" if that was not measured."""
    accuracy = undefended(curves)
    if accuracy is None:
        return ""
    found = farthest(curves, accuracy)
    shown = [
        f"{method.label} {found[method.name][0]:.2f} (sigma {found[method.name][1]:g})"
        for method in METHODS
        if method.name in found
    ]
    return (
        f"\nLargest radius up to which certified accuracy is above half of the accuracy of one model without a defense ({accuracy:.1%}), each "
        f"method at its best sigma and with as many models: {', '.join(shown)}.\n"
    )


def in_short(curves: Curves) -> str:
    """For the front page: ours beside the others, and that the paper's proves something else; "" if one was not measured."""
    accuracy = undefended(curves)
    found = {} if accuracy is None else farthest(curves, accuracy)
    if not {method.name for method in METHODS} <= found.keys():
        return ""
    ours, noise, paper = (f"{found[name][0]:.2f}" for name in ("ours", "noise", "paper"))
    return (
        f" Half of the accuracy of a model without a defense is kept up to radius {ours} by ours, {noise} by noise alone and {paper} by the paper's "
        "algorithm, each at its best sigma. The paper's noises test images too, so that its radius covers a changed test image as well"
        f"{_without_noised_tests(curves, accuracy or 0.0)}."
    )


def _without_noised_tests(curves: Curves, accuracy: float) -> str:
    """How far the paper's network carries with test images as they are, from kept runs on the digits; "" if there is none."""
    paths = [curves.kept.parent / "ablation" / f"network-{sigma:g}" / CERTIFICATE for sigma in curves.scale.sigmas]
    if curves.scale.name != "digits" or not any(path.is_file() for path in paths):
        return ""
    carried = max(reach(json.loads(path.read_bytes()), accuracy / 2) for path in paths if path.is_file())
    return f": with the same network, but test images as they are, it is {carried:.2f}"


def _table(curves: Curves, page: Path) -> str:
    """The figure's numbers, one line for each curve."""
    rows = []
    for sigma in curves.scale.sigmas:
        for method in METHODS:
            record, place = curves.record(method, sigma), curves.found(method, sigma)
            if record is None or place is None:
                continue
            results = record["results"]
            shares = [f"{_share_at(results['certified_accuracy'], factor * sigma):.1%}" for factor in (0.0, 0.5, 1.0, 2.0)]
            link = Path(os.path.relpath(place / CERTIFICATE, page)).as_posix()
            rows.append(
                [f"{sigma:g}", f"[{method.label}]({link})", f"{results['member_accuracy']:.1%}", f"{results['vote_accuracy']:.1%}", *shares,
                 f"{results['average_radius']:.3f}", f"{results['cap']:.3f}"]
            )  # fmt: skip
    for vote in curves.votes():
        link = Path(os.path.relpath(curves.kept.parent / "threat_map" / "threat_map.json", page)).as_posix()
        reach = f"{vote['sizes'][-1]:.3f}"
        rows.append(["-", f"[{vote['method']}]({link})", "-", "-", f"{vote['shares'][0]:.1%}", "-", "-", "-", "-", reach])
    header = [
        "sigma",
        "method",
        "one model",
        "vote",
        "certified at 0",
        "0.5 sigma",
        "1 sigma",
        "2 sigma",
        "mean radius",
        "largest radius",
    ]
    return table(header, rows)


def _share_at(curve: Sequence[Sequence[float]], radius: float) -> float:
    return [share for start, share in curve if start <= radius][-1]
