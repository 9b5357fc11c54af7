"""Sanitizing once: noise and denoise the whole training set, then train one model on the result.

The everyday use of denoising, and empirical only: a certificate needs the vote of many independent draws.
"""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from certidote.streams import Key, row_blocks
from certidote.types import Denoiser, Images, Traced, Untrusted


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
    blocks = [sanitized_block(data, rows, denoiser, sigma, key, device) for rows in row_blocks(len(data))]
    return Traced(torch.cat([block.images for block in blocks]), blocks[0].lineage)


def sanitized_block(data: Untrusted, rows: range, denoiser: Denoiser, sigma: float, key: Key, device: str = "cpu") -> Traced:
    """One aligned block of rows, noised and denoised once: `sanitized` for sets too large for memory. Arguments as there.

    Args:
        data: the set, or only this block of it (`Untrusted.first_row`): the noise is that of the rows either way.
        rows: from `streams.row_blocks`.
    """
    if not denoiser.sigma_min <= sigma <= denoiser.sigma_max:
        raise ValueError(
            f"sigma={sigma} is outside this denoiser's range, {denoiser.sigma_min} to {denoiser.sigma_max} ([0, 1] pixel units); "
            "change sigma or use a denoiser made for it"
        )
    return data.noised(sigma, key, rows).to(device).denoised(denoiser)


def stages(
    data: Untrusted, rows: range, shown: Sequence[int], denoiser: Denoiser, sigma: float, key: Key, device: str = "cpu"
) -> tuple[Images, Images]:
    """For pictures: some images of one block noised, and denoised again, just as `sanitized_block` makes them.

    Args:
        rows: the aligned block that holds them.
        shown: row numbers of the whole set.
    Returns: (m, c, h, w) twice, not clipped.
    """
    noised = data.noised(sigma, key, rows).to(device)
    among = [row - rows.start for row in shown]
    return noised.images[among].cpu(), noised.denoised(denoiser).images[among].cpu()


def as_levels(images: Images) -> UInt8[Tensor, "n c h w"]:
    """Pixels as they are stored: clipped to [0, 1] and rounded to 255 levels."""
    return images.clamp(0, 1).mul_(255).round_().to(torch.uint8)
