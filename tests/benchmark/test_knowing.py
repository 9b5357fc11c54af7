"""Attackers who know of the defense beside those who do not: which gains count, and what the table says."""

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certidote.benchmark import knowing
from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.knowing import Knowing
from certidote.benchmark.records import Kept
from certidote.benchmark.scales import SCALES
from certidote.benchmark.source import Source
from certidote.benchmark.tables import through
from fixtures_records import put

DIGITS = SCALES["digits"]


def reaching(*outcomes: bool) -> Kept:
    return Kept({}, tuple({"poisoned_success": str(each)} for each in outcomes), Path())


def made_up(p: float, gains: bool) -> Knowing:
    return Knowing(Poisoning("poison-frogs", "transfer"), reaching(gains), reaching(not gains), p)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.001, 0.007, 0.0072, 0.009, 0.012, 0.02, 0.03, 0.05, 0.051, 0.5]), st.booleans()), max_size=7
    )
)
def test_holm_is_the_closed_test_of_bonferroni(made: list[tuple[float, bool]]) -> None:
    """One counts if Bonferroni's test rejects for every set of attacks that it belongs to."""
    found = [made_up(p, gains) for p, gains in made]
    sets = [each for size in range(1, len(found) + 1) for each in combinations(range(len(found)), size)]
    expected = [
        each
        for number, each in enumerate(found)
        if each.gain > 0 and all(min(found[other].p for other in one) <= knowing.FAMILY / len(one) for one in sets if number in one)
    ]
    counted = knowing.gaining_together(found)
    assert [id(each) for each in counted] == [id(each) for each in expected]
    assert [(each.p, each.gain) for each in knowing.gaining(found)] == [(p, 1) for p, gains in made if gains and p < 0.01]


def test_gains_are_counted_on_common_trials() -> None:
    one = Knowing(Poisoning("poison-frogs", "transfer"), reaching(True, True), reaching(False, True, False, True, True), 0.5)
    assert one.gain == 1


def test_the_table_has_the_largest_gain_of_each_sigma(tmp_path: Path) -> None:
    source = Source(tmp_path / "kept", tmp_path / "docs", DIGITS)
    assert knowing.knowing_table(source) == "Not measured yet.\n"
    one, two, *others = knowing.asked(source)
    assert {each.ensemble for each in (one, two, *others)} == {1}
    for poisoning, unaware, adaptive in ((one, 30, 50), (two, 10, 45)):
        put(source, Cell(poisoning, "denoise", 0.25), unaware)
        put(source, Cell(through(poisoning, 0.25), "denoise", 0.25), adaptive)
    put(source, Cell(through(one, 0.5), "denoise", 0.5), 50)
    lines = knowing.knowing_table(source).splitlines()
    assert len(lines) == 3, "at 0.5 there is nothing to compare with"
    link = f"[45/100](../kept/digits/{two.attack}-transfer-white-box-through-0.25/denoise-0.25/replay.json) (36-55 %)"
    assert lines[2].startswith(f"| 0.25 | 2 of 7 | 2 | 2 | {two.attack}, white-box: {link} instead of [10/100]")


@pytest.mark.parametrize(("adaptive", "better"), [(31, 0), (60, 1), (2, 0)])
def test_only_more_successes_are_gains(adaptive: int, better: int, tmp_path: Path) -> None:
    """A significant loss is none."""
    source = Source(tmp_path / "kept", tmp_path / "docs", DIGITS)
    poisoning = knowing.asked(source)[0]
    put(source, Cell(poisoning, "denoise", 0.1), 30)
    put(source, Cell(through(poisoning, 0.1), "denoise", 0.1), adaptive)
    found = knowing.known(source, 0.1)
    assert len(knowing.gaining(found)) == len(knowing.gaining_together(found)) == better
