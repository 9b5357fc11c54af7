"""Whole runs: scheduling cannot change a vote, a killed run goes on, and nothing leaks past the noise."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote import streams
from certidote.data.digits import load_digits
from certidote.data.tiny import tiny
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.engine.jobs import Job, Payload, work
from certidote.engine.ledger import Ledger
from certidote.streams import Key
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import ImageDataset, Provenance, Trainer, Untrusted
from certidote.types import untrusted as untrusted_module
from oracles import IdentityDenoiser
from running import ballots_of

MLP = Recipe(architecture="mlp-128", epochs=2, learning_rate=0.3)
CNN = Recipe(architecture="cnn-32-64", epochs=1, learning_rate=0.1)
TRAIN = tiny(8, 3, (1, 8, 8), Key(1) / "train")
TEST = tiny(20, 3, (1, 8, 8), Key(1) / "test")


def scheme(n: int = 17, sigma: float = 1.0) -> DenoisedSmoothing:
    return DenoisedSmoothing(IdentityDenoiser(), sigma=sigma, n0=3, n=n)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_votes_do_not_depend_on_stack_size_or_worker_count(dtype: str, tmp_path: Path) -> None:
    reference = ballots_of(scheme(), StackedTrainer(MLP, dtype, stack_size=1), TRAIN, TEST, tmp_path / "1")
    assert len(np.unique(reference.votes[:, 0])) > 1, "at this noise members disagree, or the comparison shows nothing"
    for stack_size, workers in ((7, 0), (4, 2)):
        trainer = StackedTrainer(MLP, dtype, stack_size=stack_size)
        other = ballots_of(scheme(), trainer, TRAIN, TEST, tmp_path / f"{stack_size}", workers=workers)
        assert np.array_equal(reference.votes, other.votes)
        assert np.array_equal(reference.noise_ids, other.noise_ids)


def test_one_process_per_cnn_gives_the_votes_of_one_after_the_other(tmp_path: Path) -> None:
    trainer = PooledTrainer(CNN, stack_size=2)
    here = ballots_of(scheme(11), trainer, TRAIN, TEST, tmp_path / "a")
    there = ballots_of(scheme(11), trainer, TRAIN, TEST, tmp_path / "b", workers=2)
    assert np.array_equal(here.votes, there.votes)


def test_a_longer_run_begins_with_the_members_of_a_shorter_one(tmp_path: Path) -> None:
    short = ballots_of(scheme(10), StackedTrainer(MLP), TRAIN, TEST, tmp_path / "a")
    long = ballots_of(scheme(25), StackedTrainer(MLP), TRAIN, TEST, tmp_path / "b")
    assert np.array_equal(short.votes, long.votes[: len(short)])


# ------------------------------------------------------------------------------------------------------------------ leak


def black_and_white(seed: int) -> ImageDataset:
    """Pixels 0 and 1 only: exact in floating point, so that noise can make up a difference bit for bit."""
    generator = (Key(seed) / "black and white").numpy()
    images = generator.integers(0, 2, size=(24, 1, 8, 8)).astype(np.uint8) * 255
    return ImageDataset(torch.from_numpy(images), torch.arange(24) % 3, ("a", "b", "c"))


@pytest.mark.parametrize(
    "trainer", [StackedTrainer(MLP, stack_size=4), PooledTrainer(CNN, stack_size=2)], ids=["stacked", "pooled"]
)
def test_equal_noised_sets_give_bit_identical_models_and_votes(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = black_and_white(1), black_and_white(2)
    assert not torch.equal(first.images, second.images)
    sigma, members = 0.25, Job(0, 4)
    honest = streams.normal_block

    def dyadic(key: Key, rows: range, shape: tuple[int, ...], device: str = "cpu") -> torch.Tensor:
        return (honest(key, rows, shape) * 1024).round() / 1024  # multiples of 2^-10; times sigma, of 2^-12

    def shifted(key: Key, rows: range, shape: tuple[int, ...], device: str = "cpu") -> torch.Tensor:
        return dyadic(key, rows, shape) + (first.pixels() - second.pixels())[rows.start : rows.stop] / sigma

    def trained(data: ImageDataset) -> tuple[list[torch.Tensor], np.ndarray, torch.Tensor]:
        payload = Payload(scheme(10, sigma), trainer, Untrusted(data), TEST.images, Key(3))
        keys = [Key(3) / "members" / member for member in range(4)]
        views = [payload.scheme.view(payload.data, member, key) for member, key in enumerate(keys)]
        stack = trainer.fit(views, keys, Key(3) / "common")
        weights = [p.detach() for i in range(4) for p in stack.member(i).parameters()]  # type: ignore[attr-defined]
        return weights, work(payload, members).votes, views[0].images

    monkeypatch.setattr(untrusted_module, "normal_block", dyadic)
    weights, votes, seen = trained(first)
    unshifted, other_votes, other_seen = trained(second)
    assert not torch.equal(seen, other_seen)
    assert not all(torch.equal(a, b) for a, b in zip(weights, unshifted, strict=True)), "without the shift, models must differ"
    monkeypatch.setattr(untrusted_module, "normal_block", shifted)
    shifted_weights, shifted_votes, shifted_seen = trained(second)
    assert torch.equal(seen, shifted_seen)
    assert all(torch.equal(a, b) for a, b in zip(weights, shifted_weights, strict=True))
    assert np.array_equal(votes, shifted_votes)


def test_a_member_that_diverges_is_counted_and_leaves_the_others_alone(tmp_path: Path) -> None:
    class Poisoned(StackedTrainer):
        def fit(self, views, keys, common):  # type: ignore[no-untyped-def]
            views = list(views)
            views[1].images.fill_(float("nan"))
            return super().fit(views, keys, common)

    job = Job(0, 4)
    data = Untrusted(TRAIN)
    broken = work(Payload(scheme(), Poisoned(MLP), data, TEST.images, Key(0)), job)
    whole = work(Payload(scheme(), StackedTrainer(MLP), data, TEST.images, Key(0)), job)
    assert broken.failed.tolist() == [False, True, False, False]
    assert not whole.failed.any()
    keep = [0, 2, 3]
    assert np.array_equal(broken.votes[keep], whole.votes[keep])


# ------------------------------------------------------------------------------------------------------------------ kill

COMMAND = [sys.executable, "-m", "certidote.cli", "certify", "digits", "--denoiser", "none", "--sigma", "0.5", "--models", "600"]


@pytest.mark.slow
@pytest.mark.alone
def test_a_killed_run_ends_with_the_votes_of_an_undisturbed_one(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    ballots = {}
    for name in ("undisturbed", "killed"):
        command = [*COMMAND, "--seed", "11", "--dtype", "float32", "--out", str(tmp_path / name)]
        if name == "killed":
            victim = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
            journal = tmp_path / name / "ledger.sqlite"
            while victim.poll() is None and (not journal.exists() or journal.stat().st_size < 200_000):
                os.sched_yield()
            assert victim.poll() is None, "the run must still be going when it is killed"
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait()
            with Ledger(journal) as ledger:
                committed = len(ledger.jobs())
            assert 0 < committed < 22, "some members were committed, some were not"
        subprocess.run(command, env=environment, check=True, capture_output=True)
        with Ledger(tmp_path / name / "ledger.sqlite") as ledger:
            ballots[name] = ledger.ballots(400, 10, Provenance(load_digits("train").digest(), "given", 0))
    assert len(ballots["killed"]) == 700
    assert np.array_equal(ballots["killed"].votes, ballots["undisturbed"].votes)
    certificates = [(tmp_path / name / "images.csv").read_text() for name in ballots]
    assert certificates[0] == certificates[1]
