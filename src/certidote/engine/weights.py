"""Members' weights on the disk: one file for each block, written before the block is committed, its digest committed with it.

A file without a committed digest is left over from a kill; it is removed when the run goes on. A committed block without a file
(the run was started without keeping weights, or the file was lost) is trained again from the same keys: its votes must come out as
they were committed, and those stand.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from certidote.data.atomic import replacing
from certidote.engine.jobs import Job
from certidote.training.kept import MemberSlot
from certidote.types import Progress, Silent, as_pixels

FOLDER = "weights"
CHUNK = 32
"""Images that a member is asked about at a time, always exactly as many: kernels round differently for different batches."""


@dataclass(frozen=True)
class Kept:
    """The weights of one committed block: SHA-256 and size of its file."""

    job: Job
    sha256: str
    size: int


class WeightStore:
    """The weights folder of one run directory."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER

    def path(self, job: Job) -> Path:
        return self.folder / f"{job.first:05d}-{job.last - 1:05d}.safetensors"

    def write(self, job: Job, content: bytes) -> Kept:
        """Put a block's file in place, whole, replacing one that was never committed. To be called before its commit.

        Raises: OSError, in one line, if the disk is full.
        """
        self.folder.mkdir(exist_ok=True)
        with replacing(self.path(job)) as file:
            file.write(content)
        return Kept(job, hashlib.sha256(content).hexdigest(), len(content))

    def read(self, kept: Kept) -> bytes:
        """The content of a committed file.

        Raises: ValueError if it is missing, or is not what was committed.
        """
        path = self.path(kept.job)
        again = "'certidote certify' with the same arguments and --keep-weights makes it again"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}); {again}") from None
        if hashlib.sha256(content).hexdigest() != kept.sha256:
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one in the ledger; remove it, and {again}")
        return content

    def present(self, kept: Kept) -> bool:
        """Whether the file is there and has its size; its digest is compared when it is read."""
        path = self.path(kept.job)
        return path.is_file() and path.stat().st_size == kept.size

    def tidy(self, committed: Iterable[Kept]) -> None:
        """Remove files of blocks that were never committed."""
        names = {self.path(kept.job).name for kept in committed}
        for path in self.folder.glob("*.safetensors") if self.folder.is_dir() else ():
            if path.name not in names and re.fullmatch(r"\d{5,}-\d{5,}\.safetensors", path.name):
                path.unlink()


def check_all_kept(kept: Iterable[Kept], members: int, run: Path) -> None:
    """Raises: ValueError unless there are weights for every one of members 0 to members - 1."""
    expected = 0
    for each in sorted(kept, key=lambda each: each.job.first):
        if each.job.first != expected:
            break
        expected = each.job.last
    if expected < members:
        missing = "no weights" if expected == 0 else f"weights of members 0 to {expected - 1} only, of {members}"
        raise ValueError(
            f"{run} holds {missing}; run the same 'certidote certify' again with --keep-weights: it trains members without weights "
            "again from the same keys, and their votes stand"
        )


def poll(
    store: WeightStore,
    kept: Iterable[Kept],
    slot: MemberSlot,
    images: UInt8[Tensor, "n c h w"],
    progress: Progress | None = None,
) -> tuple[Int64[np.ndarray, "members n"], Bool[np.ndarray, "members n"]]:
    """What every kept member says about these images, one member in memory at a time.

    The answer about an image does not depend on the images beside it.

    Args:
        kept: all blocks, in order of member numbers.
        slot: of the members' architecture.
    Returns: votes, and marks where a member's logits are not finite (such a member votes for nobody).
    """
    progress = progress or Silent()
    blocks = list(kept)
    progress.start("asking models", sum(each.job.last - each.job.first for each in blocks))
    votes, failed = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for each in blocks:
            members = each.job.last - each.job.first
            for model in slot.holding(store.read(each), members, str(store.path(each.job))):
                logits = torch.cat([_answer(model, chunk) for chunk in _chunks(images)])[: len(images)]
                votes.append(logits.argmax(1).numpy())
                failed.append((~torch.isfinite(logits).all(1)).numpy())
                progress.advance()
    finally:
        torch.set_num_threads(threads)
    progress.finish()
    return np.stack(votes), np.stack(failed)


def _chunks(images: UInt8[Tensor, "n c h w"]) -> Iterator[Tensor]:
    for start in range(0, len(images), CHUNK):
        chunk = as_pixels(images[start : start + CHUNK])
        yield functional.pad(chunk, (0, 0, 0, 0, 0, 0, 0, CHUNK - len(chunk)))


def _answer(model: torch.nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)
