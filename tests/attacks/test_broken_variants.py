"""The list of broken variants keeps up with the code: what it would break is there, and so are the tests that must see it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
        assert source.count(broken.right) == 1, broken
        assert broken.right != broken.wrong
        ast.parse(source.replace(broken.right, broken.wrong))
        for test in broken.tests:
            file, name = test.split("::")
            assert name in functions(ROOT / file), broken


def test_a_variant_that_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    script = ROOT / "benchmarks/broken_variants.py"
    done = subprocess.run([sys.executable, script, "--only", "no such"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "no guard contains 'no such'; they are: rounding keeps the budget; " in done.stderr
