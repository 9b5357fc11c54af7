"""A tiny diffusers DDPM for the digits, trained on the trusted images from a fixed seed: `python benchmarks/tiny_ddpm.py`.

A U-Net of two levels in the linear schedule of 1,000 steps that DDPMs use, saved by diffusers' own `save_pretrained`. About two
minutes on one core. The same numbers come out on the same machine with the same versions; its digest is in every certificate.
"""

import argparse
from pathlib import Path

import torch

from certidote.data.digits import load_digits
from certidote.numerics import keep_freed_memory

STEPS, BATCH, RATE, SEED = 2_000, 128, 2e-3, 0


def train(directory: Path) -> None:
    """Train and save; nothing happens if `directory` holds a model already."""
    from diffusers import DDPMScheduler, UNet2DModel

    if (directory / "scheduler_config.json").is_file():
        return
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    images = 2 * load_digits("trusted").pixels() - 1
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        batch = images[torch.randint(len(images), (BATCH,))]
        noise, t = torch.randn_like(batch), torch.randint(1000, (BATCH,))
        loss = (unet(scheduler.add_noise(batch, noise, t), t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unet.save_pretrained(directory, safe_serialization=True)
    scheduler.save_pretrained(directory)  # last: its file says that the model is whole


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-ddpm"))
    train(parser.parse_args().out)
