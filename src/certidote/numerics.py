"""Which number format is fast on this machine, probed once by whoever starts a run and recorded with it.

bfloat16 is several times faster than float32 where the processor multiplies it in hardware (AMX, AVX512-BF16, tensor cores) and
slower where it is emulated. Only network arithmetic uses it: noise is always drawn and added in float32.
"""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

DType = Literal["float32", "bfloat16"]


AMPERE = 8
"""Compute capability from which on tensor cores multiply bfloat16."""


def resolve_dtype(name: str, device: str = "cpu") -> DType:
    """`name` if it is a format, or the faster one on `device` for "auto".

    Raises: ValueError for any other name.
    """
    if name == "auto":
        return fast_dtype(device)
    if name == "float32":
        return "float32"
    if name == "bfloat16":
        return "bfloat16"
    raise ValueError(f"unknown dtype {name!r}; choose one of: auto, bfloat16, float32")


def torch_dtype(name: DType) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def fast_dtype(device: str = "cpu") -> DType:
    """bfloat16 if a small convolution and a small batched product are together at least 1.2 times faster in it.

    A GPU is asked whether its tensor cores take it: products small enough to be tried in no time only show how fast launches are.
    """
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= AMPERE else "float32"
    seconds = {dtype: _probe(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return "bfloat16" if seconds[torch.float32] > 1.2 * seconds[torch.bfloat16] else "float32"


def _probe(dtype: torch.dtype) -> float:
    images = torch.ones(256, 32, 8, 8, dtype=dtype).to(memory_format=torch.channels_last)
    filters = torch.ones(32, 32, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    left, right = (torch.ones(16, 64, 128, dtype=dtype) for _ in range(2))

    def work() -> None:
        torch.nn.functional.conv2d(images, filters, padding=1)
        torch.bmm(left, right.transpose(1, 2))

    return _fastest(work)


def _fastest(work: Callable[[], None], repeats: int = 5) -> float:
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


@cache
def rounding(device: str = "cpu") -> dict[str, str]:
    """What decides how arithmetic rounds here: device, processor, versions. Equal values give equal votes for equal keys.

    The processor stands for the kernels that are picked by its instructions and maker; the device name does so on a GPU.
    """
    name = "cpu" if device == "cpu" else f"cuda {torch.cuda.get_device_name(device)}"
    kinds = {"device": name} if device == "cpu" else {"device": name, "noise": "Philox", "kernels": _device_kernels()}
    return {
        **kinds,
        "processor": f"{platform.machine()} {_processor_maker()} {torch.backends.cpu.get_cpu_capability()}",
        "certidote": _own_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on another device. A GPU gets one of the CPU in its own time: the host does not wait, as it does for ordinary memory."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def steady_kernels() -> None:
    """Fix what torch may choose on a GPU from call to call: the same key then gives the same votes on the same machine. No effect on a CPU.

    Called by whoever runs jobs, before the first one.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _device_kernels() -> str:
    return f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, deterministic, no TF32"  # type: ignore[no-untyped-call]


def _own_version() -> str:
    try:
        return version("certidote")
    except PackageNotFoundError:
        return "not installed as a package"


def _processor_maker() -> str:
    """As Linux names it ("GenuineIntel", say); elsewhere the name of the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.system()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(("vendor_id", "CPU implementer"))), "Linux")


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory for the next tensor instead of giving it back to the system at once.

    Every operation on images makes a tensor of megabytes and frees it soon. By default glibc returns such blocks immediately, and the
    next operation pays for fresh pages: on virtual machines that can cost more than the arithmetic. Does nothing without glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        mallopt(mmap_threshold, 32 << 20)  # the largest value that glibc accepts
        mallopt(trim_threshold, 1 << 30)
        mallopt(top_pad, 64 << 20)


def give_back_freed_memory() -> None:
    """Return what was freed to the system, so that a long run of blocks peaks no higher than one. Does nothing without glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
