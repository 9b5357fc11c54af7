"""What one more image, member or class costs a worker: `python benchmarks/scaling.py`.

Each row is one job in a fresh single-threaded process: processor seconds (not wall-clock, so that other processes matter little), the
best of several repeats, and the largest memory the process ever had. The slope is that of log(seconds) against log(size): 1 is
linear, 0 is free.
"""

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
import torch
from machine import busy_elsewhere, keep

from certidote.data.tiny import tiny
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.diffusion.denoiser import load
from certidote.engine.jobs import Job, Payload, work
from certidote.numerics import keep_freed_memory
from certidote.streams import Key
from certidote.training.pooled import trainer_for
from certidote.training.recipe import RECIPES
from certidote.types import Untrusted

SIZES = {
    "images": [(images, 16, 10) for images in (500, 1_000, 2_000, 4_000)],
    "members": [(1_000, members, 10) for members in (4, 8, 16, 32)],
    "classes": [(1_000, 16, classes) for classes in (10, 20, 50, 100)],
}
"""(images, members, classes): one of them grows, the others stay. 8x8 images, the packaged denoiser, the recipe `mlp`."""


def measure(images: int, members: int, classes: int, repeats: int) -> tuple[float, float]:
    """Processor seconds of one job (the best of `repeats`) and the peak memory of the process in MiB."""
    keep_freed_memory()
    torch.set_num_threads(1)
    data = tiny(images // classes, classes, (1, 8, 8), Key(0) / "train")
    test = tiny(400 // classes, classes, (1, 8, 8), Key(0) / "test")
    scheme = DenoisedSmoothing(load("digits", dtype="float32"), sigma=0.5, n0=10, n=100)
    payload = Payload(scheme, trainer_for(RECIPES["mlp"], "float32"), Untrusted(data), test.images, Key(1))
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        work(payload, Job(0, members))
        seconds.append(time.process_time() - begin)
    return min(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES), help="what grows")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/scaling.json"))
    options = parser.parse_args()
    busy, found = busy_elsewhere(), {}
    context = multiprocessing.get_context("spawn")
    for axis, (name, sizes) in enumerate(SIZES.items()):
        if name not in options.only:
            continue
        seconds, memory = [], []
        for size in sizes:
            with context.Pool(1) as pool:
                used, peak = pool.apply(measure, (*size, options.repeats))
            seconds.append(used)
            memory.append(peak)
            print(f"{name} {size[axis]}: {used:.3f} s, {peak:.0f} MiB", flush=True)
        slope = float(np.polyfit(np.log([size[axis] for size in sizes]), np.log(seconds), 1)[0])
        print(f"{name}: slope {slope:.2f}", flush=True)
        found[name] = {"sizes": [list(size) for size in sizes], "cpu_seconds": seconds, "peak_mib": memory, "slope": slope}
    keep(options.out, {"found": found, "repeats": options.repeats}, busy)


if __name__ == "__main__":
    main()
