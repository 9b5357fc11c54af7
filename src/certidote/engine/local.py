"""Where jobs run on this machine: single-threaded worker processes, or this process.

One thread for each worker, always: kernels split work by thread count, and a member's votes must not depend on how many workers
there are. Running in this process sets the same single thread while a job runs.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import TypeVar

import torch

from certidote.engine.jobs import BlockRecord, Job, Payload, work
from certidote.numerics import keep_freed_memory

P, J, R = TypeVar("P"), TypeVar("J"), TypeVar("R")


class WorkerLost(RuntimeError):
    """A worker process died; finished work is kept and the same command goes on."""


class Pool:
    """Workers that outlive one run, so that several runs pay for starting them once. Use as a context manager.

    Args:
        workers: processes; 0 runs jobs in this process, None takes one for each core this process may use.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 0:
            raise ValueError(f"workers={workers}; give 0 (this process), or a number of processes")
        self.workers = available_cores() if workers is None else workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        if self.workers:
            self._executor = ProcessPoolExecutor(self.workers, mp_context=_context(), initializer=_start_worker)
            for _ in range(self.workers):
                self._executor.submit(_nothing)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def map(self, payload: Payload, jobs: Iterable[Job]) -> Iterator[BlockRecord]:
        """Records in order of completion."""
        return self.each(work, payload, jobs)

    def each(self, do: Callable[[P, J], R], payload: P, jobs: Iterable[J]) -> Iterator[R]:
        """`do(payload, job)` for every job, in order of completion; jobs are taken only as workers get to them.

        Args:
            do: a function of a module, which worker processes can import.
        """
        if self._executor is None:
            yield from (_single_threaded(do, payload, job) for job in jobs)
            return
        queue = iter(jobs)
        running: set[Future[R]] = set()
        try:
            while True:
                for job in islice(queue, 2 * self.workers - len(running)):
                    running.add(self._executor.submit(do, payload, job))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool:
            raise WorkerLost(
                "a worker process died (killed, or out of memory); finished work is kept: run the same command again to go on"
            ) from None
        finally:
            for future in running:
                future.cancel()


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
    context.set_forkserver_preload(["certidote.engine.jobs", "certidote.training.pooled", "certidote.diffusion.denoiser"])
    return context


def _start_worker() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)


def _nothing() -> None:
    """A first task, which makes the executor start a worker before there is work."""


def _single_threaded(do: Callable[[P, J], R], payload: P, job: J) -> R:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return do(payload, job)
    finally:
        torch.set_num_threads(threads)
