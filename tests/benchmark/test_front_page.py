"""The front page's pictures: drawn from records alone, absent without them, and what they show is what the records say."""

import re
from pathlib import Path

import pytest

from certidote.benchmark import pages, story
from certidote.benchmark.cells import Cell
from certidote.benchmark.records import folder_of
from certidote.benchmark.scales import SCALES
from certidote.benchmark.source import Source
from certidote.benchmark.tables import COMPARED_SIGMA, compared_poisonings, through
from certidote.reporting.figures import Curve, Panel, radius_panels
from certidote.reporting.rates import CONTROL, GAP, POISONED, WIDTH, Line, Mark, Share, rate_panels
from fixtures_records import put

ROOT = Path(__file__).parents[2]
DIGITS = SCALES["digits"]
README = "before\n<!-- pictures -->\nold\n<!-- end of pictures -->\nafter\n"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Three attacks, undefended and against ours; one rival."""
    source = Source(tmp_path / "kept", tmp_path / "docs", DIGITS)
    for number, poisoning in enumerate(compared_poisonings()):
        put(source, Cell(poisoning), 80, 0.91)
        put(source, Cell(poisoning, "denoise", COMPARED_SIGMA), 10 + number, 0.82)
    put(source, Cell(compared_poisonings()[1], "friends"), 33, 0.73)
    return tmp_path / "kept"


def drawing(kept: Path) -> str:
    return story.draw(Source(kept, kept.parent / "docs", DIGITS))


def test_nothing_is_drawn_of_missing_records(kept: Path, tmp_path: Path) -> None:
    assert drawing(kept)
    assert drawing(tmp_path / "nothing") == ""
    assert "Sleeper Agent" in drawing(kept)
    (folder_of(kept, DIGITS, Cell(compared_poisonings()[2])) / "replay.json").unlink()
    assert "Bullseye Polytope" in drawing(kept)
    assert "Sleeper Agent" not in drawing(kept), "not tried undefended"
    (folder_of(kept, DIGITS, Cell(compared_poisonings()[1], "denoise", COMPARED_SIGMA)) / "replay.json").unlink()
    assert drawing(kept) == ""
    assert story.front_page(README, kept, tmp_path / "docs") == README.replace("old\n", "")


def test_lines_are_those_that_have_records(kept: Path) -> None:
    text = drawing(kept)
    assert text == drawing(kept)
    for said in ("no defense", "FrieNDs", "from scratch only", "Bullseye Polytope", POISONED, CONTROL, "91%", "82%", "73%"):
        assert said in text
    for absent in ("DP-SGD", "same, attacker knows", "(void)"):
        assert absent not in text
    put(
        Source(kept, kept.parent, DIGITS),
        Cell(through(compared_poisonings()[0], COMPARED_SIGMA), "denoise", COMPARED_SIGMA),
        60,
        0.8,
    )
    assert "same, attacker knows" in drawing(kept)
    assert "prefers-color-scheme:dark" in text


def test_an_attack_that_does_not_work_is_void_in_the_picture(tmp_path: Path) -> None:
    for poisoning in compared_poisonings():
        put(Source(tmp_path, tmp_path, DIGITS), Cell(poisoning), 6 if poisoning.attack == "sleeper-agent" else 80, 0.9, controls=3)
        put(Source(tmp_path, tmp_path, DIGITS), Cell(poisoning, "denoise", COMPARED_SIGMA), 0, 0.9)
    assert drawing(tmp_path).count("(void)") == 1


def test_marks_lie_where_the_rates_are() -> None:
    """The dot of 3/4 of the axis lies three quarters of the way, and its interval around it."""
    line = Line("a", [Mark(Share(0.75, 0.5, 1.0), None, 0.5)])
    text = rate_panels("x", ["t"], [line], "d")
    (ends,) = re.findall(r'<g id="x-interval-success-0-0">\s*<path d="M ([\d.]+) [\d.]+\s+L ([\d.]+) ', text)
    (dot,) = re.findall(r'<g id="x-success-0-0">.*?<use [^>]*\bx="([\d.]+)"', text, flags=re.DOTALL)
    low, high = map(float, ends)
    assert float(dot) == pytest.approx((low + high) / 2)
    assert high == pytest.approx(WIDTH - GAP)  # 1 is where the panel ends
    assert "x-control-0-0" not in text


def test_render_makes_the_front_page(kept: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text("<!-- digits table2 table -->\n<!-- end of digits table2 table -->\n")
    (tmp_path / "README.md").write_text(README)
    assert {path.name for path in pages.render(kept, docs)} == {"results.md", "README.md", "success-digits.svg"}
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(
        "before\n<!-- pictures -->\n![Attack success by defense, handwritten digits (8x8)](docs/success-digits.svg)\n\n*What is"
    )
    assert text.endswith("<!-- end of pictures -->\nafter\n")
    for link in re.findall(r"\]\((docs/[^)]*svg)\)", text):
        assert (tmp_path / link).is_file()
    assert pages.render(kept, docs) == []
    (tmp_path / "README.md").write_text("no place for pictures\n")
    assert pages.render(kept, docs) == []


def test_the_front_page_of_the_repository_is_what_its_records_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- pictures -->\n" in text
    assert story.front_page(text, ROOT / "results" / "bench", ROOT / "docs") == text, "make it again: certidote bench render"
    for link in re.findall(r"\]\((docs/[^)]*svg)\)", text):
        assert (ROOT / link).is_file()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_figure_2_has_as_many_panels_as_noise_levels(count: int) -> None:
    panels = [Panel(f"sigma {number}", [Curve("a", [0.0, 1.0], [0.9, 0.5], "#0072b2")], 2.0, 1.0) for number in range(count)]
    text = radius_panels("x", panels, "d")
    assert [f"sigma {number}" in text for number in range(4)] == [number < count for number in range(4)]
