"""`data info`, and --size and --skip-corrupt through the commands that take DATA."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import certidote
from certidote import cli
from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.streams import Key


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["certidote", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve training and eight test images of 20x30 pixels, one training image of 40x30, one corrupt, some duplicates."""
    root = tmp_path / "photos"
    root.mkdir()
    write_folder(tiny(6, 2, (1, 20, 30), Key(1)), root / "train")
    write_folder(tiny(4, 2, (1, 20, 30), Key(2)), root / "test")
    first = sorted((root / "train" / "pattern-0").iterdir())[0]
    (root / "train" / "pattern-0" / "copy.png").write_bytes(first.read_bytes())
    (root / "train" / "pattern-1" / "wrong.png").write_bytes(first.read_bytes())
    (root / "test" / "pattern-0" / "leak.png").write_bytes(first.read_bytes())
    (root / "train" / "pattern-1" / "broken.png").write_bytes(b"junk")
    Image.fromarray(np.full((40, 30), 99, np.uint8)).save(root / "train" / "pattern-1" / "tall.png")
    return root


def test_info(photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "data", "info", str(photos)) == 2
    assert "broken.png' is not a readable" in capsys.readouterr().err
    assert run(monkeypatch, "data", "info", str(photos), "--skip-corrupt") == 2
    assert "tall.png' has 40x30 (height x width); all images need one size, give --size" in capsys.readouterr().err
    found = certidote.data_info(str(photos), size="16", skip_corrupt=True)
    train, test = found["splits"]
    assert (train["split"], train["images"], train["image_shape"]) == ("train", 15, [1, 16, 16])
    assert train["classes"] == {"pattern-0": 7, "pattern-1": 8}
    assert train["converted"] == {"resized": 15}
    assert [file["name"] for file in train["skipped"]] == ["train/pattern-1/broken.png"]
    assert {name: train["duplicates"][name] for name in ("groups", "extra", "across_classes")} == {
        "groups": 1, "extra": 2, "across_classes": 1,
    }  # fmt: skip
    assert train["duplicates"]["first"] == [["train/pattern-0/00.png", "train/pattern-0/copy.png", "train/pattern-1/wrong.png"]]
    assert test["duplicates"]["groups"] == 0
    assert found["shared"] == [{"of": "test", "in": "train", "images": 1, "first": ["test/pattern-0/leak.png"]}]
    assert train["digest"] == certidote.load(photos, size=16, skip_corrupt=True).digest()
    assert run(monkeypatch, "data", "info", str(photos), "--size", "16", "--skip-corrupt") == 0
    said = capsys.readouterr().out
    for part in ("train: 15 grey images of 16x16", "pattern-0 7, pattern-1 8", "2 images repeat another one exactly (1 groups, 1 of",
                 "left out: ", "1 images of test are also in train: test/pattern-0/leak.png", train["digest"]):  # fmt: skip
        assert part in said
    assert [part["split"] for part in certidote.data_info(str(photos), split="test")["splits"]] == ["test"]


def test_size_and_skipping_reach_every_command_and_record(photos: Path, tmp_path: Path) -> None:
    note = "15 images resized to 8x8 pixels"
    skipped = "1 corrupt file left out"
    common = {"size": "8", "skip_corrupt": True, "dtype": "float32", "seed": 1}
    certidote.train(str(photos), out=tmp_path / "model", recipe="mlp", **common)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["image_shape"] == [1, 8, 8]
    assert [each.startswith(start) for each, start in zip(config["data_notes"], (note, skipped), strict=True)] == [True, True]
    done = certidote.certify(
        str(photos),
        out=tmp_path / "run",
        models=10,
        n0=2,
        sigma=0.25,
        denoiser=f"linear-mmse:{photos}",
        recipe="mlp",
        workers=0,
        **common,
    )
    data, test = done.record["data"], done.record["test"]
    assert [each.startswith(start) for each, start in zip(data["notes"], (note, skipped), strict=True)] == [True, True]
    assert test["notes"][0].startswith("9 images resized to 8x8")
    assert "every budget and radius speaks of the resized pixels" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ValueError, match="size"):
        certidote.certify(str(photos), out=tmp_path / "run", models=10, n0=2, sigma=0.25, denoiser="none", recipe="mlp", workers=0,
                          **{**common, "size": "9"})  # fmt: skip
