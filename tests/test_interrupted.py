"""Ctrl-C at any moment: one line, status 130, nothing half-written, and the same command ends as if nothing had happened."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.streams import Key

GOES_ON = "interrupted; what is finished is kept, and the same command goes on from there"
ANEW = "interrupted; nothing is half-written, and the same command starts anew"
COMMON = ("--seed", "5", "--dtype", "float32", "--progress", "lines")


def command(verb: str, photos: Path, out: Path) -> list[str]:
    arguments = {
        "certify": (
            "certify", "digits", "--sigma", "0.5", "--models", "60", "--n0", "10", "--denoiser", "none", "--workers", "1",
            "--no-gallery",
        ),
        "sanitize": ("sanitize", str(photos), "--sigma", "0.3", "--denoiser", "digits-linear-mmse", "--no-gallery"),
        "denoiser": ("denoiser", "train", "digits:trusted", "--recipe", str(photos.parent / "tiny.toml")),
    }[verb]  # fmt: skip
    return [sys.executable, "-W", "ignore", "-m", "certidote.cli", *arguments, *COMMON, "--out", str(out)]


def results(verb: str, out: Path) -> dict[str, bytes]:
    """What must come out the same, however often the command was interrupted."""
    names = {"certify": ["images.csv"], "denoiser": ["model.safetensors"]}.get(verb)
    files = [out / name for name in names] if names else [*out.rglob("*.png"), out / "movement.csv"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in")
    write_folder(tiny(1_500, 2, (1, 8, 8), Key(2)), path / "photos")
    (path / "tiny.toml").write_text(
        "steps = 400\nbatch = 32\n[architecture]\nchannels = 1\npatch = 2\nwidths = [16]\nblocks = [1]\n"
    )
    return path / "photos"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["certify", "sanitize", "denoiser"])
def test_ctrl_c_at_any_moment(verb: str, photos: Path, tmp_path: Path) -> None:
    """Five interrupts spread over the time that an undisturbed run takes; each goes on with what the one before left."""
    begin = time.monotonic()
    subprocess.run(command(verb, photos, tmp_path / "whole"), capture_output=True, check=True)
    took = time.monotonic() - begin
    wanted, out = results(verb, tmp_path / "whole"), tmp_path / "out"
    interrupted = 0
    for share in (0.3, 0.45, 0.6, 0.75, 0.9):
        process = subprocess.Popen(command(verb, photos, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(share * took)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        if process.returncode == 0 or (process.returncode == -signal.SIGINT and out.exists() and verb != "certify"):
            break  # it had finished before, or was on its way out
        assert process.returncode == 130, said
        interrupted += 1
        assert said.splitlines()[-1] == (ANEW if verb == "denoiser" else GOES_ON)
        assert "Traceback" not in said
        if verb != "certify":
            assert not out.exists(), "it appears complete or not at all"
        for file in tmp_path.rglob("*.png"):
            Image.open(file).load()
    assert interrupted >= 2, "the moments missed the run"
    if not out.exists() or verb == "certify":
        subprocess.run(command(verb, photos, out), capture_output=True, check=True)
    assert results(verb, out) == wanted
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"whole", "out"}
