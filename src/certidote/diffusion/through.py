"""What a member of a denoising defense sees of training images, as an adaptive attacker differentiates it."""

import numpy as np
import torch

from certidote.diffusion.contract import check_sigma
from certidote.streams import Key
from certidote.types import Denoiser, Images


class ThroughDenoiser:
    """Noise, then one denoiser call: a `DifferentiableDefense`. Gradients reach the images; the denoiser's weights are constants.

    The distribution is that of `defenses.sanitize.sanitized`; the numbers are the attacker's own, who cannot know a member's noise.
    """

    def __init__(self, denoiser: Denoiser, sigma: float, draws: int = 1) -> None:
        """
        Args:
            denoiser: must accept `sigma`.
            sigma: noise std, [0, 1] pixel units; 0 is no defense, images pass as they are.
            draws: independent draws that one step of an attack averages over.
        Raises: ValueError if `sigma` is neither 0 nor in the denoiser's range, or `draws` is below 1.
        """
        if sigma != 0:
            check_sigma(sigma, denoiser.sigma_min, denoiser.sigma_max)
        if draws < 1:
            raise ValueError(f"draws={draws}; an attacker looks at 1 draw of the defense at least")
        self.denoiser = denoiser
        self.sigma = sigma
        self.draws = draws

    def __call__(self, images: Images, key: Key) -> Images:
        """One draw: (n, c, h, w) pixels -> (n, c, h, w) estimates of the clean images; at sigma 0 the images themselves.

        Raises: as the denoiser, if it does not take images of this shape.
        """
        if self.sigma == 0:
            return images
        noise = torch.from_numpy(key.numpy().standard_normal(tuple(images.shape), dtype=np.float32)).to(images)
        return self.denoiser(images + self.sigma * noise, torch.full((len(images),), self.sigma, dtype=torch.float32))
