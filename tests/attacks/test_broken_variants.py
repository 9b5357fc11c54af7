"""The list of broken variants keeps up with the code: what it would break is there, and so are the tests that must see it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import ROOT, benchmark


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_what_a_variant_breaks_is_there_once_and_its_tests_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in benchmark("broken_variants", monkeypatch).VARIANTS:
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
