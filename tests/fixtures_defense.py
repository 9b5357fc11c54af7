"""Defenses that adaptive attackers look through in tests."""

import numpy as np
import torch

from certidote.streams import Key
from certidote.types import Denoiser, Images


class NoiseAndDenoise:
    """Noise, then one denoiser call: a `DifferentiableDefense`."""

    def __init__(self, denoiser: Denoiser, sigma: float, draws: int) -> None:
        self.denoiser, self.sigma, self.draws = denoiser, sigma, draws

    def __call__(self, images: Images, key: Key) -> Images:
        noise = torch.from_numpy(key.numpy().standard_normal(tuple(images.shape), dtype=np.float32))
        return self.denoiser(images + self.sigma * noise, torch.full((len(images),), self.sigma))


class Identity:
    """No defense at all, looked at as often as wanted."""

    def __init__(self, draws: int) -> None:
        self.draws = draws

    def __call__(self, images: Images, key: Key) -> Images:
        return images
