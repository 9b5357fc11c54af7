"""The path of a GPU as far as a machine without one can tell.

Tensors on torch's "meta" device have shapes and a device but no values: an operation that mixes them with tensors on the CPU raises, and
so does one that needs a value on the host. Copies from the CPU, for which a host would wait too, are watched one by one.
"""

import copy
import pickle
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from certidote import streams
from certidote.data.digits import load_digits
from certidote.defenses.inputs import prepared
from certidote.defenses.partition import PartitionedSmoothing
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.diffusion.denoiser import load
from certidote.engine import configuration, run
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.engine.views import Viewing
from certidote.streams import Key
from certidote.training import pooled, stacked
from certidote.training.models import ModelStack
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import RECIPES
from certidote.training.stacked import StackedTrainer
from certidote.types import Denoiser, InputReads, SealedInputs, Untrusted, View

TRAIN = load_digits("train")
DENOISERS = {
    "network": load("digits"),
    "bfloat16": load("digits", "bfloat16"),
    "linear": load("digits-linear-mmse"),
    "none": load("none"),
}
DENOISERS["kernel"] = load("digits-kernel")


@pytest.fixture(autouse=True)
def _noise_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_device_normal", lambda key, shape, device: torch.empty(shape, device=device))


class Unread(ModelStack):
    """A stack that does not ask which members failed, which waits for the device: that is after the training."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._models = list(models)
        self.failed = torch.zeros(len(models), dtype=torch.bool)


def on_meta(name: str) -> Denoiser:
    """A denoiser to be moved there: its weights are lost on the way."""
    return copy.deepcopy(DENOISERS[name])


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("trusted", [(), (3, 40)])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_member_is_viewed_where_it_trains(name: str, trusted: tuple[int, ...], parts: int) -> None:
    smoothing = DenoisedSmoothing(on_meta(name), 0.5, n0=5, n=20, device="meta")
    scheme = smoothing if parts == 1 else PartitionedSmoothing(smoothing, parts)
    view = scheme.view(Untrusted(TRAIN, trusted), 0, Key(1))
    assert view.images.device.type == view.labels.device.type == "meta"
    assert view.images.dtype == torch.float32
    assert len(view.images) == len(view.labels) >= len(TRAIN) // parts


@pytest.mark.parametrize(
    "trainer",
    [
        PooledTrainer(RECIPES["cnn"]),  # in float32: autocast knows no meta device
        PooledTrainer(RECIPES["mlp"]),
        StackedTrainer(RECIPES["mlp"]),
        StackedTrainer(RECIPES["mlp"], "bfloat16"),
    ],
)
def test_an_epoch_never_waits_for_the_device(trainer: PooledTrainer | StackedTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pooled, stacked):
        monkeypatch.setattr(module, "ModelStack", Unread)
    made = DenoisedSmoothing(on_meta("network"), 0.5, n0=5, n=20, device="meta").view(Untrusted(TRAIN), 0, Key(1))
    short = trainer.recipe.model_copy(update={"epochs": 1})
    taught = type(trainer)(short, trainer.dtype).fit([made, made], [Key(1), Key(2)], Key(3))
    weights = [weight for i in range(2) for weight in taught.member(i).parameters()]
    assert {weight.device.type for weight in weights} == {"meta"}


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to the device other than by `numerics.sent`, for which nobody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if func is torch.ops.aten._to_copy.default else args[1]
            frame, callers = sys._getframe(1), set()
            while frame is not None:
                callers.add(frame.f_code.co_name)
                frame = frame.f_back
            self.waited += source.device.type == "cpu" and made.device.type == "meta" and "sent" not in callers
        return made


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("trusted", [(), (3, 40)])
def test_nobody_waits_while_the_next_member_is_viewed(name: str, trusted: tuple[int, ...]) -> None:
    scheme, data = DenoisedSmoothing(on_meta(name), 0.5, n0=5, n=20, device="meta"), Untrusted(TRAIN, trusted)
    with Copies() as copies:
        scheme.view(data.watched(Key(1)), 0, Key(1))
    assert copies.waited > 0, "the first member brings images and weights along"
    with Copies() as copies:
        scheme.view(data.watched(Key(2)), 1, Key(2))
    assert not copies.waited


@pytest.mark.parametrize("trainer", [PooledTrainer, StackedTrainer])
def test_longer_trainings_copy_no_more(trainer: type[PooledTrainer | StackedTrainer], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pooled, stacked):
        monkeypatch.setattr(module, "ModelStack", Unread)
    made = DenoisedSmoothing(on_meta("none"), 0.5, n0=5, n=10, device="meta").view(Untrusted(TRAIN), 0, Key(1))
    counts = []
    for epochs in (1, 3):
        augmenting = {"crop": 1, "flip": True} if trainer is PooledTrainer else {}
        with Copies() as copies:
            trainer(RECIPES["mlp"].model_copy(update={"epochs": epochs, **augmenting})).fit([made], [Key(1)], Key(3))
        counts.append(copies.waited)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("kind", ["clean", "denoised", "noised-denoised"])
def test_test_images_are_prepared_where_they_are_asked_about(kind: str) -> None:
    images = TRAIN.pixels()[:100].to("meta")
    shown = SealedInputs(images, range(100), Key(1), InputReads()) if kind == "noised-denoised" else images
    made = prepared(shown, range(100), on_meta("network"), kind, 0.5, 0.5, Key(1), "meta")
    assert made.device.type == "meta"
    assert made.shape == images.shape


def test_the_images_go_to_a_device_once() -> None:
    data, key = Untrusted(TRAIN), Key(1)
    twins = [data.watched(key / member) for member in range(3)]
    assert len({id(twin.labels_on("meta")) for twin in twins}) == 1
    assert data.labels_on("cpu") is data.labels
    assert len(pickle.dumps(data)) < 2 * len(pickle.dumps(Untrusted(TRAIN))), "and stay there"
    part = data.restricted([5, 3])
    assert part.labels_on("meta").shape == (2,), "a part has a copy of its own"


# --------------------------------------------------------------------------------------------------------- groups of members


@dataclass(frozen=True)
class Watched(DenoisedSmoothing):
    """A scheme that writes down when it is asked for a view."""

    log: list[str] = field(default_factory=list)

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        self.log.append(f"view {member}")
        return super().view(data, member, key)


def test_on_a_cpu_a_group_is_viewed_when_it_is_its_turn() -> None:
    scheme = Watched(DENOISERS["none"], 0.5, n0=5, n=10)
    log, viewing = scheme.log, Viewing(scheme, Untrusted(TRAIN), Key(1) / "members", range(4, 9), together=2)
    for viewed in viewing:
        log.append(f"train {len(viewed.views)}")
        for key, read in zip(viewed.keys, viewed.reads, strict=True):
            assert read.noise_ids == [(key / "noise").identity()]
    assert log == ["view 4", "view 5", "train 2", "view 6", "view 7", "train 2", "view 8", "train 1"]
    assert viewing.seconds() > 0


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return votes_in_groups(1, tmp_path_factory.mktemp("alone"))


def votes_in_groups(together: int, folder: Path) -> np.ndarray:
    trainer = PooledTrainer(RECIPES["cnn"].model_copy(update={"epochs": 4}), stack_size=4)
    trainer.together = together
    few, test = TRAIN.subset(range(0, 500, 8)), load_digits("test").subset(range(0, 400, 8))
    scheme, data = DenoisedSmoothing(DENOISERS["network"], 0.5, n0=1, n=10), Untrusted(few)
    with Ledger(folder / "l") as ledger, Pool(0) as pool:
        config = configuration(scheme, trainer, data, test, {})
        return run(scheme, trainer, data, test, ledger=ledger, pool=pool, config=config, seed=1).votes


@pytest.mark.parametrize("together", [2, 3, 4])
def test_votes_do_not_depend_on_how_many_train_together(together: int, votes: np.ndarray, tmp_path: Path) -> None:
    assert np.array_equal(votes_in_groups(together, tmp_path), votes)
    assert len(np.unique(votes, axis=0)) > 5, "members must disagree, or the comparison shows nothing"


# ------------------------------------------------------------------------------------------------------------- on a real GPU


@pytest.mark.gpu
def test_a_gpu_draws_normal_noise_from_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    first, again, other = (streams.normal_block(key, range(1_024), (3, 32, 32), "cuda") for key in (Key(1), Key(1), Key(2)))
    assert torch.equal(first, again)
    assert abs(float((first * other).mean())) < 5 / first.numel() ** 0.5
    assert abs(float(first.mean())) < 5 / first.numel() ** 0.5
    assert abs(float(first.square().mean()) - 1) < 5 * (2 / first.numel()) ** 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_replayed_denoiser_computes_what_it_computes_launched(dtype: str) -> None:
    """More than one chunk, a short last one, other images each time, and two streams that take turns."""
    denoiser, sigma = load("digits", dtype), torch.full((2_500,), 0.5)
    images = [TRAIN.pixels()[shuffled].to("cuda") for shuffled in torch.randint(len(TRAIN), (6, 2_500))]
    streams_used = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    replayed = []
    for turn, noisy in enumerate(images):
        with torch.cuda.stream(streams_used[turn % 2]):
            replayed.append(denoiser(noisy, sigma))
    torch.cuda.synchronize()
    for noisy, found in zip(images, replayed, strict=True):
        launched = denoiser(noisy.clone().requires_grad_(), sigma.to("cuda")).detach()  # which may be there already
        torch.testing.assert_close(found, launched, rtol=0, atol=1e-6 if dtype == "float32" else 1e-2)
    assert not torch.allclose(replayed[0], replayed[1], atol=0.05)


@pytest.mark.gpu
def test_neither_a_view_nor_an_epoch_waits_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    scheme, data = DenoisedSmoothing(load("digits"), 0.5, n0=5, n=10, device="cuda"), Untrusted(TRAIN, (3, 40))
    scheme.view(data, 0, Key(1))
    try:
        with warnings.catch_warnings(action="ignore"):  # torch calls it a prototype
            torch.cuda.set_sync_debug_mode("error")
        scheme.view(data, 1, Key(2))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("together", [1, 3])
def test_members_viewed_ahead_vote_as_members_viewed_in_turn(
    together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    recipe, test = RECIPES["cnn"].model_copy(update={"epochs": 4}), load_digits("test")
    scheme, data = DenoisedSmoothing(load("digits"), 0.5, n0=2, n=10, device="cuda"), Untrusted(TRAIN)
    found = []
    for name, size in (("ahead", together), ("in turn", 12)):
        trainer = PooledTrainer(recipe, stack_size=12)
        trainer.together = size
        with Ledger(tmp_path / name) as ledger, Pool(0) as pool:
            config = configuration(scheme, trainer, data, test, {})
            found.append(run(scheme, trainer, data, test, ledger=ledger, pool=pool, config=config, seed=1, device="cuda").votes)
    assert (found[0] != found[1]).mean() < 0.01, "cuDNN may sum in another order; a race would change most votes"
    assert len(np.unique(found[0], axis=0)) == 12, "no two members may have seen the same images"
    assert (found[0] == test.labels.numpy()).mean() > 0.5
