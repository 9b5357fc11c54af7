"""The list of broken variants keeps up with the code: what it would break is there, and so are the tests that must see it."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from reference_frogs import frozen_loop

from certidote.attacks.crafting import Trials
from certidote.attacks.poison_frogs import collision_objective
from certidote.attacks.selection import choose_bases
from certidote.types import Knowledge
from fixtures_transfer import fixture_tasks, transfer_fixture, trial_keys
from scripts import ROOT, benchmark


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


GUARDED = {
    "rounding keeps the budget", "projection onto ball and box", "Poison Frogs: distance of features", "Poison Frogs: poisons keep moving",
    "Convex Polytope: coefficients are optimal", "Convex Polytope: the hull reaches the target", "Convex Polytope: the term at layers of maps",
    "Bullseye Polytope: the center reaches the target", "heads fall for the poisons", "Witches' Brew: the cosine rises",
    "Witches' Brew: victims", "Witches' Brew: margins of targets", "crafting leaves BatchNorm alone", "gradient matching: gradient of the objective", "shifts",
    "Sleeper Agent: victims obey the trigger", "Sleeper Agent: selection of bases", "Sleeper Agent: retraining",
    "label-consistent: images become hard", "label-consistent: victims learn the trigger",
    "hidden trigger: triggered images are taken for the class", "hidden trigger: pairing", "pickles", "the poisoned set",
    "the benchmark's sets",
}  # fmt: skip


def test_what_a_variant_breaks_is_there_once_and_its_tests_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = benchmark("broken_variants", monkeypatch).VARIANTS
    assert {broken.guard for broken in variants} == GUARDED
    for broken in variants:
        source = (ROOT / broken.file).read_text(encoding="utf-8")
        assert all(right != wrong for right, wrong in ((broken.right, broken.wrong), *broken.more))
        ast.parse(broken.broken(source))  # refuses what does not occur just once
        for test in broken.tests:
            file, name = test.split("::")
            assert name in functions(ROOT / file), broken


def test_frogs_that_stand_still_are_those_of_the_benchmark_s_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, start, refusals and sizes of steps, where every poison takes one step only (0.1) and where most take more (0.3)."""
    script = benchmark("broken_variants", monkeypatch)
    (broken, *others), frogs = [each for each in script.VARIANTS if each.variant == script.FROGS_LOOP], ModuleType("frogs")
    assert len(others) == 1
    exec(compile(broken.broken((ROOT / broken.file).read_text(encoding="utf-8")), broken.file, "exec"), frogs.__dict__)
    for epsilon in (0.1, 0.3):
        tasks, keys = fixture_tasks(8, epsilon)[:4], trial_keys()[:4]
        rows = [choose_bases(task, key / "bases") for task, key in zip(tasks, keys, strict=True)]
        trials = Trials(tasks, rows, keys, Knowledge((transfer_fixture().extractor,)))
        objective = collision_objective(trials.target_features())
        found = frogs.line_search(trials, objective, frogs.watermarked(trials, 0.3), steps=30, step_size=0.001)
        pixels, taken = frozen_loop(trials, 30, 0.001, 0.3)
        assert torch.equal(found.pixels, pixels)
        assert found.taken.tolist() == taken.tolist()
        assert (int(taken.max()) > 1) == (epsilon > 0.1)


def test_a_variant_that_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    script = ROOT / "benchmarks/broken_variants.py"
    done = subprocess.run([sys.executable, script, "--only", "no such"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "no guard contains 'no such'; they are: rounding keeps the budget; " in done.stderr
