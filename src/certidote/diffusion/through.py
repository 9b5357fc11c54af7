"""What a member of a denoising defense sees of training images, as an adaptive attacker differentiates it."""

from collections.abc import Sequence

import numpy as np
import torch

from certidote.diffusion.contract import check_sigma
from certidote.streams import Key
from certidote.types import Denoiser, Images, Parts


class ThroughDenoiser:
    """Noise, then the denoiser: a `DifferentiableDefense`. Gradients reach the images; the denoiser's weights are constants.

    The distribution is that of `defenses.sanitize.sanitized`; the numbers are the attacker's own, who cannot know a member's noise.
    """

    def __init__(self, denoiser: Denoiser, sigma: float, draws: int = 1) -> None:
        """
        Args:
            denoiser: must accept `sigma`.
            sigma: noise std, [0, 1] pixel units; 0 is no defense, images pass as they are.
            draws: independent draws that one step of an attack averages over; at sigma 0, where all are alike, there is one.
        Raises: ValueError if `sigma` is neither 0 nor in the denoiser's range, or `draws` is below 1.
        """
        if sigma != 0:
            check_sigma(sigma, denoiser.sigma_min, denoiser.sigma_max)
        if draws < 1:
            raise ValueError(f"draws={draws}; an attacker looks at 1 draw of the defense at least")
        self.denoiser = denoiser
        self.sigma = sigma
        self.draws = draws if sigma else 1

    def __call__(self, images: Images, key: Key) -> Images:
        """One draw: (n, c, h, w) pixels -> (n, c, h, w) estimates of the clean images; at sigma 0 the images themselves.

        Raises: as the denoiser, if it does not take images of this shape.
        """
        return self.together([images], [key])

    def together(self, parts: Parts, keys: Sequence[Key]) -> Images:
        """One draw of each part, with the noise of its own key, by one denoiser call: all parts one behind the other."""
        images = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        if self.sigma == 0:
            return images
        noise = [key.numpy().standard_normal(tuple(part.shape), dtype=np.float32) for part, key in zip(parts, keys, strict=True)]
        noisy = images + self.sigma * torch.from_numpy(np.concatenate(noise)).to(images)
        return self.denoiser(noisy, torch.full((len(images),), self.sigma, dtype=torch.float32))
