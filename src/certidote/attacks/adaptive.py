"""Crafting through a defense: the same attack, looking at poisons as the defended learner will see them.

An unaware attack optimizes what it gives away. An adaptive one optimizes an average over draws of the defense, with gradients
through it (expectation over transformation, Athalye et al. 2018), and with surrogates that were trained on defended images.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from certidote.streams import Key
from certidote.types import DefendsTogether, DifferentiableDefense, Images, Parts

PIXELS_TOGETHER = 1 << 15
"""Pixel positions that go through a defense in one call, if images are not more by themselves: 512 images of 8x8, 32 of 32x32. A denoiser is
slow on few small images; the graphs of many large ones do not fit into memory."""
IMAGES_TOGETHER = 256
"""Most images in one such call: so many a denoiser takes at a time."""


def draws_together(images: int, pixels: int) -> int:
    """How many draws of so many images, of so many pixel positions each, go through a defense in one call; at least 1."""
    return max(1, min(IMAGES_TOGETHER // images, PIXELS_TOGETHER // (images * pixels)))


def seen(parts: Parts, defense: DifferentiableDefense | None, keys: Sequence[Key]) -> Iterator[list[Images]]:
    """What learners may see of several sets of images: `defense.draws` draws, or the images themselves if no defense is known.

    An attack averages its objective over them. Give each step of an attack keys of its own.

    Args:
        parts: (n_i, c, h, w) each, of one shape but for n.
        keys: one for each part: draw i of a part has the noise of its `key / i`, whatever is seen with it.
    Yields: draws, as many at a time as go through the defense in one call: (n, c, h, w), all parts one behind the other.
    """
    if defense is None:
        yield [torch.cat(list(parts))]
        return
    images = sum(len(part) for part in parts)
    together = draws_together(images, parts[0].shape[2] * parts[0].shape[3])
    for first in range(0, defense.draws, together):
        numbers = range(first, min(first + together, defense.draws))
        streams = [key / number for number in numbers for key in keys]
        shown = _shown([*parts] * len(numbers), defense, streams)
        yield list(torch.split(shown, images))


def _shown(parts: Parts, defense: DifferentiableDefense, keys: Sequence[Key]) -> Images:
    """One draw of each part with its own key, one part behind the other."""
    if isinstance(defense, DefendsTogether):
        return defense.together(parts, keys)
    return torch.cat([defense(part, key) for part, key in zip(parts, keys, strict=True)])


def average(
    parts: Parts,
    defense: DifferentiableDefense | None,
    keys: Sequence[Key],
    value: Callable[[Images, int], Float[Tensor, "k"]],
) -> tuple[Float[Tensor, "k"], Images]:
    """Numbers for images, averaged over what learners may see of them, and the gradient of their sum by the pixels.

    The graph of `value` is in memory for one draw at a time. Models in `value` get no gradients.

    Args:
        parts, defense, keys: as for `seen`.
        value: all parts as learners see them, and the number of the draw -> one number for each image, or one for each part, say.
    Returns: the numbers, and (n, c, h, w), all parts one behind the other.
    """
    values: list[Tensor] = []
    with torch.enable_grad():
        leaf = torch.cat(list(parts)).detach().requires_grad_()
        total = torch.zeros_like(leaf)
        for draws in seen(torch.split(leaf, [len(part) for part in parts]), defense, keys):
            slopes = []
            for images in draws:
                shown = images.detach().requires_grad_()
                found = value(shown, len(values))
                slopes.append(torch.autograd.grad(found.sum(), [shown])[0])
                values.append(found.detach())
            total += torch.autograd.grad(draws, [leaf], slopes)[0]
    return torch.stack(values).mean(0), total / len(values)
