"""Crafting through a defense: the same attack, looking at poisons as the defended learner will see them.

An unaware attack optimizes what it gives away. An adaptive one optimizes an average over draws of the defense, with gradients
through it (expectation over transformation, Athalye et al. 2018), and with surrogates that were trained on defended images.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from certidote.streams import Key
from certidote.types import DifferentiableDefense, Images


def seen(images: Images, defense: DifferentiableDefense | None, key: Key) -> Iterator[Images]:
    """What learners may see of images: `defense.draws` draws, or the images themselves if no defense is known.

    An attack averages its objective over them. Draw i has the noise of `key / i`; give each step of an attack its own key.
    """
    if defense is None:
        yield images
        return
    for draw in range(defense.draws):
        yield defense(images, key / draw)


def average(
    images: Images, defense: DifferentiableDefense | None, key: Key, value: Callable[[Images], Float[Tensor, "n"]]
) -> tuple[Float[Tensor, "n"], Images]:
    """A number for each image, averaged over what learners may see of it, and the gradient of their sum by the pixels.

    One draw's graph is in memory at a time. Models in `value` get no gradients.

    Args:
        images: (n, c, h, w).
        defense, key: as for `seen`.
        value: images as learners see them -> one number each.
    """
    values, gradients = [], []
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        for shown in seen(leaf, defense, key):
            found = value(shown)
            gradients.append(torch.autograd.grad(found.sum(), [leaf])[0])
            values.append(found.detach())
    return torch.stack(values).mean(0), torch.stack(gradients).mean(0)
