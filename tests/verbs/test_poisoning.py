"""`certidote poison` and `certidote replay` as a user meets them: packs that work, records that say so, kills that cost nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import certidote
from certidote import verbs
from certidote.attacks import ATTACKS, goal_of
from certidote.attacks.pack import PoisonPack
from certidote.attacks.pack_files import read_pack
from certidote.data.digits import load_digits, load_some_digits
from certidote.defenses.catalogue import DEFENSES, DENOISING, FACTS
from certidote.defenses.filtered import FilteredTrainer
from certidote.defenses.plain import PlainTraining
from certidote.defenses.spectral import SpectralSignatures
from certidote.engine import provenance
from certidote.engine.ledger import Ledger
from certidote.results.replay import near_chance, replay_lines
from certidote.scenarios import knowledge, removed
from certidote.scenarios.crafting import options_of
from certidote.scenarios.knowledge import EXTRACTOR
from certidote.scenarios.trials import PairedTrainer, Trials
from certidote.streams import Key
from certidote.training.head_recipe import HEAD_RECIPES
from certidote.training.pooled import PooledTrainer, trainer_for
from certidote.training.recipe import RECIPES
from certidote.types import Ballots, Target, Trigger, Untrusted
from certidote.verbs import choices
from certidote.verbs.attacking import epsilon_named
from certidote.verbs.replaying import DEFENSE_HELP, _removed
from commands import run

OPTIONS = ("--num-poisons", "10", "--epsilon", "0.4347", "--option", "steps=60", "--option", "step_size=0.03", "--seed", "1")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "pack"
    made = verbs.poison(
        "bullseye-polytope", "digits-5-9", out=out, targets=8, num_poisons=10, epsilon="0.4347", option=["steps=60", "step_size=0.03"],
        seed=1,
    )  # fmt: skip
    assert made.out == out
    return out


@pytest.fixture(scope="module")
def replayed(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> verbs.Replayed:
    out = tmp_path_factory.mktemp("runs") / "run"
    return verbs.replay(pack, "digits-5-9", out=out, models=3, workers=0, seed=2, dtype="float32")


# ------------------------------------------------------------------------------------------------------------------ poison


def test_a_pack_says_how_it_came_to_be(pack: Path) -> None:
    assert {path.name for path in pack.iterdir()} == {"pack.json", "poisons.npz", "gallery.html", EXTRACTOR}
    held = read_pack(pack)
    held.check(load_some_digits(range(5, 10), "train"))
    recipe = held.recipe
    assert recipe["attack"] == "bullseye-polytope"
    assert (recipe["options"]["steps"], recipe["options"]["step_size"]) == (60, 0.03)
    assert (recipe["root"], recipe["root_source"]) == ("0x1", "given")
    assert recipe["scenario"]["pretrained_on"]["digest"] == load_some_digits(range(5), "trusted").digest()
    assert recipe["scenario"]["surrogates"] == [recipe["scenario"]["victim"]["digest"]]  # white box
    assert recipe["versions"]["certidote"]
    trues = [poison.goal.true_label for poison in held.poisons]
    assert sorted(np.bincount(trues, minlength=5).tolist()) == [1, 1, 2, 2, 2]  # spread over the classes
    page = (pack / "gallery.html").read_text()
    assert page.count("<img") == 6 * 3 * 6
    assert "visible trigger" not in page
    assert "difference x" in page


def test_the_same_seed_gives_the_same_pack(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("poison", "bullseye-polytope", "digits-5-9", "--targets", "8", *OPTIONS)
    assert run(monkeypatch, *command, "--out", str(tmp_path / "again")) == 0
    said = capsys.readouterr().out
    assert "8 trials of bullseye-polytope, 10 poisons each:" in said
    assert f"Try it: certidote replay {tmp_path / 'again'} digits-5-9" in said
    for name in ("poisons.npz", EXTRACTOR):
        assert (tmp_path / "again" / name).read_bytes() == (pack / name).read_bytes()
    adaptive = (*command, "--out", str(tmp_path / "adaptive"), "--through", "none", "--sigma", "0", "--no-gallery")
    assert run(monkeypatch, *adaptive) == 0
    assert (tmp_path / "adaptive" / "poisons.npz").read_bytes() == (pack / "poisons.npz").read_bytes()  # sigma 0 is no defense
    assert not (tmp_path / "adaptive" / "gallery.html").exists()
    assert run(monkeypatch, *command[:-1], "2", "--targets", "1", "--out", str(tmp_path / "other"), "--workers", "1") == 0
    assert (tmp_path / "other" / "poisons.npz").read_bytes() != (pack / "poisons.npz").read_bytes()


def test_trials_may_be_listed_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file is about test images or, with a trigger, about pairs of classes."""
    listed = [{"test_image": row, "true_class": name, "adversarial_class": "5"} for row, name in ((56, "5"), (28, "6"))]
    listed[0]["adversarial_class"] = "8"
    (tmp_path / "goals.json").write_text(json.dumps(listed))
    command = (
        "digits-5-9",
        *OPTIONS[:4],
        "--seed",
        "1",
        "--goals",
        str(tmp_path / "goals.json"),
        "--option",
        "steps=2",
        "--no-gallery",
    )
    assert run(monkeypatch, "poison", "bullseye-polytope", *command, "--out", str(tmp_path / "targets")) == 0
    goals = [poison.goal for poison in read_pack(tmp_path / "targets").poisons]
    assert [(goal.test_index, goal.true_label, goal.adversarial_label) for goal in goals if isinstance(goal, Target)] == [
        (56, 0, 3),
        (28, 1, 0),
    ]
    trigger = ("--trigger", "checker", "--trigger-side", "2", "--targets", "1")
    assert run(monkeypatch, "poison", "hidden-trigger", *command, *trigger, "--out", str(tmp_path / "triggers")) == 0
    (poison,) = read_pack(tmp_path / "triggers").poisons
    assert (poison.goal.true_label, poison.goal.adversarial_label) == (0, 3)


DYING = """
import os, sys
from pathlib import Path
from certidote.scenarios.unfinished import Unfinished
from certidote import verbs

keep, count = Unfinished.keep, 0
def dying(self, *arguments):
    global count
    keep(self, *arguments)
    count += 1
    if count == 3:
        os.kill(os.getpid(), 9)
Unfinished.keep = dying
verbs.poison(
    "bullseye-polytope", "digits-5-9", out=Path(sys.argv[1]), targets=8, num_poisons=10, epsilon="0.4347",
    option=["steps=60", "step_size=0.03"], seed=1,
)
"""


def test_crafting_goes_on_after_kill_9(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, unfinished = tmp_path / "again", tmp_path / "again.unfinished"
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # kernels may round otherwise when they split work differently
    died = subprocess.run([sys.executable, "-W", "ignore", "-c", DYING, str(out)], env={**os.environ, **threads}, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(unfinished.glob("trial-*.npz"))) == 3
    (unfinished / "trial-00001.npz").write_bytes(b"damaged")
    command = ("poison", "bullseye-polytope", "digits-5-9", "--targets", "8", *OPTIONS, "--out", str(out))
    assert run(monkeypatch, *command, "--norm", "l2", "--progress", "quiet") == 2
    assert "holds unfinished work of another command; repeat that command to finish it" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--progress", "lines") == 0
    assert "poisons: 8 trials (2 already done)" in capsys.readouterr().err
    assert (out / "poisons.npz").read_bytes() == (pack / "poisons.npz").read_bytes()
    assert not unfinished.exists()


@pytest.mark.parametrize("attack", ["witches-brew digits --scenario scratch", "bullseye-polytope digits-5-9 --surrogates 2"])
def test_models_of_the_attacker_are_not_trained_again_after_an_interruption(
    attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From scratch, and extractors: the same poisons as without the interruption, and no training but of heads the second time."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('architecture = "cnn-32-64"\nepochs = 1\nbatch_size = 100\nlearning_rate = 0.1\n')
    command = (
        "poison",
        *attack.split(),
        "--targets",
        "1",
        "--num-poisons",
        "4",
        "--epsilon",
        "0.3",
        "--option",
        "steps=2",
        "--seed",
        "1",
    )
    command = (*command, "--recipe", str(recipe), "--no-gallery", "--progress", "quiet", "--out")
    assert run(monkeypatch, *command, str(tmp_path / "whole")) == 0

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(knowledge, "_EXTRACTORS", {})  # as in a new process
    with monkeypatch.context() as patched:
        patched.setattr("certidote.scenarios.crafting.craft_group", killed)
        assert run(patched, *command, str(tmp_path / "again")) == 130
    assert [file.name for file in sorted((tmp_path / "again.unfinished").glob("model-*"))]
    text = recipe.read_text()
    recipe.write_text(text.replace("0.1", "0.2"))
    capsys.readouterr()
    assert run(monkeypatch, *command, str(tmp_path / "again")) == 2
    assert "holds unfinished work of another command" in capsys.readouterr().err
    recipe.write_text(text)
    monkeypatch.setattr(knowledge, "_EXTRACTORS", {})
    monkeypatch.setattr(PooledTrainer, "fit", trained)
    assert run(monkeypatch, *command, str(tmp_path / "again")) == 0
    assert (tmp_path / "again" / "poisons.npz").read_bytes() == (tmp_path / "whole" / "poisons.npz").read_bytes()
    assert not (tmp_path / "again.unfinished").exists()


def test_crafting_through_a_defense_changes_the_poisons(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("poison", "bullseye-polytope", "digits-5-9", "--target", "6", "--adversarial-class", "6", *OPTIONS)
    for name, more in (("unaware", ()), ("adaptive", ("--through", "digits-linear-mmse", "--sigma", "0.25"))):
        assert run(monkeypatch, *command, *more, "--option", "steps=10", "--out", str(tmp_path / name)) == 0
    unaware, adaptive = (read_pack(tmp_path / name) for name in ("unaware", "adaptive"))
    goal = unaware.poisons[0].goal
    assert isinstance(goal, Target)
    assert (goal.test_index, goal.adversarial_label) == (6, 1)
    seen = adaptive.recipe["seen_through"]
    assert (seen["denoiser"], seen["sigma"], seen["draws"], len(seen["digest"])) == ("digits-linear-mmse", 0.25, 1, 64)
    assert torch.equal(unaware.poisons[0].indices, adaptive.poisons[0].indices)
    assert not torch.equal(unaware.poisons[0].images, adaptive.poisons[0].images)


def test_what_the_attacker_knows_of_the_victims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("poison", "bullseye-polytope", "digits-5-9", "--targets", "1", *OPTIONS, "--option", "steps=2", "--no-gallery")
    for box, more in (("grey", ("--grey-box",)), ("black", ("--victim-recipe", "mlp")), ("white", ("--surrogates", "2"))):
        assert run(monkeypatch, *command, *more, "--out", str(tmp_path / box)) == 0
        scenario = read_pack(tmp_path / box).recipe["scenario"]
        assert scenario["box"] == box
        assert len(scenario["surrogates"]) == (2 if box == "white" else 1)
        assert (scenario["victim"]["digest"] in scenario["surrogates"]) == (box == "white")
        assert scenario["victim"]["architecture"] == ("mlp-128" if box == "black" else "conv-16-32-32")
        found = verbs.replay(tmp_path / box, "digits-5-9", out=tmp_path / f"run-{box}", workers=0, dtype="float32", seed=1)
        assert found.record["victims"]["extractor"] == scenario["victim"]["digest"]


def test_a_backdoor_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "pack"
    command = (
        "poison", "sleeper-agent", "digits", "--scenario", "scratch", "--recipe", "mlp", "--trigger", "checker", "--trigger-side", "2",
        "--targets", "1", "--true-class", "2", "--adversarial-class", "7", "--poison-fraction", "0.06", "--epsilon", "0.3", "--seed", "1",
        "--option", "steps=10", "--option", "retrains=1", "--option", "shift=0", "--option", "flip=false", "--option", "step_size=0.12",
    )  # fmt: skip
    assert run(monkeypatch, *command, "--out", str(out)) == 0
    (poison,) = read_pack(out).poisons
    assert isinstance(poison.goal, Trigger)
    assert poison.goal.patch.shape == (1, 2, 2)
    assert (poison.goal.true_label, poison.goal.adversarial_label, len(poison.indices)) == (2, 7, 30)
    found = verbs.replay(out, "digits", out=tmp_path / "run", workers=0, dtype="float32", seed=1)
    assert found.record["goal"] == "trigger"
    assert found.record["trials"][0]["images"] == int((load_digits("test").labels == 2).sum())
    assert found.record["victims"]["recipe"]["architecture"] == "mlp-128"
    assert "of images with the trigger get the adversarial class" in found.lines[0]


SMALL_OPTIONS = {"sleeper-agent": ("retrains=0",), "witches-brew": ("restarts=1",), "hidden-trigger": ("pair_every=1",)}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_of_the_catalogue_makes_a_pack(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aim = goal_of(name)
    scratch = name in ("witches-brew", "sleeper-agent", "label-consistent")
    command = [
        "poison",
        name,
        "digits-5-9",
        "--targets",
        "2",
        "--num-poisons",
        "4",
        "--epsilon",
        "0.3",
        "--seed",
        "1",
        "--no-gallery",
    ]
    command += ["--scenario", "scratch", "--recipe", "mlp"] if scratch else []
    command += [] if aim == "target" else ["--trigger", "checker", "--trigger-side", "2"]
    for option in ("steps=2", *SMALL_OPTIONS.get(name, ())):
        command += ["--option", option]
    assert run(monkeypatch, *command, "--out", str(tmp_path / "pack"), "--progress", "quiet") == 0
    held = read_pack(tmp_path / "pack")
    held.check(load_some_digits(range(5, 10), "train"))
    assert len(held) == 2
    assert held.recipe["options"]["steps"] == 2
    assert set(held.recipe["options"]) == set(options_of(ATTACKS[name]))
    assert isinstance(held.poisons[0].goal, Target if aim == "target" else Trigger)
    assert held.budget.visible_trigger == (aim == "visible trigger")


def test_a_visible_trigger_is_said_wherever_epsilon_is(tmp_path: Path) -> None:
    """Such poisons move by far more than epsilon, under the trigger."""
    options: dict[str, Any] = {
        "scenario": "scratch",
        "recipe": "mlp",
        "trigger": "label-consistent",
        "targets": 1,
        "num_poisons": 4,
    }
    verbs.poison("label-consistent", "digits-5-9", out=tmp_path / "pack", epsilon="0.1", option=["steps=2"], seed=1, **options)
    expected = {"num_poisons": 4, "norm": "linf", "epsilon": 0.1, "visible_trigger": True}
    (poison,) = read_pack(tmp_path / "pack").poisons
    moved = (poison.images.int() - load_some_digits(range(5, 10), "train").images[poison.indices].int()).abs()
    assert int(moved.max()) > 0.5 * 255
    assert verbs.pack_info(tmp_path / "pack")["budget"] == expected
    assert "linf epsilon 0.1 beside a visible trigger ([0, 1] pixel units)" in (tmp_path / "pack" / "gallery.html").read_text()
    found = verbs.replay(tmp_path / "pack", "digits-5-9", out=tmp_path / "run", workers=0, dtype="float32", seed=1)
    assert found.record["budget"] == expected


def test_epsilon_is_a_number_of_pixel_units() -> None:
    assert epsilon_named("16/255", "linf") == 16 / 255
    assert epsilon_named("0.06", "linf") == 0.06
    assert epsilon_named("1.0", "linf") == epsilon_named("255/255", "linf") == 1.0
    assert epsilon_named("0", "linf") == 0.0
    assert epsilon_named("3.5", "l2") == 3.5
    assert epsilon_named("1", "l2") == 1.0


REFUSED: list[tuple[str, str]] = [
    ("bullseye digits-5-9", "unknown attack 'bullseye'; did you mean 'bullseye-polytope'?"),
    ("bullseye-polytope nothing", "no data set is called 'nothing'"),
    ("bullseye-polytope digits-5-9 --epsilon 16", "--epsilon 16 is above 1, the whole range of a pixel; for 16 of 255 levels give 16/255"),
    (
        "bullseye-polytope digits-5-9 --epsilon 1",
        "--epsilon 1 may mean one of 255 levels or the whole range; write 1/255, or 1.0 for no constraint",
    ),
    ("bullseye-polytope digits-5-9 --norm l2", "--norm l2 has no default epsilon; give --epsilon too"),
    (
        "bullseye-polytope digits-5-9 --norm l2 --epsilon 8",
        "--epsilon 8 with --norm l2 is no constraint: no image of shape (1, 8, 8) can move by more than 8; give less",
    ),
    ("bullseye-polytope digits-5-9 --epsilon sixteen", "give a number of [0, 1] pixel units, such as 16/255 or 0.06"),
    ("bullseye-polytope digits-5-9 --epsilon -1", "give a number of [0, 1] pixel units"),
    ("bullseye-polytope digits-5-9 --epsilon 16/0", "give a number of [0, 1] pixel units"),
    ("bullseye-polytope digits-5-9 --epsilon nan", "give a number of [0, 1] pixel units"),
    ("bullseye-polytope digits-5-9 --norm l1", "unknown norm 'l1'; choose linf or l2"),
    ("bullseye-polytope digits-5-9 --num-poisons 200", "num_poisons=200 base images are wanted, but the adversarial class"),
    (
        "hidden-trigger digits-5-9 --trigger patch --true-class 5 --adversarial-class 5",
        "--true-class and --adversarial-class are both '5'; give two classes",
    ),
    ("bullseye-polytope digits-5-9 --num-poisons 0", "a budget allows at least 1 poison"),
    ("bullseye-polytope digits-5-9 --num-poisons 5 --poison-fraction 0.1", "say the same; give one of them"),
    ("bullseye-polytope digits-5-9 --poison-fraction 5", "give a share of the training set above 0, at most 1"),
    ("bullseye-polytope digits-5-9 --target 4000", "target 4000; the test images are rows 0 to"),
    ("bullseye-polytope digits-5-9 --target 6 --adversarial-class 5", "is of class '5' already, the class wanted for it"),
    ("bullseye-polytope digits-5-9 --target 6 --adversarial-class 3", "--adversarial-class '3' is no class of the data; choose one of: 5, 6"),
    ("bullseye-polytope digits-5-9 --target 6 --targets 3", "give one of them"),
    ("bullseye-polytope digits-5-9 --goals /nonexistent", "cannot read goals '/nonexistent': No such file or directory"),
    ("bullseye-polytope digits-5-9 --goals x --target 6", "--goals lists test images and classes; leave out --target"),
    ("bullseye-polytope digits-5-9 --targets 0", "--targets 0; give at least 1, the number of trials"),
    ("bullseye-polytope digits-5-9 --targets 9000", "lower num_targets"),
    ("bullseye-polytope digits-5-9 --adversarial-class 6", "goes with --target or --trigger"),
    ("bullseye-polytope digits-5-9 --true-class 6", "--true-class goes with --trigger"),
    ("bullseye-polytope digits-5-9 --target 1 --trigger checker", "two kinds of goals"),
    ("bullseye-polytope digits-5-9 --trigger checker", "attack 'bullseye-polytope' aims at one test image; leave out --trigger"),
    ("sleeper-agent digits", "attack 'sleeper-agent' makes a backdoor and needs a trigger: give --trigger, one of label-consistent"),
    ("label-consistent digits --trigger checker --no-visible-trigger --scenario scratch --trigger-side 2 --recipe mlp", "visible"),
    ("sleeper-agent digits --scenario scratch --trigger chekker", "unknown trigger 'chekker'; did you mean 'checker'?"),
    (
        "sleeper-agent digits-5-9 --trigger checker --trigger-side 2",
        "attack 'sleeper-agent' trains its models again while it crafts, and those of --scenario transfer are frozen: give --scenario scratch",
    ),
    ("sleeper-agent digits --scenario scratch --trigger label-consistent --trigger-side 3", "has one size only"),
    ("sleeper-agent digits --scenario scratch --trigger checker --trigger-side 9", "does not fit"),
    (
        "hidden-trigger digits-5-9 --trigger bernoulli",
        "--trigger bernoulli covers 64 of 64 pixels, and a trigger may cover 30% of an image; give --trigger-side of at most 4",
    ),
    (
        "sleeper-agent digits --scenario scratch --trigger label-consistent-corners",
        "--trigger label-consistent-corners covers 36 of 64 pixels, and a trigger may cover 30% of an image; choose another --trigger",
    ),
    ("hidden-trigger digits-5-9 --setups x.pickle", "makes a backdoor and needs a trigger: give --trigger, one of label-consistent"),
    ("bullseye-polytope digits-5-9 --setups x.pickle --trigger checker", "aims at one test image; leave out --trigger"),
    (
        "hidden-trigger digits-5-9 --setups x.pickle --trigger checker --true-class 5",
        "--setups names targets, classes and base images, so --true-class has no place beside it",
    ),
    ("sleeper-agent digits --scenario scratch --trigger checker --true-class 1 --adversarial-class 1", "give two classes"),
    ("bullseye-polytope digits-5-9 --trigger-side 3", "--trigger-side goes with --trigger"),
    ("bullseye-polytope digits-5-9 --scenario fine", "unknown scenario 'fine'; choose transfer or scratch"),
    ("bullseye-polytope digits-5-9 --scenario scratch --pretrain digits", "are for --scenario transfer"),
    ("bullseye-polytope digits-5-9 --pretrain digits:nothing", "digits"),
    ("bullseye-polytope digits-5-9 --robust-surrogates 8/255", "--robust-surrogates goes with --scenario scratch"),
    ("witches-brew digits --scenario scratch --robust-surrogates 8", "--robust-surrogates 8 is above 1, the whole range of a pixel"),
    ("witches-brew digits --scenario scratch --robust-surrogates 0", "--robust-surrogates 0: give a number above 0, such as 8/255"),
    ("bullseye-polytope digits-5-9 --grey-box --victim-recipe cnn", "give one of them"),
    ("bullseye-polytope digits-5-9 --victim-recipe nothing", "unknown recipe 'nothing'"),
    ("bullseye-polytope digits-0-4", "'digits-0-4' has none of its own: give --pretrain"),
    (
        "bullseye-polytope digits-5-9 --surrogates 3 --surrogate mlp --surrogate cnn",
        "--surrogates 3, but --surrogate names 2 recipes, one for each model; leave --surrogates out",
    ),
    ("bullseye-polytope digits-5-9 --surrogate pray", "pray"),
    (
        "bullseye-polytope digits-5-9 --setups x.pickle --num-poisons 3",
        "--setups names targets, classes and base images, so --num-poisons has no place beside it",
    ),
    ("bullseye-polytope digits-5-9 --setups nowhere.pickle", "nowhere.pickle"),
    ("bullseye-polytope digits-5-9 --surrogates 0", "--surrogates 0; an attacker needs at least 1 model"),
    ("bullseye-polytope digits-5-9 --through digits", "give --sigma too"),
    ("bullseye-polytope digits-5-9 --sigma 0.1", "are of the defense that --through names"),
    ("bullseye-polytope digits-5-9 --through digits --sigma 99", "sigma"),
    ("bullseye-polytope digits-5-9 --through digits --sigma 0.1 --draws 0", "draws=0"),
    ("bullseye-polytope digits-5-9 --option step=3", "has no option 'step'; did you mean 'steps'?"),
    ("bullseye-polytope digits-5-9 --option steps", "is no name=value; write it as in --option steps=150"),
    ("bullseye-polytope digits-5-9 --option steps=many", "option steps='many': input should be a valid integer; its default is 1200"),
    ("bullseye-polytope digits-5-9 --option steps=0", "option steps=0: input should be greater than or equal to 1"),
    ("bullseye-polytope digits-5-9 --option dropout_draws=1", "no network that a recipe names has dropout, so there is none to draw"),
    (
        "witches-brew digits --scenario scratch --option step_size=[0.1,0.2]",
        "option step_size has 2 numbers, and images of the training set have 1 channels; give one number, or one for each channel",
    ),
    (
        "bullseye-polytope digits-5-9 --target 3 --option views=3",
        "option views=3: views is for Python only, as no text can give its value; leave it out",
    ),
    ("bullseye-polytope digits-5-9 --options /nonexistent.toml", "cannot read options '/nonexistent.toml'"),
    ("bullseye-polytope digits-5-9 --device tpu", "unknown device 'tpu'"),
    ("bullseye-polytope digits-5-9 --workers -1", "workers=-1; give a number of processes"),
    ("witches-brew digits --option loss=cosine", "option loss='cosine'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "poison", *arguments.split(), "--out", str(tmp_path / "pack"), "--progress", "quiet") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("error: ")
    assert message in said.err
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced_unasked(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (pack / "pack.json").read_bytes()
    command = ("poison", "bullseye-polytope", "digits-5-9", "--targets", "1", *OPTIONS, "--progress", "quiet")
    assert run(monkeypatch, *command, "--out", str(pack)) == 2
    assert "--force" in capsys.readouterr().err
    assert (pack / "pack.json").read_bytes() == before
    assert run(monkeypatch, *command, "--out", str(tmp_path / "no" / "pack")) == 2
    assert "create it first" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------------ replay


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


# ------------------------------------------------------------------------------------------------------- import and export


def test_packs_go_out_and_come_in_by_command(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "pack", "export", str(pack), "digits-5-9", "--out", str(tmp_path / "out")) == 0
    assert capsys.readouterr().out.endswith(f"8 folders for the benchmark: {tmp_path / 'out'}\n")
    trial = tmp_path / "out" / "trial-003"
    assert run(monkeypatch, "pack", "import", str(trial), "digits-5-9", "--out", str(tmp_path / "in")) == 2
    assert "more than the field's do" in capsys.readouterr().err
    command = (
        "pack",
        "import",
        str(trial),
        "digits-5-9",
        "--out",
        str(tmp_path / "in"),
        "--epsilon",
        "0.4347",
        "--attack",
        "bullseye",
    )
    assert run(monkeypatch, *command) == 0
    assert json.loads(capsys.readouterr().out)["attack"] == "bullseye"
    assert torch.equal(read_pack(tmp_path / "in").poisons[0].images, read_pack(pack).poisons[3].images)
    assert run(monkeypatch, "pack", "info", str(pack)) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 8
    found = certidote.replay(tmp_path / "in", "digits-5-9", out=tmp_path / "run", workers=0, dtype="float32", seed=1, recipe="mlp")
    assert found.record["attack"] == "bullseye"
    assert any("does not say which victims" in line for line in found.lines)


def test_poisons_that_went_out_and_in_are_as_successful_as_they_were(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All trials at once, on heads of the extractor of the pack that they left: the same victims, so the same numbers."""
    files, back = tmp_path / "files", tmp_path / "back"
    assert run(monkeypatch, "pack", "export", str(pack), "digits-5-9", "--out", str(files)) == 0
    capsys.readouterr()
    command = ("pack", "import", str(files), "digits-5-9", "--epsilon", "0.4347")
    assert run(monkeypatch, *command, "--scenario-of", str(pack), "--out", str(back)) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 8
    records = [
        certidote.replay(folder, "digits-5-9", out=tmp_path / f"run-{folder.name}", workers=0, dtype="float32", seed=1).record
        for folder in (pack, back)
    ]
    assert records[0]["results"] == records[1]["results"]
    assert records[0]["results"]["poisoned"]["successes"] > 2
    assert records[0]["victims"] == records[1]["victims"]
    assert not any("does not say which victims" in line for record in records for line in replay_lines(record))

    assert run(monkeypatch, *command, "--target", "3", "--out", str(tmp_path / "no")) == 2
    assert "holds several trials; import one of its folders, or leave it out" in capsys.readouterr().err
    assert run(monkeypatch, *command, "--scenario-of", str(back), "--out", str(back), "--force") == 2
    assert "is the input itself, which is never written to" in capsys.readouterr().err
    unknown = tmp_path / "unknown"
    assert run(monkeypatch, *command, "--out", str(unknown)) == 0
    capsys.readouterr()
    assert run(monkeypatch, *command, "--scenario-of", str(unknown), "--out", str(tmp_path / "no")) == 2
    assert "does not say what victims are; give one of 'certidote poison'" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
