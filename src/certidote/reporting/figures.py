"""The figures of a report, as SVG or HTML text: recorded numbers in, drawings out, nothing computed anew.

Every figure takes a width in CSS pixels: 720 for a page, 360 for a phone. Only proved certificates are drawn.
"""

import base64
import binascii
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from certidote.reporting import svg, words
from certidote.types import Json

WIDE, NARROW = 720, 360

BREAK_FROM = 1.6
"""An attack at more than this many times the largest cap gets its own piece of axis instead of squeezing the curves."""

MARKERS = ("o", "s", "^", "D")


def certified_accuracy_figure(certificates: Sequence[Json], attack: Json | None = None, *, width: int = WIDE) -> str:
    """Certified accuracy against the radius, one curve per proved certificate.

    Certificates of one sigma share a colour; curves without denoiser are dashed. A triangle marks each cap, the largest radius
    that so many models can prove. A demonstrated attack stands where its smallest and median joint norms are, if need be
    behind a break in the axis.

    Args:
        certificates: "certidote certificate" values.
        attack: what a demonstrated attack did, or None.
        width: CSS pixels.
    Returns: an SVG element.
    Raises: ValueError if no certificate is proved.
    """
    proved = _proved(certificates)
    top = max(each["results"]["cap"] for each in proved)
    broken = attack is not None and attack["joint_norm_min"] > BREAK_FROM * top
    name = f"radius-{width}"
    columns = 2 if width > NARROW and len(proved) > 1 else 1
    above = _legend_height(len(proved) + 1, columns)
    with svg.drawing(name):
        figure = svg.new_figure(width, above + (310 if width > NARROW else 250), above=above)
        if broken:
            ratios = (6, 1) if width > NARROW else (4, 1)
            axes, far = figure.subplots(
                1, 2, sharey=True, width_ratios=ratios, gridspec_kw={"wspace": 0.05 if width > NARROW else 0.1}
            )
        else:
            axes, far = figure.subplots(), None
        _curves(axes, proved)
        axes.set_xlim(0, 1.06 * top)
        axes.set_xlabel(f"radius: l2 norm {'of the change to' if width > NARROW else 'over'} the whole training set")
        _accuracy_axis(axes)
        lines, labels = axes.get_legend_handles_labels()
        _legend(figure, lines, labels, columns)
        if attack is not None:
            if far is None:
                axes.set_xlim(0, 1.06 * max(top, attack["joint_norm_median"]))
            else:
                _broken_axis(axes, far, attack)
            _mark_attack(far or axes, proved, attack)
        curves = "; ".join(f"{each['label']}: {words.percent(_start(each))} at radius 0" for each in proved)
        return svg.to_svg(figure, name, f"Certified accuracy falling with the radius. {curves}.")


def threat_figure(certificates: Sequence[Json], *, width: int = WIDE) -> str:
    """Certified accuracy against the number of altered training images, one line per linf epsilon, one panel per sigma.

    Between two recorded numbers the line stands at the share of the larger one, which is proved for both.

    Args:
        certificates: "certidote certificate" values with linf threats among their results.
        width: CSS pixels.
    Returns: an SVG element.
    Raises: ValueError if no certificate is proved, or none has an linf threat.
    """
    proved = [each for each in _proved(certificates) if _pixel_threats(each)]
    if not proved:
        raise ValueError("no certificate records linf threats; add some to its results to draw this figure")
    sigmas = sorted({each["sigma"] for each in proved})
    epsilons = sorted({threat["epsilon"] for each in proved for threat in _pixel_threats(each)})
    shown = [epsilons[i] for i in spread(len(epsilons), len(svg.STEPS))]
    wide = width > NARROW
    keys = _dash_key(proved)
    columns = 3 if wide else 1
    above = _legend_height(len(shown) + len(keys), columns) + (22 if len(sigmas) > 1 else 0)
    name = f"images-{width}"
    with svg.drawing(name):
        figure = svg.new_figure(width, above + (290 if wide else 40 + 210 * len(sigmas)), above=above)
        grid = (1, len(sigmas)) if wide else (len(sigmas), 1)
        spaces = {"wspace": 0.06, "hspace": 0.2}
        panels = figure.subplots(*grid, sharex=True, sharey=True, squeeze=False, gridspec_kw=spaces).ravel()
        lines: dict[str, Any] = {}
        for axes, sigma in zip(panels, sigmas, strict=True):
            for i, certificate in ((i, each) for i, each in enumerate(proved) if each["sigma"] == sigma):
                for threat in _pixel_threats(certificate):
                    if threat["epsilon"] in shown:
                        step = shown.index(threat["epsilon"])
                        line = _threat_line(axes, certificate, threat, step, f"threat-{i}-{step}")
                        lines.setdefault(f"pixels move by up to {words.epsilon(threat)}", line)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda k, _: f"{k:,.0f}" if k >= 1 else "")
            axes.minorticks_off()
            if len(sigmas) > 1:
                axes.set_title(f"sigma {words.plain(sigma)}")
            _accuracy_axis(axes)
        for axes in panels if wide else panels[-1:]:
            axes.set_xlabel("training images altered")
        for axes in panels[1:] if wide else ():
            axes.set_ylabel("")
        lines |= keys
        _legend(figure, list(lines.values()), list(lines), columns)
        return svg.to_svg(figure, name, "Certified accuracy falling with the number of altered training images.")


@dataclass(frozen=True)
class Curve:
    """Certified accuracy as steps: `shares[i]` holds from `radii[i]` on.

    Attributes:
        dash: as matplotlib's linestyle.
    """

    label: str
    radii: Sequence[float]
    shares: Sequence[float]
    color: str
    dash: Any = "solid"


@dataclass(frozen=True)
class Panel:
    """Curves of one noise level.

    Attributes:
        end: of the axis of radii.
        cap: the largest radius that so many models can prove, which is drawn in; None is not.
    """

    title: str
    curves: Sequence[Curve]
    end: float
    cap: float | None = None


def radius_panels(name: str, panels: Sequence[Panel], description: str, *, height: int = 560, above: int = 62) -> str:
    """Certified accuracy against the radius, two panels a row, one legend above them.

    Args:
        name: of the drawing, unique in its document.
        description: read aloud instead of the picture.
        height, above: CSS pixels, of a drawing of two rows and of the room for the legend.
    Returns: an SVG element.
    """
    with svg.drawing(name):
        rows = math.ceil(len(panels) / 2)
        figure = svg.new_figure(720, above + rows * (height - above) // 2, above=above, left=66)
        axes_of = figure.subplots(rows, 2, sharey=True, squeeze=False, gridspec_kw={"hspace": 0.32, "wspace": 0.08}).ravel()
        lines: dict[str, Any] = {}
        for axes in axes_of[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(axes_of, panels, strict=False):
            for curve in panel.curves:
                style: dict[str, Any] = {"color": curve.color, "linestyle": curve.dash, "drawstyle": "steps-post"}
                lines[curve.label] = axes.plot(curve.radii, curve.shares, **style)[0]
            if panel.cap is not None:
                (lines["cap: the largest radius that so many models prove"],) = axes.plot(
                    [panel.cap], [0], "^", color=svg.MUTED, markersize=9, clip_on=False, zorder=5
                )
            axes.set_title(panel.title)
            axes.set_xlim(0, panel.end)
            axes.set_ylim(0, 1.02)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
            axes.grid(axis="y")
            axes.set_axisbelow(True)
        for axes in axes_of[::2]:
            axes.set_ylabel("certified accuracy")
        for axes in axes_of[max(0, len(panels) - 2) : len(panels)]:
            axes.set_xlabel("radius: l2 norm over the whole training set")
        figure.legend(list(lines.values()), list(lines), ncols=3 if len(lines) > 2 else 2, loc="upper left", bbox_to_anchor=(0, 1))
        return svg.to_svg(figure, name, description)


def attack_figure(attack: Json, *, width: int = WIDE) -> str:
    """Success rates of a demonstrated attack with their 95% intervals, one row each, controls included.

    Args:
        attack: with `rows`, each with `label`, `successes`, `trials` and the interval `low`, `high`.
        width: CSS pixels.
    Returns: an SVG element.
    Raises: ValueError if there are no rows.
    """
    rows = attack["rows"]
    if not rows:
        raise ValueError("this attack has no rows; a comparison needs at least its control")
    name = f"attack-{width}"
    with svg.drawing(name):
        figure = svg.new_figure(width, 56 + 46 * len(rows), left=16, right=84)
        axes = figure.subplots()
        for y, row in enumerate(rows):
            rate = row["successes"] / row["trials"]
            axes.plot([row["low"], row["high"]], [y, y], color=svg.SERIES[0], linewidth=3, alpha=0.45, solid_capstyle="round")
            axes.plot([rate], [y], "o", color=svg.SERIES[0], markersize=8, clip_on=False, gid=f"rate-{y}")
            label = textwrap.shorten(row["label"], 90 if width > NARROW else 36, placeholder=" ...")
            axes.text(0, y - 0.3, label, fontsize=12 if width > NARROW else 11)
            axes.text(1.03, y, f"{row['successes']} of {row['trials']}", va="center", color=svg.INK)
        axes.set_ylim(len(rows) - 0.6, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_xlabel("attack success rate, 95% interval")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        rates = "; ".join(f"{row['label']}: {row['successes']} of {row['trials']}" for row in rows)
        return svg.to_svg(figure, name, f"Attack success rates. {rates}.")


def gallery(pictures: Sequence[Json]) -> str:
    """Small pictures as an HTML grid, enlarged without smoothing.

    Args:
        pictures: each has a `title` and either `png_base64`, one picture ready made, or `rows` of a `label` and `images` (nested
            lists of 0..255, h x w or h x w x 3) or `pngs` (base64), and optionally `captions`, one for each column.
    Returns: HTML; empty without pictures.
    Raises: ValueError if a picture is neither.
    """
    return str(Markup("").join(Markup('<figure class="pictures">{}{}</figure>').format(*_picture(each)) for each in pictures))


def thumbnail(png_base64: str, alt: str) -> str:
    """One small picture as HTML. Raises ValueError if it is no PNG."""
    return str(_image(checked_png(png_base64), alt))


def spread(available: int, wanted: int) -> list[int]:
    """Up to `wanted` of the indices 0..available-1, evenly spread, first and last among them."""
    return sorted({round(i) for i in np.linspace(0, available - 1, min(available, wanted))})


# ------------------------------------------------------------------------------------------------------ pieces of figures


def is_denoised(certificate: Json) -> bool:
    return certificate["denoiser"]["kind"] != "none"


def _proved(certificates: Sequence[Json]) -> list[Json]:
    proved = [each for each in certificates if each["proved"]]
    if not proved:
        raise ValueError("none of these certificates is proved, so there is no certified accuracy to draw")
    return proved


def _pixel_threats(certificate: Json) -> list[Json]:
    return [threat for threat in certificate["results"]["threats"] if threat["norm"] == "linf"]


def _start(certificate: Json) -> float:
    return certificate["results"]["certified_accuracy"][0][1]


def _colour_of(certificate: Json, certificates: Sequence[Json]) -> str:
    sigmas = sorted({each["sigma"] for each in certificates})
    return svg.SERIES[sigmas.index(certificate["sigma"]) % len(svg.SERIES)]


def _dash(certificate: Json) -> Any:
    return "solid" if is_denoised(certificate) else (0, (4, 2.5))


def _label(text: str) -> str:
    """Matplotlib hides labels that start with an underscore; a leading zero-width space keeps them."""
    return f"\u200b{text}" if text.startswith("_") else text


def _legend(figure: Any, lines: list[Any], labels: list[str], columns: int) -> None:
    """A legend above the axes, in the room that `_legend_height` reserves."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 1), "borderaxespad": 0, "borderpad": 0.2}
    figure.legend(lines, labels, ncols=columns, **place)


def _legend_height(entries: int, columns: int) -> int:
    """CSS pixels for so many entries, and some air below."""
    return 19 * math.ceil(entries / columns) + 16


def _accuracy_axis(axes: Any) -> None:
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_ylabel("certified accuracy")
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _curves(axes: Any, proved: Sequence[Json]) -> None:
    for i, certificate in enumerate(proved):
        results = certificate["results"]
        radii, shares = (list(column) for column in zip(*results["certified_accuracy"], strict=True))
        if radii[-1] < results["cap"]:  # a step function keeps its last value up to the cap
            radii.append(results["cap"])
            shares.append(shares[-1])
        colour, label = _colour_of(certificate, proved), _label(certificate["label"])
        style: dict[str, Any] = {"color": colour, "linestyle": _dash(certificate), "drawstyle": "steps-post"}
        axes.plot(radii, shares, **style, label=label, gid=f"curve-{i}")
    caps = {each["results"]["cap"]: _colour_of(each, proved) for each in proved}
    for i, (cap, colour) in enumerate(caps.items()):
        axes.plot([cap], [0], "^", color=colour, markersize=9, clip_on=False, zorder=5, gid=f"cap-{i}")
    axes.plot([], [], "^", color=svg.MUTED, markersize=8, label="cap: the largest provable radius")


def _broken_axis(axes: Any, far: Any, attack: Json) -> None:
    low, middle = attack["joint_norm_min"], attack["joint_norm_median"]
    far.set_xlim(low - 0.25 * middle, middle + 0.25 * middle)
    far.set_xticks([middle], [words.length(middle)])
    far.spines["left"].set_visible(False)
    far.tick_params(axis="y", length=0, labelleft=False)
    far.grid(axis="y")
    far.set_axisbelow(True)
    slash: dict[str, Any] = {"marker": [(-0.6, -1), (0.6, 1)], "markersize": 9, "linestyle": "none", "clip_on": False}
    for panel, x in ((axes, 1.0), (far, 0.0)):
        panel.plot([x], [0], transform=panel.transAxes, color=svg.MUTED, markeredgewidth=1.2, zorder=6, **slash)


def _mark_attack(axes: Any, proved: Sequence[Json], attack: Json) -> None:
    low, middle = attack["joint_norm_min"], attack["joint_norm_median"]
    axes.axvspan(low, middle, color=svg.SERIES[3], alpha=0.18, linewidth=0)
    axes.axvline(middle, color=svg.SERIES[3], linewidth=2, gid="attack")
    outside = " (outside every certified radius)" if words.attack_is_outside(proved, attack) else ""
    axes.annotate(
        f"demonstrated attack\n{outside.strip()}".strip(),
        (middle, 0.98),
        xytext=(-6 if not outside else 6, 0),
        textcoords="offset points",
        rotation=90,
        va="top",
        ha="right" if not outside else "left",
        fontsize=11,
    )


def _threat_line(axes: Any, certificate: Json, threat: Json, step: int, name: str) -> Any:
    """Steps between the recorded numbers of images, at the share of the next one: shares only fall, so no less is certified there."""
    numbers, shares = zip(*threat["certified_accuracy_at_k"], strict=True)
    style: dict[str, Any] = {"color": svg.STEPS[step], "marker": MARKERS[step], "markersize": 5, "drawstyle": "steps-pre"}
    if not is_denoised(certificate):
        style |= {"linestyle": _dash(certificate), "markerfacecolor": "none", "linewidth": 1.5}
    return axes.plot(numbers, shares, **style, gid=name)[0]


def _dash_key(proved: Sequence[Json]) -> dict[str, Any]:
    """Legend entries for solid and dashed, where both occur."""
    from matplotlib.lines import Line2D

    kinds = {is_denoised(each): _dash(each) for each in proved}
    if len(kinds) < 2:
        return {}
    texts = {True: "solid: denoised", False: "dashed: noise only"}
    return {texts[kind]: Line2D([], [], color=svg.MUTED, linestyle=kinds[kind]) for kind in (True, False)}


# --------------------------------------------------------------------------------------------------------------- pictures


def _picture(picture: Json) -> tuple[Markup, Markup]:
    """The caption and the body of one picture."""
    if "rows" in picture:
        body = Markup("").join(_picture_row(row) for row in picture["rows"])
        captions = Markup("").join(Markup("<li>{}</li>").format(text) for text in picture.get("captions", []))
        if captions:
            body += Markup('<ol class="captions">{}</ol>').format(captions)
    elif "png_base64" in picture:
        body = _image(checked_png(picture["png_base64"]), picture["title"])
    else:
        raise ValueError(f"picture {picture['title']!r} has neither rows nor png_base64; give one of them")
    return Markup("<figcaption>{}</figcaption>").format(picture["title"]), body


def _picture_row(row: Json) -> Markup:
    pngs = [checked_png(text) for text in row["pngs"]] if "pngs" in row else [_png(image) for image in row["images"]]
    images = Markup("").join(_image(png, f"{row['label']} {i + 1}") for i, png in enumerate(pngs))
    return Markup('<div class="row"><span class="row-label">{}</span>{}</div>').format(row["label"], images)


def _image(png: bytes, alt: str) -> Markup:
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, base64.b64encode(png).decode())


def checked_png(text: str) -> bytes:
    """The bytes of a PNG file given in base64. Raises ValueError if it is none."""
    try:
        png = base64.b64decode(text, validate=True)
    except binascii.Error:
        png = b""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("png_base64 does not hold a PNG; encode the bytes of a PNG file")
    return png


def _png(pixels: Sequence[Any]) -> bytes:
    values = np.asarray(pixels)
    if values.ndim not in (2, 3) or values.shape[2:] not in ((), (3,)) or values.min() < 0 or values.max() > 255:
        raise ValueError(f"an image of shape {values.shape} was given; give h x w or h x w x 3 values from 0 to 255")
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
