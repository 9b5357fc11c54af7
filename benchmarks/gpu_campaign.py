"""What a GPU is asked to measure first, in an order of worth, cut into pieces that each fit into minutes.

`python benchmarks/gpu_campaign.py --minutes 9` works through the stages below from where the last call stopped, and stops in time; call it again to go
on, in the same folder or in a copy of it. Stages are plain commands of the library, which resume by themselves: nothing is lost but what
a command had not yet committed. Ledgers of several machines are joined with `certidote merge`.

Stages: speed (seconds a member, as a share of the card's measured peak), denoiser (the larger one), certificate (sigma 0.25 on all 50,000
training images), attacks (the ladder for ResNet-18), sigmas (certificates at 0.1 and 0.5).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import facts
from photographs import BATCH, counted

from certidote.diffusion.denoiser import load as load_denoiser
from certidote.engine.ledger import Ledger
from certidote.numerics import fast_dtype
from certidote.results.files import write_json
from certidote.streams import Key
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import RECIPES, Recipe
from certidote.types import Json, Lineage, View

STAGES = ("speed", "denoiser", "certificate", "attacks", "sigmas")
SPEED = "speed-0.25"
"""Folder of the few members whose seconds are looked at."""

STOP_SECONDS = 20
"""Given to a command to commit what it has, before it is killed."""

LARGE_RECIPE = """# The recipe of the larger denoiser for 32x32 color photographs: about 6 million parameters, a GPU's work.
steps = 20000
batch = 512
learning_rate = 0.002
weight_decay = 0.05
muon = 0.02
validation_share = 0.02
storage = "float16"

[augmentation]
share = 1.0
shift = 0.0
rotation = 0.0
scaling = 0.0
flip = true

[architecture]
channels = 3
patch = 2
widths = [128, 192, 256]
blocks = [3, 3, 2]
"""


@dataclass(frozen=True)
class Step:
    """One command, and the folder that an earlier one must have made for it, if any."""

    stage: str
    arguments: tuple[str, ...]
    needs: Path | None = None


def steps_of(data: Path, out: Path, device: str, small: bool) -> list[Step]:
    """All commands, in order.

    Args:
        data: folder with the two archives.
        small: a rehearsal: parts of the data sets, few models, the compact network.
    """
    images = "#600" if small else ""
    cifar, others = f"{data / 'cifar10-jpeg.tar.xz'}{images}", f"{data / 'tinyimagenet32-jpeg.tar.xz'}{'#2000' if small else ''}"
    heads = (
        f"{data / 'cifar10-jpeg.tar.xz'}{images or '#2500'}"  # what frozen features are fitted to, as in the poisoning benchmark
    )
    recipe, victims = ("compact", "compact") if small else ("airbench", "conservative")
    n0, n = ("2", "12") if small else ("100", "1000")
    recipe_file = out / "denoiser-large.toml"
    common = ("--device", device)
    few_tests = ("--test", f"{data / 'cifar10-jpeg.tar.xz'}:test#500") if small else ()

    def certify(stage: str, sigma: str, *extra: str) -> Step:
        run = out / (SPEED if stage == "speed" else f"certificate-{sigma}")  # a run has the members it was assigned first
        arguments = ("certify", cifar, "--out", str(run), "--sigma", sigma, "--denoiser", "tiny-imagenet-32", "--recipe", recipe)
        return Step(stage, (*arguments, "--models", n, "--n0", n0, "--seed", "25", *few_tests, *common, *extra))

    def attack(name: str, attacked: str, targets: int, *options: str) -> list[Step]:
        pack, replayed = out / f"pack-{name}", out / f"replay-{name}"
        few = ("2",) if small else (str(targets),)
        return [
            Step("attacks", ("poison", name, attacked, "--out", str(pack), "--targets", *few, "--seed", "8", *options, *common)),
            Step("attacks", ("replay", str(pack), attacked, "--out", str(replayed), "--seed", "8", *common), pack),
        ]

    quick = ("--option", "steps=5") if small else ()
    transfer = ("--scenario", "transfer", "--pretrain", others, "--recipe", victims, "--num-poisons", "25")
    scratch = ("--scenario", "scratch", "--recipe", victims)
    denoiser = Step(
        "denoiser",
        ("denoiser", "train", others, "--recipe", str(recipe_file), "--seed", "32", "--out", str(out / "tiny-imagenet-32-large"), *common),
    )  # fmt: skip
    return [
        certify("speed", "0.25", "--members", f"0:{2 if small else 8}"),
        denoiser,
        certify("certificate", "0.25"),
        *attack("bullseye-polytope", heads, 10, *transfer, *quick),
        *attack("witches-brew", cifar, 10, *scratch, *quick),
        *attack("sleeper-agent", cifar, 5, *scratch, "--trigger", "bernoulli", *quick),
        certify("sigmas", "0.1"),
        certify("sigmas", "0.5"),
    ]


def run(arguments: Sequence[str], seconds: float, log: Path) -> tuple[int | None, float]:
    """The command's status (None if time ran out) and the seconds it took."""
    begin = time.perf_counter()
    with open(log, "ab") as file:
        process = subprocess.Popen([sys.executable, "-m", "certidote.cli", *arguments], stdout=file, stderr=subprocess.STDOUT)
        try:
            status: int | None = process.wait(max(1.0, seconds - STOP_SECONDS))
        except subprocess.TimeoutExpired:
            process.terminate()
            status = None
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return status, time.perf_counter() - begin


def peak_tflops(device: str) -> float:
    """The fastest of some matrix products in bfloat16, TFLOP/s."""
    best = 0.0
    for side in (2048, 4096, 8192) if device == "cuda" else (512, 1024):
        left, right = (torch.ones(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(5):
            begin = time.perf_counter()
            left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * side**3 / (time.perf_counter() - begin) / 1e12)
    return best


def speed(ledger: Path, recipe: Recipe, images: int, tests: int, peak: float, device: str) -> Json:
    """Seconds of one member in this ledger, its TFLOP (noised images denoised, trained on, and test images answered), and the share of the peak."""
    with Ledger(ledger, read_only=True) as opened:
        members, (seconds, viewing) = opened.gap_free(), opened.seconds()
    dtype, size = fast_dtype(device), recipe.batch_size
    denoiser = load_denoiser("tiny-imagenet-32", dtype=dtype)
    pixels = torch.rand(size, 3, 32, 32, device=device)
    noisy = pixels[:BATCH]
    sigma = torch.full((len(noisy),), 0.25, device=device)
    view = View(pixels, torch.zeros(size, dtype=torch.int64, device=device), 10, Lineage())
    trainer = PooledTrainer(recipe.model_copy(update={"epochs": 1, "drops": ()}), dtype)
    stack = trainer.fit([view], [Key(0)], Key(0))
    work = counted(lambda: denoiser(noisy, sigma)) / len(noisy) * images
    work += counted(lambda: trainer.fit([view], [Key(0)], Key(0))) / size * images * recipe.epochs
    work += counted(lambda: stack(pixels)) / size * tests
    found = {"members": members, "seconds": seconds / members, "seconds_viewing": viewing / members, "tflop": work / 1e12}
    return {**found, "fraction_of_peak": work / 1e12 / (seconds / members) / peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], help="default: all, in order")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CERTIDOTE_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-campaign"))
    parser.add_argument("--minutes", type=float, default=9.0, help="after which this call stops")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="a rehearsal on parts of the data, in minutes on a CPU")
    options = parser.parse_args()
    deadline = time.perf_counter() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = LARGE_RECIPE
    if options.small:
        recipe = (
            recipe.replace("20000", "20").replace("512", "32").replace("[128, 192, 256]", "[32, 32]").replace("[3, 3, 2]", "[1, 1]")
        )
    (options.out / "denoiser-large.toml").write_text(recipe)
    record: Json = {"peak_tflops": peak_tflops(options.device), **facts()}
    write_json(options.out / f"card-{int(time.time())}.json", record)
    print(f"peak: {record['peak_tflops']:.1f} TFLOP/s in bfloat16", flush=True)
    done, failed = [], []
    for number, step in enumerate(steps_of(options.data, options.out, options.device, options.small)):
        marker = options.out / f"step-{number}.json"
        if marker.exists() and json.loads(marker.read_text())["arguments"] == list(step.arguments):
            done.append(step.stage)
            continue
        left = deadline - time.perf_counter()
        if left < 2 * STOP_SECONDS or (options.stages and step.stage not in options.stages):
            continue
        if step.needs is not None and not step.needs.exists():
            continue
        print(f"{step.stage}: certidote {' '.join(step.arguments)}", flush=True)
        log = options.out / f"step-{number}.log"
        status, seconds = run(step.arguments, left, log)
        print(f"  {'stopped' if status is None else f'status {status}'} after {seconds:.0f} s", flush=True)
        if status == 0:
            write_json(marker, {"stage": step.stage, "arguments": list(step.arguments), "seconds": seconds})
            done.append(step.stage)
            if step.stage == "speed":
                recipe, images, tests = (RECIPES["compact"], 600, 500) if options.small else (RECIPES["airbench"], 50_000, 10_000)
                found = speed(options.out / SPEED / "ledger.sqlite", recipe, images, tests, record["peak_tflops"], options.device)
                write_json(options.out / f"{SPEED}.json", found)
                print(f"  {found['seconds']:.2f} s a member, {found['fraction_of_peak']:.1%} of the peak", flush=True)
        elif status is not None:
            failed.append(f"{step.stage} ({log})")
    print(f"finished: {', '.join(done) or 'nothing yet'}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
