"""Success rates with their intervals and controls, one line for each defense, one panel for each attack."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from certidote.reporting import svg

WIDTH, LINE, LEFT, GAP = 700, 31, 176, 44
"""CSS pixels: of the drawing, of a line, of the room for names, and of that for figures right of a panel."""
POISONED, CONTROL = "poisoned training set, 95% interval", "clean one (control)"


@dataclass(frozen=True)
class Share:
    """A rate and its interval, all in [0, 1]."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Mark:
    """What one panel shows on one line.

    Attributes:
        success: on the poisoned set; None for nothing to show.
        control: the same on the clean set.
        accuracy: on clean test images.
        instead: said where there is no rate.
    """

    success: Share | None = None
    control: Share | None = None
    accuracy: float | None = None
    instead: str = ""


@dataclass(frozen=True)
class Line:
    """One defense: a mark for each panel; `ours` puts it on a shaded ground."""

    name: str
    marks: Sequence[Mark]
    ours: bool = False


def rate_panels(name: str, titles: Sequence[str], lines: Sequence[Line], description: str) -> str:
    """Panels beside each other, with common lines and one legend above them.

    Args:
        name: of the drawing, unique in its document.
        titles: of the panels; may have two lines of text.
        lines: each with as many marks as there are panels.
        description: read aloud instead of the picture.
    Returns: an SVG element.
    """
    above, below = 72, 48
    height = above + LINE * len(lines) + below
    with svg.drawing(name):
        figure = svg.new_figure(WIDTH, height, above=above, below=below, left=LEFT, right=GAP)
        width = (WIDTH - LEFT - GAP * len(titles)) / len(titles)
        panels = figure.subplots(1, len(titles), sharey=True, squeeze=False, gridspec_kw={"wspace": GAP / width})[0]
        handles: dict[str, Any] = {}
        for number, (axes, title) in enumerate(zip(panels, titles, strict=True)):
            for y, line in enumerate(lines):
                if line.ours:
                    axes.axhspan(y - 0.5, y + 0.5, color=svg.GRID, alpha=0.45, linewidth=0)
                handles |= _drawn(axes, y, line.marks[number], f"{number}-{y}")
            axes.set_title(title, pad=8)
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
            axes.set_ylim(len(lines) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0, pad=8)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
            axes.spines["left"].set_visible(False)
        panels[len(panels) // 2].set_xlabel("trials that reach their goal")
        panels[0].set_yticks(range(len(lines)), [line.name for line in lines])
        for text, line in zip(panels[0].get_yticklabels(), lines, strict=True):
            text.set_color(svg.INK)
            text.set_fontweight("bold" if line.ours else "normal")
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1, "borderpad": 0.2}
        known = [called for called in (POISONED, CONTROL) if called in handles]
        figure.legend([handles[called] for called in known], known, ncols=2, columnspacing=1.6, handletextpad=0.3, **place)
        figure.text(1 - 8 / WIDTH, 1 - 15 / height, "figures at the right: clean accuracy", ha="right", color=svg.MUTED)
        return svg.to_svg(figure, name, description)


def _drawn(axes: Any, y: int, mark: Mark, place: str) -> dict[str, Any]:
    """Draw one mark, the parts of which are named after its place. Returns what the legend says of it."""
    handles: dict[str, Any] = {}
    if mark.instead:
        axes.text(0.02, y, mark.instead, va="center", fontsize=10, color=svg.MUTED)
    for share, height, style, called in (
        (mark.control, y + 0.22, {"color": svg.MUTED, "markerfacecolor": "none", "markersize": 5}, CONTROL),
        (mark.success, y - 0.1, {"color": svg.SERIES[1], "markersize": 8}, POISONED),
    ):
        if share is not None:
            kind = "success" if called == POISONED else "control"
            bar: dict[str, Any] = {"color": style["color"], "linewidth": 3, "alpha": 0.45, "solid_capstyle": "round"}
            axes.plot([share.low, share.high], [height, height], **bar, gid=f"interval-{kind}-{place}")
            (handles[called],) = axes.plot([share.rate], [height], "o", clip_on=False, zorder=4, **style, gid=f"{kind}-{place}")
    if mark.accuracy is not None:
        axes.text(1.06, y, f"{mark.accuracy:.0%}", va="center", fontsize=11, color=svg.MUTED)
    return handles
