"""Sanitizing once: noise and denoise the whole training set, then train one model on the result.

The everyday use of denoising, and empirical only: a certificate needs the vote of many independent draws.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from certidote.streams import Key, row_blocks
from certidote.types import Denoiser, Images, Lineage, Traced, Untrusted


def sanitized(data: Untrusted, denoiser: Denoiser, sigma: float, key: Key, device: str = "cpu") -> Traced:
    """Every image noised once at `sigma` and denoised.

    Args:
        data: the training set, possibly poisoned.
        denoiser: must accept `sigma`.
        sigma: noise std, [0, 1] pixel units.
        key: the noise stream; two calls with one key add the same noise, which pairs clean and poisoned runs.
        device: where noise is drawn and added and the denoiser runs. A GPU draws other noise than a CPU.
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
    return data.noised(sigma, key, rows, device).denoised(denoiser)


def sanitized_again(
    data: Untrusted, made: Images, rows: Int64[Tensor, "m"], denoiser: Denoiser, sigma: float, key: Key, device: str = "cpu"
) -> Traced:
    """`sanitized`, where it is known what it makes of a set that differs in a few rows: all noise is drawn again, only `rows` are denoised again.

    Denoising is row by row, so the images are the same, bit for bit; but a part of them was made before, of which nothing is on record
    here. The caller says so in the lineage of what it makes of this. Other arguments and errors as `sanitized`.

    Args:
        data: the set, without trusted images.
        made: images that `sanitized` made of the other set with the same key; not changed.
        rows: where the two may differ.
    """
    images, lineage = made.clone(), Lineage()
    for block in row_blocks(len(data)):
        noised = data.noised(sigma, key, block, device)
        changed = rows[(rows >= block.start) & (rows < block.stop)].to(images.device)
        again = Traced(noised.images[changed - block.start], noised.lineage)
        lineage = replace(noised.lineage, denoiser=denoiser.card.digest)
        if len(changed):
            images[changed] = again.denoised(denoiser).images
    return Traced(images, lineage)


def stages(
    data: Untrusted, rows: range, shown: Sequence[int], denoiser: Denoiser, sigma: float, key: Key, device: str = "cpu"
) -> tuple[Images, Images]:
    """For pictures: some images of one block noised, and denoised again, just as `sanitized_block` makes them.

    Args:
        rows: the aligned block that holds them.
        shown: row numbers of the whole set.
    Returns: (m, c, h, w) twice, not clipped.
    """
    noised = data.noised(sigma, key, rows, device)
    among = [row - rows.start for row in shown]
    exempt = tuple(place for place, row in enumerate(among) if row in noised.exempt)
    few = Traced(noised.images[among], noised.lineage, exempt)  # an image's result does not depend on those denoised with it
    return few.images.cpu(), few.denoised(denoiser).images.cpu()


def as_levels(images: Images) -> UInt8[Tensor, "n c h w"]:
    """Pixels as they are stored: clipped to [0, 1] and rounded to 255 levels."""
    return images.clamp(0, 1).mul_(255).round_().to(torch.uint8)


def check_sigma(sigma: float, denoiser: Denoiser, name: str = "sigma") -> None:
    """Raises ValueError unless the noise std called `name` > 0 lies in the denoiser's range."""
    if not sigma > 0:
        raise ValueError(f"{name}={sigma} adds no noise and certifies nothing; give {name} > 0 ([0, 1] pixel units)")
    if sigma > denoiser.sigma_max:
        raise ValueError(
            f"{name}={sigma:g} exceeds this denoiser's sigma_max={denoiser.sigma_max:g} ([0, 1] pixel units); lower {name} or use a "
            "denoiser trained for more noise"
        )
    if sigma < denoiser.sigma_min:
        raise ValueError(
            f"{name}={sigma:g} is below this denoiser's sigma_min={denoiser.sigma_min:g} ([0, 1] pixel units); raise {name} or use a "
            "denoiser trained for less noise"
        )
