"""Where jobs run on this machine: single-threaded worker processes, or this process.

One thread for each worker, always: kernels split work by thread count, and a member's votes must not depend on how many workers
there are. Running in this process sets the same single thread while a job runs.

A worker that dies, or takes longer than the time limit, is replaced, and its job runs again under the same keys.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, TypeVar

import torch

from certidote.engine.jobs import BlockRecord, Job, Payload, work
from certidote.engine.workers import LOSSES_ALLOWED, JobFailed, WorkerLost, check_timeout
from certidote.numerics import keep_freed_memory, rounding, steady_kernels
from certidote.types import Json

P, J, R = TypeVar("P"), TypeVar("J"), TypeVar("R")


@dataclass(frozen=True)
class _Task:
    """What a worker does with every job: sent once, before the first one."""

    do: Callable[..., Any]
    payload: Any


@dataclass(frozen=True)
class _Failure:
    """A job that raised, and the traceback."""

    job: Job
    traceback: str


@dataclass(frozen=True)
class _Raised:
    """What a worker sends instead of an answer when `do` raises."""

    error: Exception


def _attempted(payload: Payload, job: Job) -> BlockRecord | _Failure:
    try:
        return work(payload, job)
    except Exception:
        return _Failure(job, traceback.format_exc())


@dataclass(frozen=True)
class _Packed:
    """A payload as it goes through a pipe. Workers are asked for its name, so that nobody keeps the content."""

    content: bytes
    name: object


class _Begun:
    """What a worker sends when it begins a job: only then does the time limit run, not while it starts and reads the payload."""


class _Worker:
    """One process and our end of the pipe to it. Started when it gets its first job.

    Args:
        gpu: the only one it sees, as CUDA_VISIBLE_DEVICES names it; None: it sees what this process sees.
    """

    def __init__(self, gpu: str | None = None) -> None:
        self.gpu = gpu
        self.process: BaseProcess | None = None
        self.connection: Connection | None = None
        self.payload: object = None
        self.job: Any = None
        self.timeout = self.deadline = float("inf")

    def give(self, job: Any, payload: "_Packed", timeout: float | None) -> None:
        """Hand a job over, and the payload if this process does not have it yet. Raises OSError if the process is gone."""
        self.job = job
        self.timeout = float("inf") if timeout is None else timeout
        if self.process is None:
            context = _context()
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, self.gpu), daemon=True)  # type: ignore[attr-defined]
            self.process.start()
            theirs.close()
        assert self.connection is not None
        if self.payload is not payload.name:
            self.connection.send_bytes(payload.content)
            self.payload = payload.name
        self.connection.send(job)

    def answer(self) -> Any:
        """None if it only says that it has begun. Raises EOFError or OSError if the process died before it had sent everything."""
        assert self.connection is not None
        answer = self.connection.recv()
        if isinstance(answer, _Begun):
            self.deadline = time.monotonic() + self.timeout
            return None
        self.job, self.deadline = None, float("inf")
        return answer

    def stop(self) -> None:
        """An idle process leaves by itself when its pipe closes; a busy one is killed: nobody wants its answer."""
        if self.process is not None and self.connection is not None:
            self.connection.close()
            if self.job is not None:
                self.process.kill()
            self.process.join()
            self.process.close()
        self.process = self.connection = self.payload = self.job = None
        self.deadline = float("inf")


class Pool:
    """Workers that outlive one run, so that several runs pay for starting them once. Use as a context manager.

    Args:
        workers: processes; 0 runs jobs in this process, None takes one for each core or GPU that this process may use.
        timeout: seconds that one job may take; a worker that takes longer is killed. None: no limit.
        device: where they compute: "cpu", "cuda" (workers take turns at the GPUs, each seeing one) or one GPU ("cuda:1").
    """

    def __init__(self, workers: int | None = None, timeout: float | None = None, device: str = "cpu") -> None:
        if workers is not None and workers < 0:
            raise ValueError(f"workers={workers}; give 0 (this process), or a number of processes")
        check_timeout(timeout)
        if timeout is not None and workers == 0:
            raise ValueError("a time limit needs worker processes, but workers=0 runs jobs in this process; give at least 1 worker")
        gpus = visible_gpus() if device == "cuda" else []
        if workers is None:
            workers = available_cores() if device == "cpu" else max(1, len(gpus))
        self._slots = [_Worker(gpus[i % len(gpus)] if gpus else None) for i in range(workers)]
        self._timeout = timeout

    @property
    def workers(self) -> int:
        return len(self._slots)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for slot in self._slots:
            slot.stop()

    def numerics(self, device: str) -> Json:
        return rounding(device)

    def map(self, payload: Payload, jobs: Iterable[Job]) -> Iterator[list[BlockRecord]]:
        """Records in order of completion, as `Workers.map` promises."""
        answers: list[BlockRecord | _Failure]
        for answers in self.each(_attempted, payload, jobs):
            records = [answer for answer in answers if isinstance(answer, BlockRecord)]
            if records:
                yield records
            failures = [answer for answer in answers if isinstance(answer, _Failure)]
            if failures:
                raise JobFailed(failures[0].job, failures[0].traceback)

    def each(self, do: Callable[[P, J], R], payload: P, jobs: Iterable[J]) -> Iterator[list[R]]:
        """`do(payload, job)` for every job, in order of completion.

        Args:
            do: a function of a module, which worker processes can import. What it raises is raised here.
            jobs: hashable; taken only as workers get to them.
        """
        if not self._slots:
            yield from ([_single_threaded(do, payload, job)] for job in jobs)
            return
        queue, again, losses = iter(jobs), deque[J](), Counter[J]()
        packed = _Packed(pickle.dumps(_Task(do, payload)), object())
        try:
            while True:
                self._hand_out(packed, queue, again, losses)
                busy = {slot.connection: slot for slot in self._slots if slot.job is not None and slot.connection is not None}
                if not busy:
                    return
                first = min(slot.deadline for slot in busy.values())
                ready = wait(list(busy), None if first == float("inf") else max(0.0, first - time.monotonic()))
                records: list[R] = []
                for slot in [slot for connection, slot in busy.items() if connection in ready]:
                    job = slot.job
                    assert job is not None
                    try:
                        answer = slot.answer()
                    except (EOFError, OSError):
                        self._lose(slot, "it was killed, or memory ran out", again, losses)
                        continue
                    if isinstance(answer, _Raised):
                        if records:
                            yield records
                        raise answer.error
                    if answer is not None:
                        records.append(answer)
                now = time.monotonic()
                for slot in busy.values():
                    if slot.job is not None and slot.deadline <= now:
                        self._lose(slot, f"it took longer than the time limit of {self._timeout:g} s", again, losses)
                if records:
                    self._hand_out(packed, queue, again, losses)  # workers go on while the records are committed
                    yield records
        finally:
            for slot in self._slots:
                if slot.job is not None:
                    slot.stop()

    def _hand_out(self, packed: _Packed, queue: Iterator[J], again: deque[J], losses: Counter[J]) -> None:
        for slot in self._slots:
            while slot.job is None:
                job = again.popleft() if again else next(queue, None)
                if job is None:
                    return
                try:
                    slot.give(job, packed, self._timeout)
                except OSError:
                    self._lose(slot, "it died while it was idle", again, losses)

    def _lose(self, slot: _Worker, reason: str, again: deque[J], losses: Counter[J]) -> None:
        job = slot.job
        assert job is not None
        slot.stop()
        losses[job] += 1
        if losses[job] > LOSSES_ALLOWED:
            raise WorkerLost(job, reason)
        again.append(job)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _context() -> BaseContext:
    """How workers start: forked from one clean process that has imported torch, so that it is imported once and its memory shared.

    Never forked from this process, whose threads may hold locks.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["certidote.engine.local", "certidote.training.pooled", "certidote.diffusion.denoiser"])
    return context


def _serve(connection: Connection, gpu: str | None) -> None:
    """A worker's life: a payload, then its jobs, until the other end of the pipe closes (the driver is done, or dead)."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # torch looks when it first uses CUDA, which is later
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is the driver's to handle
    threading.Thread(target=_leave_with_driver, daemon=True).start()
    keep_freed_memory()
    steady_kernels()
    torch.set_num_threads(1)
    task: _Task | None = None
    try:
        while True:
            message = connection.recv()
            if isinstance(message, _Task):
                task = message
                continue
            assert task is not None
            connection.send(_Begun())
            try:
                answer: Any = task.do(task.payload, message)
            except Exception as error:
                answer = _Raised(error)
            connection.send(answer)
    except (EOFError, OSError):
        return


def _leave_with_driver() -> None:
    """End this worker, in the middle of a job if need be, when the process that started it is gone, killed or not.

    A process that the driver forked and that lives on counts as the driver: it has the other end of the pipe that is listened to.
    """
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return given.split(",")[:count] if given else [str(i) for i in range(count)]


def _single_threaded(do: Callable[[P, J], R], payload: P, job: J) -> R:
    threads = torch.get_num_threads()
    steady_kernels()
    torch.set_num_threads(1)
    try:
        return do(payload, job)
    finally:
        torch.set_num_threads(threads)
