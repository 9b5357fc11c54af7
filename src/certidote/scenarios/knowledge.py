"""What the attacker of a pack knows, made from what the user names: extractors for transfer learning, or surrogates from scratch.

Each way also says, as JSON, how it was made, and gives the files that must travel with the poisons for victims to be the ones meant.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from certidote.defenses.sanitize import sanitized
from certidote.diffusion.through import ThroughDenoiser
from certidote.numerics import DType
from certidote.scenarios.frozen import Extractor, Headed, card_of, check_features, kept, pretrained, weights_of
from certidote.scenarios.scratch import knowledge, learner
from certidote.scenarios.shelf import Shelf, State, trained_anew
from certidote.scenarios.victims import as_it_is, view_of
from certidote.streams import Key
from certidote.training.head import HeadTrainer
from certidote.training.recipe import Recipe
from certidote.types import Denoiser, ImageDataset, Json, Knowledge, Traced, Untrusted, as_pixels

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
    kinds: Sequence[Recipe] = (),
    grey_box: bool = False,
    victim_recipe: Recipe | None = None,
    through: ThroughDenoiser | None = None,
    dtype: DType = "float32",
    device: str = "cpu",
    shelf: Shelf = trained_anew,
) -> Setting:
    """Extractors pre-trained on trusted images; victims fit heads on frozen features of one of them.

    The attacker's have heads too, fitted to the clean set, through the defense if one is known: for attacks that look at logits.

    Args:
        train: the set under attack, of images that the extractors must take.
        trusted: name and images that the extractors are fitted to.
        key: extractor k has the stream `key / "extractor" / k`.
        recipe: of the extractors; None for the small one for images of few pixels.
        surrogates: how many of them the attacker aims at.
        kinds: recipes of the attacker's extractors, one each, in place of so many of `recipe`; victims use that of `recipe`, which is
            another one (black box) if none of these is, or the first one's if there is no `recipe`.
        grey_box: victims use one more extractor, which the attacker does not have; otherwise the attacker's first (white box).
        victim_recipe: victims use an extractor of another recipe (black box).
        through: the defense that the attacker sees through.
        dtype: of training by recipes; features are float32.
        device: where extractors are trained, and the attacker's stay, so that poisons are crafted there.
        shelf: where extractors are that were trained before, as "extractor-0" and so on, and "extractor-victim".
    Raises: ValueError if the images' shapes differ, or `surrogates` is below 1.
    """
    _check_count(surrogates)
    name, images = trusted
    if images.image_shape != train.image_shape:
        raise ValueError(
            f"the extractor's images {name!r} have shape {images.image_shape}, the data {train.image_shape} (channels, height, width); "
            "give images of one shape, with --size say"
        )
    each: Sequence[Recipe | None] = kinds or [recipe] * surrogates

    def extractor(name: int | str, kind: Recipe | None) -> Extractor:
        return _extractor(images, key / "extractor" / name, kind, device, dtype, partial(shelf, f"extractor-{name}"))

    made = [extractor(k, kind) for k, kind in enumerate(each)]
    for one in made:
        check_features(one, as_pixels(train.images[:1]))
    victim, box = made[0], "white"
    if grey_box or victim_recipe is not None:
        box = "grey" if victim_recipe is None else "black"
        victim = extractor("victim", victim_recipe or recipe)
    elif kinds and recipe is not None and recipe in kinds:
        victim = made[list(kinds).index(recipe)]
    elif kinds and recipe is not None:
        victim, box = extractor("victim", recipe), "black"
    used = kinds[0] if kinds and recipe is None else recipe
    described: Json = {
        "kind": "transfer",
        "pretrained_on": {"name": name, "images": len(images), "digest": images.digest()},
        "recipe": None if used is None else used.to_json(),
        "dtype": dtype,
        "surrogates": [one.digest() for one in made],
        "box": box,
        "victim": card_of(victim, train.image_shape),
        **_told(kinds),
    }
    files = {EXTRACTOR: weights_of(victim)}
    headed = [_headed(one.to(device), train, key / "extractor" / k / "head", through) for k, one in enumerate(made)]
    return Setting(Knowledge(tuple(headed), defense=through), described, files)


def _headed(extractor: Extractor, train: ImageDataset, key: Key, through: ThroughDenoiser | None) -> Headed:
    """With a head that the attacker fits to the clean set, as victims fit theirs: the extractor's own tells other classes apart."""
    device = next(extractor.parameters()).device.type
    sanitize = as_it_is if through is None or not through.sigma else partial(sanitized_by, through.denoiser, through.sigma, device)
    heads = HeadTrainer(extractor).fit([view_of(Untrusted(train), sanitize, key, "trusted", device)], [key], key / "common")
    return Headed(extractor, heads.weights[0], heads.biases[0])


_EXTRACTORS: dict[tuple[object, ...], Extractor] = {}
"""The last `EXTRACTORS` that `_extractor` made in this process; its callers get copies."""

EXTRACTORS = 4


def _extractor(
    images: ImageDataset,
    key: Key,
    recipe: Recipe | None,
    device: str,
    dtype: DType,
    shelved: Callable[[Callable[[], State]], State],
) -> Extractor:
    """`pretrained`, once in a process for all that ask for the same: many attacks on one scenario have one extractor, which takes minutes.

    Args:
        shelved: a shelf that knows the name.
    """
    asked = images.digest(), key, recipe, device, dtype
    if asked not in _EXTRACTORS:
        for oldest in list(_EXTRACTORS)[: max(0, len(_EXTRACTORS) - EXTRACTORS + 1)]:
            del _EXTRACTORS[oldest]
        _EXTRACTORS[asked] = pretrained(images, key, recipe, device, dtype, shelved)
    return copy.deepcopy(_EXTRACTORS[asked])


def scratch_setting(
    train: ImageDataset,
    recipe: Recipe,
    key: Key,
    *,
    surrogates: int = 1,
    kinds: Sequence[Recipe] = (),
    victim_recipe: Recipe | None = None,
    through: ThroughDenoiser | None = None,
    dtype: DType = "float32",
    device: str = "cpu",
    shelf: Shelf = trained_anew,
    robust: float = 0.0,
) -> Setting:
    """Surrogates trained from scratch on the clean set; victims are trained from scratch too.

    Args:
        train: the clean set.
        recipe: of surrogates, and of victims unless another is given; a black box if no surrogate has it.
        key: the surrogates' streams.
        surrogates: how many of them the attacker aims at.
        kinds: recipes of surrogates, one each, in place of so many of `recipe`.
        victim_recipe: of victims (black box).
        through: the defense that the attacker sees through, and trains surrogates through.
        dtype, device: of training.
        shelf: where surrogates are that were trained before, as "surrogate-0" and so on.
        robust: the linf epsilon that surrogates are trained to withstand, [0, 1] pixel units; 0 for plain ones. Victims are plain.
    Raises: ValueError if one diverges, or `surrogates` is below 1.
    """
    _check_count(surrogates)
    sanitize = as_it_is if through is None or not through.sigma else partial(sanitized_by, through.denoiser, through.sigma, device)
    known = knowledge(
        train,
        learner(list(kinds) or [recipe] * surrogates, sanitize=sanitize, dtype=dtype, device=device, robust=robust),
        key,
        through,
        shelf,
    )
    described: Json = {
        "kind": "scratch",
        "recipe": (victim_recipe or recipe).to_json(),
        "surrogate_recipe": recipe.to_json(),
        "surrogates": len(kinds) or surrogates,
        "dtype": dtype,
        "box": "black" if victim_recipe is not None or (kinds and recipe not in kinds) else "grey",
        **_told(kinds),
        **({"robust": robust} if robust else {}),
    }
    return Setting(known, described)


def sanitized_by(denoiser: Denoiser, sigma: float, device: str, data: Untrusted, key: Key) -> Traced:
    """`sanitized`, as a `Sanitizer` takes its arguments."""
    return sanitized(data, denoiser, sigma, key, device)


def victim_extractor(described: Json, content: bytes, where: str) -> Extractor:
    """The extractor of a pack's victims. Raises: ValueError, in one line, if it is damaged."""

    return kept(described.get("victim"), content, where)


def _told(kinds: Sequence[Recipe]) -> Json:
    return {"surrogate_recipes": [kind.to_json() for kind in kinds]} if kinds else {}


def _check_count(surrogates: int) -> None:
    if surrogates < 1:
        raise ValueError(f"surrogates={surrogates}; an attacker needs at least 1 model to aim at")
