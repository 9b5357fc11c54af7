"""What the engine does: a job is one aligned block of member numbers, worked on by a pure function.

Blocks are fixed by the stack size alone, so an interrupted run resumes with the same blocks; which worker does which block, and
in which order, cannot change a vote.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from certidote.streams import Key
from certidote.types import Lineage, Scheme, Trainer, Untrusted, as_pixels

TEST_CHUNK = 4096


@dataclass(frozen=True)
class Job:
    """Members first..last-1, trained together and committed together."""

    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Payload:
    """Everything a job needs besides its member numbers."""

    scheme: Scheme
    trainer: Trainer
    data: Untrusted
    test_images: UInt8[Tensor, "n c h w"]
    key: Key


@dataclass(frozen=True, eq=False)
class BlockRecord:
    """What a job leaves: its members' votes and how they came about."""

    job: Job
    votes: Int64[np.ndarray, "members n_test"]
    failed: Bool[np.ndarray, "members"]
    noise_ids: Int64[np.ndarray, "members"]
    lineage: Lineage
    seconds: float
    seconds_viewing: float


def plan(members: int, block: int, committed: Iterable[Job] = ()) -> Iterator[Job]:
    """The jobs not yet committed, in order of member numbers; the last one may be short."""
    done = {job.first for job in committed}
    for first in range(0, members, block):
        if first not in done:
            yield Job(first, min(first + block, members))


def work(payload: Payload, job: Job) -> BlockRecord:
    """Noise, denoise, train and vote for one block of members. A pure function of its arguments.

    Members are keyed by their number under `key / "members"`; coins fixed for all members come from `key / "common"`.
    """
    begin = time.perf_counter()
    keys = [payload.key / "members" / member for member in range(job.first, job.last)]
    views, reads = [], []
    for member, key in zip(range(job.first, job.last), keys, strict=True):
        data = payload.data.watched(key)
        views.append(payload.scheme.view(data, member, key))
        reads.append(data.reads)
    viewed = time.perf_counter()
    stack = payload.trainer.fit(views, keys, payload.key / "common")
    if len(stack.failed) != len(views):
        raise RuntimeError(
            f"{len(views)} members were to be trained, {len(stack.failed)} came back; a failed member is marked and counted, "
            "never dropped"
        )
    lineages = {replace(read.amend(view.lineage), start=payload.trainer.start) for view, read in zip(views, reads, strict=True)}
    if len(lineages) != 1:
        raise RuntimeError(f"members {job.first} to {job.last - 1} have different lineages: {sorted(map(str, lineages))}")
    device = views[0].images.device
    votes, failed = [], stack.failed.cpu().clone()
    with torch.inference_mode():
        for start in range(0, len(payload.test_images), TEST_CHUNK):
            images = payload.test_images[start : start + TEST_CHUNK]
            logits = stack(as_pixels(images).to(device)).cpu()
            failed |= ~torch.isfinite(logits).flatten(1).all(1)
            votes.append(logits.argmax(dim=2))
    return BlockRecord(
        job=job,
        votes=torch.cat(votes, dim=1).numpy(),
        failed=failed.numpy(),
        noise_ids=np.array([read.noise_id() for read in reads], dtype=np.int64),
        lineage=lineages.pop(),
        seconds=time.perf_counter() - begin,
        seconds_viewing=viewed - begin,
    )
