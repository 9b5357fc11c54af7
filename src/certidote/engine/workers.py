"""What a back end is, and how it may fail. `local` runs jobs on this machine, `cluster` on a Ray cluster.

Whatever happens to a worker, its job keeps its keys: it runs again under the same ones, or the run stops and the next one does it.
A job is never given up, and never run under other keys: dropping or redrawing members by their fate would bias the vote.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from certidote.engine.jobs import BlockRecord, Job, Payload
from certidote.types import Json

LOSSES_ALLOWED = 2
"""How often a job may lose its worker (killed, out of memory, over its time limit) before the run stops."""


@runtime_checkable
class Workers(Protocol):
    """A back end: takes jobs, gives records back in order of completion."""

    @property
    def workers(self) -> int:
        """Jobs that can run at the same time, for reports; 0 for this process."""
        ...

    def map(self, payload: Payload, jobs: Iterable[Job]) -> Iterator[list[BlockRecord]]:
        """Work on every job; yields what finished since the last call, so that it can be committed together.

        Jobs are taken from the iterable when workers are free, so that whoever makes it can stop early.
        Raises: JobFailed if a job raises; WorkerLost if a job has lost its worker more than `LOSSES_ALLOWED` times.
        """
        ...

    def numerics(self, device: str) -> Json:
        """What decides how a worker rounds, from `numerics.rounding`, as a worker sees it."""
        ...


class WorkerLost(RuntimeError):
    """A job has lost its worker again and again; committed members are kept and the same command goes on."""

    def __init__(self, job: object, reason: str) -> None:
        super().__init__(
            f"{job} lost their worker {LOSSES_ALLOWED + 1} times ({reason}); what was finished before is "
            "kept: run the same command again to go on, with fewer workers or a longer --timeout if that was the cause"
        )


class JobFailed(RuntimeError):
    """A job raised. Deterministic, so it is not tried again in this run.

    Attributes:
        job: whose members failed.
        traceback: of the worker, as text.
    """

    def __init__(self, job: Job, traceback: str) -> None:
        self.job, self.traceback = job, traceback
        cause = traceback.strip().splitlines()[-1] if traceback.strip() else "no reason given"
        super().__init__(
            f"members {job.first} to {job.last - 1} failed: {cause} (the traceback is in the ledger: certidote status RUN). Committed "
            "members are kept; remove the cause and run the same command again"
        )


class Refused(JobFailed):
    """A job that raised because of what the command asks for: the same command would fail again, and the message says what to change.

    Args:
        failure: of the job.
    """

    def __init__(self, failure: JobFailed, message: str) -> None:
        super().__init__(failure.job, failure.traceback)
        self.args = (message,)


def check_timeout(timeout: float | None) -> None:
    """Raises ValueError unless timeout is a positive number of seconds, or None."""
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout={timeout:g}; give seconds > 0 that one job may take, or leave it out for no limit")
