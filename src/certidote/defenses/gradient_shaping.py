"""Gradient shaping: the gradient of every batch is clipped, and noise is added to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certidote.streams import Key, normal_block
from certidote.types import Json

TINY = 1e-6
"""Added to the norm before dividing, as torch and opacus do."""


@dataclass(frozen=True)
class GradientShaping:
    """The mean gradient of a batch, shortened to at most `clip`, plus Gaussian noise in every coordinate: a `Shaping`.

    Threat model: poisons that work by gradients of large norm or of unusual direction. Certificate: none. It is not differential
    privacy: one image can change the clipped mean as much as the clip allows. Cost: about 1.1 plain trainings.

    Attributes:
        clip: largest l2 norm over all parameters together, above 0.
        noise: std of the noise as a share of `clip`, at least 0.
    Raises: ValueError for numbers out of range.
    Source: Hong et al. (2020), "On the effectiveness of mitigating data poisoning attacks with gradient shaping", in the form of the
        code of Geiping et al. (2021), whose numbers these are.
    Differs from Hong et al.: they clip the gradient of every image, as `dp_sgd` does; on the mean, the same noise is larger by the
        batch size. Filters trained by Muon only feel the noise, since it keeps no lengths.
    """

    clip: float = 1.0
    noise: float = 0.01

    def __post_init__(self) -> None:
        if not (self.clip > 0 and self.noise >= 0):
            raise ValueError(f"clip={self.clip:g}, noise={self.noise:g}; give a clip above 0 and noise of at least 0")

    def __call__(self, gradients: Sequence[Tensor], key: Key) -> list[Tensor]:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = flat * (self.clip / (torch.linalg.vector_norm(flat) + TINY)).clamp(max=1)
        if self.noise > 0:
            drawn = normal_block(key, range(1), (flat.numel(),), str(flat.device))[0]
            flat = flat + self.clip * self.noise * drawn
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        return [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]

    def describe(self) -> Json:
        return {"gradient_shaping": {"clip": self.clip, "noise": self.noise}}
