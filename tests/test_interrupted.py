"""Ctrl-C at any moment: one line, status 130, nothing half-written, and the same command ends as if nothing had happened."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.entry import BEFORE
from certidote.streams import Key

GOES_ON = "interrupted; what is finished is kept, and the same command goes on from there"
ANEW = "interrupted; nothing is half-written, and the same command starts anew"
COMMON = ("--seed", "5", "--dtype", "float32", "--progress", "lines")


SCRIPT = """
import os, signal, sys
import torch, certidote.engine.local, certidote.training.pooled
from certidote.cli import main

at, count = int(sys.argv[1]), 0
sys.argv = ["certidote", *sys.argv[2:]]

def interrupting(frame, event, argument):
    global count
    count += event == "call"
    if count == at and event == "call":
        os.kill(os.getpid(), signal.SIGINT)

sys.setprofile(interrupting)
try:
    main()
finally:
    sys.setprofile(None)
    print("calls:", count)
"""
"""The command, with a real signal at its so many-th call of a Python function: a moment that no load of the machine can shift."""


def run(verb: str, photos: Path, out: Path, at: int = -1) -> subprocess.CompletedProcess[str]:
    arguments = {
        "certify": (
            "certify", "digits", "--sigma", "0.5", "--models", "60", "--n0", "10", "--denoiser", "none", "--workers", "1",
            "--no-gallery",
        ),
        "sanitize": ("sanitize", str(photos), "--sigma", "0.3", "--denoiser", "digits-linear-mmse", "--no-gallery"),
        "denoiser": ("denoiser", "train", "digits:trusted", "--recipe", str(photos.parent / "tiny.toml")),
    }[verb]  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(at), *arguments, *COMMON, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def results(verb: str, out: Path) -> dict[str, bytes]:
    """What must come out the same, however often the command was interrupted."""
    names = {"certify": ["images.csv"], "denoiser": ["model.safetensors"]}.get(verb)
    files = [out / name for name in names] if names else [*out.rglob("*.png"), out / "movement.csv"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in")
    write_folder(tiny(1_100, 2, (1, 8, 8), Key(2)), path / "photos")
    (path / "tiny.toml").write_text(
        "steps = 200\nbatch = 32\n[architecture]\nchannels = 1\npatch = 2\nwidths = [16]\nblocks = [1]\n"
    )
    return path / "photos"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("verb", ["certify", "sanitize", "denoiser"])
def test_ctrl_c_at_any_moment(verb: str, photos: Path, tmp_path: Path) -> None:
    """Interrupts spread over the run, each of which goes on with what the one before left."""
    undisturbed = run(verb, photos, tmp_path / "whole")
    assert undisturbed.returncode == 0, undisturbed.stderr
    calls = int(undisturbed.stdout.rsplit("calls:", 1)[1])
    wanted, out = results(verb, tmp_path / "whole"), tmp_path / "out"
    for share in (0.15, 0.5, 0.85):
        done = run(verb, photos, out, round(share * calls))
        if done.returncode == 0:
            break  # what was kept left less to do than that
        assert done.returncode == 130, done.stderr
        assert done.stderr.splitlines()[-1] == (ANEW if verb == "denoiser" else GOES_ON)
        assert "Traceback" not in done.stderr
        if verb != "certify":
            assert not out.exists(), "it appears complete or not at all"
        for file in tmp_path.rglob("*.png"):
            Image.open(file).load()
    else:
        assert run(verb, photos, out).returncode == 0
    assert share > 0.15, "the moments missed the run"
    assert results(verb, out) == wanted
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}


DURING_IMPORTS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests in the background has it ignored

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["certidote", *{arguments!r}]
from certidote.entry import main
main()
"""
"""The command, with a real signal at the moment a module is looked for."""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("certidote.cli", ["--help"]),
        ("difflib", ["--help"]),
        ("typer", ["--help"]),
        ("certidote.verbs.certification", ["--help"]),
        ("certidote.progress", ["certify", "digits", "--out", "nowhere/run"]),
    ],
)
def test_ctrl_c_while_modules_are_imported(module: str, arguments: list[str], tmp_path: Path) -> None:
    script = DURING_IMPORTS.format(module=module, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == (f"{BEFORE}\n" if arguments == ["--help"] else f"{GOES_ON}\n")
    assert list(tmp_path.iterdir()) == []


SWALLOWED = """
import signal, sys
import typer
from certidote import cli

def plan() -> None:
    try:
        signal.raise_signal(signal.SIGINT) if len(sys.argv) > 1 else None
    except KeyboardInterrupt:
        pass
    raise ValueError("invalid matrix")

app = typer.Typer()
cli._command(app, plan, print)
cli.groups = lambda: {"": lambda **options: app([], **options)}
cli.main()
"""
"""A verb that fails, after an interrupt that compiled code has turned into an error of its own if an argument is given."""


@pytest.mark.parametrize(
    ("arguments", "status", "told"), [((), 2, "error: invalid matrix"), (("interrupted",), 130, ANEW)], ids=["error", "Ctrl-C"]
)
def test_an_error_is_an_interrupt_only_if_there_was_one(arguments: tuple[str, ...], status: int, told: str) -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED, *arguments], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr.strip()) == (status, told)
