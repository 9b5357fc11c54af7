"""The tutorial's commands, read from its page, end to end on Tiny-ImageNet where that is at hand, with smaller numbers."""

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import certidote

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("CERTIDOTE_DATA", ROOT.parent / "shared" / "data"))
ARCHIVE = DATA / "tinyimagenet32-jpeg.tar.xz"

SMALLER = (
    ("--archive ARCHIVE --out photos", "--archive ARCHIVE --out photos --classes 3 --images 150 --trusted-classes 2"),
    ("--minutes 6 ", "--minutes 0.1 --recipe small.toml "),
    ("--models 200 --n0 20 ", "--models 12 --n0 2 "),
)
"""What the page says, and what is run in its place: less of the same."""

SMALL_NETWORK = "batch = 32\n[architecture]\nchannels = 3\npatch = 2\nwidths = [16, 32]\nblocks = [1, 1]\n"
"""In small.toml: at least 20 steps must fit into that time on a busy machine, too."""

VERBS = (
    "tutorial_data.py, data info, denoiser train, sanitize, certify --dry-run, certify, verify, predict, report, export"
).split(", ")


def page() -> str:
    """The tutorial with smaller numbers. A number that is no longer in it is a failure: the page would be run as it is, for hours."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for written, used in SMALLER:
        assert written in text
        text = text.replace(written, used)
    return text


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page(), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Every line of every shell block, as words."""
    return [words for block in blocks("sh") for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def verb(words: list[str]) -> str:
    """What a command is about: "data info", "certify --dry-run"."""
    if words[0] == "python":
        return Path(words[1]).name
    group = " ".join(words[1:3]) if words[1] in ("data", "denoiser") else words[1]
    return group + " --dry-run" * ("--dry-run" in words)


def test_every_command_of_the_tutorial_is_known_here() -> None:
    assert [verb(words) for words in commands()] == VERBS
    assert len(blocks("toml")) == 1


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"no image data: {ARCHIVE} is absent (CERTIDOTE_DATA names its folder)")
def test_the_tutorial_can_be_followed_to_its_end(tmp_path: Path) -> None:
    programs = {"python": [sys.executable], "certidote": [sys.executable, "-m", "certidote.cli"]}
    environment = {**os.environ, "PYTHONPATH": str(Path(certidote.__file__).parents[1])}
    said: dict[str, str] = {}
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    (tmp_path / "recipe.toml").write_text(blocks("toml")[0])
    (tmp_path / "small.toml").write_text(SMALL_NETWORK)
    for words in commands():
        name = verb(words)
        if name == "export" and importlib.util.find_spec("onnxscript") is None:
            continue  # an extra, as the page says
        if name == "predict":  # "new_images/ holds image files"
            shutil.copytree(min((tmp_path / "photos" / "untrusted" / "test").iterdir()), tmp_path / "new_images")
        arguments = [str(ARCHIVE) if word == "ARCHIVE" else word for word in words[1:]]
        done = subprocess.run(
            [*programs[words[0]], *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        said[name] = done.stdout
    photos = tmp_path / "photos"
    assert "train: 150 RGB images of 32x32 pixels, 3 classes" in said["data info"]
    assert "| sigma | network | linear-mmse | kernel |" in (photos / "denoiser" / "card.md").read_text()
    assert len(certidote.load(photos / "sanitized")) == 150
    assert "14 models (2 select, 12 are counted) on 150 images, 150 test images" in said["certify --dry-run"]
    record = json.loads((photos / "run" / "certificate.json").read_text())
    assert record["proved"]
    assert record["claim"] in said["certify"]
    assert "Verified: the certificate is what this run's votes prove." in said["verify"]
    answers, images = (list(csv.DictReader((photos / name).read_text().splitlines())) for name in ("answers.csv", "run/images.csv"))
    assert len(answers) == 50
    assert [float(row["radius"] or 0) for row in answers] == [float(row["radius"]) for row in images[:50]], "their own certificate"
    assert (photos / "run" / "report.html").stat().st_size > 50_000
