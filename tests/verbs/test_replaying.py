"""`certidote replay` as a user meets it: victims of a pack under every defense, records that say so, kills that cost nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from certidote import verbs
from certidote.attacks.pack import PoisonPack
from certidote.attacks.pack_files import read_pack
from certidote.data.digits import load_some_digits
from certidote.defenses.catalogue import DEFENSES, DENOISING, FACTS
from certidote.defenses.filtered import FilteredTrainer
from certidote.defenses.plain import PlainTraining
from certidote.defenses.spectral import SpectralSignatures
from certidote.engine import provenance
from certidote.engine.ledger import Ledger
from certidote.results.replay import near_chance, replay_lines
from certidote.scenarios import removed
from certidote.scenarios.trials import PairedTrainer, Trials
from certidote.streams import Key
from certidote.training.head_recipe import HEAD_RECIPES
from certidote.training.pooled import trainer_for
from certidote.training.recipe import RECIPES
from certidote.types import Ballots, Target, Untrusted
from certidote.verbs import choices
from certidote.verbs.replaying import DEFENSE_HELP, _removed
from commands import run


@pytest.fixture(scope="module")
def replayed(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> verbs.Replayed:
    out = tmp_path_factory.mktemp("runs") / "run"
    return verbs.replay(pack, "digits-5-9", out=out, models=3, workers=0, seed=2, dtype="float32")


def test_poisons_reach_their_goals_and_the_record_says_how_often(replayed: verbs.Replayed, pack: Path) -> None:
    record = json.loads((replayed.out / "replay.json").read_text())
    assert record == replayed.record
    poisoned, control = record["results"]["poisoned"], record["results"]["control"]
    assert poisoned["successes"] >= 5  # 60 steps; with 150 about 80 %
    assert control["successes"] == 0
    assert poisoned["trials"] == control["trials"] == 8
    assert poisoned["low"] < poisoned["successes"] / 8 < poisoned["high"]
    assert min(poisoned["clean_accuracy"], control["clean_accuracy"]) > 0.9
    assert len(record["trials"]) == 8
    for row, poison in zip(record["trials"], read_pack(pack).poisons, strict=True):
        assert isinstance(poison.goal, Target)
        assert row["test_image"] == poison.goal.test_index
        assert row["poisoned"]["success"] == (row["poisoned"]["predicted"] == row["adversarial_class"])
    assert (record["models"], record["failed"], record["root"], record["defense_name"]) == (3, 0, "0x2", "none")
    assert record["retrained_alone"]["differing_votes"] == 0
    assert record["recipe"]["attack"] == "bullseye-polytope"
    assert record["versions"]["torch"]
    assert len((replayed.out / "trials.csv").read_text().splitlines()) == 9
    assert replayed.lines[0].startswith(
        f"poisoned data: {poisoned['successes']} of 8 trials reach their goal (95 % Wilson interval"
    )


DYING_VICTIMS = """
import os, sys
from pathlib import Path
from certidote.engine.ledger import Ledger
from certidote import verbs

commit = Ledger.commit_all
def dying(self, *arguments):
    commit(self, *arguments)
    os.kill(os.getpid(), 9)
Ledger.commit_all = dying
verbs.replay(Path(sys.argv[1]), "digits-5-9", out=Path(sys.argv[2]), models=3, workers=0, seed=2, dtype="float32")
"""


def test_after_kill_9_the_same_command_goes_on(replayed: verbs.Replayed, pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    died = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DYING_VICTIMS, str(pack), str(out)], env=dict(os.environ), check=False
    )
    assert died.returncode == -signal.SIGKILL
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.voted() == 32  # of 48
    assert not (out / "replay.json").exists()
    again = verbs.replay(pack, "digits-5-9", out=out, models=3, workers=0, seed=2, dtype="float32")
    assert again.record["results"] == replayed.record["results"]
    assert again.record["trials"] == replayed.record["trials"]


def test_another_replay_in_the_same_place_is_refused(replayed: verbs.Replayed, pack: Path) -> None:
    before = (replayed.out / "replay.json").read_bytes()
    with pytest.raises(ValueError, match="holds a run with scheme"):
        verbs.replay(pack, "digits-5-9", out=replayed.out, models=2, workers=0, seed=2, dtype="float32")
    assert (replayed.out / "replay.json").read_bytes() == before


def test_defenses_see_the_poisons_and_pairs_share_their_noise(pack: Path, tmp_path: Path) -> None:
    for defense in ("denoise", "noise"):
        found = verbs.replay(
            pack, "digits-5-9", out=tmp_path / defense, defense=defense, sigma=0.5, trials=2, workers=0, seed=2, dtype="float32",
            denoiser="digits-linear-mmse" if defense == "denoise" else "auto",
        )  # fmt: skip
        assert found.record["defense"]["scheme"] == {"denoise": "sanitize once", "noise": "noise once"}[defense]
        assert found.record["defense"]["denoiser"]["kind"] == {"denoise": "linear-mmse", "noise": "none"}[defense]
        assert found.record["results"]["control"]["trials"] == 2
        with Ledger(tmp_path / defense / "ledger.sqlite", read_only=True) as ledger:
            ballots = ballots_of(ledger)
        noise = ballots.noise_ids
        assert noise[0] == noise[1] != noise[2] == noise[3]


FILTERS = ("deep-knn", "deep-knn-majority", "spectral", "activation-clustering", "epic")


@pytest.mark.parametrize("defense", FILTERS)
def test_filters_say_what_they_removed(pack: Path, tmp_path: Path, defense: str) -> None:
    """Two trials, with 10 poisons each; and the same command again gives the same record."""
    options = {"out": tmp_path / "run", "defense": defense, "trials": 2, "seed": 2, "dtype": "float32"}
    found = verbs.replay(pack, "digits-5-9", workers=0, **options)
    total, images = found.record["filter"], found.record["data"]["images"]
    assert total["removed_poisons"] + total["kept_poisons"] == 20
    assert total["removed_clean"] + total["kept_clean"] == 2 * images - 20
    assert len(total["trials"]) == 2
    assert total["removed_poisons"] == sum(trial["removed_poisons"] for trial in total["trials"])
    if defense.startswith("deep-knn"):  # which poisons it finds hangs on rounding: 11 to 14 of these 20, and 2 % of clean images
        assert total["recall"] >= 0.3
        assert total["recall"] > 5 * total["removed_clean"] / (total["removed_clean"] + total["kept_clean"])
        assert found.record["victims"]["filter"]["poison_fraction"] == 10 / images
    assert any(line.startswith(f"the filter removed {total['removed_poisons']} of 20 poisons and ") for line in found.lines)
    before = (found.out / "replay.json").read_bytes()
    verbs.replay(pack, "digits-5-9", workers=1, **options)
    assert json.loads((found.out / "replay.json").read_bytes())["filter"] == json.loads(before)["filter"]


def test_a_finished_trial_is_not_filtered_again(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption costs the trial at work; a finished run asks nothing. Without the victims' device the CPU is asked."""
    options = {"out": tmp_path / "run", "defense": "spectral", "trials": 2, "seed": 2, "dtype": "float32", "workers": 0}
    ask, asked = removed.removed_of_trial, []

    def dying(about: removed.Asked, trial: int) -> object:
        asked.append((trial, about.trials.device))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(about, trial)

    monkeypatch.setattr(removed, "removed_of_trial", dying)
    monkeypatch.setattr(choices, "computes_here", lambda device: False)
    with pytest.raises(KeyboardInterrupt):
        verbs.replay(pack, "digits-5-9", **options)
    first = verbs.replay(pack, "digits-5-9", **options)
    assert asked == [(0, "cpu"), (1, "cpu"), (1, "cpu")]
    assert verbs.replay(pack, "digits-5-9", **options).record["filter"] == first.record["filter"]
    assert len(asked) == 3
    assert len(first.record["filter"]["trials"]) == 2


def test_a_filter_is_asked_where_there_is_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As for the driver of a cluster of GPUs, which has none itself."""
    seen = []

    def ask(about: removed.Asked, trial: int) -> tuple[int, None]:
        seen.append(about.trials.device)
        return trial, None

    monkeypatch.setattr(removed, "removed_of_trial", ask)
    monkeypatch.setattr(choices, "computes_here", lambda device: device == "cpu")
    data = load_some_digits(range(5, 10), "train")
    victims = FilteredTrainer(trainer_for(RECIPES["mlp"]), SpectralSignatures(0.1))
    held = PoisonPack.__new__(PoisonPack)
    object.__setattr__(held, "poisons", (object(), object()))
    played = Trials(held, PlainTraining(1, "cuda"))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = _removed(played, PairedTrainer(victims, 1), Untrusted(data), ledger, Key(0), None, None)
    assert seen == ["cpu", "cpu"]
    assert found["filter"]["trials"] == [None, None]


def test_a_filter_that_would_delete_a_class_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spectral signatures remove one and a half times as many images of each class as there are poisons."""
    command = (
        "bullseye-polytope",
        "digits-5-9",
        "--targets",
        "1",
        "--num-poisons",
        "40",
        "--epsilon",
        "0.4",
        "--option",
        "steps=2",
    )
    quiet = ("--seed", "1", "--progress", "quiet")
    assert run(monkeypatch, "poison", *command, *quiet, "--no-gallery", "--out", str(tmp_path / "pack")) == 0
    capsys.readouterr()
    where = (str(tmp_path / "pack"), "digits-5-9", "--out", str(tmp_path / "run"), "--workers", "0")
    assert run(monkeypatch, "replay", *where, *quiet, "--defense", "spectral") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: --defense spectral would remove all \d+ images of class '\d' .*\(\d+ of \d+ images in all\)", said)
    assert "give another --defense, or a pack with fewer poisons (this one has 40 among " in said
    assert "again" not in said


def test_accuracy_near_chance_is_said(replayed: verbs.Replayed) -> None:
    assert not any("near chance" in line for line in replayed.lines)
    record = json.loads(json.dumps(replayed.record))
    record["results"]["poisoned"]["clean_accuracy"] = 0.09
    (said,) = (line for line in replay_lines(record) if "near chance" in line)
    assert said.startswith("Clean accuracy on poisoned data (9.0%) is near chance (20.0%): these models learned next to nothing")
    assert near_chance(0.19, 10_000, 10)
    assert not near_chance(0.2, 10_000, 10)
    assert not near_chance(0.6, 10_000, 2)
    assert near_chance(0.6, 50, 2)  # its interval begins below a half


CERTIFIED = {
    "dpa": ({}, 5),
    "finite-aggregation": ({"parts": 3, "copies": 2}, 6),
    "run-off-dpa": ({"parts": 4}, 4),
    "run-off-fa": ({"parts": 3, "copies": 2}, 6),
    "dpa-star-run-off": ({"parts": 3, "copies": 2}, 3),
    "bagging": ({"bag_size": 40}, 20),
    "bagflip": ({"models": 15}, 15),
    "rab": ({"sigma": 0.1}, 20),
}


@pytest.mark.parametrize("defense", CERTIFIED)
def test_certified_rivals_replay_poisons(pack: Path, tmp_path: Path, defense: str) -> None:
    """One trial each; members are as many as were asked for, and the control is learned."""
    options, members = CERTIFIED[defense]
    found = verbs.replay(
        pack, "digits-5-9", out=tmp_path / "run", defense=defense, trials=1, workers=0, seed=2, dtype="float32", **options
    )
    assert (found.record["models"], found.record["failed"], found.record["defense_name"]) == (members, 0, defense)
    assert found.record["results"]["control"]["clean_accuracy"] > 0.6


def test_only_filters_say_what_they_removed(replayed: verbs.Replayed) -> None:
    assert "filter" not in replayed.record
    assert not any("filter" in line for line in replayed.lines)


def ballots_of(ledger: Ledger) -> Ballots:
    return ledger.ballots(len(load_some_digits(range(5, 10), "test")) + 2, 5, provenance(ledger, None))


def test_heads_may_be_fitted_as_in_the_benchmark(pack: Path, tmp_path: Path) -> None:
    found = verbs.replay(pack, "digits-5-9", out=tmp_path / "run", head="benchmark", trials=1, workers=0, seed=2, dtype="float32")
    assert HEAD_RECIPES["benchmark"].to_json().items() <= found.record["victims"].items()


def test_victims_may_be_trained_from_scratch_instead(pack: Path, tmp_path: Path) -> None:
    found = verbs.replay(pack, "digits-5-9", out=tmp_path / "run", recipe="mlp", trials=1, workers=0, seed=2, dtype="float32")
    assert found.record["victims"]["recipe"]["architecture"] == "mlp-128"


@pytest.fixture(scope="module")
def undefended(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, verbs.Replayed]:
    """By recipe; "" for heads."""
    out, options = tmp_path_factory.mktemp("undefended"), {"trials": 1, "workers": 0, "seed": 2, "dtype": "float32"}
    return {recipe: verbs.replay(pack, "digits-5-9", out=out / f"run{recipe}", recipe=recipe, **options) for recipe in ("", "mlp")}


@pytest.mark.parametrize("defense", [name for name in DEFENSES if name not in (*FILTERS, "none", "denoise", "noise")])
def test_every_other_defense_is_replayed(defense: str, pack: Path, undefended: dict[str, verbs.Replayed], tmp_path: Path) -> None:
    """One trial, heads or, where these are refused, from scratch; both arms are paired, and what is recorded says which defense it was."""
    if defense.startswith("dp-sgd"):
        pytest.importorskip("opacus")
    recipe = "mlp" if "from scratch only" in FACTS[defense].threat_model else ""
    options: dict[str, Any] = {"trials": 1, "workers": 0, "seed": 2, "dtype": "float32"}
    options |= {"denoiser": "digits-linear-mmse"} if defense in DENOISING else {}
    found = verbs.replay(pack, "digits-5-9", out=tmp_path / "run", defense=defense, recipe=recipe, **options)
    assert found.record["defense_name"] == defense
    assert found.record["failed"] == 0
    plain = undefended[recipe]
    accuracy = found.record["results"]["control"]["clean_accuracy"]
    assert 0.9 * plain.record["results"]["control"]["clean_accuracy"] < accuracy or defense == "dp-sgd-private"
    described = [(run.record["defense"], run.record["victims"]) for run in (found, plain)]
    assert described[0] != described[1]
    told = [line for line in found.lines if line.startswith("privacy of one training: epsilon ")]
    assert len(told) == defense.startswith("dp-sgd")
    assert not any("no guarantee" in line for line in told) or found.record["victims"]["privacy"]["epsilon"] > 10
    counted = [line for line in found.lines if line.startswith("certified number of poisons: ")]
    assert len(counted) == len(told)
    assert all(("no guarantee" in line) == (found.record["victims"]["privacy"]["epsilon"] > 10) for line in counted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "PACK digits-5-9 --defense friends",
            "the defense 'friends' changes how a whole network learns, but these victims are heads",
        ),
        (
            "PACK digits-5-9 --defense dp-sgd",
            "the defense 'dp-sgd' changes how a whole network learns, but these victims are heads",
        ),
        ("PACK digits-5-9 --defense jpeg --sigma 0.1", "the defense 'jpeg' has no use for it; leave it out"),
        (
            "PACK digits-5-9 --defense jpeg --denoiser linear-mmse:digits:trusted",
            "--denoiser linear-mmse:digits:trusted, but the defense 'jpeg' has no use for one; leave it out (it is for denoise, ",
        ),
        ("PACK digits-5-9 --defense rab --denoiser nothing", "--denoiser nothing, but the defense 'rab' has no use for one"),
        ("PACK digits-5-9 --defense noise --denoiser nothing", "--denoiser nothing, but the defense 'noise' has no use for one"),
        ("PACK digits", "the pack was made for classes '5', '6', '7', '8' and 1 more, but the data has"),
        ("PACK digits-5-9:trusted", "the pack was made for 'digits-5-9' with digest"),
        ("PACK digits-5-9 --defense pray", "unknown defense 'pray'; choose one of: "),
        ("PACK digits-5-9 --sigma 0.1", "the defense 'none' has no use for it; leave it out"),
        ("PACK digits-5-9 --defense denoise --sigma 99", "exceeds this denoiser's sigma_max"),
        (
            "PACK digits-5-9 --parts 3",
            "--parts 3, but the defense 'none' has no --parts; leave it out (it is for votes over parts)",
        ),
        ("PACK digits-5-9 --defense dpa --models 3", "the defense 'dpa' has no --models; leave it out (its models are counted by"),
        ("PACK digits-5-9 --defense dpa --parts 0", "--parts 0; give at least 1"),
        ("PACK digits-5-9 --defense dpa --parts 1", "parts=1; a vote over parts needs at least 2"),
        ("PACK digits-5-9 --defense run-off-fa --parts 200", "every part needs at least 1 image to learn from"),
        (
            "PACK digits-5-9 --defense rab --models 5",
            "--models 5, but the defense 'rab' is a vote that can be certified, of 11 models",
        ),
        ("PACK digits-5-9 --defense rab --models 10", "give as many, or choose the defense 'noise'"),
        ("PACK digits-5-9 --defense bagging --sigma 0.1", "the defense 'bagging' adds no noise; leave it out"),
        ("PACK digits-5-9 --address local", "--address and --gpus-per-task are for a Ray cluster; add --engine ray"),
        ("PACK digits-5-9 --engine ray", "--workers 0 is for --engine local"),
        ("PACK digits-5-9 --engine pray", "unknown engine 'pray'; choose local or ray"),
        ("PACK digits-5-9 --models 0", "--models 0; a classifier needs at least 1 model"),
        (
            "PACK digits-5-9 --draws 2",
            "draws=2, but only defenses that add noise once to the images as they came have draws to share",
        ),
        (
            "PACK digits-5-9 --defense several-draws --draws 2",
            "draws=2, but several-draws always trains each model on 4 copies of its own (--draws says how many noise draws trials take",
        ),
        ("PACK digits-5-9 --defense several-draws --raw-epochs 2", "and not with several draws, parts, bags, filters"),
        ("PACK digits-5-9 --defense denoise --draws 0", "draws=0; give at least 1 that trials share"),
        ("PACK digits-5-9 --trials 9", "--trials 9; the pack has 8"),
        ("PACK digits-5-9 --recipe nothing", "unknown recipe 'nothing'"),
        ("PACK digits-5-9 --head nothing", "unknown head recipe 'nothing'"),
        (
            "PACK digits-5-9 --head benchmark --recipe mlp",
            "--head benchmark says how heads are fitted, but these victims are trained",
        ),
        ("PACK digits-5-9 --test digits-0-4:test", "class"),
        ("/nonexistent digits-5-9", "there is no poison pack in '/nonexistent'"),
    ],
)
def test_replay_refuses_in_one_line(
    arguments: str, message: str, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments.replace("PACK", str(pack)).split()
    assert run(monkeypatch, "replay", *given, "--out", str(tmp_path / "run"), "--workers", "0", "--progress", "quiet") == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert message in said.err
    assert not list(tmp_path.iterdir())


def test_the_help_names_the_defenses_of_the_catalogue() -> None:
    listed = re.sub(r"\([^)]*\)|\bor one with", "", DEFENSE_HELP)
    names = [name.strip() for group in listed.split(";") for name in group.split(":")[-1].split(",")]
    assert sorted(names) == sorted(DEFENSES)
