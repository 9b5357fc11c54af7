"""Measures trained denoisers of 32x32 color photographs beside classical ones, and puts the figures on their model cards.

Peak signal-to-noise ratios on the same test images of CIFAR-10 with the same noise: the mean over images of -10 log10 of each image's mean
squared error. What has a width or a fit gets it from training images. `--package` writes the denoisers where the library finds them.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
from classical_denoisers import BLUR_WIDTHS, MEDIAN_SIDES, best_of, block_matching, blurred, median, wavelet
from machine import keep

from certidote.data import load
from certidote.diffusion.closed_form import LinearMMSE
from certidote.diffusion.contract import check_sigma
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.diffusion.denoiser import save
from certidote.numerics import keep_freed_memory
from certidote.streams import Key
from certidote.types import Denoiser, Images, Json

SIGMAS = (0.05, 0.1, 0.25, 0.5, 1.0)
PACKAGED = Path("src/certidote/diffusion/weights")
DATA_USED = {
    "cifar10-32": "the training images of CIFAR-10 (as JPEG of quality 75)",
    "tiny-imagenet-32-large": "the training images of Tiny-ImageNet, box-resampled to 32x32 (as JPEG of quality 75): none of CIFAR-10",
    "tiny-imagenet-32": "80,000 of the training images of Tiny-ImageNet, box-resampled to 32x32 (as JPEG of quality 75): none of CIFAR-10",
}


def noise_for(images: Images, sigma: float) -> Images:
    return torch.from_numpy((Key(0) / "photographs" / str(sigma)).numpy().standard_normal(images.shape)).float() * sigma


def psnr(denoised: Images, clean: Images) -> float:
    errors = (denoised - clean).double().square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def applied(denoiser: Denoiser, noisy: Images, sigma: float) -> Images | None:
    """What the denoiser makes of these images; None where it was not trained for so much or so little noise."""
    try:
        check_sigma(sigma, denoiser.sigma_min, denoiser.sigma_max)
    except ValueError:
        return None
    with torch.no_grad():
        return denoiser(noisy, torch.full((len(noisy),), sigma))


def figures(denoisers: dict[str, Denoiser], clean: Images, tuning: Images) -> Json:
    """PSNR of each method at each sigma, dB; None outside a denoiser's range."""
    table: dict[str, list[float | None]] = {}
    for sigma in SIGMAS:
        noisy, tuned_on = clean + noise_for(clean, sigma), tuning + noise_for(tuning, sigma)
        width = best_of(blurred, BLUR_WIDTHS, tuning, tuned_on)
        side = int(best_of(lambda x, s: median(x, int(s)), MEDIAN_SIDES, tuning, tuned_on))
        row = {
            "noisy": noisy.clamp(0, 1),
            "Gaussian blur": blurred(noisy, width),
            "median": median(noisy, side),
            "wavelets": wavelet(noisy, sigma),
            "block matching": block_matching(noisy, sigma),
            **{name: applied(denoiser, noisy, sigma) for name, denoiser in denoisers.items()},
        }
        for name, estimate in row.items():
            table.setdefault(name, []).append(None if estimate is None else psnr(estimate, clean))
        told = {name: values[-1] for name, values in table.items()}
        print(
            f"sigma {sigma:g}: " + ", ".join(f"{name} {value:.2f}" for name, value in told.items() if value is not None), flush=True
        )
    return {"sigmas": list(SIGMAS), "psnr": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("denoisers", nargs="+", type=Path, help="folders; the last part of each path is the denoiser's name")
    parser.add_argument("--data", default=os.path.join(os.environ.get("CERTIDOTE_DATA", "../shared/data"), "cifar10-jpeg.tar.xz"))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument(
        "--package",
        action="store_true",
        help=f"write those that are not there yet to {PACKAGED}, with these figures on their cards",
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/photograph-denoisers.json"))
    options = parser.parse_args()
    if options.package and (unknown := [path.name for path in options.denoisers if path.name not in DATA_USED]):
        parser.error(f"--package: nothing says what {', '.join(unknown)} learned from; packaged ones are {', '.join(DATA_USED)}")
    keep_freed_memory()
    clean, tuning = load(f"{options.data}:test#{options.images}").pixels(), load(f"{options.data}#200").pixels()
    linear = {"linear MMSE": LinearMMSE(load(options.data))}
    ours = {path.name: load_denoiser(path) for path in options.denoisers}
    measured = {"data": "CIFAR-10 (JPEG), test images", "images": len(clean), **figures({**linear, **ours}, clean, tuning)}
    keep(options.out, {**measured, "digests": {name: each.card.digest for name, each in ours.items()}})
    if options.package:
        for name, denoiser in ours.items():
            if (PACKAGED / name).is_dir():
                print(f"{PACKAGED / name} is there already and stays as it is")
                continue
            others = {other: values for other, values in measured["psnr"].items() if other == name or other not in ours}
            denoiser.card = replace(denoiser.card, name=name)
            denoiser.card.details["compared"] = {**measured, "psnr": others}
            denoiser.card.details["data"] = DATA_USED[name]
            save(denoiser, PACKAGED / name, force=True)


if __name__ == "__main__":
    main()
