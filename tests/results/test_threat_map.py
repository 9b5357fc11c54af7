"""The threat map says on every axis what the certificates say, and says so in words where they say nothing."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote import verbs
from certidote.certification.threats import k_max
from certidote.reporting.threat_map import BUDGETS, PANELS, threat_map_figure, threat_map_page
from certidote.results.threat_map import (
    AXES,
    Method,
    ThreatCurve,
    count_curve,
    norm_curve,
    of_certificate,
    of_counts,
    of_nothing,
    record,
    rows,
)
from certidote.types import ABSTAIN, Certificate, CountCertificate, ImageDataset, PartVotes

LABELS = np.array([0, 1, 1, 0, 2])
TRAIN = ImageDataset(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64), ("a", "b", "c"))


def smoothed(labels: np.ndarray, radii: np.ndarray, parts: PartVotes | None = None) -> Certificate:
    count = np.zeros(len(labels), dtype=np.int64)
    return Certificate(
        labels, radii, count.astype(float), count, sigma=0.5, n0=10, n=100, failed=0, alpha=0.001, alpha_each=0.001,
        statement="per test image", claim="", assumptions=(), bound="clopper-pearson", cap=1.0, parts=parts,
    )  # fmt: skip


SMOOTHED = smoothed(np.array([0, 1, 0, ABSTAIN, 2]), np.array([0.6, 1.2, 1.2, 0.0, 0.05]))
COUNTED = CountCertificate(np.array([0, 0, 1, 0, 2]), np.array([3, 9, 0, 24, 3]), "pixels altered in place")


def share(curve: ThreatCurve, budget: float) -> float:
    """What the curve says at a budget: the share at the last size that is not beyond it."""
    return curve.shares[np.searchsorted(curve.sizes, budget, side="right") - 1]


def by_axis(method: Method) -> dict[str, ThreatCurve]:
    curves = method.curves()
    assert [curve.axis for curve in curves] == list(AXES)
    return {curve.axis.name: curve for curve in curves}


def test_curves_fall_exactly_where_answers_are_lost() -> None:
    assert count_curve(np.array([-1, 0, 0, 2, 5])) == ((0, 1, 3, 6), (0.8, 0.4, 0.2, 0.0))
    assert norm_curve(np.array([0.0, 0.5, 0.5, 2.0])) == ((0.0, 0.5, 2.0), (0.75, 0.25, 0.0))


def test_a_radius_on_every_axis() -> None:
    curves = by_axis(of_certificate("smoothed", SMOOTHED, LABELS, TRAIN))
    assert curves["frobenius"].shares == (0.6, 0.4, 0.2, 0.0), "right and radius above: images 0, 1 and 4"
    right = np.array([0.6, 1.2, 0.05])
    for name, epsilon, norm in (("linf-4", 4 / 255, "linf"), ("l2-0.5", 0.5, "l2"), ("linf-1", 1 / 255, "linf")):
        survived = k_max(right, epsilon, norm, 64, 40)
        for k in range(42):
            assert share(curves[name], k) == (survived >= k).sum() / 5
    assert curves["any"].sizes == ()
    assert "it may move by 8, beyond every radius proved" in curves["any"].note


def test_parts_that_vote_survive_replaced_images() -> None:
    votes = np.array([[0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [ABSTAIN] * 4, [2, 2, 2, ABSTAIN]])
    radii = np.where(votes == ABSTAIN, 0.0, 0.6)
    answers = np.array([0, 1, 0, ABSTAIN, 2])
    curves = by_axis(of_certificate("parts", smoothed(answers, np.full(5, 0.5), PartVotes(votes, radii, 3)), LABELS, TRAIN))
    # Four votes of four against class 1 or 2: two flips tie for the larger class index, so the third decides. Three of four: one
    # flip makes 2 : 2, won by class 0. Three of four and one open: one flip makes 2 : 2 with the open one.
    assert [share(curves["any"], k) for k in (0, 1, 2, 3)] == [0.6, 0.2, 0.2, 0.0]
    assert share(curves["linf-16"], 1) >= share(curves["any"], 1)


def test_a_count_on_every_axis() -> None:
    curves = by_axis(of_counts("counted", COUNTED, LABELS, 255))
    for name in ("linf-1", "l2-0.5", "any"):
        assert [share(curves[name], k) for k in (0, 1, 3, 4, 24, 25)] == [0.8, 0.6, 0.6, 0.2, 0.2, 0.0]
    assert curves["frobenius"].sizes[-1] == pytest.approx(math.sqrt(25) / 255)
    assert "only for images stored with 255 steps" in curves["frobenius"].note
    assert by_axis(of_counts("counted", COUNTED, LABELS, None))["frobenius"].sizes == ()


def test_rows_and_figure_name_every_method_and_what_it_does_not_prove() -> None:
    methods = [
        of_certificate("smoothed <A>", SMOOTHED, LABELS, TRAIN),
        of_counts("counted B", COUNTED, LABELS, 255),
        of_nothing("nothing C", "80 members were fixed, 79 voted", 5),
    ]
    curves = [curve for method in methods for curve in method.curves()]
    table = rows(curves)
    assert len({row[:2] for row in table}) == 3 * len(AXES), "one row at least for each method and axis"
    value = record(curves, {"sigma": 0.5})
    for width in (720, 360):
        drawn = threat_map_figure(value, width=width)
        assert drawn == threat_map_figure(value, width=width)
        text = drawn.replace("&lt;", "<").replace("&gt;", ">")
        assert "smoothed <A>" in text
        assert "counted B" in text
        assert text.count("nothing C proves nothing") == len(PANELS), "in the description"
        assert text.count("nothing C: nothing proved,") == len(PANELS), "in the picture"
    many = [curve for i in range(9) for curve in of_nothing(f"{i}", "", 5).curves()]
    with pytest.raises(ValueError, match="9 methods, but only"):
        threat_map_figure(record(many, {}))


def test_page_says_in_numbers_what_the_curves_say_on_every_axis() -> None:
    methods = [of_certificate("smoothed <A>", SMOOTHED, LABELS, TRAIN), of_counts("counted B", COUNTED, LABELS, 255)]
    page = threat_map_page(record([curve for method in methods for curve in method.curves()], {"data": "digits", "sigma": 0.5}))
    assert "smoothed <A>" not in page, "names are anybody's"
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    found = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in body.split("</tr>")[:-1]]
    assert len(found) == sum(len(BUDGETS[axis.unit]) for axis in AXES)
    cells = {row[0]: row[1:] for row in found}
    assert cells["1 image altered in any way, in place"] == ["nothing", "60.0%"]
    assert cells["10 images altered in any way, in place"] == ["nothing", "20.0%"]
    # Radii 0.6 and 1.2 against 8 * 4 / 255 for each image: ceil(22.8) - 1 images, and all 40 that there are.
    assert cells["10 images altered, each pixel by up to 4/255"] == ["40.0%", "20.0%"]
    assert cells["50 images altered, each pixel by up to 4/255"] == ["0%", "0%"]
    assert cells["l2 norm of the change to the whole training set: 1"] == ["20.0%", "0%"]
    assert "smoothed &lt;A&gt;: nothing proved, not one image: it may move by 8" in page
    assert "counted B: only for images stored with 255 steps" in page


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"smoothed_parts": 0}, "smoothed_parts=0; give at least 2 parts, or 1 to leave"),
        ({"smoothed_parts": 501}, "parts=501 of 500 images"),
        ({"parts": 0}, "parts=0; a vote over parts needs at least 2"),
        ({"parts": 1}, "parts=1; a vote over parts needs at least 2"),
        ({"parts": 501}, "501 parts of 500 images; every part needs at least 1 image"),
        ({"models": 12}, "n=12 models can never certify anything at alpha=0.0002"),
        ({"sigma": 9.0}, "sigma=9 exceeds"),
        ({"n0": -1}, "n0=-1"),
    ],
)
def test_what_one_method_would_refuse_is_refused_before_anything_runs(given: dict[str, int], text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        verbs.threat_map(out=tmp_path / "map", dtype="float32", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "map").exists()
