"""Sanitizing once: noise and denoise the whole training set, then train one model on the result.

The everyday use of denoising, and empirical only: a certificate needs the vote of many independent draws.
"""

import torch

from certidote.streams import Key, row_blocks
from certidote.types import Denoiser, Traced, Untrusted


def sanitized(data: Untrusted, denoiser: Denoiser, sigma: float, key: Key, device: str = "cpu") -> Traced:
    """Every image noised once at `sigma` and denoised once.

    Args:
        data: the training set, possibly poisoned.
        denoiser: must accept `sigma`.
        sigma: noise std, [0, 1] pixel units.
        key: the noise stream; two calls with one key add the same noise, which pairs clean and poisoned runs.
        device: where the denoiser runs; noise is drawn and added on the CPU, so that it is the same everywhere.
    Returns: (n, c, h, w) float32 images, not clipped, and their lineage.
    Raises: ValueError if `sigma` is outside the denoiser's range.
    """
    if not denoiser.sigma_min <= sigma <= denoiser.sigma_max:
        raise ValueError(
            f"sigma={sigma} is outside this denoiser's range, {denoiser.sigma_min} to {denoiser.sigma_max} ([0, 1] pixel units); "
            "change sigma or use a denoiser made for it"
        )
    blocks = [data.noised(sigma, key, rows).to(device).denoised(denoiser) for rows in row_blocks(len(data))]
    return Traced(torch.cat([block.images for block in blocks]), blocks[0].lineage)
