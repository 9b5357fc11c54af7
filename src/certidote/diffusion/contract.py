"""What every denoiser does alike: refuse calls outside its range, work in chunks that fit the cache, name what it learned from."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from certidote.streams import ROW_BLOCK
from certidote.types import ImageDataset, Images, short_hashes

PIXELS_PER_CHUNK = 16_384
"""Pixel positions that one network call works on: 256 images of 8x8, 16 of 32x32; their activations fit a core's cache."""

LARGER_CHUNKS = 64
"""How many times as many images one call takes on a GPU, up to a block of rows: there launches cost more than memory."""


def check_call(
    noisy: Images, sigma: Float[Tensor, "m"], image_shape: tuple[int, int, int] | None, sigma_min: float, sigma_max: float
) -> None:
    """Refuse images or noise levels that a denoiser is not made for.

    Args:
        noisy: (n, c, h, w).
        sigma: (n,) noise std of each image, [0, 1] pixel units.
        image_shape: the only (c, h, w) allowed; None allows any.
        sigma_min, sigma_max: the noise range of the denoiser, ends included.
    Raises: ValueError naming the first thing that is wrong.
    """
    if len(noisy) != len(sigma):
        raise ValueError(f"{len(noisy)} images but {len(sigma)} noise levels; give one sigma per image")
    if image_shape is not None and tuple(noisy.shape[1:]) != image_shape:
        given = tuple(noisy.shape[1:])
        raise ValueError(
            f"images of shape {given}, but this denoiser takes {image_shape} (channels, height, width); "
            "resize the images or use a denoiser trained on this shape"
        )
    if len(sigma) == 0:
        return
    for value in (float(sigma.min()), float(sigma.max())):
        check_sigma(value, sigma_min, sigma_max)


def check_sigma(sigma: float, sigma_min: float, sigma_max: float) -> None:
    """Refuse one noise std, [0, 1] units, outside [sigma_min, sigma_max]; a float32 rounding of either end is inside."""
    if not math.isfinite(sigma):
        raise ValueError(f"sigma={sigma} is no noise level; give a finite number in [0, 1] pixel units")
    if sigma > sigma_max * (1 + 1e-6):
        raise ValueError(
            f"sigma={sigma:.6g} exceeds this denoiser's sigma_max={sigma_max:.6g} ([0, 1] pixel units); "
            "lower sigma or use a denoiser trained for more noise"
        )
    if sigma < sigma_min * (1 - 1e-6):
        raise ValueError(
            f"sigma={sigma:.6g} is below this denoiser's sigma_min={sigma_min:.6g} ([0, 1] pixel units); "
            "raise sigma or use a denoiser trained for less noise"
        )


def chunk_size(height: int, width: int) -> int:
    """Images that one network call takes: a power of two, from 1 to 256."""
    return 2 ** int(math.log2(min(256, max(1, PIXELS_PER_CHUNK // (height * width)))))


GRAPHS_TOGETHER = 256
"""Images whose graphs are kept for the way back, as long as there are no more: attackers look at all their poisons through a denoiser."""


def in_chunks(
    noisy: Images, sigma: Float[Tensor, "n"], size: int, denoise: Callable[[Images, Float[Tensor, "m"]], Images]
) -> Images:
    """`denoise` applied to `size` images at a time, always exactly `size`: the last chunk is filled up with blanks.

    Kernels choose their blocking, and with it their rounding, by the batch they are given. With one batch size there is one
    choice, and the result for an image does not depend on how many others came with it. Gradients are recorded only for images
    that ask for them; the result is an ordinary tensor, fit to train on. Then few images are filled up to a power of two only: an attacker
    looks at ten poisons thousands of times, and the last bits of what he sees are nobody's votes. Of more than `GRAPHS_TOGETHER` images only one chunk's graph is
    in memory at a time: it is made again on the way back.

    Args:
        noisy: on any device.
        sigma: on that device, or on the CPU, where looking at it stops nobody.
        size: on a CPU; larger chunks elsewhere.
        denoise: is given both on these devices.
    """
    if noisy.device.type != "cpu":
        size = min(LARGER_CHUNKS * size, ROW_BLOCK)
    if noisy.requires_grad:
        size = min(size, 2 ** math.ceil(math.log2(max(1, len(noisy)))))
    out = torch.empty(noisy.shape, dtype=torch.float32, device=noisy.device)
    for first in range(0, len(noisy), size):
        images, levels = noisy[first : first + size], sigma[first : first + size]
        count = len(images)
        if count < size:
            images = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, size - count))
            levels = torch.cat([levels, levels[:1].expand(size - count)])
        if noisy.requires_grad and len(noisy) > GRAPHS_TOGETHER:
            denoised = checkpoint(denoise, images, levels, use_reentrant=False, preserve_rng_state=False)[:count]
        else:
            with nullcontext() if noisy.requires_grad else torch.inference_mode():
                denoised = denoise(images, levels)[:count]
        out[first : first + count] = denoised
    return out


def image_hashes(data: ImageDataset) -> frozenset[int]:
    """Short hashes of every image's stored bytes: which images were seen, without the images."""
    return frozenset(short_hashes(data.images.cpu()))
