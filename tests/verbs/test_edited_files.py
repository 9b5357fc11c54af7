"""Run files that somebody edited or damaged: one line that names the file, or a report without the pictures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from certidote import cli, verbs
from certidote.engine.ledger import Ledger

BARE = {"format": "certidote certificate", "version": 1}
GOOD = {"test_image": 0, "kind": "wrong", "true": "1", "label": None, "radius": None, "top": [["1", 3]], "png": ""}
NO_PNG = "bm8gcGljdHVyZQ=="


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edited") / "run"
    verbs.certify(
        "digits", out=out, sigma=0.5, models=20, n0=5, denoiser="none", seed=3, workers=0, dtype="float32", keep_weights=True
    )
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit status, standard output and standard error of a command."""

    def called(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["certidote", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return called


@pytest.mark.parametrize("text", [json.dumps(BARE), "[]", "{", '{"format": 1}'], ids=["bare", "list", "broken", "other"])
@pytest.mark.parametrize("verb", ["predict", "export", "report"])
def test_a_certificate_that_lacks_fields_is_one_line(
    verb: str, text: str, run: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    (run / "certificate.json").write_text(text)
    arguments = {"predict": ("digits:test",), "export": ("--member", 0, "--out", tmp_path / "model.onnx"), "report": ()}[verb]
    if verb == "export":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'certidote[onnx]'")
    code, _, error = command(verb, run, *arguments)
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert str(run / "certificate.json") in error


def test_a_certificate_of_another_run_is_not_exported(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'certidote[onnx]'")
    record = json.loads((run / "certificate.json").read_text())
    (run / "certificate.json").write_text(json.dumps(record | {"config_digest": "0" * 64}))
    with pytest.raises(ValueError, match=r"certificate\.json is not of the run in ledger\.sqlite"):
        verbs.export(run, member=0, out=tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "pictures",
    [
        {"examples": [{}], "gallery": [{}]},
        {"examples": [], "gallery": [{"title": "t", "rows": [{"label": "l", "pngs": [NO_PNG]}]}]},
        {"examples": [GOOD | {"png": NO_PNG}], "gallery": []},
        {"examples": [GOOD | {"top": [["1"]]}], "gallery": []},
        {"examples": [GOOD | {"test_image": None}], "gallery": []},
        [],
    ],
)
def test_a_report_does_without_damaged_pictures_and_says_so(
    pictures: object, run: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    (run / "pictures.json").write_text(json.dumps(pictures))
    code, said, _ = command("report", run)
    assert code == 0
    assert f"{run / 'pictures.json'} is damaged, so the report shows no pictures of this run\n" in said
    assert "data:image" not in (run / "report.html").read_text()


def test_a_report_of_whole_pictures_shows_them(run: Path) -> None:
    (run / "pictures.json").write_text(json.dumps({"examples": [GOOD], "gallery": []}))
    assert verbs.report(run).notes == ()
    assert "Test image 0" in (run / "report.html").read_text()


def test_images_left_beside_a_report_without_pictures_are_mentioned(
    run: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    line = f"pictures.json still holds images or their names; remove it before handing on {run}\n"
    assert line in command("report", run, "--no-gallery")[1]
    assert line not in command("report", run)[1]
    (run / "pictures.json").unlink()
    assert line not in command("report", run, "--no-gallery")[1]


@pytest.mark.parametrize("verb", ["predict", "export"])
def test_who_only_asks_opens_nothing_for_writing(verb: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command may be at work on the run, and its disk may be one that can only be read."""

    def refused(_: Ledger) -> None:
        raise AssertionError("opened for writing")

    monkeypatch.setattr(Ledger, "_open_to_write", refused)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    if verb == "predict":
        assert len(verbs.predict(run, "digits:test").rows) == 400
    else:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'certidote[onnx]'")
        verbs.export(run, member=0, out=tmp_path / "model.onnx")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
