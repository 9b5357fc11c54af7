"""What the attacker of a pack knows, made from what the user names: extractors for transfer learning, or surrogates from scratch.

Each way also says, as JSON, how it was made, and gives the files that must travel with the poisons for victims to be the ones meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from certidote.diffusion.through import ThroughDenoiser
from certidote.scenarios.frozen import Extractor, card_of, check_features, kept, pretrained, weights_of
from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.types import ImageDataset, Json, Knowledge, Scheme, Surrogate, Trainer, Untrusted, as_pixels

EXTRACTOR = "extractor.safetensors"
"""The victims' extractor, beside the poisons of a pack."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What the attacker knows, how it came to be, and what victims need of it.

    Attributes:
        knowledge: for attacks.
        described: "kind" ("transfer" or "scratch") and all that decided it.
        files: to be kept beside the poisons, by name.
    """

    knowledge: Knowledge
    described: Json
    files: Mapping[str, bytes] = field(default_factory=dict)


def transfer_setting(
    train: ImageDataset,
    trusted: tuple[str, ImageDataset],
    key: Key,
    *,
    recipe: Recipe | None = None,
    surrogates: int = 1,
    grey_box: bool = False,
    through: ThroughDenoiser | None = None,
    device: str = "cpu",
) -> Setting:
    """Extractors pre-trained on trusted images; victims fit heads on frozen features of one of them.

    Args:
        train: the set under attack, of images that the extractors must take.
        trusted: name and images that the extractors are fitted to.
        key: extractor k has the stream `key / "extractor" / k`.
        recipe: of the extractors; None for the small one for images of few pixels.
        surrogates: how many of them the attacker aims at.
        grey_box: victims use one more extractor, which the attacker does not have; otherwise the attacker's first (white box).
        through: the defense that the attacker sees through.
        device: where extractors are trained.
    Raises: ValueError if the images' shapes differ, or `surrogates` is below 1.
    """
    _check_count(surrogates)
    name, images = trusted
    if images.image_shape != train.image_shape:
        raise ValueError(
            f"the extractor's images {name!r} have shape {images.image_shape}, the data {train.image_shape} (channels, height, width); "
            "give images of one shape, with --size say"
        )
    made = [pretrained(images, key / "extractor" / k, recipe, device) for k in range(surrogates + grey_box)]
    check_features(made[0], as_pixels(train.images[:1]))
    victim = made[-1] if grey_box else made[0]
    described: Json = {
        "kind": "transfer",
        "pretrained_on": {"name": name, "images": len(images), "digest": images.digest()},
        "recipe": None if recipe is None else recipe.to_json(),
        "surrogates": [extractor.digest() for extractor in made[:surrogates]],
        "box": "grey" if grey_box else "white",
        "victim": card_of(victim, train.image_shape),
    }
    return Setting(Knowledge(tuple(made[:surrogates]), defense=through), described, {EXTRACTOR: weights_of(victim)})


@dataclass(frozen=True, eq=False)
class Retraining:
    """`Knowledge.retrain`: surrogates trained from scratch as the attacker believes that victims are.

    Args:
        trainer: of a recipe.
        defense: what surrogates see of a training set.
        count: surrogates at a time.
    """

    trainer: Trainer
    defense: Scheme
    count: int

    def __call__(self, train: ImageDataset, key: Key) -> tuple[Surrogate, ...]:
        data = Untrusted(train)
        keys = [key / "surrogates" / k for k in range(self.count)]
        found: list[Surrogate] = []
        for first in range(0, self.count, self.trainer.stack_size):
            group = keys[first : first + self.trainer.stack_size]
            views = [self.defense.view(data, 0, each) for each in group]
            stack = self.trainer.fit(views, group, key / "common")
            if bool(stack.failed.any()):
                raise ValueError(
                    "a surrogate diverged (weights are not finite); lower the learning rate in a recipe file and try again"
                )
            for index in range(len(group)):
                model = stack.member(index)
                assert isinstance(model, nn.Module)
                assert isinstance(model, Surrogate)
                model.requires_grad_(True)  # attacks on losses differentiate for the weights, and change none
                found.append(model)
        return tuple(found)


def scratch_setting(
    train: ImageDataset,
    retrain: Retraining,
    recipe: Recipe,
    key: Key,
    *,
    through: ThroughDenoiser | None = None,
) -> Setting:
    """Surrogates trained from scratch on the clean set; victims are trained from scratch by the same recipe.

    Args:
        train: the clean set.
        retrain: how surrogates are made; an attacker who sees through a defense trains them through it.
        recipe: of surrogates and victims.
        key: their streams.
        through: the defense that the attacker sees through.
    Raises: ValueError if one diverges.
    """
    _check_count(retrain.count)
    described: Json = {
        "kind": "scratch",
        "recipe": recipe.to_json(),
        "surrogates": retrain.count,
        "surrogates_see": retrain.defense.describe(),
    }
    return Setting(Knowledge(retrain(train, key), retrain, through), described)


def victim_extractor(described: Json, content: bytes, where: str) -> Extractor:
    """The extractor of a pack's victims. Raises: ValueError, in one line, if it is damaged."""

    return kept(described.get("victim"), content, where)


def _check_count(surrogates: int) -> None:
    if surrogates < 1:
        raise ValueError(f"surrogates={surrogates}; an attacker needs at least 1 model to aim at")
