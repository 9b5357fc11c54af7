"""What of a pack is made already, kept beside it until all is: crafting goes on after a kill with the same command.

The weights of the attacker's models, each once it is trained, and the trials.
"""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from certidote.data.atomic import replacing
from certidote.data.npz import read_exactly
from certidote.engine.lock import alone
from certidote.numerics import DType
from certidote.scenarios.shelf import State
from certidote.streams import fresh_root
from certidote.types import Budget, Goal, ImageDataset, Json, Poison, digest_of

CONFIG = "config.json"
TRIAL, MODEL = "trial-", "model-"
"""What names of files begin with; a model's holds the SHA-256 of the rest, 64 hex digits, and then a safetensors archive."""


def format_begun(folder: Path) -> DType | None:
    """The number format of unfinished work in a folder: the faster one may be another when the same command goes on. None if nothing says so."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / CONFIG).read_bytes())
        return found["dtype"] if isinstance(found, dict) and found.get("dtype") in get_args(DType) else None
    return None


class Unfinished:
    """A folder with the root of the random streams and one file for each trained model and each finished trial.

    Attributes:
        root: of all random streams: the recorded one, the given one, or a fresh one.
        root_source: "given" or "operating system".
    """

    def __init__(self, folder: Path, asked: Json, seed: int | None, force: bool, dtype: DType = "float32") -> None:
        """Look at what is there; nothing is written before `working`.

        Args:
            folder: beside the pack.
            asked: everything that decides the poisons, but the root.
            dtype: that "auto" became here, for whoever goes on (`format_begun`).
            seed: the root, if the user gave one.
            force: start over where another command's work is in the way.
        Raises: ValueError if the folder holds something else, or another command's work and not `force`.
        """
        self.folder, self._dtype = folder, dtype
        self._asked = digest_of({**asked, "seed": seed})
        recorded = self._recorded()
        if recorded is not None and recorded.get("asked") != self._asked:
            if not force:
                raise ValueError(
                    f"{str(folder)!r} holds unfinished work of another command; repeat that command to finish it, or start over with --force"
                )
            recorded = None
            self._stale = True
        else:
            self._stale = False
        self.root_source = "operating system" if seed is None else "given"
        if recorded is not None:
            self.root = int(recorded["root"], 16)
        else:
            self.root = fresh_root() if seed is None else seed

    def _recorded(self) -> Json | None:
        if not self.folder.exists():
            return None
        with suppress(OSError, ValueError):
            found = json.loads((self.folder / CONFIG).read_bytes())
            if isinstance(found, dict) and isinstance(found.get("root"), str) and int(found["root"], 16) >= 0:
                return found
        if self.folder.is_dir() and not any(entry.name != f"{CONFIG}.lock" for entry in self.folder.iterdir()):
            return None
        raise ValueError(f"{str(self.folder)!r} is in the way and holds no unfinished work; move it away, or choose another --out")

    @contextmanager
    def working(self) -> Iterator[None]:
        """The right to write here. If the block ends well, or is refused before any trial was finished, the folder is removed.

        Raises: ValueError if another process is at work here.
        """
        self.folder.mkdir(exist_ok=True)
        with alone(self.folder / CONFIG, "crafting", self.folder):
            if self._stale:
                self._clear()
            if not (self.folder / CONFIG).is_file():
                with replacing(self.folder / CONFIG) as file:
                    file.write(json.dumps({"asked": self._asked, "root": hex(self.root), "dtype": self._dtype}).encode())
            done = refused = False
            try:
                yield
                done = True
            except ValueError:  # of the user's input, who will want to give another with the same --out
                refused = True
                raise
            finally:
                trials, models = (any(self.folder.glob(pattern)) for pattern in (f"{TRIAL}*", f"{MODEL}*"))
                if done or not (trials or (models and not refused)):
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _clear(self) -> None:
        """Another command's work, once nobody is at work here."""
        for entry in self.folder.iterdir():
            if entry.name != f"{CONFIG}.lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def model(self, name: str, train: Callable[[], State]) -> State:
        """A `Shelf`: weights that were trained before, or else are trained now and kept, in one step; damaged ones count as missing."""
        path = self.folder / f"{MODEL}{name}"
        with suppress(OSError, SafetensorError):
            content = path.read_bytes()
            if content[:64] == sha256(content[64:]).hexdigest().encode():
                return load(content[64:])
        state = train()
        content = save(state)
        with replacing(path) as file:
            file.write(sha256(content).hexdigest().encode() + content)
        return state

    def read(self, trial: int, goal: Goal, budget: Budget, train: ImageDataset) -> Poison | None:
        """The poison of a finished trial, its budget verified; None if it is not there, or damaged."""
        path = self._path(trial)
        if not path.is_file():
            return None
        count = budget.num_poisons
        with suppress(ValueError):
            arrays = read_exactly(
                path,
                {"images": ((count, *train.image_shape), "uint8"), "indices": ((count,), "int64"), "objective": ((), "float64")},
            )
            objective = None if np.isnan(arrays["objective"]) else float(arrays["objective"])
            poison = Poison(torch.from_numpy(arrays["indices"]), torch.from_numpy(arrays["images"]), goal, budget, objective)
            poison.verify(train)
            return poison
        return None

    def keep(self, trial: int, poison: Poison) -> None:
        """Write a finished trial, in one step."""
        content = io.BytesIO()
        objective = np.float64(np.nan if poison.objective is None else poison.objective)
        np.savez_compressed(content, images=poison.images.numpy(), indices=poison.indices.numpy(), objective=objective)
        with replacing(self._path(trial)) as file:
            file.write(content.getvalue())

    def _path(self, trial: int) -> Path:
        return self.folder / f"{TRIAL}{trial:05d}.npz"
