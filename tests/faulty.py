"""A trainer that is quick, deterministic and can be made to fail: for tests of the engine. Worker processes import it by name."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import torch
from torch import Tensor

from certidote.data.tiny import tiny
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.streams import Key
from certidote.types import Json, Start, View
from oracles import IdentityDenoiser

TRAIN = tiny(8, 3, (1, 8, 8), Key(1) / "train")
TEST = tiny(20, 3, (1, 8, 8), Key(1) / "test")
SCHEME = DenoisedSmoothing(IdentityDenoiser(), sigma=3.0, n0=3, n=27)


@dataclass
class NearestMeans:
    """Members that answer with the class whose mean image is nearest."""

    means: Tensor
    failed: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack([self.member(i)(images) for i in range(len(self.means))])

    def member(self, index: int) -> Callable[[Tensor], Tensor]:
        means = self.means[index]
        return lambda images: images.flatten(1) @ means.T - means.square().sum(1) / 2


@dataclass(frozen=True)
class Faulty:
    """Trains by class means. When the given member is trained, `fault` happens, the first `times` times.

    Attributes:
        folder: shared by all processes; one file is written for each time that the member was trained.
        fault: "" for none, "die" (kill -9), "hang", "raise" or "nan".
    """

    folder: Path
    fault: str = ""
    member: int = 9
    times: int = 1
    stack_size: int = 4
    start: Start = "fresh"

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> NearestMeans:
        stacked = []
        for view, key in zip(views, keys, strict=True):
            images = view.images.flatten(1)
            if key.path[-1] == self.member and self._happens():
                images = images + float("nan")
            stacked.append(torch.stack([images[view.labels == c].mean(0) for c in range(view.num_classes)]))
        return NearestMeans(torch.stack(stacked), torch.zeros(len(views), dtype=torch.bool))

    def trained(self) -> int:
        """How often the member was trained, in any process."""
        return len(list(self.folder.glob("trained-*")))

    def _happens(self) -> bool:
        count = self.trained()
        (self.folder / f"trained-{count}").touch()
        if count >= self.times:
            return False
        if self.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "hang":
            signal.pause()
        if self.fault == "raise":
            raise ValueError("made to fail")
        return self.fault == "nan"

    def describe(self) -> Json:
        return {"trainer": "class means"}


def visible_gpu(payload: None, job: int) -> str:
    """A job that tells which GPU its worker sees."""
    del payload, job
    return os.environ["CUDA_VISIBLE_DEVICES"]


def never_ends(payload: None, job: int) -> None:
    """A job that says which process does it, and goes on until somebody ends it."""
    print(os.getpid(), flush=True)
    Event().wait()
