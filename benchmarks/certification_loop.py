"""The certification loop against what people write without it: `make bench`.

Three ways to noise, denoise, train and poll the members of one ensemble on the digits, measured in turn in one run:

a. the script a user would write: a diffusers U-Net in float32, batches of 64, a DataLoader, one model after the other;
b. a competent script: our denoiser network in the number format that is fast here, channels-last, whole-set calls, index batches,
   `nn.Module` and SGD in float32 (which is faster for such small products), one model after the other, all cores;
c. the engine: one single-threaded process for each core, stacked training, the number format that is fast here.

All train the same classifier by the same recipe. Only ratios are comparable between machines; the load by other processes is
recorded, and a run beside a busy machine says so.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from machine import busy_elsewhere, keep, peak_mib
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from certidote import engine
from certidote.data.digits import load_digits
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.diffusion.schedule import linear
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.numerics import DType, fast_dtype
from certidote.streams import Key
from certidote.training.models import build
from certidote.training.pooled import trainer_for
from certidote.training.recipe import RECIPES, Recipe
from certidote.training.schedule import rates
from certidote.types import Untrusted

SIGMA = 0.5
TRAIN, TEST = load_digits("train"), load_digits("test")
RECIPE = RECIPES["mlp"]


def diffusers_unet(directory: Path, seconds: float) -> nn.Module:
    """A small diffusers U-Net trained on the trusted digits as a DDPM for `seconds`, kept in `directory` for later runs."""
    from diffusers import DDPMScheduler, UNet2DModel

    if (directory / "config.json").is_file():
        return UNet2DModel.from_pretrained(directory, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False).eval()
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    images = 2 * load_digits("trusted").pixels() - 1
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    begin = time.perf_counter()
    while (now := time.perf_counter() - begin) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - now / seconds)
        batch = images[torch.randint(len(images), (128,))]
        noise, t = torch.randn_like(batch), torch.randint(1000, (128,))
        loss = (unet(scheduler.add_noise(batch, noise, t), t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unet.save_pretrained(directory, safe_serialization=True)
    scheduler.save_pretrained(directory)
    return unet.eval()


def optimizer_and_rates(model: nn.Module, recipe: Recipe, steps: int) -> tuple[torch.optim.SGD, list[float]]:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1.0, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
    )
    return optimizer, rates(recipe, steps)


def users_script(models: int, unet: nn.Module, seed: int) -> list[float]:
    """(a) Returns each model's test accuracy."""
    torch.manual_seed(seed)
    accuracies = []
    abar = 1 / (1 + (2 * SIGMA) ** 2)
    t = int(linear(1000).nearest_step(np.array([SIGMA]))[0])
    for _ in range(models):
        noisy = TRAIN.pixels() + SIGMA * torch.randn(TRAIN.images.shape)
        denoised = []
        with torch.no_grad():
            for (batch,) in DataLoader(TensorDataset(noisy), batch_size=64):
                scaled = abar**0.5 * (2 * batch - 1)
                eps = unet(scaled, torch.full((len(batch),), t)).sample
                x0 = (scaled - (1 - abar) ** 0.5 * eps) / abar**0.5
                denoised.append(((x0 + 1) / 2).clamp(0, 1))
        loader = DataLoader(TensorDataset(torch.cat(denoised), TRAIN.labels), batch_size=RECIPE.batch_size, shuffle=True)
        model = build(RECIPE.architecture, TRAIN.image_shape, 10, Key(seed))
        optimizer, schedule = optimizer_and_rates(model, RECIPE, RECIPE.epochs * len(loader))
        step = 0
        for _ in range(RECIPE.epochs):
            for images, labels in loader:
                for group in optimizer.param_groups:
                    group["lr"] = schedule[step]
                loss = nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
        with torch.no_grad():
            accuracies.append(float((model(TEST.pixels()).argmax(1) == TEST.labels).float().mean()))
    return accuracies


def competent_script(models: int, dtype: DType, seed: int) -> list[float]:
    """(b) Returns each model's test accuracy."""
    torch.manual_seed(seed)
    denoiser = load_denoiser("digits", dtype=dtype)
    accuracies = []
    clean, test = TRAIN.pixels(), TEST.pixels()
    sigma = torch.full((len(TRAIN),), SIGMA)
    for _ in range(models):
        with torch.no_grad():
            images = denoiser(clean + SIGMA * torch.randn(clean.shape), sigma)
        model = build(RECIPE.architecture, TRAIN.image_shape, 10, Key(seed))
        per_epoch = -(-len(images) // RECIPE.batch_size)
        optimizer, schedule = optimizer_and_rates(model, RECIPE, RECIPE.epochs * per_epoch)
        for epoch in range(RECIPE.epochs):
            for i, rows in enumerate(torch.randperm(len(images)).split(RECIPE.batch_size)):
                for group in optimizer.param_groups:
                    group["lr"] = schedule[epoch * per_epoch + i]
                loss = nn.functional.cross_entropy(model(images[rows]), TRAIN.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            accuracies.append(float((model(test).argmax(1) == TEST.labels).float().mean()))
    return accuracies


def engine_loop(models: int, pool: Pool, dtype: str, seed: int, workers: int) -> list[float]:
    """(c) Returns each member's test accuracy."""
    scheme = DenoisedSmoothing(
        load_denoiser("digits", dtype=dtype), SIGMA, n0=max(1, models // 10), n=models - max(1, models // 10)
    )
    trainer = trainer_for(RECIPE, dtype)
    data = Untrusted(TRAIN)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        config = engine.configuration(scheme, trainer, data, TEST, {"dtype": dtype})
        ballots = engine.run(scheme, trainer, data, TEST, ledger=ledger, pool=pool, config=config, seed=seed)
    return list((ballots.votes == TEST.labels.numpy()).mean(axis=1))


def timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    begin = time.perf_counter()
    accuracies = work()
    return (time.perf_counter() - begin) / len(accuracies), accuracies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, default=640, help="members of the engine in each round")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    dtype = fast_dtype()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"{workers} cores, dtype {dtype}; training the user's U-Net once (60 s, kept in {options.out})")
    unet = diffusers_unet(options.out / "unet", 60)
    torch.set_num_threads(workers)
    rounds = []
    accuracies: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    with Pool(workers) as pool:
        engine_loop(2 * 32 * workers, pool, dtype, 0, workers)  # start the workers
        for number in range(options.rounds):
            row = {"busy_elsewhere": busy_elsewhere()}
            for name, work in (
                ("a", lambda n=number: users_script(5, unet, n)),
                ("b", lambda n=number: competent_script(20, dtype, n)),
                ("c", lambda n=number: engine_loop(options.models, pool, dtype, n, workers)),
            ):
                row[name], found = timed(work)
                accuracies[name] += found
            rounds.append(row)
            print(
                f"round {number + 1}: a {row['a'] * 1e3:.0f} ms, b {row['b'] * 1e3:.1f} ms, c {row['c'] * 1e3:.2f} ms for each model; "
                f"others keep {row['busy_elsewhere']:.1f} cores busy",
                flush=True,
            )
        own = psutil.Process()
        peak = {
            "main process": peak_mib(own),
            "largest worker": max(peak_mib(child) for child in own.children(recursive=True)),
        }
    ratio = {name: statistics.median(row[name] / row["c"] for row in rounds) for name in ("a", "b")}
    mean = {name: statistics.mean(values) for name, values in accuracies.items()}
    print(f"the engine is {ratio['a']:.1f} times as fast as the user's script, {ratio['b']:.1f} times as fast as the competent one")
    print("mean accuracy of a model: " + ", ".join(f"{name} {value:.1%}" for name, value in mean.items()))
    print(", ".join(f"peak memory of the {name}: {value:.0f} MiB" for name, value in peak.items()))
    measured = {"ratios": ratio, "rounds": rounds, "mean_accuracy": mean, "peak_mib": peak, "dtype": dtype, "workers": workers}
    measured |= {"sigma": SIGMA, "recipe": RECIPE.to_json(), "models": options.models, "seeds": list(range(options.rounds))}
    keep(options.out / "certification_loop.json", measured, max(row["busy_elsewhere"] for row in rounds))


if __name__ == "__main__":
    main()
