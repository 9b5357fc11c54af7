"""What the engine does: a job is one aligned block of member numbers, worked on by a pure function.

Blocks are fixed by the stack size alone, so an interrupted run resumes with the same blocks; which worker does which block, and
in which order, cannot change a vote.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt, UInt8
from torch import Tensor

from certidote.certification.rankings import ranks_of
from certidote.engine.views import Viewed, Viewing
from certidote.numerics import rounding
from certidote.streams import ROW_BLOCK, Key
from certidote.training.kept import packed
from certidote.training.models import ModelStack
from certidote.types import (
    Images,
    InputReads,
    Json,
    KeepsRankings,
    Lineage,
    PreparesInputs,
    Scheme,
    SealedInputs,
    Stack,
    Trainer,
    TrainsInGroups,
    Untrusted,
    as_pixels,
    joined,
)

TEST_CHUNK = 4 * ROW_BLOCK


@dataclass(frozen=True)
class Job:
    """Members first..last-1, trained together and committed together."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"members {self.first} to {self.last - 1}"


@dataclass(frozen=True, eq=False)
class Payload:
    """Everything a job needs besides its member numbers; whether its members' weights come back with their votes."""

    scheme: Scheme
    trainer: Trainer
    data: Untrusted
    test_images: UInt8[Tensor, "n c h w"]
    key: Key
    keep_weights: bool = False


@dataclass(frozen=True, eq=False)
class BlockRecord:
    """What a job leaves: its members' votes, their rankings if the scheme keeps them, and how they came about.

    `numerics` is of the worker, empty where nobody asks; `weights` a safetensors archive of the members, b"" if not kept.
    """

    job: Job
    votes: Int64[np.ndarray, "members n_test"]
    failed: Bool[np.ndarray, "members"]
    noise_ids: Int64[np.ndarray, "members"]
    lineage: Lineage
    seconds: float
    seconds_viewing: float
    numerics: Json = field(default_factory=dict)
    weights: bytes = b""
    ranks: UInt[np.ndarray, "members n_test classes"] | None = None


def plan(members: int | range, block: int, committed: Iterable[Job] = ()) -> Iterator[Job]:
    """The jobs not yet committed, in order of member numbers; none crosses a multiple of `block`.

    Args:
        members: how many, from member 0, or a range of member numbers.
        committed: in order of member numbers; they need not be aligned.
    """
    wanted = range(members) if isinstance(members, int) else members
    first = wanted.start
    for done in [*committed, Job(wanted.stop, wanted.stop)]:
        stop = min(done.first, wanted.stop)
        while first < stop:
            last = min((first // block + 1) * block, stop)
            yield Job(first, last)
            first = last
        first = max(first, done.last)


def work(payload: Payload, job: Job) -> BlockRecord:
    """Noise, denoise, train and vote for one block of members. A pure function of its arguments.

    Members are keyed by their number under `key / "members"`; coins fixed for all members come from `key / "common"`.
    """
    begin = time.perf_counter()
    members = range(job.first, job.last)
    together = payload.trainer.together if isinstance(payload.trainer, TrainsInGroups) else len(members)
    viewing = Viewing(payload.scheme, payload.data, payload.key / "members", members, together)
    groups, lineages, noise_ids, tests = [], list[Lineage](), [], payload.test_images
    for viewed in viewing:
        tests = tests.to(viewed.device)
        groups.append(_voted(payload, viewed, tests))
        lineages += [
            replace(shown.amend(read.amend(view.lineage), read), start=payload.trainer.start)
            for view, read, shown in zip(viewed.views, viewed.reads, groups[-1].shown, strict=True)
        ]
        noise_ids += [read.noise_id() for read in viewed.reads]
        del viewed  # its images make room for the next ones
    ranks = [group.ranks for group in groups if group.ranks is not None]
    return BlockRecord(
        job=job,
        votes=np.concatenate([group.votes for group in groups]),
        failed=np.concatenate([group.failed for group in groups]),
        noise_ids=np.array(noise_ids, dtype=np.int64),
        lineage=joined(lineages),
        seconds=time.perf_counter() - begin,
        seconds_viewing=viewing.seconds(),
        numerics=rounding(str(tests.device)),
        weights=_weights([group.stack for group in groups if group.stack is not None]) if payload.keep_weights else b"",
        ranks=np.concatenate(ranks) if ranks else None,
    )


@dataclass(frozen=True, eq=False)
class _Voted:
    """What members that were trained together leave; their models only if weights are kept."""

    votes: Int64[np.ndarray, "members n_test"]
    failed: Bool[np.ndarray, "members"]
    ranks: UInt[np.ndarray, "members n_test classes"] | None
    stack: Stack | None
    shown: Sequence[InputReads]


def _voted(payload: Payload, viewed: Viewed, tests: UInt8[Tensor, "n c h w"]) -> _Voted:
    """Train the members of these views and ask them about every test image, which are on the views' device."""
    stack = payload.trainer.fit(viewed.views, viewed.keys, payload.key / "common")
    if len(stack.failed) != len(viewed.views):
        raise RuntimeError(
            f"{len(viewed.views)} members were to be trained, {len(stack.failed)} came back; a failed member is marked and counted, "
            "never dropped"
        )
    shown = [InputReads() for _ in viewed.keys]
    votes, ranks, failed = [], [], stack.failed.cpu()
    unanswered = torch.zeros_like(failed)
    keeps_rankings = isinstance(payload.scheme, KeepsRankings) and payload.scheme.keeps_rankings
    with torch.inference_mode():
        for start in range(0, len(tests), TEST_CHUNK):
            rows = range(start, min(start + TEST_CHUNK, len(tests)))
            images = as_pixels(tests[rows.start : rows.stop])
            logits = _polled(payload.scheme, stack, viewed.keys, images, rows, shown).cpu()
            unanswered |= ~torch.isfinite(logits).flatten(1).all(1)
            votes.append(logits.argmax(dim=2))
            if keeps_rankings:
                ranks.append(ranks_of(logits.numpy()))
    for reads, lost in zip(shown, (unanswered & ~failed).tolist(), strict=True):
        reads.unanswered = lost
    return _Voted(
        torch.cat(votes, dim=1).numpy(),
        (failed | unanswered).numpy(),
        np.concatenate(ranks, axis=1) if keeps_rankings else None,
        stack if payload.keep_weights else None,
        shown,
    )


def _weights(stacks: Sequence[Stack]) -> bytes:
    known = [stack for stack in stacks if isinstance(stack, ModelStack)]
    if len(known) < len(stacks):
        raise ValueError(f"weights of a {type(stacks[0]).__name__} cannot be kept; leave out --keep-weights")
    return packed(ModelStack.joined(known))


def _polled(
    scheme: Scheme, stack: Stack, keys: Sequence[Key], images: Images, rows: range, shown: Sequence[InputReads]
) -> Float[Tensor, "members n classes"]:
    """Logits of all members for these rows of the test set, each on the inputs that the scheme gives it.

    Where members have inputs of their own, the scheme gets the test images sealed. `shown` takes down what each member was shown.
    """
    if isinstance(scheme, PreparesInputs) and scheme.inputs_per_member:
        sealed = (SealedInputs(images, rows, key, reads) for key, reads in zip(keys, shown, strict=True))
        inputs = (scheme.inputs(each, rows, key) for key, each in zip(keys, sealed, strict=True))
        return torch.stack([stack.member(i)(each) for i, each in enumerate(inputs)])
    for reads in shown:
        reads.sigmas.append(0.0)
    return stack(scheme.inputs(images, rows, keys[0]) if isinstance(scheme, PreparesInputs) else images)
