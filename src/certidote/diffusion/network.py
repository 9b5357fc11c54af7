"""Our denoising network: plain convolutions in residual blocks, a U-Net over patches, no normalisation and no attention.

Everything in it is a convolution with many channels or a rectifier, the two things that CPUs and GPUs do near their peak rate in
bfloat16. Pixels are folded into channels first (patches of 2x2 or more), so that even the finest level has 64 channels to
multiply. One network serves a range of noise levels: it is told log(sigma) / 4 in an extra input channel, and its input and
output are scaled so that both have unit variance at every sigma.

Source of the scaling: Karras, Aittala, Aila and Laine (2022), table 1 (c_skip, c_out, c_in, c_noise).
"""

import copy
import hashlib
import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from certidote.diffusion.contract import check_call, check_sigma, chunk_size, in_chunks
from certidote.graphed import Graphed
from certidote.numerics import DType, sent, torch_dtype
from certidote.types import DenoiserCard, Images, Json, digest_of


@dataclass(frozen=True)
class Architecture:
    """The shape of a network.

    Attributes:
        channels: colour channels of an image.
        patch: side of the square of pixels folded into channels before the first convolution.
        widths: channels of each level, finest first; every level halves the grid of the one before.
        blocks: residual blocks of each level, on the way down and again on the way up (the last level only once).
    Raises: ValueError if a number is not positive or `widths` and `blocks` differ in length.
    """

    channels: int
    patch: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(f"widths {self.widths} and blocks {self.blocks}; give one width and one number of blocks per level")
        if min(self.channels, self.patch, *self.widths, *self.blocks) < 1:
            raise ValueError(f"{self} has a number below 1; channels, patch, widths and blocks must be positive")

    def to_json(self) -> Json:
        return {**asdict(self), "widths": list(self.widths), "blocks": list(self.blocks)}

    @staticmethod
    def from_json(value: Json) -> "Architecture":
        return Architecture(**{**value, "widths": tuple(value["widths"]), "blocks": tuple(value["blocks"])})


def architecture_for(image_shape: tuple[int, int, int]) -> Architecture:
    """A network for (c, h, w) images, 8 to 224 pixels a side: a finest grid of at most 32x32, a coarsest of about 4x4.

    About 7 MFLOP an image for 8x8, 0.2 GFLOP for 32x32, 1 to 4 GFLOP above.
    Raises: ValueError outside 8 to 224 pixels.
    """
    channels, height, width = image_shape
    if not (8 <= height <= 224 and 8 <= width <= 224):
        raise ValueError(f"images of {height}x{width} pixels; this network takes 8 to 224 pixels a side: resize the images")
    size = max(height, width)
    doublings = max(1, math.ceil(math.log2(size / 32)))
    grid = math.ceil(size / 2**doublings)
    levels = 1 + max(0, math.ceil(math.log2(grid / 4)))
    widths = tuple(64 * (doublings + level) for level in range(levels))
    blocks = (3,) if levels == 1 else (1,) * (levels - 1) + (2,)
    return Architecture(channels, 2**doublings, widths, blocks)


class ResidualUNet(nn.Module):
    """The network F(scaled image, noise level): same shape out as in, zero before training."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths, blocks = architecture.widths, architecture.blocks
        folded = architecture.channels * architecture.patch**2
        self.stem = nn.Conv2d(folded + 1, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(width, count) for width, count in zip(widths, blocks, strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in itertools.pairwise(widths))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in itertools.pairwise(widths))
        self.decoders = nn.ModuleList(_blocks(width, count) for width, count in zip(widths[:-1], blocks[:-1], strict=True))
        self.head = nn.Conv2d(widths[0], folded, 3, padding=1)
        _silence(self.head)

    def inner_filters(self) -> list[nn.Parameter]:
        """Filters of all convolutions but the first and the last."""
        ends = {id(self.stem.weight), id(self.head.weight)}
        return [weight for weight in self.parameters() if weight.ndim == 4 and id(weight) not in ends]

    def forward(self, scaled: Float[Tensor, "n c h w"], level: Float[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
        """(n, c, h, w) outputs for scaled images and the (n,) noise levels they are told."""
        height, width = scaled.shape[2:]
        multiple = self.architecture.patch * 2 ** len(self.downs)
        padded = functional.pad(scaled, (0, -width % multiple, 0, -height % multiple))
        folded = functional.pixel_unshuffle(padded, self.architecture.patch)
        plane = level.view(-1, 1, 1, 1).expand(-1, 1, *folded.shape[2:])
        x = self.stem(torch.cat([folded, plane], 1).contiguous(memory_format=torch.channels_last))
        skips = []
        for encoder, down in zip(self.encoders[:-1], self.downs, strict=True):
            skips.append(encoder(x))
            x = down(functional.relu(skips[-1]))
        x = self.encoders[-1](x)
        for up, decoder in zip(reversed(self.ups), reversed(self.decoders), strict=True):
            x = decoder(up(functional.relu(x)).add_(skips.pop()))
        return functional.pixel_shuffle(self.head(functional.relu(x)), self.architecture.patch)[:, :, :height, :width]


class _Block(nn.Module):
    """x + conv(relu(conv(relu(x)))), the identity before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        _silence(self.second)

    def forward(self, x: Tensor) -> Tensor:
        # In place where a convolution has just made the tensor: its backward pass needs its input only.
        return self.second(functional.relu_(self.first(functional.relu(x)))).add_(x)


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))


def _silence(convolution: nn.Conv2d) -> None:
    nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


# --------------------------------------------------------------------------------------------------------------- the denoiser


@dataclass(frozen=True)
class Scaling:
    """How images enter and leave the network, from two numbers about the trusted images.

    Attributes:
        mean: mean of all trusted pixels, [0, 1] units.
        std: their standard deviation around it.
    """

    mean: float
    std: float

    def enter(self, noisy: Images, sigma: Float[Tensor, "n"]) -> tuple[Images, Float[Tensor, "n"]]:
        """(n, c, h, w) images of unit variance, and the (n,) levels that the network is told."""
        return (noisy - self.mean) * _each((sigma.square() + self.std**2).rsqrt()), sigma.log() / 4

    def leave(self, output: Images, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        """(n, c, h, w) estimates of the clean images, unclamped: the best scalar shrinkage plus sigma times the network's part."""
        total = sigma.square() + self.std**2
        shrunk = (noisy - self.mean).mul_(_each(self.std**2 / total))
        return shrunk.addcmul_(output, _each(sigma * self.std * total.rsqrt())).add_(self.mean)

    def wanted(self, clean: Images, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        """What the network must output for `leave` to give the clean images: the training target, of about unit variance."""
        total = sigma.square() + self.std**2
        shrunk = (noisy - self.mean) * _each(self.std**2 / total)
        return (clean - self.mean - shrunk) * _each(total.sqrt() / (sigma * self.std))


def _each(per_image: Float[Tensor, "n"]) -> Float[Tensor, "n 1 1 1"]:
    return per_image.view(-1, 1, 1, 1)


class NetworkDenoiser:
    """A trained `ResidualUNet` as a `Denoiser`; differentiable in its images where they ask for gradients.

    Args:
        network: the trained network; it is copied to `dtype` and never changed.
        scaling: as trained.
        sigma_min, sigma_max: the noise it was trained for, [0, 1] pixel units.
        card: what it is; `image_shape` must be set.
        dtype: number format of the network's arithmetic. The scaling around it is float32 always.
    """

    def __init__(
        self,
        network: ResidualUNet,
        scaling: Scaling,
        sigma_min: float,
        sigma_max: float,
        card: DenoiserCard,
        dtype: DType = "float32",
    ) -> None:
        if card.image_shape is None:
            raise ValueError("a network denoiser takes one image shape; its card names none")
        self.sigma_min, self.sigma_max, self.card, self.scaling, self.dtype = sigma_min, sigma_max, card, scaling, dtype
        self.weights = {name: value.detach().to(torch.float32).clone() for name, value in network.state_dict().items()}
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.network.to(torch_dtype(dtype)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.chunk = chunk_size(*card.image_shape[1:])
        self._graphed = Graphed(self._denoise)

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        """(n, c, h, w) estimates of the clean images, float32 in [0, 1]. Errors as `contract.check_call`."""
        check_call(noisy, sigma, self.card.image_shape, self.sigma_min, self.sigma_max)
        if self.network.head.weight.device != noisy.device:
            self.network.to(noisy.device)
            self._graphed = Graphed(self._denoise)
        replay = noisy.device.type == "cuda" and not noisy.requires_grad
        return in_chunks(noisy, sent(sigma, noisy.device), self.chunk, self._graphed if replay else self._denoise)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_graphed"}  # recordings stay on their GPU

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._graphed = Graphed(self._denoise)

    def _denoise(self, noisy: Images, sigma: Float[Tensor, "m"]) -> Images:
        scaled, level = self.scaling.enter(noisy, sigma)
        dtype = self.network.head.weight.dtype
        output = self.network(scaled.to(dtype), level.to(dtype)).to(torch.float32)
        return self.scaling.leave(output, noisy, sigma).clamp_(0, 1)

    def conditioning(self, sigma: float) -> str:
        check_sigma(sigma, self.sigma_min, self.sigma_max)
        return f"log(sigma)/4 = {math.log(sigma) / 4:.4f}, network in {self.dtype}"


def weights_digest(
    network: ResidualUNet, scaling: Scaling, sigma_min: float, sigma_max: float, image_shape: tuple[int, int, int]
) -> str:
    """SHA-256 of everything that decides what the denoiser computes, except the number format it computes in; 64 hex digits."""
    hashes = {}
    for name, value in network.state_dict().items():
        values = value.detach().cpu().to(torch.float32).contiguous().numpy().astype("<f4")
        hashes[name] = hashlib.sha256(values.tobytes()).hexdigest()
    return digest_of(
        {
            "kind": "network",
            "architecture": network.architecture.to_json(),
            "scaling": asdict(scaling),
            "range": [sigma_min, sigma_max],
            "image_shape": list(image_shape),
            "weights": hashes,
        }
    )
