"""Every script in docs/examples runs as it stands, in the order in which they need each other."""

import runpy
from pathlib import Path
from unittest.mock import create_autospec, patch

import pytest

import certidote
from certidote.attacks import ATTACKS
from certidote.data.load import CATALOGUE
from certidote.story import Demo

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
EXPECTED = {
    "certify_digits.py": "of 400 test images carry a certificate",
    "predict_images.py": "had not seen the models",
    "export_vote.py": "25 models in",
    "report_again.py": "report.html",
    "train_model.py": "sanitized",
    "train_denoiser.py": "| sigma | network | linear-mmse | kernel |",
    "list_denoisers.py": "psnr",
    "certify_rival.py": "certified against 1 images altered in place",
    "list_defenses.py": "run-off-fa: training images altered in any way",
    "sanitize_set.py": "moved by",
    "look_at_data.py": "train 500 images of shape [1, 8, 8] in 10 classes",
    "verify_run.py": "\nverified",
    "plan_run.py": "models",
    "share_run.py": "merged: 25 of 25 models have voted",
    "draw_threat_map.py": "threat_map.svg",
    "poison_digits.py": "10 poisons: test image",
    "replay_pack.py": "4 trials reach their goal",
    "measure_cell.py": "5 cells of table4 have their records in",
    "exchange_poisons.py": "4 folders; the first one again: test image",
    "add_attack.py": "5 of 500 images altered, no label",
    "add_defense.py": "nobody has proved anything about random halves",
    "add_data_set.py": "accuracy on",
}
NOT_RUN = {"fetch_cifar10.py": "data_fetch", "run_demo.py": "demo"}
"""Scripts that download 170 MB or take minutes, and the function each calls: here only the call is checked."""


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED) | set(NOT_RUN)


def test_every_public_function_has_an_example() -> None:
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py"))
    assert [name for name in certidote.__all__ if f"certidote.{name}(" not in scripts] == []


@pytest.mark.parametrize("name", NOT_RUN)
def test_an_example_that_takes_too_long_calls_what_is_there(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = create_autospec(getattr(certidote, NOT_RUN[name]), return_value=Demo((), {}, ("done",), folder))
    monkeypatch.setattr(certidote, NOT_RUN[name], verb, raising=False)
    monkeypatch.setattr("sys.argv", [name, str(folder)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    verb.assert_called_once()
    assert "done" in capsys.readouterr().out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples") / "run"


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "export_vote.py":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'certidote[onnx]'")
    monkeypatch.setattr("sys.argv", [name, str(folder)])
    with patch.dict(ATTACKS), patch.dict(CATALOGUE):  # what an example adds ends with it
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert EXPECTED[name] in capsys.readouterr().out
