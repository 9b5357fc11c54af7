"""`certidote poison` as a user meets it: packs that say how they came to be, refusals in one line, kills that cost nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certidote import verbs
from certidote.attacks import ATTACKS, goal_of
from certidote.attacks.pack_files import read_pack
from certidote.data.digits import load_digits, load_some_digits
from certidote.scenarios import knowledge
from certidote.scenarios.crafting import options_of
from certidote.scenarios.knowledge import EXTRACTOR
from certidote.scenarios.unfinished import Unfinished
from certidote.training.pooled import PooledTrainer
from certidote.types import Target, Trigger
from certidote.verbs.attacking import epsilon_named
from commands import run

OPTIONS = ("--num-poisons", "10", "--epsilon", "0.4347", "--option", "steps=60", "--option", "step_size=0.03", "--seed", "1")


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


def test_the_faster_number_format_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a probe finds another one, on another day or on a busier machine, when the command goes on; a new command probes again."""
    options = {
        "targets": 4,
        "num_poisons": 4,
        "epsilon": "0.3",
        "option": ["steps=2"],
        "seed": 1,
        "gallery": False,
        "dtype": "auto",
    }

    def crafted(name: str, faster: str) -> None:
        monkeypatch.setattr("certidote.numerics.fast_dtype", lambda device: faster)
        verbs.poison("bullseye-polytope", "digits-5-9", out=tmp_path / name, **options)  # type: ignore[arg-type]

    keep = Unfinished.keep
    with monkeypatch.context() as patched:
        patched.setattr(Unfinished, "keep", lambda *given: (keep(*given), pytest.fail("killed")))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            crafted("begun", "bfloat16")
    assert (tmp_path / "begun.unfinished").is_dir()
    crafted("begun", "float32")
    crafted("later", "float32")
    assert [read_pack(tmp_path / name).recipe["scenario"]["dtype"] for name in ("begun", "later")] == ["bfloat16", "float32"]


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


def test_networks_may_be_looked_through_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded gradients lead to other poisons, which do as well: the objective falls as far."""
    command = ("poison", "bullseye-polytope", "digits-5-9", "--target", "6", "--adversarial-class", "6", *OPTIONS)
    seen = ("--through", "digits", "--sigma", "0.25", "--draws", "4", "--option", "steps=60")
    made = {}
    for name in ("float32", "bfloat16"):
        assert run(monkeypatch, *command, *seen, "--through-dtype", name, "--out", str(tmp_path / name)) == 0
        made[name] = read_pack(tmp_path / name)
        assert made[name].recipe["seen_through"].get("dtype", "float32") == name
    first, second = (each.poisons[0] for each in made.values())
    assert not torch.equal(first.images, second.images)
    assert first.objective is not None
    assert second.objective == pytest.approx(first.objective, rel=0.1)


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
    ("bullseye-polytope digits-5-9 --through-dtype bfloat16", "--through-dtype are of the defense that --through names"),
    ("bullseye-polytope digits-5-9 --through digits --sigma 0.1 --through-dtype auto", "--through-dtype auto; choose float32 or bfloat16"),
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
        "bullseye-polytope digits-5-9 --option step_size=[0.1,0.2,0.1]",
        "option step_size has 3 numbers, and images of the training set have 1 channels; give one number, or one for each channel",
    ),
    ("convex-polytope digits-5-9 --option step_size=[0.1,0.2]", "option step_size has 2 numbers, and images of the training set have 1"),
    ("convex-polytope digits-5-9 --option step_size=[]", "option step_size=(): "),
    ("bullseye-polytope digits-5-9 --option step_size=[1.5]", "option step_size=(1.5,): input should be less than or equal to 1"),
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
