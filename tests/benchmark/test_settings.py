"""How close one setting comes to stopping every attack: lines that follow from made-up records."""

from dataclasses import replace
from pathlib import Path

import pytest

from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.scales import SCALES
from certidote.benchmark.settings import attackers, settings_table
from certidote.benchmark.source import Source
from certidote.benchmark.tables import adaptive, scratch_rows, through, transfer_rows, tried_poisonings
from fixtures_records import put

SIGMA = 0.25
DIGITS = SCALES["digits"]
EVERYONE = attackers(DIGITS)
KNOWING = list(dict.fromkeys(replace(cell.poisoning, through=None) for cell in adaptive(DIGITS)))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Every attack works undefended; behind sigma 0.25 each has 3 of 100, unaware and adaptive, at 0.98 of the accuracy."""
    made = Source(tmp_path / "kept", tmp_path / "docs", DIGITS)
    for poisoning in EVERYONE:
        put(made, Cell(poisoning), 80, 0.8)
        put(made, Cell(poisoning, "denoise", SIGMA), 3, 0.784)
    for poisoning in KNOWING:
        put(made, Cell(through(poisoning, SIGMA), "denoise", SIGMA), 3, 0.784)
    return made


def line(source: Source) -> list[str]:
    """Cells of the only line."""
    _, _, only = settings_table(source).strip().splitlines()
    return [cell.strip() for cell in only.strip("|").split("|")]


def test_a_setting_that_stops_everything_is_within_the_aim(source: Source) -> None:
    found = line(source)
    assert found[0] == "0.25"
    assert (
        f"[3/100](../kept/digits/{EVERYONE[0].name}/denoise-0.25/replay.json) (1-8 %), control 0/100; {len(EVERYONE)} tried"
        in found[1]
    )
    assert found[2].endswith(f"control 0/100; {len(KNOWING)} tried")
    assert found[3:] == ["0.980", "0.980", "**yes** (intervals reach up to 8%)"]


def test_a_setting_in_several_steps_has_a_line_of_its_own(tmp_path: Path) -> None:
    """Its records are not those of one call at the same sigma."""
    made = Source(tmp_path / "kept", tmp_path / "docs", SCALES["cifar10-compact"])
    poisoning = Poisoning("bullseye-polytope", "transfer")
    for cell, successes, accuracy in (
        (Cell(poisoning), 80, 0.8),
        (Cell(poisoning, "denoise", 0.25), 2, 0.76),
        (Cell(poisoning, "purification-deterministic", 0.25), 4, 0.784),
        (Cell(through(poisoning, 0.25), "denoise", 0.25), 5, 0.76),
        (Cell(through(poisoning, 0.25), "purification-deterministic", 0.25), 6, 0.784),  # crafted through one call, so not aware
    ):
        put(made, cell, successes, accuracy)
    one, several = ([cell.strip() for cell in line.strip("|").split("|")] for line in settings_table(made).splitlines()[2:])
    assert (one[0], several[0]) == ("0.25", "0.25, in 8 steps")
    assert ("[2/100]" in one[1], "[4/100]" in several[1]) == (True, True)
    assert (one[3], several[3]) == ("0.950", "0.980")
    assert "[5/100]" in one[2]
    assert several[2] == "none of 7 tried"
    several_calls = "purification-deterministic"
    put(made, Cell(through(poisoning, 0.25, several_calls), several_calls, 0.25), 9, 0.784)
    put(made, Cell(through(poisoning, 0.25, several_calls), "denoise", 0.25), 8, 0.784)  # aware of another defense
    one, several = ([cell.strip() for cell in line.strip("|").split("|")] for line in settings_table(made).splitlines()[2:])
    assert ("[5/100]" in one[2], "[9/100]" in several[2]) == (True, True)


def test_everybody_counts_who_was_tried_anywhere() -> None:
    """Label-consistent backdoors from scratch too, and the extractor of other images."""
    assert len(EVERYONE) == len(set(EVERYONE))
    assert {*transfer_rows(), *scratch_rows(DIGITS), *tried_poisonings()} < set(EVERYONE)
    assert sum(poisoning.outside for poisoning in EVERYONE) == 1


def test_one_attack_above_the_aim_is_enough(source: Source) -> None:
    put(source, Cell(KNOWING[-1], "denoise", SIGMA), 5, 0.784)
    assert line(source)[5].startswith("**yes**"), "at most 5 %"
    put(source, Cell(through(KNOWING[-1], SIGMA), "denoise", SIGMA), 6, 0.784)
    assert line(source)[2].startswith(f"{KNOWING[-1].attack}, white-box [6/100]")
    assert line(source)[5] == "no: 1 attack above 5% (0 clearly above the control)"
    put(source, Cell(through(KNOWING[-1], SIGMA), "denoise", SIGMA), 20, 0.784)
    assert line(source)[5] == "no: 1 attack above 5% (1 clearly above the control)"


def test_accuracy_is_the_least_of_each_scenario(source: Source) -> None:
    put(source, Cell(scratch_rows(DIGITS)[0], "denoise", SIGMA), 3, 0.768)
    assert line(source)[3:] == ["0.980", "0.960", "no: accuracy below 0.97 from scratch"]


def test_what_was_not_tried_is_said_and_attacks_that_do_not_work_do_not_count(source: Source) -> None:
    poisoning = KNOWING[0]
    (source.kept / "digits" / through(poisoning, SIGMA).name / "denoise-0.25" / "replay.json").unlink()
    assert line(source)[2].endswith(f"{len(KNOWING) - 1} tried, 1 not")
    assert line(source)[5] == "not refuted so far: 1 attack not tried (intervals reach up to 8%)"
    put(source, Cell(poisoning), 2, 0.8)  # void: neither it nor its adaptive form says anything
    put(source, Cell(poisoning, "denoise", SIGMA), 90, 0.784)
    assert line(source)[5].startswith("**yes**")
    assert f"; {len(EVERYONE) - 1} tried" in line(source)[1]


def test_further_sigmas_of_a_scale_have_lines_too(tmp_path: Path) -> None:
    compact = SCALES["cifar10-compact"]
    made = Source(tmp_path / "kept", tmp_path / "docs", compact)
    for defense, sigma in (("none", None), ("denoise", 0.1), ("denoise", 0.2), ("denoise", 0.25)):
        put(made, Cell(KNOWING[0], defense, sigma), 3 if sigma else 80)
    lines = settings_table(made).splitlines()[2:]
    assert [text.split("|")[1].strip() for text in lines] == ["0.1", "0.2", "0.25"]


def test_adaptive_attacks_alone_make_a_line_and_a_scenario_without_accuracy_is_said(tmp_path: Path) -> None:
    made = Source(tmp_path / "kept", tmp_path / "docs", DIGITS)
    put(made, Cell(KNOWING[0]), 80, 0.8)
    put(made, Cell(through(KNOWING[0], SIGMA), "denoise", SIGMA), 3, 0.784)
    found = line(made)
    assert found[1] == f"none of {len(EVERYONE)} tried"
    assert found[3:5] == ["-", "-"]
    missing = len(EVERYONE) + len(KNOWING) - 1
    expected = f"not refuted so far: {missing} attacks not tried, accuracy in transfer not measured, accuracy from scratch not measured (intervals reach up to 8%)"
    assert found[5] == expected


def test_nothing_is_said_of_nothing(tmp_path: Path) -> None:
    assert settings_table(Source(tmp_path / "kept", tmp_path, DIGITS)) == ""
    made = Source(tmp_path / "kept", tmp_path, DIGITS)
    put(made, Cell(Poisoning("poison-frogs", "transfer")), 80)
    assert settings_table(made) == ""
