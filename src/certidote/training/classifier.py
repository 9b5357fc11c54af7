"""What every architecture of ours is: standardized pixels, penultimate features, one linear layer.

Pixels are standardized inside the model by fixed constants, never by statistics of data, so that everything outside it (sigma,
epsilon, radii) is in [0, 1] pixel units.
"""

from jaxtyping import Float
from torch import Tensor, nn

from certidote.types import Images

PIXEL_MEAN = 0.5
PIXEL_STD = 0.5


def standardized(images: Images) -> Images:
    """[0, 1] pixels moved to [-1, 1]."""
    return (images - PIXEL_MEAN) / PIXEL_STD


class Classifier(nn.Module):
    """[0, 1] pixels -> penultimate features -> one linear layer -> logits."""

    head: nn.Linear

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        """What the last linear layer sees."""
        raise NotImplementedError

    def forward(self, images: Images) -> Float[Tensor, "n classes"]:
        return self.head(self.penultimate(images))
