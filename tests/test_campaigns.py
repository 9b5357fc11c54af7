"""Scripts that ask for hours of a GPU or a night: the commands they give must at least exist."""

import csv
import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import reference_frogs
import typer

from certidote.attacks import ATTACKS, find, goal_of
from certidote.attacks.triggers import TRIGGERS
from certidote.benchmark import records
from certidote.benchmark.scales import SCALES
from certidote.benchmark.tables import cells_of
from certidote.cli import groups
from certidote.results.replay import results_of
from certidote.scenarios.crafting import checked_options, parsed_option
from certidote.training.recipe import load_recipe


def parsed(arguments: tuple[str, ...]) -> dict[str, object]:
    """What the command line makes of a command. Fails if it has no such command, argument or option."""
    command: object = typer.main.get_command(groups()[""])
    words = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command.make_context("certidote", words).params


@pytest.mark.parametrize("small", [False, True])
def test_commands_of_the_gpu_campaign_exist(small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, reference_frogs.NAME, reference_frogs.reference_frogs)
    steps = import_module("gpu_campaign").steps_of(tmp_path, tmp_path, "cpu", small)
    attacks = [step.arguments for step in steps if step.arguments[0] == "poison"]
    assert len(attacks) == 5
    for step in steps:
        if step.script:
            continue
        values = parsed(step.arguments)
        if step.arguments[0] in ("poison", "certify"):
            load_recipe(values["recipe"])
    for arguments in attacks:
        check_poison(parsed(arguments))


def with_rows(folder: Path, trials: str) -> None:
    """A record that has these trials instead."""
    rows = [records.values_of(row) for row in csv.DictReader(trials.splitlines())]
    record = json.loads((folder / "replay.json").read_bytes()) | {"finished": len(rows), "results": results_of(rows)}
    (folder / "replay.json").write_text(json.dumps(record))
    (folder / "trials.csv").write_text(trials)


def test_tables_of_the_gpu_campaign_have_cells_and_start_from_records_that_are_there(tmp_path: Path) -> None:
    campaign = import_module("gpu_campaign")
    for small in (True, False):
        tables = [parsed(step.arguments) for step in campaign.steps_of(tmp_path, tmp_path, "cpu", small) if step.stage == "tables"]
        assert len(tables) == (2 if small else 7)
        assert all(cells_of(each["table"], SCALES[each["scale"]], each["cell"] or "") for each in tables)
    kept = Path(__file__).parent.parent / "results" / "bench" / "cifar10-compact"
    cells = [record.parent.relative_to(kept) for record in sorted(kept.glob("*/*/replay.json"))]
    begun = tmp_path / "records" / "cifar10-compact"
    (more, fewer), whole = cells[:2], records.read(kept / cells[0])
    assert whole is not None
    shutil.copytree(kept / more, begun / more)
    trials = (begun / more / "trials.csv").read_text()
    with_rows(begun / more, trials + trials.splitlines()[-1] + "\n")
    shutil.copytree(kept / fewer, begun / fewer)
    with_rows(begun / fewer, "\n".join((kept / fewer / "trials.csv").read_text().splitlines()[:2]) + "\n")
    campaign.start_records(tmp_path)
    campaign.start_records(tmp_path)
    assert {path.parent.relative_to(begun) for path in begun.rglob("replay.json")} == set(cells)
    found = records.read(begun / more)
    assert found is not None
    assert len(found.trials) == len(whole.trials) + 1, "of a call before this one"
    assert (begun / fewer / "trials.csv").read_bytes() == (kept / fewer / "trials.csv").read_bytes()
    with pytest.raises(ValueError, match="no records in"):
        campaign.start_records(tmp_path, tmp_path / "nowhere")


def test_markers_of_steps_are_named_after_what_they_do(tmp_path: Path) -> None:
    campaign = import_module("gpu_campaign")
    names = [campaign.name_of(step) for step in campaign.steps_of(tmp_path, tmp_path, "cpu", False)]
    assert len(set(names)) == len(names)
    assert {name.split("-")[0] for name in names} == set(campaign.STAGES)


def test_a_rung_of_files_is_as_successful_as_the_one_that_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal on digits, the frozen loop among the attacks; in this process, as the script does it."""
    ladder = import_module("attack_ladder")
    quick = ("--scenario", "transfer", "--targets", "2", "--num-poisons", "10", "--option", "steps=40", "--no-gallery")
    monkeypatch.setattr(ladder, "RUNGS", (
        ladder.Rung("frogs", "poison-frogs", "digits-5-9", quick, epsilon="0.1"),
        ladder.Rung("frozen", reference_frogs.NAME, "digits-5-9", quick, epsilon="0.1"),
        ladder.Rung("files", "poison-frogs", "digits-5-9", exported="frogs"),
    ))  # fmt: skip
    monkeypatch.setattr(ladder, "prepare", lambda *args: None)
    monkeypatch.setattr(ladder, "place", lambda name, data, runs: name)
    monkeypatch.setitem(ATTACKS, reference_frogs.NAME, reference_frogs.reference_frogs)
    monkeypatch.setattr("sys.argv", ["ladder", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "kept")])
    ladder.main()
    found = {name: json.loads((tmp_path / "kept" / name / "replay.json").read_text()) for name in ("frogs", "frozen", "files")}
    assert found["files"]["results"] == found["frogs"]["results"]
    assert found["frogs"]["objective"]["median"] < 0.95 * found["frozen"]["objective"]["median"]
    assert str(tmp_path) not in (tmp_path / "kept" / "files" / "replay.json").read_text()


def test_commands_of_the_attack_ladder_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, reference_frogs.NAME, reference_frogs.reference_frogs)
    rungs = import_module("attack_ladder").RUNGS
    assert len(rungs) == 9
    for rung in (rung for rung in rungs if not rung.exported):
        check_poison(parsed(("poison", rung.attack, rung.data, "--epsilon", rung.epsilon, "--out", "pack", *rung.poison)))


def check_poison(values: dict[str, object]) -> None:
    """Names that the command looks up only after it has read the data."""
    attack = find(ATTACKS, values["attack"], "attack")
    checked_options(values["attack"], attack, dict(parsed_option(text) for text in values["option"] or []))
    if goal_of(values["attack"]) != "target":
        find(TRIGGERS, values["trigger"], "trigger")
    load_recipe(values["recipe"])


def test_breakthrough_counts_both_attackers_at_each_epsilon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A rehearsal: two epsilons, two targets, a few steps. Records are read back into the table, paired by target."""
    script, page = import_module("breakthrough"), import_module("results_page")
    few = {**script.DIGITS.options, "bullseye-polytope": ("steps=20", "step_size=0.02")}
    monkeypatch.setattr(script, "DIGITS", replace(script.DIGITS, options=few))
    kept = tmp_path / "results" / "breakthrough"
    command = ("--attacks", "bullseye-polytope", "--trials", "2", "--runs", str(tmp_path / "runs"), "--out", str(kept))
    monkeypatch.setattr("sys.argv", ["breakthrough", *command, "--epsilons", "0.1", "0.6"])
    script.main()
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    (row,) = [each for each in script.attacks() if each.attack == "bullseye-polytope"]
    shown = page.breakthrough().splitlines()[2:]
    assert [line.split(" | ")[1] for line in shown] == ["0.1", "0.6"]
    for line, epsilon in zip(shown, (0.1, 0.6), strict=True):
        cells = script.Attackers.of(row).cells
        found = [records.read(records.folder_of(kept, script.scale_at(epsilon), cell)) for cell in cells]
        counts = [sum(each.successes()) for each in found if each is not None]
        assert [rate.split("/")[0] for rate in line.split(" | ")[2:5]] == [str(count) for count in counts]
        assert found[2].record["recipe"]["seen_through"]["sigma"] == script.SIGMA
        assert found[1].record["recipe"]["seen_through"] is None
        asked = f"--attacks bullseye-polytope --epsilons {epsilon:g} --trials 2 --seed 0"
        assert all(each.record["command"] == f"python benchmarks/breakthrough.py {asked}" for each in found)
    reached = [epsilon for epsilon, line in zip((0.1, 0.6), shown, strict=True) if line.split(" | ")[4][0] != "0"]
    assert script.breaks_through(row, kept) == (reached[0] if reached else None)
    assert [line.startswith("| **") for line in shown] == [epsilon in reached[:1] for epsilon in (0.1, 0.6)]


def test_steps_grow_with_epsilon() -> None:
    script = import_module("breakthrough")
    assert script.scale_at(0.4347).options == script.DIGITS.options
    assert script.scale_at(2 * 0.4347).options["bullseye-polytope"] == ("steps=150", "step_size=0.04")
    assert len(script.attacks()) == len(ATTACKS)
