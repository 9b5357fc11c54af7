"""Trainings of denoisers that were interrupted."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from certidote import cli, denoiser_train
from certidote.data.tiny import tiny
from certidote.diffusion import fit
from certidote.diffusion.fit import DenoiserRecipe, train_network
from certidote.diffusion.network import Architecture
from certidote.diffusion.unfinished import Unfinished, kept_training
from certidote.engine.lock import alone
from certidote.streams import Key
from certidote.types import Silent

RECIPE = DenoiserRecipe(steps=40, batch=16, muon=0.02, architecture=Architecture(1, 2, (16, 16), (1, 1)))


class Interrupt(Exception):
    pass


class Impatient(Silent):
    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, by: int = 1, note: str = "") -> None:
        if self.left == 0:
            raise Interrupt
        self.left -= 1


@pytest.fixture
def always_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SECONDS_BETWEEN", -1)


@pytest.mark.usefixtures("always_kept")
def test_what_goes_on_ends_as_what_was_not_interrupted(tmp_path: Path) -> None:
    trusted, file = tiny(20, 3, (1, 8, 8), Key(0)), tmp_path / "state"
    whole = train_network(trusted, None, RECIPE, Key(1))
    with pytest.raises(Interrupt):
        train_network(trusted, None, RECIPE, Key(1), Impatient(2), unfinished=file)
    step, tensors = Unfinished(file, fit.training_of(trusted, RECIPE, Key(1), "float32")).read() or (0, {})
    assert step == 20
    assert any(bool(tensor.abs().max() > 0) for name, tensor in tensors.items() if name.startswith("velocity"))
    again = train_network(trusted, None, RECIPE, Key(1), unfinished=file)
    assert again.card.digest == whole.card.digest
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


@pytest.mark.usefixtures("always_kept")
def test_another_training_and_damage_are_refused(tmp_path: Path) -> None:
    trusted, file = tiny(20, 3, (1, 8, 8), Key(0)), tmp_path / "state"
    with pytest.raises(Interrupt):
        train_network(trusted, None, RECIPE, Key(1), Impatient(1), unfinished=file)
    for other in (dataclasses.replace(RECIPE, muon=0.01), dataclasses.replace(RECIPE, steps=41)):
        with pytest.raises(ValueError, match=r"is of another training \(other images, recipe or key\); delete it, or repeat"):
            train_network(trusted, None, other, Key(1), unfinished=file)
    with pytest.raises(ValueError, match="is of another training"):
        train_network(tiny(20, 3, (1, 8, 8), Key(9)), None, RECIPE, Key(1), unfinished=file)
    file.write_bytes(file.read_bytes()[:-5])
    assert kept_training(file) is None
    with pytest.raises(ValueError, match=r"is damaged \(SafetensorError\); delete it to train from the start"):
        train_network(trusted, None, RECIPE, Key(1), unfinished=file)


def write_recipe(path: Path) -> str:
    path.write_text("batch = 32\nsteps = 40\n[architecture]\nchannels = 1\npatch = 2\nwidths = [16]\nblocks = [1]\n")
    return str(path)


@pytest.mark.usefixtures("always_kept")
def test_ctrl_c_says_what_the_same_command_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = write_recipe(tmp_path / "recipe.toml"), tmp_path / "denoiser"
    arguments = ["denoiser", "train", "digits:trusted", "--recipe", recipe, "--dtype", "float32", "--progress", "quiet"]
    for writings, said in ((0, "nothing is half-written, and the same command starts anew"), (1, "the same command goes on")):

        def interrupt(self, step, tensors, writings=writings, write=Unfinished.write):
            if step > 20 * writings:
                raise KeyboardInterrupt
            write(self, step, tensors)

        with monkeypatch.context() as patch:
            patch.setattr(Unfinished, "write", interrupt)
            patch.setattr(sys, "argv", ["certidote", *arguments, "--out", str(out)])
            with pytest.raises(SystemExit) as stop:
                cli.main()
        assert stop.value.code == 130
        assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.usefixtures("always_kept")
def test_a_disk_that_fails_leaves_the_state_of_before_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state"
    Unfinished(file, {}).write(1, {"weights.0": torch.zeros(3)})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("certidote.diffusion.unfinished.os.fsync", full)
    with pytest.raises(OSError, match="No space left on device; the training's state was not written") as caught:
        Unfinished(file, {}).write(2, {"weights.0": torch.zeros(3)})
    assert caught.value.filename == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert (Unfinished(file, {}).read() or (0, {}))[0] == 1


@pytest.mark.usefixtures("always_kept")
def test_the_number_format_of_an_unfinished_training_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is faster may be another one on the day after."""
    recipe, out = write_recipe(tmp_path / "recipe.toml"), tmp_path / "denoiser"
    monkeypatch.setattr("certidote.numerics.resolve_dtype", lambda dtype, device: "bfloat16")
    with pytest.raises(Interrupt):
        denoiser_train("digits:trusted", out=out, recipe=recipe, progress=Impatient(1))
    monkeypatch.setattr("certidote.numerics.resolve_dtype", lambda dtype, device: "float32")
    left_by_a_kill = tmp_path / "denoiser.unfinished.part"
    left_by_a_kill.touch()
    assert denoiser_train("digits:trusted", out=out, recipe=recipe).card.details["trained_in"] == "bfloat16"
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.toml", "denoiser"}


def test_a_folder_where_the_state_would_be_is_refused_and_the_folder_here_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos.unfinished").mkdir()
    with pytest.raises(ValueError, match=r"photos.unfinished is there, .* and is no file; give another --out"):
        denoiser_train("digits:trusted", out=tmp_path / "photos")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    denoiser_train("digits:trusted", out=Path("."), recipe=write_recipe(tmp_path / "recipe.toml"))
    assert (tmp_path / "here" / "config.json").exists()


KILLED_AFTER_WRITING = """
import os, signal
from certidote.diffusion import fit
from certidote.diffusion.unfinished import Unfinished

def write_and_die(self, step, tensors, write=Unfinished.write):
    write(self, step, tensors)
    os.kill(os.getpid(), signal.SIGKILL)

fit.SECONDS_BETWEEN, Unfinished.write = -1, write_and_die
from certidote.cli import main
main()
"""


def test_a_killed_command_goes_on_with_its_own_root_and_number_of_steps(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("batch = 32\nsteps = 100000\n[architecture]\nchannels = 1\npatch = 2\nwidths = [16]\nblocks = [1]\n")
    out, state = tmp_path / "denoiser", tmp_path / "denoiser.unfinished"
    arguments = ["denoiser", "train", "digits:trusted", "--recipe", str(recipe), "--minutes", "0.05", "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_WRITING, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    kept = kept_training(state)
    assert kept is not None
    assert not out.exists()
    finished = denoiser_train("digits:trusted", out=out, recipe=str(recipe), minutes=0.05)
    assert finished.card.details["recipe"]["steps"] == kept["recipe"]["steps"]
    assert finished.card.details["key"] == kept["key"]
    assert not state.exists()
    assert (out / "config.json").exists()


def test_two_trainings_do_not_share_a_place(tmp_path: Path) -> None:
    """The second is refused while the first is at work, in one line; nothing of the first is touched."""
    out, state = tmp_path / "denoiser", tmp_path / "denoiser.unfinished"
    with alone(state, "training a denoiser"):
        command = [sys.executable, "-W", "ignore", "-m", "certidote.cli", "denoiser", "train", "digits:trusted", "--out", str(out)]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert [path.name for path in tmp_path.iterdir()] == ["denoiser.unfinished.lock"]
    assert refused.returncode == 2
    assert (
        refused.stderr == f"error: another process is training a denoiser in {str(state)!r}; wait for it, or choose another --out\n"
    )
    assert not list(tmp_path.iterdir())
    with alone(state, "training a denoiser"):
        pass
