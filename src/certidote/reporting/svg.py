"""From a matplotlib figure to an SVG that can be inlined anywhere: same bytes every time, light and dark, unique ids.

Figures are drawn in the light palette below. Afterwards each of its colours becomes a CSS variable, so that one drawing follows
the reader's colour scheme; print always uses the light one. Data colours are those of Okabe and Ito (2008), distinguishable
with every common kind of colour blindness, and lines differ in dash or marker as well.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INK, MUTED, GRID = "#1f2328", "#636c76", "#dfe2e6"
SERIES = ("#0072b2", "#c94f00", "#008a67", "#b0568c")
STEPS = ("#3b0f70", "#8c2981", "#de4968", "#e08214")

DARK = {
    INK: "#e6e8ea",
    MUTED: "#9aa4af",
    GRID: "#343a42",
    **dict(zip(SERIES, ("#56b4e9", "#ff9a4d", "#2fd0a3", "#e59ac7"), strict=True)),
    **dict(zip(STEPS, ("#c3a5f5", "#ee7fc3", "#ff8b93", "#ffc072"), strict=True)),
}
"""The palette: each colour drawn with, and what it becomes on a dark background."""

FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Matplotlib's settings for one figure: nothing of the user's own style, text as text, ids derived from `name`."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Labels are anybody's: a script the layout font lacks is drawn by the reader's font, and is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": name,
                "text.parse_math": False,
                "font.family": ["DejaVu Sans"],
                "font.size": 12,
                "text.color": INK,
                "axes.edgecolor": MUTED,
                "axes.labelcolor": INK,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.linewidth": 1,
                "axes.facecolor": "none",
                "axes.titlesize": 12,
                "axes.titlelocation": "left",
                "figure.facecolor": "none",
                "grid.color": GRID,
                "grid.linewidth": 1,
                "xtick.color": MUTED,
                "ytick.color": MUTED,
                "xtick.labelcolor": MUTED,
                "ytick.labelcolor": MUTED,
                "legend.frameon": False,
                "legend.fontsize": 12,
                "lines.linewidth": 2,
            }
        )
        yield


def new_figure(width: int, height: int, *, above: int = 8, below: int = 46, left: int = 58, right: int = 16) -> Any:
    """An empty figure of so many CSS pixels, with room around its axes. Not pyplot's: nothing global keeps it alive.

    Fixed margins rather than a layout engine: quicker, and the same whatever fonts are installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.subplots_adjust(left=left / width, right=1 - right / width, top=1 - above / height, bottom=below / height)
    return figure


def to_svg(figure: Any, name: str, description: str) -> str:
    """The figure as an SVG element: colours as variables, ids prefixed by `name`, no date, no header.

    Args:
        figure: a matplotlib figure drawn inside `drawing(name)`.
        name: unique in the document it goes into; letters, digits and hyphens.
        description: read aloud instead of the picture.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"<style type=\"text/css\">.*?</style>", _style(), text, count=1, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _tag(tag.group(), name), text)
    head = f'<svg class="certidote-figure" role="img" aria-label="{_attribute(description)}"'
    text = re.sub(r"(?<=\d)pt(?=\")", "", text.replace("<svg", head, 1), count=2)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip() + "\n"


def _tag(tag: str, name: str) -> str:
    """One tag with prefixed ids and variable colours. Text between tags, which may be anybody's, is never touched."""
    tag = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{name}-", tag)
    tag = tag.replace("'DejaVu Sans'", FONT)
    return re.sub(r"#[0-9a-f]{6}\b", lambda colour: f"var(--c{colour.group()[1:]}, {colour.group()})", tag)


def _style() -> str:
    """The dark palette, and the joins matplotlib wants, for these figures only."""
    dark = "".join(f"--c{light[1:]}:{colour};" for light, colour in DARK.items())
    joins = ".certidote-figure *{stroke-linejoin:round;stroke-linecap:butt}"
    return f"<style>{joins}@media screen and (prefers-color-scheme:dark){{.certidote-figure{{{dark}}}}}</style>"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
