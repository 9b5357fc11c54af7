"""A training of a denoiser that was interrupted: what goes on from where, in one file beside the denoiser's place.

The file is safetensors: the tensors of the training's state, and as its metadata what the training is of. It is replaced by a
rename, so a kill at any moment leaves the one of a minute before.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from certidote.data.atomic import sync_folder
from certidote.types import Json

FORMAT = "certidote-unfinished-denoiser"

SECONDS_BETWEEN = 60
"""From one writing of the state to the next."""


@dataclass(frozen=True)
class Unfinished:
    """Where the state of a training is kept, and what the training is of.

    Attributes:
        path: of the file; its folder must exist.
        training: everything that decides the weights and is known before the first step, in JSON.
    """

    path: Path
    training: Json

    def write(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Keep the state after so many steps."""
        metadata = {"format": FORMAT, "step": str(step), "training": json.dumps(self.training, sort_keys=True)}
        content = save_tensors({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)
        beside = _part_of(self.path)
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise OSError(error.errno, f"{error.strerror}; the training's state was not written", str(self.path)) from error
        sync_folder(self.path.parent)

    def read(self) -> tuple[int, dict[str, Tensor]] | None:
        """Steps done and the state after them; None if nothing was kept.

        Raises: ValueError if the file is damaged or of another training.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                step = int((file.metadata() or {})["step"])
                same = json.loads(file.metadata()["training"]) == json.loads(json.dumps(self.training))
                tensors = {name: file.get_tensor(name) for name in file.keys()} if same else {}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged ({type(error).__name__}); delete it to train from the start") from error
        if not same:
            raise ValueError(f"{self.path} is of another training (other images, recipe or key); delete it, or repeat that command")
        return step, tensors


def place_beside(out: Path) -> Path:
    """Where the unfinished training of a denoiser is kept that will be written to `out`; links are followed.

    Raises: ValueError if something else is there.
    """
    target = Path(os.path.realpath(out))
    place = target.with_name(target.name + ".unfinished")
    if place.exists() and not place.is_file():
        raise ValueError(f"{place} is there, where an unfinished training would be kept, and is no file; give another --out")
    return place


def remove(path: Path) -> None:
    """Of a training that is finished, or given up: its state, and what a kill left of the writing of one."""
    path.unlink(missing_ok=True)
    _part_of(path).unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def kept_training(path: Path) -> Json | None:
    """What the unfinished training at this path is of; None if there is none or it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return json.loads(metadata["training"]) if metadata.get("format") == FORMAT else None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
