"""Photographs of 32x32 pixels on this machine's cores: `make bench-cifar`. With `--device cuda`, on a GPU.

Accuracy for time: networks trained on all 50,000 training images, each with the seconds of training and the share of the machine's
peak that its arithmetic reaches. Denoisers: images a second, one thread on each core as workers have, and the same share. The peak is
the faster of two matrix products, measured in turn with the rest. Floating-point operations are counted by torch, two for each
multiply-add. With `--long`, one training of a larger network and nothing else, into a record of its own.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from machine import busy_elsewhere, keep
from torch.utils.flop_counter import FlopCounterMode

from certidote.data import load
from certidote.diffusion.denoiser import CATALOGUE
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.numerics import fast_dtype, keep_freed_memory, torch_dtype
from certidote.streams import Key
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import RECIPES, Recipe
from certidote.types import ImageDataset, Json, Lineage, Stack, View

SIDES = (1024, 2048)
"""Square matrices whose product gives the peak: the fastest of them counts."""

TRAININGS: tuple[tuple[str, dict[str, object]], ...] = (
    ("compact", {"epochs": 2}),
    ("compact", {"epochs": 6}),
    ("compact-wide", {"epochs": 11}),
    ("airbench", {"epochs": 5}),
)
"""Recipe, and what is changed in it: all of them take a quarter of an hour."""

LONG: tuple[tuple[str, dict[str, object]], ...] = (("airbench", {"epochs": 18}),)
"""With --long, instead of these: what a network for GPUs reaches when it has time."""

ON_A_GPU: tuple[tuple[str, dict[str, object]], ...] = (
    ("compact", {}),
    ("airbench", {}),
    ("airbench", {"epochs": 24}),
)
"""The same for a GPU."""

DENOISERS = tuple(name for name in ("cifar10-32", "tiny-imagenet-32", "tiny-imagenet-32-large") if name in CATALOGUE)
BATCH = 128
ROUNDS, LOOK_SECONDS = 9, 0.3
"""Of denoisers and the peak in turn."""


def waited(device: str) -> None:
    """Until a GPU has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], object], at_least: float = 3.0, device: str = "cpu") -> float:
    def done() -> None:
        work()
        waited(device)

    done()
    times: list[float] = []
    while sum(times) < at_least or len(times) < 5:
        begin = time.perf_counter()
        done()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def peak(dtype: str, device: str = "cpu", at_least: float = 1.0) -> float:
    """GFLOP/s of the fastest product of random matrices, with as many threads as are set."""
    rates = []
    for side in SIDES if device == "cpu" else (4096, 8192):
        left, right = (torch.randn(side, side, device=device).to(torch_dtype(dtype)) for _ in range(2))
        rates.append(2 * side**3 / median_seconds(lambda left=left, right=right: left @ right, at_least, device) / 1e9)
    return max(rates)


def counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def accuracies(stack: Stack, test: ImageDataset, device: str) -> tuple[float, float]:
    """On the test images, and on them and their mirror images together: the mean of both images' logits answers."""
    plain, both = [], []
    for part in torch.split(test.pixels(), 500):
        images = part.to(device)
        logits = stack(images)[0]
        plain.append(logits.argmax(1).cpu())
        both.append((logits + stack(images.flip(3))[0]).argmax(1).cpu())
    return tuple(float((torch.cat(answers) == test.labels).double().mean()) for answers in (plain, both))  # type: ignore[return-value]


def trained(recipe: Recipe, train: ImageDataset, test: ImageDataset, dtype: str, key: Key, device: str = "cpu") -> Json:
    """One training; on a GPU the second, as members of a certificate are many."""
    trainer = PooledTrainer(recipe, dtype)
    view = View(train.pixels().to(device), train.labels.to(device), train.num_classes, Lineage())
    few = View(view.images[: recipe.batch_size].cpu(), view.labels[: recipe.batch_size].cpu(), view.num_classes, Lineage())
    once = PooledTrainer(recipe.model_copy(update={"epochs": 1, "drops": ()}), dtype)
    step = counted(lambda: once.fit([few], [key], key))
    if device == "cuda":  # the first member pays for recording the steps, and those of a certificate are many
        trainer.fit([view], [key / "first"], key / "common")
        waited(device)
    begin = time.perf_counter()
    stack = trainer.fit([view], [key / "member"], key / "common")
    waited(device)
    seconds = time.perf_counter() - begin
    images = len(train) * recipe.epochs
    plain, mirrored = accuracies(stack, test, device)
    return {
        "recipe": recipe.to_json(),
        "parameters": sum(weight.numel() for weight in stack.member(0).parameters()),
        "seconds": seconds,
        "accuracy": plain,
        "accuracy_with_mirror_images": mirrored,
        "images_per_second": images / seconds,
        "gflops": step / recipe.batch_size * images / seconds / 1e9,
    }


def denoised(names: Sequence[str], dtype: str, device: str = "cpu") -> dict[str, Json]:
    """Medians over rounds in which each denoiser has its turn between two looks at the peak: shared machines are now fast, now slow."""
    images = BATCH if device == "cpu" else 10_000
    noisy, sigma = torch.rand(images, 3, 32, 32).to(device), torch.full((images,), 0.25)
    denoisers = {name: load_denoiser(name, dtype=dtype) for name in names}
    gflop = {
        name: counted(lambda each=each: each(noisy[:BATCH].cpu(), sigma[:BATCH])) / BATCH / 1e9 for name, each in denoisers.items()
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    before = peak(dtype, device, LOOK_SECONDS)
    for _ in range(ROUNDS):
        for name, each in denoisers.items():
            rate = images / median_seconds(lambda each=each: each(noisy, sigma), LOOK_SECONDS, device)
            after = peak(dtype, device, LOOK_SECONDS)
            seen[name].append((rate, 2 * rate * gflop[name] / (before + after)))
            before = after
    found = {}
    for name, rounds in seen.items():
        rate, share = (statistics.median(values) for values in zip(*rounds, strict=True))
        shares = [share for _, share in rounds]
        found[name] = {"gflop_per_image": gflop[name], "images_per_second": rate, "fraction_of_peak": share, "fractions": shares}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.path.join(os.environ.get("CERTIDOTE_DATA", "../shared/data"), "cifar10-jpeg.tar.xz"))
    parser.add_argument(
        "--out", type=Path, help="default: results/benchmarks/photographs.json, photographs-long.json or photographs-gpu.json"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--long", action="store_true", help="one long training on a processor, and no denoisers: photographs-long.json"
    )
    options = parser.parse_args()
    if options.long and options.device != "cpu":
        parser.error("--long is for --device cpu")
    keep_freed_memory()
    device, dtype, cores = options.device, fast_dtype(options.device), len(os.sched_getaffinity(0))
    kind = "-long" if options.long else "" if device == "cpu" else "-gpu"
    where = f"{cores} threads" if device == "cpu" else torch.cuda.get_device_name()
    begin = time.perf_counter()
    train = load(options.data, "train")
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    test = load(options.data, "test")
    load(options.data, "train")
    print(f"{options.data}: training set in {first:.1f} s, it and the test set again in {time.perf_counter() - begin:.1f} s")
    busy = busy_elsewhere()
    torch.set_num_threads(cores)
    rows = []
    for recipe, changed in LONG if options.long else TRAININGS if device == "cpu" else ON_A_GPU:
        at_peak = peak(dtype, device)
        row = trained(RECIPES[recipe].model_copy(update=changed), train, test, dtype, Key(0) / "photographs", device)
        row |= {"name": recipe, "peak_gflops": at_peak, "fraction_of_peak": row["gflops"] / at_peak}
        rows.append(row)
        print(
            f"{recipe}, {row['recipe']['epochs']} epochs: {row['accuracy']:.2%} "
            f"({row['accuracy_with_mirror_images']:.2%} with mirror images) in {row['seconds']:.1f} s, "
            f"{row['images_per_second']:,.0f} images/s, {row['fraction_of_peak']:.0%} of the peak of {where}",
            flush=True,
        )
        busy = max(busy, busy_elsewhere())
    torch.set_num_threads(1)
    speeds = {} if options.long else denoised(DENOISERS, dtype, device)
    for denoiser, row in speeds.items():
        print(
            f"denoiser {denoiser}: {row['images_per_second']:,.0f} images/s on "
            f"{f'one of {cores} cores' if device == 'cpu' else where}, {row['fraction_of_peak']:.0%} of its peak"
        )
    busy = max(busy, busy_elsewhere())
    keep(
        options.out or Path(f"results/benchmarks/photographs{kind}.json"),
        {"device": device, "data": options.data, "dtype": dtype, "threads": cores, "trainings": rows, "denoisers": speeds},
        busy,
    )


if __name__ == "__main__":
    main()
