"""Baselines that need no training: four denoisers in closed form, fitted to trusted images or to nothing.

`LinearMMSE` knows the mean and covariance of the trusted images, `Wiener` their mean and power spectrum, `KernelPosteriorMean` the
images themselves, `Identity` nothing. Of images with many pixels only the spectrum stays small.
"""

import functools
import hashlib
import math
from collections.abc import Iterable

import torch
from jaxtyping import Complex, Float, Float64
from torch import Tensor

from certidote.diffusion.contract import check_call, check_sigma, chunk_size, image_hashes, in_chunks
from certidote.numerics import sent
from certidote.types import DenoiserCard, ImageDataset, Images, digest_of

VALUES_PER_BLOCK = 1 << 24
"""Values of images that are turned into float64 at a time, 128 MiB; while a block is made, the one before is still there."""


class _Decomposed:
    """What the two estimates from an eigen-decomposition share: any sigma, chunk by chunk, on the device of the images."""

    sigma_min, sigma_max = 0.0, math.inf
    mean: Tensor
    vectors: Tensor
    values: Tensor
    card: DenoiserCard
    chunk: int

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        """(n, c, h, w) estimates of the clean images, float32 in [0, 1]. Errors as `contract.check_call`."""
        check_call(noisy, sigma, self.card.image_shape, self.sigma_min, self.sigma_max)
        self.mean, self.vectors, self.values = (x.to(noisy.device) for x in (self.mean, self.vectors, self.values))
        return in_chunks(noisy, sent(sigma, noisy.device), self.chunk, self._denoise)

    def conditioning(self, sigma: float) -> str:
        check_sigma(sigma, self.sigma_min, self.sigma_max)
        return f"sigma = {sigma:g}, exact"

    def _denoise(self, noisy: Images, sigma: Float[Tensor, "m"]) -> Images:
        raise NotImplementedError


class LinearMMSE(_Decomposed):
    """The best affine estimate under the trusted images' mean mu and covariance C: mu + C (C + sigma^2 I)^-1 (y - mu).

    Exact at every sigma from one eigen-decomposition C = V diag(v) V^T in float64: the gain along an eigenvector is
    v / (v + sigma^2). If clean images were Gaussian, no denoiser would have a smaller mean squared error.

    Args:
        trusted: images that the attacker cannot have touched.
        name: for the card.
    """

    def __init__(self, trusted: ImageDataset, name: str = "linear-mmse") -> None:
        blocks = torch.split(trusted.images.flatten(1), max(1, VALUES_PER_BLOCK // math.prod(trusted.image_shape)))
        mean = _sum(block.to(torch.float64).div_(255).sum(0) for block in blocks) / len(trusted)
        centered = (block.to(torch.float64).div_(255).sub_(mean) for block in blocks)
        values, vectors = torch.linalg.eigh(_sum(block.T @ block for block in centered) / len(trusted))
        self.mean: Float[Tensor, d] = mean.to(torch.float32)
        self.vectors: Float[Tensor, "d d"] = vectors.to(torch.float32)
        self.values: Float64[Tensor, d] = values.clamp(min=0)
        self.card = _card(name, "linear-mmse", trusted)
        self.chunk = chunk_size(*trusted.image_shape[1:])

    def _denoise(self, noisy: Images, sigma: Float[Tensor, "m"]) -> Images:
        gain = self.values / (self.values + sigma.to(torch.float64).square()[:, None])
        along = (noisy.flatten(1) - self.mean) @ self.vectors
        along = along * gain.nan_to_num(nan=0.0).to(torch.float32)  # 0/0: no variance and no noise
        return (along @ self.vectors.T + self.mean).view_as(noisy).clamp(0, 1)


class Wiener(_Decomposed):
    """`LinearMMSE` if the covariance of two pixels depended on their offset alone, edges joined to opposite edges: Wiener's filter.

    Such a covariance is block-diagonal in the frequencies f of a two-dimensional Fourier transform. With S(f) the (c, c) mean of
    F F^H over the trusted images' transforms F(f), mean image removed, the estimate is S (S + sigma^2 I)^-1 F at each f. Time and memory
    grow with the number of pixels, where a covariance matrix grows with its square.

    Args:
        trusted: images that the attacker cannot have touched.
        name: for the card.
    """

    def __init__(self, trusted: ImageDataset, name: str = "wiener") -> None:
        images = torch.split(trusted.images, chunk_size(*trusted.image_shape[1:]))
        mean = _sum(chunk.to(torch.float64).sum(0) for chunk in images) / (255 * len(trusted))
        transformed = (torch.fft.rfft2(chunk.to(torch.float64) / 255 - mean, norm="ortho") for chunk in images)
        power = _sum(torch.einsum("nchw,ndhw->hwcd", each, each.conj()) for each in transformed) / len(trusted)
        values, vectors = torch.linalg.eigh(power)
        self.mean: Float[Tensor, "c h w"] = mean.to(torch.float32)
        self.vectors: Complex[Tensor, "h f c c"] = vectors.to(torch.complex64)
        self.values: Float64[Tensor, "h f c"] = values.clamp(min=0)
        self.card = _card(name, "wiener", trusted)
        self.chunk = chunk_size(*trusted.image_shape[1:])

    def _denoise(self, noisy: Images, sigma: Float[Tensor, "m"]) -> Images:
        gain = self.values / (self.values + sigma.to(torch.float64).square()[:, None, None, None])
        transformed = torch.fft.rfft2(noisy - self.mean, norm="ortho")
        along = torch.einsum("hwcd,nchw->nhwd", self.vectors.conj(), transformed)
        along = along * gain.nan_to_num(nan=0.0).to(torch.float32)  # 0/0: no variance and no noise
        back = torch.einsum("hwcd,nhwd->nchw", self.vectors, along)
        return (torch.fft.irfft2(back, s=noisy.shape[2:], norm="ortho") + self.mean).clamp(0, 1)


class KernelPosteriorMean:
    """The posterior mean if clean images were draws from the trusted ones, each blurred by N(0, bandwidth^2).

    With weights w_i proportional to exp(-|y - x_i|^2 / (2 (sigma^2 + bandwidth^2))), the estimate is
    sum_i w_i (x_i + bandwidth^2 / (sigma^2 + bandwidth^2) (y - x_i)). In float64, the largest exponent subtracted first.

    Args:
        trusted: images that the attacker cannot have touched.
        bandwidth: std of the blur around each of them, [0, 1] pixel units; 0 for the images themselves.
        name: for the card.
    Raises: ValueError if `bandwidth` is negative.
    """

    def __init__(self, trusted: ImageDataset, bandwidth: float = 0.0, name: str = "kernel") -> None:
        if not bandwidth >= 0:
            raise ValueError(f"bandwidth={bandwidth}; give a number of at least 0, in [0, 1] pixel units")
        self.images: Float64[Tensor, "m d"] = trusted.images.flatten(1).to(torch.float64) / 255
        self.bandwidth = bandwidth
        self.sigma_min, self.sigma_max = 1e-3, math.inf
        self.card = _card(name, "kernel", trusted, bandwidth)
        self.chunk = chunk_size(*trusted.image_shape[1:])

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        """(n, c, h, w) estimates of the clean images, float32 in [0, 1]. Errors as `contract.check_call`."""
        check_call(noisy, sigma, self.card.image_shape, self.sigma_min, self.sigma_max)
        self.images = self.images.to(noisy.device)
        return in_chunks(noisy, sent(sigma, noisy.device), self.chunk, self._denoise)

    def _denoise(self, noisy: Images, sigma: Float[Tensor, "m"]) -> Images:
        flat = noisy.flatten(1).to(torch.float64)
        blur = self.bandwidth**2
        variance = (sigma.to(torch.float64).square() + blur)[:, None]
        # |y|^2 is the same for every image and drops out of the softmax.
        exponents = (flat @ self.images.T - self.images.square().sum(1) / 2) / variance
        center = exponents.softmax(1) @ self.images
        return (center + blur / variance * (flat - center)).to(torch.float32).view_as(noisy).clamp(0, 1)

    def conditioning(self, sigma: float) -> str:
        check_sigma(sigma, self.sigma_min, self.sigma_max)
        return f"sigma = {sigma:g}, exact, bandwidth {self.bandwidth:g}"


class Identity:
    """No denoiser: the noised images as they are, not clamped. The baseline that every denoiser has to beat."""

    sigma_min = 0.0
    sigma_max = math.inf
    card = DenoiserCard("none", "none", hashlib.sha256(b"certidote identity denoiser").hexdigest(), training_images=frozenset())

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        check_call(noisy, sigma, None, self.sigma_min, self.sigma_max)
        return noisy

    def conditioning(self, sigma: float) -> str:
        check_sigma(sigma, self.sigma_min, self.sigma_max)
        return "none"


def _sum(parts: Iterable[Tensor]) -> Tensor:
    """Of at least one part; the first one is added to in place."""
    return functools.reduce(Tensor.add_, parts)


def _card(name: str, kind: str, trusted: ImageDataset, bandwidth: float = 0.0) -> DenoiserCard:
    """A card whose digest names formula and data: the same images give the same digest on every machine."""
    data = trusted.digest()
    digest = digest_of({"format": 1, "kind": kind, "data": data, "bandwidth": bandwidth})
    return DenoiserCard(name, kind, digest, trusted.image_shape, data, image_hashes(trusted), {"images": len(trusted)})
