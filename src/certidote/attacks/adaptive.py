"""Crafting through a defense: the same attack, looking at poisons as the defended learner will see them.

An unaware attack optimizes what it gives away. An adaptive one optimizes an average over draws of the defense, with gradients
through it (expectation over transformation, Athalye et al. 2018), and with surrogates that were trained on defended images.
"""

from collections.abc import Iterator

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
