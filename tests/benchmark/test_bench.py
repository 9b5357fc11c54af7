"""`certidote bench` as a user meets it: a small table from end to end, kills that cost nothing, records that say what they are."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import scipy.stats

from certidote import verbs
from certidote.attacks.pack_files import read_pack
from certidote.benchmark import materials, pages, records, runner
from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.records import read
from certidote.benchmark.scales import SCALES, ThroughName
from certidote.benchmark.source import Source
from certidote.benchmark.tables import TABLES, cells_of
from certidote.data.digits import load_digits, load_some_digits
from certidote.defenses.catalogue import DEFENSES, Setting
from certidote.diffusion.closed_form import Identity
from certidote.diffusion.denoiser import load as denoiser_loaded
from certidote.engine.local import Pool
from certidote.training.pooled import trainer_for
from certidote.training.recipe import RECIPES
from certidote.types import Json, Silent
from commands import run

ROOT = Path(__file__).parents[2]
DIGITS = SCALES["digits"]
ROW = "bullseye-polytope-transfer-white-box"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One row of table 2, two trials a cell."""
    out = tmp_path_factory.mktemp("bench")
    said = verbs.bench("table2", cell=ROW, trials=2, out=out / "runs", records=out / "kept", workers=0)
    assert said.lines == (f"7 cells of table2 have their records in {out / 'kept' / 'digits'}.",)
    return out


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_every_cell_has_its_record(place: Path) -> None:
    cells = cells_of("table2", DIGITS, ROW)
    for cell in cells:
        kept = read(records.folder_of(place / "kept", DIGITS, cell))
        assert kept is not None
        record = kept.record
        assert (record["finished"], len(kept.trials), record["defense_name"]) == (2, 2, cell.defense)
        assert record["defense"].get("sigma") == cell.sigma
        assert record["budget"] == {"num_poisons": 10, "norm": "linf", "epsilon": 0.4347, "visible_trigger": False}
        assert record["numerics"][0]["device"] == "cpu"
        assert len(record["config_digest"]) == len(record["bench"]["code"]) == len(record["bench"]["identity"]) == 64
        assert record["root"] == record["recipe"]["root"] == "0x0"
        assert record["command"] == f"certidote bench table2 --scale digits --cell {cell.id} --trials 2 --seed 0"
        assert record["results"]["poisoned"]["successes"] == sum(kept.successes())
        assert "trials" not in record
        assert str(place) not in (kept.folder / "replay.json").read_text()
    assert len({read(records.folder_of(place / "kept", DIGITS, cell)).record["config_digest"] for cell in cells}) == 7  # type: ignore[union-attr]


def test_nothing_is_done_twice(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(place)
    monkeypatch.setattr(runner, "craft", None)
    monkeypatch.setattr(runner, "replay", None)
    where = ("--out", str(place / "runs"), "--records", str(place / "kept"), "--workers", "0")
    assert run(monkeypatch, "bench", "table2", "--cell", ROW, "--trials", "2", *where) == 0
    assert (
        run(monkeypatch, "bench", "table2", "--cell", f"{ROW}/none", "--trials", "1", *where) == 0
    )  # more is there than is asked for
    assert run(monkeypatch, "bench", "table5", "--cell", f"{ROW}/denoise-0.1", "--trials", "2", *where) == 0  # tables share cells
    assert contents(place) == before
    capsys.readouterr()
    assert run(monkeypatch, "bench", "table2", "--dry-run", "--trials", "2", *where) == 0
    said = capsys.readouterr().out
    assert f"  {ROW}/denoise-0.05: has its record\n" in said
    assert "  poison-frogs-transfer-white-box/none: victims 0 s, poisons 1 s\n" in said
    assert "63 of 70 cells are to do" in said
    assert contents(place) == before


def test_who_crafts_through_several_calls_looks_through_what_victims_have(tmp_path: Path) -> None:
    scale = replace(DIGITS, options={"poison-frogs": ("steps=2",)})
    campaign = runner.Campaign("adaptive", scale, 1, 0, "cpu", None, tmp_path / "runs", tmp_path / "kept")
    for defense in get_args(ThroughName):
        cell = Cell(Poisoning("poison-frogs", "transfer", through=0.25, through_defense=defense), defense, 0.25)
        with Pool(0) as pool:
            runner.run(campaign, [cell], pool, Silent())
        kept = read(campaign.record_of(cell))
        assert kept is not None
        seen, had = kept.record["recipe"]["seen_through"], kept.record["defense"]
        assert (seen["digest"], seen["sigma"]) == (had["denoiser"]["digest"], had["sigma"])


def test_trials_are_added_to_fewer(place: Path, tmp_path: Path) -> None:
    """In three commands, on machines that share nothing but the records: as if all had been done at once."""
    name = "denoise-0.25"
    for trials in (1, 2, 4):
        verbs.bench(
            "table2", cell=f"{ROW}/{name}", trials=trials, out=tmp_path / f"runs-{trials}", records=tmp_path / "kept", workers=0
        )
        kept = read(tmp_path / "kept" / "digits" / ROW / name)
        assert kept is not None
        assert len(kept.trials) == kept.record["finished"] == kept.record["results"]["control"]["trials"] == trials
    verbs.bench("table2", cell=f"{ROW}/{name}", trials=4, out=tmp_path / "runs", records=tmp_path / "once", workers=0)
    whole = read(tmp_path / "once" / "digits" / ROW / name)
    assert whole is not None
    for one, other in zip(whole.trials, kept.trials, strict=True):
        assert {key: value for key, value in one.items() if "accuracy" not in key} == {
            key: value for key, value in other.items() if "accuracy" not in key
        }
        for arm in ("control", "poisoned"):  # the targets of all trials of a part are left out of it
            assert float(one[f"{arm}_clean_accuracy"]) == pytest.approx(float(other[f"{arm}_clean_accuracy"]), abs=3 / 130)
    for arm, found in whole.record["results"].items():
        shares = ("successes", "trials", "low", "high", "reached", "lost")
        assert [found[share] for share in shares] == [kept.record["results"][arm][share] for share in shares]
    parts = kept.record["parts"]
    assert [(part["first_trial"], part["trials"]) for part in parts] == [(0, 1), (1, 1), (2, 2)]
    assert [part["command"].split("--trials ")[1] for part in parts] == ["1 --seed 0", "2 --seed 0", "4 --seed 0"]
    assert len({part["config_digest"] for part in parts}) == 3
    assert "first_trial" not in kept.record["recipe"]
    assert kept.record.keys() - whole.record.keys() == {"parts"}
    assert kept.record["seconds_of_workers"] == sum(part["seconds_of_workers"] for part in parts)
    (last,) = (tmp_path / "runs-4" / "digits" / "packs").iterdir()
    (once,) = (tmp_path / "runs" / "digits" / "packs").iterdir()
    added, all_of_them = read_pack(last), read_pack(once)
    assert (added.first_trial, len(added)) == (2, 2)
    for one, other in zip(added.poisons, all_of_them.poisons[2:], strict=True):
        assert (one.images == other.images).all()


def test_trials_are_added_wherever_data_and_runs_lie(tmp_path: Path) -> None:
    """Records do not say where a data set that is a file was; another machine adds to them all the same."""
    cell = Cell(Poisoning("bullseye-polytope", "transfer"))
    setups = {**DIGITS.setups, "transfer": replace(DIGITS.setups["transfer"], data=materials.HEADS)}
    quick = replace(DIGITS, setups=setups, options={"bullseye-polytope": ("steps=2", "step_size=0.02")})
    for trials in (1, 2):
        runs, data = tmp_path / f"runs-{trials}", tmp_path / f"data-{trials}"
        (runs / "data").mkdir(parents=True)
        data.mkdir()
        (data / "cifar10-jpeg.tar.xz").touch()  # what the heads' images would have been made of
        train, test = (load_some_digits(range(5, 10), split) for split in ("train", "test"))
        materials._write(runs / "data" / materials.HEADS, train, test)
        campaign = runner.Campaign("table2", quick, trials, 0, "cpu", data, runs, tmp_path / "kept")
        with Pool(0) as pool:
            runner.run(campaign, [cell], pool, Silent())
        kept = read(campaign.record_of(cell))
        assert kept is not None
        assert (kept.record["finished"], kept.record["data"]["name"]) == (trials, materials.HEADS)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda record: record["recipe"]["options"].update(steps=151), "options"),
        (lambda record: record["data"].update(digest="0" * 64), "training set"),
        (lambda record: record.update(attack="poison-frogs"), "attack"),
        (lambda record: record["victims"].update(epochs=61), "training of victims"),
        (lambda record: record.update(models=3), "models"),
    ],
)
def test_trials_made_otherwise_are_not_added(change: Callable[[Json], None], what: str, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept" / "digits" / ROW / "none"
    shutil.copytree(place / "kept" / "digits" / ROW / "none", folder)
    record = json.loads((folder / "replay.json").read_text())
    change(record)
    (folder / "replay.json").write_text(json.dumps(record))
    before = contents(folder)
    with pytest.raises(ValueError, match=f"has 2 trials with another {what} than this version has here; remove the folder"):
        verbs.bench("table2", cell=f"{ROW}/none", trials=3, out=tmp_path / "runs", records=tmp_path / "kept", workers=0)
    assert contents(folder) == before


@pytest.mark.parametrize(("wanted", "others"), [(3, 3), (3, 4), (4, 3)])
def test_nobody_adds_to_what_has_changed_meanwhile(
    wanted: int, others: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command finishes trials while this one is at work: none is counted twice, none is lost."""
    folder, cell = tmp_path / "kept" / "digits" / ROW / "none", Cell(Poisoning("bullseye-polytope", "transfer"))
    shutil.copytree(place / "kept" / "digits" / ROW / "none", folder)
    campaign = runner.Campaign("table2", DIGITS, wanted, 0, "cpu", None, tmp_path / "runs", tmp_path / "kept")
    replays = runner._replayed

    def beside(*arguments: Any) -> Any:
        monkeypatch.setattr(runner, "_replayed", replays)
        verbs.bench("table2", cell=cell.id, trials=others, out=tmp_path / "other", records=tmp_path / "kept", workers=0)
        return replays(*arguments)

    monkeypatch.setattr(runner, "_replayed", beside)
    late = pytest.raises(ValueError, match="was changed by another command while this one ran; repeat the command")
    with Pool(0) as pool, late if wanted > others else nullcontext():
        runner.run(campaign, [cell], pool, Silent())
    kept = read(folder)
    assert kept is not None
    assert [row["trial"] for row in kept.trials] == [str(trial) for trial in range(others)]


AGAIN = 6
"""Trials of a cell that are done again."""
OUTCOMES = ("poisoned_success", "poisoned_predicted", "control_success", "control_predicted")


def flipped(text: str) -> str:
    """The outcomes of the first trial, each turned into the other: the file is as whole as before."""
    lines = text.splitlines(keepends=True)
    lines[1] = lines[1].replace("True", "?").replace("False", "True").replace("?", "False")
    return "".join(lines)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("trials.csv", lambda text: text.replace("\n0,", "\n1,")),
        ("trials.csv", lambda text: text.replace("False", "0", 1)),
        ("trials.csv", lambda text: text.replace("0.0", "nan", 1)),
        ("trials.csv", lambda text: text.replace("0.0", "x", 1)),
        ("trials.csv", lambda text: text[: text.rindex(",") - 30]),
        ("trials.csv", flipped),
        ("replay.json", lambda text: text.replace('"recipe"', '"reciep"')),
        ("replay.json", lambda text: text.replace('"results"', '"result"')),
        ("replay.json", lambda text: text.replace('"goal"', '"gaol"')),
        ("replay.json", lambda text: re.sub(r'("clean_accuracy": 0\.\d)', r"\g<1>1", text, count=1)),
        ("replay.json", lambda text: re.sub(r'"successes": \d', '"successes": 7', text, count=1)),
        ("replay.json", lambda text: text.replace('"bench": {', '"refused": "the filter would not", "bench": {')),
        ("replay.json", lambda text: f"[{text}]"),
        ("replay.json", lambda text: "[]"),
        ("replay.json", lambda text: text.replace('"seconds_of_workers": ', '"seconds_of_workers": null, "_": ')),
    ],
)
def test_damaged_records_are_one_line(name: str, edit: Callable[[str], str], place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    shutil.copytree(place / "kept" / "digits" / ROW / "none", folder)
    text = (folder / name).read_text()
    assert edit(text) != text
    (folder / name).write_text(edit(text))
    with pytest.raises(ValueError, match=r"^the record in '.*' is damaged; remove the folder, and run its cell again$"):
        records.first_missing(read(folder), 3)


def test_what_defenses_say_of_all_trials_is_not_added_to(place: Path) -> None:
    kept = read(place / "kept" / "digits" / ROW / "none")
    assert kept is not None
    assert [records.first_missing(kept, trials) for trials in (1, 2, 3)] == [0, 0, 2]
    for said in ("filter", "certified_poisons", "refused"):
        assert records.first_missing(replace(kept, record=kept.record | {said: {"it": "did"}}), 3) == 0
    assert records.first_missing(None, 3) == 0


DYING = """
import os, sys
from pathlib import Path
from certidote import verbs
from certidote.benchmark import records

keep, count = records.keep, 0
def dying(*arguments):
    global count
    keep(*arguments)
    count += 1
    if count == 2:
        os.kill(os.getpid(), 9)
records.keep = dying
out = Path(sys.argv[1])
verbs.bench("table2", cell="bullseye-polytope-transfer-white-box", trials=2, out=out / "runs", records=out / "kept", workers=0)
"""


def test_a_table_goes_on_after_kill_9(place: Path, tmp_path: Path) -> None:
    died = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DYING, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "kept" / "digits" / ROW).iterdir()) == ["denoise-0.05", "none"]
    (pack,) = (tmp_path / "runs" / "digits" / "packs").iterdir()
    crafted = (pack / "pack.json").stat().st_mtime_ns
    verbs.bench("table2", cell=ROW, trials=2, out=tmp_path / "runs", records=tmp_path / "kept", workers=0)
    assert (pack / "pack.json").stat().st_mtime_ns == crafted
    for cell in cells_of("table2", DIGITS, ROW):
        once, twice = (records.folder_of(base / "kept", DIGITS, cell) / "trials.csv" for base in (place, tmp_path))
        assert once.read_bytes() == twice.read_bytes()


def test_a_filter_that_refuses_is_an_outcome(tmp_path: Path) -> None:
    setup = replace(DIGITS.setups["scratch"], num_poisons=30)
    quick = replace(DIGITS, setups={**DIGITS.setups, "scratch": setup}, options={"witches-brew": ("steps=2", "restarts=1")})
    cells = [Cell(Poisoning("witches-brew", "scratch"), name) for name in ("spectral", "none")]
    campaign = runner.Campaign("defenses", quick, 1, 0, "cpu", None, tmp_path / "runs", tmp_path / "kept")
    with Pool(0) as pool:
        runner.run(campaign, cells, pool, Silent())
    refused = read(campaign.record_of(cells[0]))
    assert refused is not None
    assert refused.refused.startswith("the filter 'spectral signatures' would remove all ")
    assert campaign.is_done(cells[0])
    assert campaign.is_done(cells[1])  # what comes after it is done
    source = Source(tmp_path / "kept", tmp_path, quick)
    said = pages.defended_table(source, [cells[0].poisoning], [("spectral", None)], "")
    assert "[refused](kept/digits/witches-brew-scratch-white-box-k1/spectral/replay.json): the filter 'spectral signatures'" in said


def test_victims_of_the_black_box(tmp_path: Path) -> None:
    """Other victims, the same poisons: from scratch of another recipe, in transfer learning with another extractor."""
    campaign = runner.Campaign("table1", DIGITS, 1, 0, "cpu", None, tmp_path / "runs", tmp_path / "kept")
    cells = {box: Cell(Poisoning("poison-frogs", "transfer", box)) for box in ("white-box", "black-box")}
    scratch = Cell(Poisoning("witches-brew", "scratch", "black-box"))
    with Pool(0) as pool:
        runner.run(campaign, [*cells.values(), scratch], pool, Silent())
    victims = {box: read(campaign.record_of(cell)).record["victims"]["extractor"] for box, cell in cells.items()}  # type: ignore[union-attr]
    assert victims["white-box"] != victims["black-box"]
    white, black = (read_pack(campaign.pack(cell)) for cell in cells.values())
    assert (white.poisons[0].images == black.poisons[0].images).all()
    kept = read(campaign.record_of(scratch))
    assert kept is not None
    assert kept.record["victims"]["recipe"]["architecture"] == "cnn-32-64"
    assert kept.record["recipe"]["scenario"]["recipe"]["architecture"] == "mlp-128"


def test_trials_share_noise_where_the_scale_says_so(tmp_path: Path) -> None:
    """Three trials, two draws: recorded, and trials 0 and 2 have one control."""
    shared = replace(DIGITS, draws=2)
    poisoning = Poisoning("bullseye-polytope", "transfer")
    cells = [Cell(poisoning), Cell(poisoning, "denoise", 0.5), Cell(poisoning, "denoise", 0.5, "in-domain")]
    campaign = runner.Campaign("table2", shared, 3, 0, "cpu", None, tmp_path / "runs", tmp_path / "kept")
    with Pool(0) as pool:
        runner.run(campaign, cells, pool, Silent())
    kept = [read(campaign.record_of(cell)) for cell in cells]
    assert [each.record.get("draws") for each in kept if each is not None] == [None, 2, None]
    assert all(campaign.is_done(cell) for cell in cells)
    with pytest.raises(ValueError, match="holds a record of other settings"):
        replace(campaign, scale=DIGITS).is_done(cells[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("table9", "unknown table 'table9'; did you mean"),
        ("figure3", "unknown table 'figure3'; did you mean 'figure2'?"),
        *(
            (f"render {option}", f"takes --records and --docs only; leave {option.split()[0]} out")
            for option in (
                "--scale digit",
                "--trials 3",
                "--cell none",
                "--dry-run",
                "--data .",
                "--out .",
                "--seed 1",
                "--workers 2",
                "--timeout 1",
                "--engine ray",
                "--address x",
                "--gpus-per-task 0.5",
                "--device cuda",
            )
        ),
        ("render --seed 1 --cell none", "leave --cell, --seed out"),
        ("table2 --docs docs", "only render makes pages"),
        ("table2 --scale digit", "unknown scale 'digit'; did you mean 'digits'?"),
        ("table2 --cell bullseye-polytope-transfer-white-box/denoise-0.3", "unknown cell of table2"),
        ("table2 --trials 0", "--trials 0; give 1 to 100"),
        ("table2 --trials 101", "--trials 101; give 1 to 100"),
        ("table2 --seed -1", "--seed -1; give a whole number of at least 0"),
        ("table2 --workers -1", "workers=-1; give"),
        ("table2 --engine slurm", "unknown engine 'slurm'; choose local or ray"),
        ("table2 --device gpu", "unknown device 'gpu'"),
        ("table2 --scale cifar10-compact", "needs cifar10-jpeg.tar.xz"),
        ("table2 --scale cifar10-compact --data /nonexistent", "there is no cifar10-jpeg.tar.xz in it"),
        ("render --docs /nonexistent", "there is no page '/nonexistent/results.md'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CERTIDOTE_DATA", raising=False)
    assert run(monkeypatch, "bench", *arguments.split()) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert message in said.err
    assert not list(tmp_path.iterdir())


def test_a_plan_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And is in units of what it would run on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CERTIDOTE_DATA", raising=False)
    for scale, end in (("cifar10-compact", "on 2"), ("cifar10-resnet18", "on one GPU")):
        assert run(monkeypatch, "bench", "table2", "--scale", scale, "--dry-run", "--workers", "2") == 0
        assert capsys.readouterr().out.strip().endswith(end)


def test_what_has_its_record_is_said_to_have_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run", lambda *given: pytest.fail("something was run"))
    (line,) = verbs.bench("table2", cell=f"{ROW}/none", trials=2, out=place / "runs", records=place / "kept", workers=0).lines
    assert line.startswith(f"Nothing was to do: 1 cell of table2 has its record in {place / 'kept' / 'digits'}.")


def test_records_of_other_settings_are_not_overwritten(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    where = ("--out", str(place / "runs"), "--records", str(place / "kept"))
    assert run(monkeypatch, "bench", "table2", "--cell", ROW, "--trials", "2", "--seed", "7", *where) == 2
    assert "holds a record of other settings (seed 0)" in capsys.readouterr().err
    assert contents(place) == before


def test_a_damaged_record_is_named(place: Path, tmp_path: Path) -> None:
    source = place / "kept" / "digits" / ROW / "none"
    for name, content in (("replay.json", b"{"), ("trials.csv", b"trial\n")):
        folder = tmp_path / name
        folder.mkdir()
        for file in source.iterdir():
            (folder / file.name).write_bytes(content if file.name == name else file.read_bytes())
        with pytest.raises(ValueError, match="is damaged; remove the folder"):
            read(folder)


# ----------------------------------------------------------------------------------------------------------------- pages


PAGE = "before\n<!-- digits table2 table -->\nold\n<!-- end of digits table2 table -->\nafter\n"


def test_a_page_is_made_from_records(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = place / "docs"
    docs.mkdir()
    (docs / "results.md").write_text(PAGE)
    where = ("bench", "render", "--records", str(place / "kept"), "--docs", str(docs))
    assert run(monkeypatch, *where) == 0
    assert "Made again" in capsys.readouterr().out
    text = (docs / "results.md").read_text()
    assert run(monkeypatch, *where) == 0
    assert "All pages are what the records say." in capsys.readouterr().out
    assert (docs / "results.md").read_text() == text
    lines = text.splitlines()
    assert (lines[0], lines[-1], "old" in text) == ("before", "after", False)
    kept = read(place / "kept" / "digits" / ROW / "denoise-0.25")
    assert kept is not None
    link = f"../kept/digits/{ROW}/denoise-0.25/replay.json"
    assert f"[{sum(kept.successes())}/2]({link})" in text
    assert (docs / link).is_file()
    assert "| bullseye-polytope, white-box" in text
    assert "(93.3) 0.0" in text
    assert "poison-frogs" not in text  # no record, no line


def test_pages_are_not_emptied_for_want_of_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.md").write_text(PAGE)
    (tmp_path / "digits" / "figure2" / "paper-0.1").mkdir(parents=True)
    (tmp_path / "digits" / "figure2" / "paper-0.1" / "certificate.json").write_text("{}")
    for folder in (tmp_path / "absent", tmp_path):
        assert run(monkeypatch, "bench", "render", "--records", str(folder), "--docs", str(tmp_path)) == 2
        assert f"there is no record of a cell in '{folder}'" in capsys.readouterr().err
    assert (tmp_path / "results.md").read_text() == PAGE


def test_pages_of_the_repository_are_what_its_records_say() -> None:
    docs = ROOT / "docs"
    text = (docs / "results.md").read_text(encoding="utf-8")
    assert pages.results_page(text, ROOT / "results" / "bench", docs) == text, "make it again: certidote bench render"


def test_records_of_the_repository_are_small_and_whole() -> None:
    found = [read(path.parent) for path in sorted((ROOT / "results" / "bench").rglob("replay.json"))]
    for kept in found:
        assert kept is not None
        scale, cell = kept.record["bench"]["scale"], kept.record["bench"]["cell"]
        assert kept.folder == ROOT / "results" / "bench" / scale / cell
        text = (kept.folder / "replay.json").read_text(encoding="utf-8")
        assert not re.search(r'["= ]/\w', text), "a place on somebody's machine"
        seed = json.loads(text)["bench"]["seed"]
        known = {each.id: each for table in TABLES.values() for each in table(SCALES[scale])}
        assert records.identity_of(SCALES[scale], known[cell], seed) == kept.record["bench"]["identity"], "settings have changed"
    assert sum(path.stat().st_size for path in (ROOT / "results" / "bench").rglob("*") if path.is_file()) < 10e6


def test_records_are_of_the_defenses_as_they_are() -> None:
    """What is tuned after its cells were measured makes them figures of another defense: they have to be measured again.

    Victims from scratch in the white box; others have recipes or extractors of their own, and the same defenses.
    """
    setup = SCALES["digits"].setups["scratch"]
    images, share = len(load_digits("train")), setup.num_poisons / len(load_digits("train"))
    denoiser = denoiser_loaded("digits", dtype="float32")
    for kept in (
        read(path.parent) for path in sorted((ROOT / "results" / "bench" / "digits").glob("*-scratch-white-*/*/replay.json"))
    ):
        assert kept is not None
        name, sigma = kept.record["defense_name"], kept.record["defense"].get("sigma")
        if kept.refused or "-start-" in kept.folder.name or (name.startswith("dp-sgd") and find_spec("opacus") is None):
            continue
        setting = Setting(
            lambda kind: denoiser if kind == "auto" else Identity(), sigma, 1, "cpu", share, images, image_shape=(1, 8, 8)
        )
        scheme, trainer = DEFENSES[name](trainer_for(RECIPES[setup.recipe], "float32"), setting)
        assert kept.record["defense"] == json.loads(json.dumps(scheme.describe())), kept.folder
        assert kept.record["victims"] == json.loads(json.dumps(trainer.describe())), kept.folder


@pytest.mark.slow
def test_kept_trials_end_again_as_recorded(tmp_path: Path) -> None:
    """The first trials of cells of every kind under the recorded seed: attackers who know of the defense, rivals and other starts included.

    On one machine they are the same trials up to rounding, which may tip one whose outcome hangs by a hair. With coins of their own, two
    runs of a cell whose attack succeeds with probability p would differ in 2 p (1 - p) of its poisoned outcomes, a third of them on the mean over these.
    """
    kept = [read(path.parent) for path in sorted((ROOT / "results" / "bench" / "digits").glob("*/*/replay.json"))]
    chosen = [each for each in kept if each is not None and not each.refused][::48]
    if not chosen:
        pytest.skip("no figures of the digits are kept")
    differing = {}
    for each in chosen:
        about = each.record["bench"]
        table = next(name for name, cells in TABLES.items() if about["cell"] in {cell.id for cell in cells(DIGITS)})
        verbs.bench(
            table, cell=about["cell"], trials=AGAIN, seed=about["seed"], out=tmp_path / "runs", records=tmp_path / "kept", workers=0
        )
        again = read(tmp_path / "kept" / "digits" / about["cell"])
        assert again is not None
        pairs = [(one[name], two[name]) for one, two in zip(each.trials, again.trials, strict=False) for name in OUTCOMES]
        assert len(pairs) == AGAIN * len(OUTCOMES)
        differing[about["cell"]] = sum(one != two for one, two in pairs)
    print(differing)
    assert sum(differing.values()) <= 0.05 * AGAIN * len(OUTCOMES) * len(chosen), differing


@pytest.mark.slow
def test_kept_figures_are_measured_again(tmp_path: Path) -> None:
    """Some cells under another seed: other victims and poisons for the same goals. Fisher's exact test fails for a right figure with a chance of 1e-4."""
    kept = [read(path.parent) for path in sorted((ROOT / "results" / "bench" / "digits").glob("*/*/replay.json"))]
    sample = [each for each in kept if each is not None and not each.refused and each.record["defense_name"] in ("none", "denoise")]
    chosen = [
        each
        for each in sample
        if not re.search("-through-|-outside", each.folder.parent.name) and "-start-" not in each.folder.name
    ][::12]
    if not chosen:
        pytest.skip("no figures of the digits are kept")
    for each in chosen:
        about = each.record["bench"]
        table = next(name for name, cells in TABLES.items() if about["cell"] in {cell.id for cell in cells(DIGITS)})
        verbs.bench(table, cell=about["cell"], trials=20, seed=about["seed"] + 1, out=tmp_path / "runs", records=tmp_path / "kept")
        again = read(tmp_path / "kept" / "digits" / about["cell"])
        assert again is not None
        counts = [[sum(found.successes()), len(found.trials) - sum(found.successes())] for found in (each, again)]
        assert scipy.stats.fisher_exact(counts).pvalue > 1e-4, about["cell"]
