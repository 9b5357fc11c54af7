"""A threat map as a picture and as a page: one small panel for each kind of attacker, every method in each, also where it proves nothing."""

import math
import textwrap
from typing import Any

from certidote.reporting import svg, words
from certidote.reporting.figures import NARROW, WIDE
from certidote.reporting.pages import both_widths, page
from certidote.types import Json

PANELS = ("linf-4", "l2-0.5", "any", "frobenius")
"""The axes that are drawn; the others are in the table."""

DASHES: tuple[Any, ...] = ("solid", (0, (4, 2.5)))
STYLES = ((0, 0), (0, 1), (1, 0), (2, 1), (3, 0))
"""Colour and dash of the first, second, ... method."""


BUDGETS: dict[str, tuple[int | float, ...]] = {"count": (1, 10, 50), "norm": (0.25, 1.0)}
"""Budgets of the table, by unit of the axis."""


def threat_map_page(record: Json) -> str:
    """One self-contained HTML page: the picture, certified accuracy in numbers on every axis, and what is not proved and why.

    Args:
        record: a "certidote threat map".
    Raises: as `threat_map_figure`.
    """
    title = f"{record['data']}: what each defense proves about the same attackers"
    return page("threat_map.html", title, threat_map=threat_map_content(record))


def threat_map_content(record: Json) -> Json:
    """What the section about a threat map shows: figure, table, notes and facts. Arguments and errors as for `threat_map_page`."""
    methods = list(dict.fromkeys(curve["method"] for curve in record["curves"]))
    by_axis = {(curve["method"], curve["axis"]): curve for curve in record["curves"]}
    return {
        "figure": both_widths(*(threat_map_figure(record, width=width) for width in (WIDE, NARROW))),
        "methods": methods,
        "rows": [
            (name, [_share(by_axis[method, axis], budget) for method in methods]) for name, axis, budget in _table(record["axes"])
        ],
        "notes": _notes(record),
        "facts": [(name, str(record[field])) for name, field in _FACTS if field in record],
    }


_FACTS = (
    ("training images", "training_images"), ("test images", "test_images"), ("noise std", "sigma"), ("counted models", "models"),
    ("selecting models", "n0"), ("alpha, each test image", "alpha"), ("parts, smoothed", "smoothed_parts"),
    ("parts, deep partition", "parts"), ("command", "command"),
)  # fmt: skip


def _table(axes: list[Json]) -> list[tuple[str, str, int | float]]:
    """What each row says, its axis and its budget."""
    rows: list[tuple[str, str, int | float]] = []
    for axis in axes:
        for budget in BUDGETS[axis["unit"]]:
            if axis["unit"] == "norm":
                name = f"{axis['title']}: {words.plain(budget)}"
            else:
                name = f"{words.plain(budget)} {axis['title'].replace('images', 'image', 1) if budget == 1 else axis['title']}"
            rows.append((name, axis["name"], budget))
    return rows


def _share(curve: Json, budget: int | float) -> str:
    """The step curve at a budget; a method that proves nothing there says so."""
    if not curve["sizes"]:
        return "nothing"
    return words.percent([share for size, share in zip(curve["sizes"], curve["shares"], strict=True) if size <= budget][-1])


def _notes(record: Json) -> list[str]:
    """One sentence for each axis and reason."""
    titles = {axis["name"]: axis["title"] for axis in record["axes"]}
    grouped: dict[tuple[str, str], list[str]] = {}
    for curve in record["curves"]:
        if curve["note"]:
            text = curve["note"] if curve["sizes"] else f"nothing proved, {curve['note']}"
            grouped.setdefault((curve["axis"], text), []).append(curve["method"])
    return [f"{titles[axis]}. {' and '.join(methods)}: {text}." for (axis, text), methods in grouped.items()]


def threat_map_figure(record: Json, *, width: int = WIDE) -> str:
    """Certified accuracy against the budget, for each kind of attacker in `PANELS`.

    Args:
        record: a "certidote threat map".
        width: CSS pixels; a phone gets one panel below the other.
    Returns: an SVG element.
    Raises: ValueError if there are more methods than distinct styles.
    """
    methods = list(dict.fromkeys(curve["method"] for curve in record["curves"]))
    if len(methods) > len(STYLES):
        raise ValueError(f"{len(methods)} methods, but only {len(STYLES)} can be told apart; draw fewer")
    styles = {name: {"color": svg.SERIES[c], "linestyle": DASHES[d]} for name, (c, d) in zip(methods, STYLES, strict=False)}
    axes_of = {axis["name"]: axis for axis in record["axes"]}
    wide = width > NARROW
    columns = 2 if wide else 1
    above = 19 * math.ceil(len(methods) / columns) + 40
    grid = (2, 2) if wide else (4, 1)
    name = f"threat-map-{width}"
    with svg.drawing(name):
        figure = svg.new_figure(width, above + 315 * grid[0] + 60, above=above, below=106)
        spaces = {"wspace": 0.1, "hspace": 0.42 if wide else 0.66}
        panels = figure.subplots(*grid, squeeze=False, sharey=True, gridspec_kw=spaces).ravel()
        lines: dict[str, Any] = {}
        for axes, wanted in zip(panels, PANELS, strict=True):
            curves = [curve for curve in record["curves"] if curve["axis"] == wanted]
            for curve in curves:
                if curve["sizes"]:
                    lines[curve["method"]] = _curve(axes, axes_of[wanted], curve, styles[curve["method"]])
            _frame(axes, axes_of[wanted], curves, wide)
            _remarks(axes, curves, 48 if wide else 44)
        for i, axes in enumerate(panels):
            if not wide or i % 2 == 0:
                axes.set_ylabel("certified accuracy")
        shown = [method for method in methods if method in lines]
        figure.legend(
            [lines[method] for method in shown], shown, ncols=columns, loc="upper left", bbox_to_anchor=(0, 1), borderaxespad=0, borderpad=0.2
        )  # fmt: skip
        return svg.to_svg(figure, name, _description(record, axes_of))


def _curve(axes: Any, axis: Json, curve: Json, style: Json) -> Any:
    """A step function; a dot on the left edge is what holds as long as nothing is altered."""
    sizes, shares = list(curve["sizes"]), list(curve["shares"])
    if axis["unit"] == "count":
        sizes = [max(size - 1, 0) for size in sizes]  # a share holds up to and including the k before its fall
        axes.plot([0], shares[:1], "o", color=style["color"], markersize=4, clip_on=False)
        points = [(0, shares[0])]
        for size, share, before in zip(sizes[1:], shares[1:], shares, strict=False):
            points += [(size, before), (size, share)]
        return axes.plot(*zip(*points, strict=True), **style)[0]
    return axes.plot(sizes, shares, drawstyle="steps-post", **style)[0]


def _frame(axes: Any, axis: Json, curves: list[Json], wide: bool) -> None:
    largest = max((curve["sizes"][-1] for curve in curves if curve["sizes"]), default=1.0)
    axes.set_xlim(0, 1.04 * largest)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_title("\n".join(textwrap.wrap(_TITLES[axis["name"]], 44 if wide else 42)), fontsize=12)
    axes.set_xlabel("images altered" if axis["unit"] == "count" else "l2 norm, [0, 1] pixel units")


_TITLES = {
    "linf-4": "each altered pixel moves by up to 4/255",
    "l2-0.5": "each altered image moves by up to 0.5 (l2)",
    "any": "altered images are replaced by anything",
    "frobenius": "the whole training set moves by this much",
}


def _remarks(axes: Any, curves: list[Json], width: int) -> None:
    """Below the axis, in words: what methods do not prove here, and what else they need."""
    grouped: dict[str, list[str]] = {}
    for curve in curves:
        if curve["note"]:
            text = curve["note"] if curve["sizes"] else f"nothing proved, {curve['note']}"
            grouped.setdefault(text, []).append(curve["method"])
    lines = [axes.get_xlabel()]
    for text, methods in grouped.items():
        lines += textwrap.wrap(f"{' and '.join(methods)}: {text}", width)
    axes.set_xlabel("\n".join(lines))


def _description(record: Json, axes_of: Json) -> str:
    parts = []
    for wanted in PANELS:
        told = []
        for curve in record["curves"]:
            if curve["axis"] != wanted:
                continue
            if not curve["sizes"]:
                told.append(f"{curve['method']} proves nothing")
            else:
                last = curve["sizes"][-1] - 1 if axes_of[wanted]["unit"] == "count" else curve["sizes"][-1]
                reach = words.counted(int(last), "image") if axes_of[wanted]["unit"] == "count" else words.length(last)
                told.append(f"{curve['method']} from {words.percent(curve['shares'][0])} down to nothing beyond {reach}")
        parts.append(f"{_TITLES[wanted]}: {'; '.join(told)}")
    return "Certified accuracy against four kinds of attackers. " + ". ".join(parts) + "."
