"""What every benchmark records about where and how it ran."""

import os
import platform
import shlex
import sys
import time
from pathlib import Path

import psutil
import torch

from certidote.engine.code import package_digest
from certidote.results.files import write_json
from certidote.results.record import versions
from certidote.types import Json

TOO_BUSY = 0.3
"""Cores kept busy by other processes from which on timings are not to be reported."""


def busy_elsewhere() -> float:
    """Cores kept busy by other processes during one second of ours idle."""
    return psutil.cpu_percent(interval=1.0) / 100 * (psutil.cpu_count() or 1)


def peak_mib(process: psutil.Process) -> float:
    """The most memory a process has ever held; where the system does not keep that, what it holds now."""
    status = Path(f"/proc/{process.pid}/status")
    if status.is_file():
        (peak,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    return process.memory_info().rss / 2**20


def facts() -> Json:
    """Command, time, processor and versions."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": psutil.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "code": package_digest(),
    }


def processor() -> str:
    """Its name as the system tells it."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def keep(path: Path, measured: Json, busy: float | None = None) -> None:
    """Write a record, and warn if the machine was not quiet.

    Args:
        measured: what was measured, as JSON.
        busy: the most cores that others kept busy meanwhile.
    """
    if busy is not None and busy > TOO_BUSY:
        print("other processes were busy: do not report these figures, run it again on a quiet machine")
    os.makedirs(path.parent, exist_ok=True)
    write_json(path, {**measured, "busy_elsewhere": busy, **facts()})
    print(f"record: {path}")
