"""`certidote pack export` and `import` as a user meets them: poisons that come back are what they were, and as successful."""

import json
from pathlib import Path

import pytest
import torch

import certidote
from certidote.attacks.pack_files import read_pack
from certidote.results.replay import replay_lines
from commands import run


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
