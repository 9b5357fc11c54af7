"""Where jobs run on many machines: Ray tasks of one single-threaded worker each (extra `certidote[ray]`).

Ray decides what runs where and starts a task again when its worker or its machine is lost; we add no scheduler. The payload is put
into the object store once. Only the driver writes the ledger, so tasks may run twice: the first committed votes of a member stand,
and a second run of the same keys has the same votes.
"""

import faulthandler
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import torch

from certidote.engine.jobs import BlockRecord, Job, Payload, work
from certidote.engine.workers import LOSSES_ALLOWED, JobFailed, WorkerLost, check_timeout
from certidote.numerics import keep_freed_memory, rounding, steady_kernels
from certidote.types import Json


class RayWorkers:
    """A Ray cluster as a back end. Use as a context manager.

    Args:
        address: of the cluster, as `ray.init` takes it: "auto" for the one this machine belongs to, "ray://host:port" for a
            client, "local" to start one on this machine.
        device: "cpu" or "cuda"; on "cuda" every task asks for a share of a GPU.
        gpus_per_task: that share; 0.25 runs four tasks on each GPU.
        timeout: seconds that one job may take; a worker that takes longer ends itself, and Ray runs the job again.
    Raises: ValueError if Ray is not installed, finds no cluster, or the cluster has nothing to run a task on.
    """

    def __init__(
        self, address: str = "auto", device: str = "cpu", gpus_per_task: float = 1.0, timeout: float | None = None
    ) -> None:
        check_timeout(timeout)
        if not gpus_per_task > 0:
            raise ValueError(f"gpus_per_task={gpus_per_task:g}; give a share of a GPU > 0, such as 0.25 for four tasks on each")
        try:
            import ray
        except ImportError:
            raise ValueError("the ray engine needs Ray, which is not installed; pip install 'certidote[ray]'") from None
        self._ray: Any = ray
        self._address = address
        self._resource, self._share = ("GPU", gpus_per_task) if device.startswith("cuda") else ("CPU", 1.0)
        self._timeout = timeout
        self._owns = False

    def __enter__(self) -> "RayWorkers":
        if not self._ray.is_initialized():
            try:
                self._ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
            except ConnectionError as error:
                raise ValueError(
                    f"no Ray cluster at {self._address!r} ({str(error).splitlines()[0]}); start one with 'ray start --head', or give "
                    "--address local to start one on this machine"
                ) from None
            self._owns = True
        if not self.workers:
            self.__exit__(None, None, None)
            raise ValueError(
                f"the Ray cluster at {self._address!r} cannot run a task that needs {self._share:g} {self._resource}; add machines "
                "that have it, or give another --device"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._owns:
            self._ray.shutdown()
            self._owns = False

    @property
    def workers(self) -> int:
        """Tasks that the cluster can run at once; grows and shrinks with it."""
        return int(self._ray.cluster_resources().get(self._resource, 0) / self._share)

    def numerics(self, device: str) -> Json:
        return self._ray.get(self._task(_rounding).remote(device))

    def map(self, payload: Payload, jobs: Iterable[Job]) -> Iterator[list[BlockRecord]]:
        """Records in order of completion, as `Workers.map` promises."""
        task, shared, queue = self._task(_work), self._ray.put(payload), iter(jobs)
        running: dict[Any, Job] = {}
        try:
            while True:
                while len(running) < 2 * max(1, self.workers):
                    job = next(queue, None)
                    if job is None:
                        break
                    running[task.remote(shared, job, self._timeout)] = job
                if not running:
                    return
                self._ray.wait(list(running), num_returns=1)
                finished, _ = self._ray.wait(list(running), num_returns=len(running), timeout=0)
                records, failure = [], None
                for reference in finished:
                    job = running.pop(reference)
                    try:
                        records.append(self._record(reference, job))
                    except (JobFailed, WorkerLost) as error:
                        failure = error
                if records:
                    yield records
                if failure is not None:
                    raise failure
        finally:
            for reference in running:
                self._ray.cancel(reference, force=True)

    def _record(self, reference: Any, job: Job) -> BlockRecord:
        """The answer of a finished task. Reading it can still find its machine gone; Ray then works it out again."""
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # before our code was reached: a package is missing there, say
            raise JobFailed(job, str(error)) from None
        except self._ray.exceptions.RayError as error:
            raise WorkerLost(job, f"{type(error).__name__}: its process or machine died, or took too long") from None
        if isinstance(answer, str):
            raise JobFailed(job, answer)
        return answer

    def _task(self, function: Any) -> Any:
        needs = {"num_gpus": self._share} if self._resource == "GPU" else {}
        return self._ray.remote(num_cpus=1, max_retries=LOSSES_ALLOWED, retry_exceptions=False, **needs)(function)


def _rounding(device: str) -> Json:
    return rounding(device)


def _work(payload: Payload, job: Job, timeout: float | None) -> BlockRecord | str:
    """One job in a Ray worker: its record, or a traceback. Over the time limit, the process ends itself."""
    keep_freed_memory()
    steady_kernels()
    torch.set_num_threads(1)
    if timeout is not None and sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(timeout, exit=True, file=sys.__stderr__)
    try:
        return work(payload, job)
    except Exception:
        return traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
