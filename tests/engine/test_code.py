"""The code digest: it covers what can decide a vote, and follows the content of the files."""

from pathlib import Path

import pytest

import certidote
from certidote.engine import code
from certidote.engine.code import DECIDING, code_identity, package_digest
from oracles import InnerProductTrainer
from test_layers import LAYERS


def test_everything_a_run_can_import_is_covered_except_attacks_and_the_entry() -> None:
    decides_nothing = {"attacks", "entry"}
    assert set(DECIDING) == set(LAYERS[: LAYERS.index("engine") + 1]) - decides_nothing


def test_the_digest_changes_with_any_deciding_file_and_with_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "certidote"
    for name in ("__init__.py", "types.py", "engine/jobs.py", "reporting/html.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(f"# {name}\n")
    monkeypatch.setattr(certidote, "__file__", str(package / "__init__.py"))
    measure = package_digest.__wrapped__
    before = measure()
    (package / "reporting/html.py").write_text("# shows otherwise\n")
    assert measure() == before
    (package / "types.py").write_bytes(b"# types.py\r\n")
    assert measure() == before, "a checkout may write other ends of lines"
    (package / "engine/jobs.py").write_text("# engine/jobs.py!\n")
    changed = measure()
    assert changed != before
    (package / "engine/jobs.py").rename(package / "engine/work.py")
    assert measure() not in (before, changed)


def test_parts_from_outside_the_package_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy
    import torch

    identity = code_identity(InnerProductTrainer(), 3)
    assert set(identity) == {"certidote", "torch", "numpy", "oracles.InnerProductTrainer", "builtins.int"}
    assert (identity["torch"], identity["numpy"]) == (str(torch.__version__).partition("+")[0], numpy.__version__)
    assert identity["builtins.int"] == "no source file"
    copy = tmp_path / "oracles.py"
    copy.write_text("other")
    monkeypatch.setattr(code.inspect, "getsourcefile", lambda kind: str(copy))
    assert code_identity(InnerProductTrainer())["oracles.InnerProductTrainer"] != identity["oracles.InnerProductTrainer"]
