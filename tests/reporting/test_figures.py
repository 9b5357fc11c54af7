import base64
import io
import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from certidote.reporting import figures
from reporting import example

FIGURES = {
    "radius": lambda width: figures.certified_accuracy_figure(example.four(), example.attack(), width=width),
    "images": lambda width: figures.threat_figure(example.four(), width=width),
    "attack": lambda width: figures.attack_figure(example.attack(), width=width),
}
HOSTILE = "_<script>alert('$x\\frac')</script>--> \u4f60 \"#0072b2"


def points(svg: str, gid: str) -> np.ndarray:
    """(n, 2) drawing coordinates of the path (or, without one, of the markers) in the group called `gid`."""
    group = re.search(rf'<g id="{gid}">(.*?)</g>\s*(?=<g id|</g>)', svg, flags=re.DOTALL)
    assert group is not None, f"no {gid}"
    marks = re.findall(r'<use [^>]*x="([-\d.]+)" y="([-\d.]+)"', group.group(1))
    path = re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", group.group(1))
    return np.array(marks or path, dtype=float)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("width", [figures.WIDE, figures.NARROW])
@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_reproducible_well_formed_and_adapt(name: str, width: int) -> None:
    svg = FIGURES[name](width)
    assert svg == FIGURES[name](width)
    root = ET.fromstring(svg)
    assert root.attrib["viewBox"].split()[2] == root.attrib["width"] == str(width)
    assert svg.startswith("<svg class=")
    assert "prefers-color-scheme:dark" in svg
    tags = re.sub(r"<style>.*?</style>", "", svg)
    assert not re.search(r"(?<!, )#[0-9a-f]{6}\b", tags), "a colour that does not follow the colour scheme"
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert all(each.startswith(f"{name}-{width}-") for each in ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
    assert set(used) <= set(ids)
    assert used
    left, right = (root.attrib["viewBox"].split()[i] for i in (0, 2))
    assert all(float(left) <= float(x) <= float(right) for x in re.findall(r'<text [^>]*\bx="([-\d.]+)"', svg))


def test_the_curve_is_the_recorded_step_function() -> None:
    curve = [[0.0, 0.9], [0.25, 0.6], [0.5, 0.1], [1.0, 0.05]]
    certificate = example.certificate()
    certificate["results"] |= {"certified_accuracy": curve, "cap": 2.0}
    drawn = points(figures.certified_accuracy_figure([certificate]), "radius-720-curve-0")
    cap = points(figures.certified_accuracy_figure([certificate]), "radius-720-cap-0")[0]
    steps = np.array([[0, 0.9], [0.25, 0.9], [0.25, 0.6], [0.5, 0.6], [0.5, 0.1], [1, 0.1], [1, 0.05], [2, 0.05], [2, 0.05]])
    x0, y_top = drawn[0]
    radius = (drawn[:, 0] - x0) / (cap[0] - x0) * 2
    share = (cap[1] - drawn[:, 1]) / (cap[1] - y_top) * 0.9
    np.testing.assert_allclose(np.stack([radius, share], axis=1), steps, atol=1e-5)


def test_colour_is_sigma_and_dash_is_noise_only() -> None:
    svg = figures.certified_accuracy_figure(example.four())
    groups = [re.search(rf'id="radius-720-curve-{i}">.*?style="([^"]*)"', svg, flags=re.DOTALL).group(1) for i in range(4)]  # type: ignore[union-attr]
    colours = [re.search(r"stroke: (var\([^)]*\))", style).group(1) for style in groups]  # type: ignore[union-attr]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert ["stroke-dasharray" in style for style in groups] == [False, True, False, True]


def test_only_proved_certificates_are_drawn() -> None:
    labels = texts(figures.certified_accuracy_figure([example.unproved(label="measured only"), example.certificate(1.0)]))
    assert "denoised, sigma 1.0" in labels
    assert "measured only" not in labels
    for figure in (figures.certified_accuracy_figure, figures.threat_figure):
        with pytest.raises(ValueError, match="none of these certificates is proved"):
            figure([example.unproved()])


def test_the_attack_is_called_outside_only_if_it_is() -> None:
    one = [example.certificate(0.5)]
    far, near, inside = (example.attack(joint_norm_min=norm, joint_norm_median=norm + 0.2) for norm in (9.1, 1.3, 0.7))
    shown = [" ".join(texts(figures.certified_accuracy_figure(one, attack))) for attack in (far, near, inside)]
    assert all("demonstrated attack" in text for text in shown)
    assert ["(outside every certified radius)" in text for text in shown] == [True, True, False]


def test_attack_and_curves_share_one_axis_only_if_they_are_close() -> None:
    one = [example.certificate(0.5)]
    near = figures.certified_accuracy_figure(one, example.attack(joint_norm_min=1.3, joint_norm_median=1.5))
    assert "radius-720-axes_2" not in near
    cap, attack = points(near, "radius-720-cap-0")[0, 0], points(near, "radius-720-attack")[0, 0]
    origin = points(near, "radius-720-curve-0")[0, 0]
    assert (attack - origin) / (cap - origin) == pytest.approx(1.5 / one[0]["results"]["cap"])
    assert "radius-720-axes_2" in figures.certified_accuracy_figure(one, example.attack())


def test_success_rates_stand_where_they_belong() -> None:
    svg = figures.attack_figure(example.attack())
    places = [points(svg, f"attack-720-rate-{i}")[0, 0] for i in range(4)]
    assert places[0] == places[3]
    assert (places[2] - places[0]) / (places[1] - places[0]) == pytest.approx(2 / 23)
    assert {"0 of 25", "23 of 25", "2 of 25"} <= set(texts(svg))
    with pytest.raises(ValueError, match="no rows"):
        figures.attack_figure(example.attack(rows=[]))


def test_threats_have_one_panel_per_sigma() -> None:
    labels = texts(figures.threat_figure(example.four()))
    assert [label for label in labels if label.startswith("sigma")] == ["sigma 0.5", "sigma 1"]
    assert {"pixels move by up to 1/255", "pixels move by up to 16/255", "solid: denoised", "dashed: noise only"} <= set(labels)
    alone = texts(figures.threat_figure([example.certificate()]))
    assert not any(label.startswith(("sigma", "solid")) for label in alone)
    only_l2 = example.certificate()
    only_l2["results"]["threats"] = only_l2["results"]["threats"][-1:]
    with pytest.raises(ValueError, match="no certificate records linf threats"):
        figures.threat_figure([only_l2])


def test_between_recorded_numbers_of_images_no_more_is_drawn_than_proved() -> None:
    """A straight line from 50% at k = 5 to 0% at k = 10 would show some share at k = 9, where it may be 0%."""
    certificate = example.certificate()
    recorded = [[1, 0.9], [2, 0.5], [5, 0.5], [10, 0.0]]
    threat = next(each for each in certificate["results"]["threats"] if each["norm"] == "linf")
    certificate["results"]["threats"] = [threat | {"certified_accuracy_at_k": recorded}]
    svg = figures.threat_figure([certificate])
    group = re.search(r'<g id="images-720-threat-0-0">(.*?)<defs>', svg, flags=re.DOTALL)
    assert group is not None
    line = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", group.group(1)), dtype=float)
    marks = points(svg, "images-720-threat-0-0")
    assert len(marks) == len(recorded)
    heights = {share: y for (_, share), (_, y) in zip(recorded, marks.tolist(), strict=True)}
    for (low, high), (_, share) in zip(itertools.pairwise(marks[:, 0]), recorded[1:], strict=True):
        for x in np.linspace(low, high, 9)[1:]:
            right = next(i for i in range(1, len(line)) if line[i - 1, 0] < x <= line[i, 0])
            (x0, y0), (x1, y1) = line[right - 1], line[right]
            assert y0 + (y1 - y0) * (x - x0) / (x1 - x0) >= heights[share] - 0.01, "SVG counts downwards: drawn above the proof"


def test_labels_are_text_whatever_they_say() -> None:
    for svg in (
        figures.certified_accuracy_figure([example.certificate(label=HOSTILE)]),
        figures.attack_figure(example.attack(rows=[example.attack()["rows"][1] | {"label": HOSTILE}])),
    ):
        assert not [element for element in ET.fromstring(svg).iter() if element.tag.endswith("script")]
        assert any(HOSTILE in text for text in texts(svg))


def test_gallery_shows_exactly_these_pixels() -> None:
    gray = [[0, 17, 255], [3, 2, 1]]
    colour = [[[1, 2, 3], [255, 0, 9]]]
    html = figures.gallery([{"title": "<b>", "rows": [{"label": '"one"', "images": [gray, colour]}]}])
    found = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in re.findall(r"base64,([^\"]+)\"", html)]
    assert [image.tolist() for image in found] == [gray, colour]
    assert "<b>" not in html
    assert 'alt="&#34;one&#34; 1"' in html
    assert type(html) is str
    assert figures.gallery([]) == ""


def test_gallery_takes_a_ready_made_png_and_nothing_else() -> None:
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert f'src="data:image/png;base64,{text}"' in figures.gallery([{"title": "x", "png_base64": text}])
    for wrong, message in (
        ({"png_base64": base64.b64encode(b"<svg onload=1>").decode()}, "does not hold a PNG"),
        ({"png_base64": text + '" onerror="x'}, "does not hold a PNG"),
        ({"rows": [{"label": "x", "images": [[[0, 256]]]}]}, "0 to 255"),
        ({"rows": [{"label": "x", "images": [[0, 1]]}]}, r"shape \(2,\)"),
        ({}, "neither rows nor png_base64"),
    ):
        with pytest.raises(ValueError, match=message):
            figures.gallery([{"title": "x", **wrong}])


@pytest.mark.parametrize(("available", "wanted", "chosen"), [(0, 3, []), (1, 3, [0]), (3, 3, [0, 1, 2]), (9, 5, [0, 2, 4, 6, 8])])
def test_spread(available: int, wanted: int, chosen: list[int]) -> None:
    assert figures.spread(available, wanted) == chosen
