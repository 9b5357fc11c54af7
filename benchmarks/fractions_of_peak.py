"""How much of the machine's arithmetic the engine uses: part of `make bench`.

One thread, as in every worker. In each round, in turn: the peak (the fastest of three matrix products), the denoiser, the training of a stack of MLPs
and of one CNN, and the whole loop on one worker. Each part is given in GFLOP/s and as a fraction of the peak of the same round;
the loop as a fraction of what its parts, measured apart, allow. Floating-point operations are counted by torch (two for each
multiply-add, convolutions and matrix products alone).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import busy_elsewhere, keep
from torch.utils.flop_counter import FlopCounterMode

from certidote import engine
from certidote.data.digits import load_digits
from certidote.data.tiny import tiny
from certidote.defenses.sanitize import sanitized
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool, available_cores
from certidote.numerics import fast_dtype, keep_freed_memory, torch_dtype
from certidote.streams import Key
from certidote.training.pooled import trainer_for
from certidote.training.recipe import RECIPES
from certidote.types import ImageDataset, Lineage, Untrusted, View

SIGMA = 0.5
SIDES = (512, 1024, 2048)
"""Square matrices whose product gives the peak: the fastest of them counts."""


def seconds(work: Callable[[], object], at_least: float = 1.0) -> float:
    """Median time of one call, over calls that take `at_least` seconds together."""
    work()
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def operations(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def loop_seconds(train: ImageDataset, test: ImageDataset, dtype: str, members: int, workers: int) -> float:
    """The engine on workers that are running already: wall time for each member of a worker, ledger included."""
    scheme = DenoisedSmoothing(load_denoiser("digits", dtype=dtype), SIGMA, n0=10, n=members - 10)
    trainer, data = trainer_for(RECIPES["mlp"], dtype), Untrusted(train)
    with tempfile.TemporaryDirectory() as folder, Pool(workers) as pool:
        for name, first in (("warm", True), ("timed", False)):
            with Ledger(Path(folder) / f"{name}.sqlite") as ledger:
                config = engine.configuration(scheme, trainer, data, test, {"dtype": dtype, "warm": first})
                begin = time.perf_counter()
                engine.run(scheme, trainer, data, test, ledger=ledger, pool=pool, config=config, seed=1)
                spent = time.perf_counter() - begin
    return spent * workers / members


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    keep_freed_memory()
    dtype = fast_dtype()
    kind = torch_dtype(dtype)
    train, test = load_digits("train"), load_digits("test")
    denoiser = load_denoiser("digits", dtype=dtype)
    stack, single = trainer_for(RECIPES["mlp"], dtype), trainer_for(RECIPES["cnn"], dtype)
    untrusted, key = Untrusted(train), Key(0)
    view = View(sanitized(untrusted, denoiser, SIGMA, key).images, train.labels, 10, Lineage())
    color = tiny(200, 10, (3, 32, 32), Key(1))
    colored = View(color.pixels(), color.labels, 10, Lineage())
    views, keys = [view] * stack.stack_size, [key / member for member in range(stack.stack_size)]
    squares = [torch.ones(side, side, dtype=kind) for side in SIDES]
    noisy, level = view.images, torch.full((len(train),), SIGMA)
    stacked = f"training a stack of {len(views)} MLPs, 8x8"
    parts: dict[str, Callable[[], object]] = {
        **{f"matrix product, {len(each)}": lambda each=each: each @ each for each in squares},
        "denoiser, 8x8": lambda: denoiser(noisy, level),
        stacked: lambda: stack.fit(views, keys, key),
        "training one CNN, 8x8": lambda: single.fit([view], [key], key),
        "training one CNN, 32x32": lambda: single.fit([colored], [key], key),
    }
    counts = {name: operations(work) for name, work in parts.items()}
    counts_of_workers = sorted({1, available_cores()})
    rounds = []
    for number in range(options.rounds):
        busy = busy_elsewhere()
        spent = {name: seconds(work) for name, work in parts.items()}
        speed = {name: counts[name] / spent[name] / 1e9 for name in parts}
        apart = seconds(lambda: sanitized(untrusted, denoiser, SIGMA, key)) + spent[stacked] / len(views)
        loop = {workers: apart / loop_seconds(train, test, dtype, 320 * workers, workers) for workers in counts_of_workers}
        peak = max(speed[name] for name in parts if name.startswith("matrix product"))
        rounds.append({"busy_elsewhere": busy, "gflops": speed, "peak": peak, "loop": loop})
        print(f"round {number + 1}: peak {peak:.0f} GFLOP/s, loop {loop[1]:.0%} of its parts", flush=True)
    fraction = {name: statistics.median(row["gflops"][name] / row["peak"] for row in rounds) for name in parts}
    print(f"one thread, {dtype}, fractions of the peak:")
    for name, value in fraction.items():
        print(f"  {name}: {value:.0%} ({statistics.median(row['gflops'][name] for row in rounds):.0f} GFLOP/s)")
    loop = {workers: statistics.median(row["loop"][workers] for row in rounds) for workers in counts_of_workers}
    for workers, value in loop.items():
        print(f"  the loop, {workers} at work: {value:.0%} of 1 / (noise + denoise + train) measured apart, each")
    measured = {"fractions_of_peak": fraction, "loop": loop, "rounds": rounds, "dtype": dtype}
    keep(options.out / "fractions_of_peak.json", measured, max(row["busy_elsewhere"] for row in rounds))


if __name__ == "__main__":
    main()
