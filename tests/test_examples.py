"""Every script in docs/examples runs as it stands, in the order in which they need each other."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
EXPECTED = {
    "certify_digits.py": "of 400 test images carry a certificate",
    "predict_images.py": "had not seen the models",
    "export_vote.py": "25 models in",
    "report_again.py": "report.html",
    "train_model.py": "sanitized",
    "train_denoiser.py": "| sigma | network | linear-mmse | kernel |",
    "list_denoisers.py": "psnr",
    "sanitize_set.py": "moved by",
    "look_at_data.py": "train 500 images of shape [1, 8, 8] in 10 classes",
    "verify_run.py": "\nverified",
    "plan_run.py": "models",
    "share_run.py": "merged: 25 of 25 models have voted",
    "draw_threat_map.py": "threat_map.svg",
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples") / "run"


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "export_vote.py":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'certidote[onnx]'")
    monkeypatch.setattr("sys.argv", [name, str(folder)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert EXPECTED[name] in capsys.readouterr().out
