"""Certified rivals by name: makers, facts and options for the catalogue, which lists them beside the others.

Where the user says nothing, numbers follow from the size of the training set: parts of about 50 images, at most 50 of them (those of
the papers on CIFAR-10); bags of a fiftieth of the images, 50 to 1,000.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from certidote.certification.bounds import minimum_models
from certidote.certification.finite_aggregation import published_shifts
from certidote.defenses.bagflip import BagFlip
from certidote.defenses.bagging import Bagging
from certidote.defenses.deep_partition import DeepPartition
from certidote.defenses.finite_aggregation import FiniteAggregation
from certidote.defenses.from_scratch import with_recipe
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.defenses.summed import SummedTrainer
from certidote.training.models import batch_statistics, single_image_refusal
from certidote.training.pooled import PooledTrainer
from certidote.training.stacked import StackedTrainer
from certidote.types import Scheme, Trainer

if TYPE_CHECKING:
    from certidote.defenses.catalogue import Setting

MOST_PARTS, PART_IMAGES = 50, 50
LEAST_BATCH, LEAST_NORMALIZED = 10, 32
"""Images of a step on a small part, at least; more where a network normalizes by statistics of the batch."""
COPIES = 4
"""Models that one image reaches: d of Finite Aggregation and DPA*."""
MODELS = 20
"""Models of independent draws: enough for a unanimous vote to be certified at alpha = 0.001."""
DEFAULT_SIGMA = 0.25
ALPHA = 1e-3
"""Failure probability of a vote by noised copies, for each test image."""


def deep_partition(trainer: Trainer, setting: "Setting") -> tuple[Scheme, Trainer]:
    """A model for each part of the images, as they are; plurality."""
    parts = _parts("dpa", trainer, setting)
    return DeepPartition(parts, device=setting.device), _on_parts(trainer, parts, setting)


def run_off(trainer: Trainer, setting: "Setting") -> tuple[Scheme, Trainer]:
    """The same models; a run-off between the two most voted classes."""
    parts = _parts("run-off-dpa", trainer, setting)
    return DeepPartition(parts, run_off=True, device=setting.device), _on_parts(trainer, parts, setting)


def run_off_repeated(trainer: Trainer, setting: "Setting") -> tuple[Scheme, Trainer]:
    """Several models for each part, which vote as one; a run-off."""
    parts = _parts("dpa-star-run-off", trainer, setting)
    return DeepPartition(parts, run_off=True, device=setting.device), SummedTrainer(
        _on_parts(trainer, parts, setting), setting.copies or COPIES
    )


def finite_aggregation(trainer: Trainer, setting: "Setting") -> tuple[Scheme, Trainer]:
    """Models of overlapping parts; plurality."""
    scheme = _spread("finite-aggregation", False, trainer, setting)
    return scheme, _on_parts(trainer, scheme.parts, setting)


def run_off_finite_aggregation(trainer: Trainer, setting: "Setting") -> tuple[Scheme, Trainer]:
    """Models of overlapping parts; a run-off."""
    scheme = _spread("run-off-fa", True, trainer, setting)
    return scheme, _on_parts(trainer, scheme.parts, setting)


def bagging(trainer: Trainer, setting: "Setting") -> tuple[Scheme, Trainer]:
    """Models of random bags of images, as they are."""
    size = _bag_size("bagging", trainer, setting)
    scheme = Bagging(size, max(setting.images, 1), setting.models or MODELS, device=setting.device)
    return scheme, in_small_batches(trainer, size, setting.images)


def bagflip(trainer: Trainer, setting: "Setting") -> tuple[Scheme, Trainer]:
    """Models of random bags of images with few gray levels, a fifth of them flipped."""
    size = _bag_size("bagflip", trainer, setting)
    scheme = BagFlip(size, max(setting.images, 1), setting.models or MODELS, device=setting.device)
    return scheme, in_small_batches(trainer, size, setting.images)


def rab(trainer: Trainer, setting: "Setting") -> tuple[Scheme, Trainer]:
    """Models that each train on one noised copy, as many as a certificate needs; hard votes and Clopper-Pearson bounds."""
    sigma = DEFAULT_SIGMA if setting.sigma is None else setting.sigma
    models, needed = setting.models or MODELS, minimum_models("clopper-pearson", ALPHA, 2, separate=False)
    if models < needed:
        raise ValueError(
            f"--models {models}, but the defense 'rab' is a vote that can be certified, of {needed} models or more (alpha {ALPHA:g}); give as "
            "many, or choose the defense 'noise', whose models train alike and claim nothing"
        )
    return DenoisedSmoothing(setting.denoiser("none"), sigma, 0, models, ALPHA, device=setting.device), trainer


DEFENSES: dict[str, Callable[[Trainer, "Setting"], tuple[Scheme, Trainer]]] = {
    "dpa": deep_partition,
    "finite-aggregation": finite_aggregation,
    "run-off-dpa": run_off,
    "run-off-fa": run_off_finite_aggregation,
    "dpa-star-run-off": run_off_repeated,
    "bagging": bagging,
    "bagflip": bagflip,
    "rab": rab,
}

_PLACES = "training images altered in any way, labels included"
_EXACT = "count, certain"
_CHANCE = "holds but for a chance of alpha"
_PARTS = "1 for as many steps; small parts take more, in smaller batches"
_COPIED = "d copies: d times that of dpa"
_IN_PLACE = "images altered in place (from Python also samples inserted or removed)"
FACTS: dict[str, tuple[str, str, str, str, str]] = {
    "dpa": (_PLACES, _EXACT, _PARTS, "Levine and Feizi 2021", _IN_PLACE),
    "finite-aggregation": (_PLACES, _EXACT, _COPIED, "Wang et al. 2022", _IN_PLACE),
    "run-off-dpa": (_PLACES, _EXACT, _PARTS, "Rezaei et al. 2023", _IN_PLACE),
    "run-off-fa": (_PLACES, _EXACT, _COPIED, "Rezaei et al. 2023, section 4.2", _IN_PLACE),
    "dpa-star-run-off": (_PLACES, _EXACT, _COPIED, "Rezaei et al. 2023, DPA*", _IN_PLACE),
    "bagging": (_PLACES, f"count, {_CHANCE}", "n k / m: n models on k of m images", "Jia et al. 2021", "images altered in place"),
    "bagflip": (
        "one changed feature (a channel of a pixel) in few training images; from Python more features",
        f"count, {_CHANCE}",
        "n k / m: n models on k of m images",
        "Zhang et al. 2022",
        "images altered in one feature",
    ),
    "rab": (
        "changed pixels of training images",
        f"l2 radius, {_CHANCE}",
        "n models",
        "Weber et al. 2023 (RAB), by hard votes and Clopper-Pearson instead of scores and Hoeffding, without noise on test images",
        "joint l2 norm of all changes",
    ),
}
"""By name: threat model, certificate, cost, source, unit."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "dpa": ("parts",),
    "finite-aggregation": ("parts", "copies"),
    "run-off-dpa": ("parts",),
    "run-off-fa": ("parts", "copies"),
    "dpa-star-run-off": ("parts", "copies"),
    "bagging": ("models", "bag_size"),
    "bagflip": ("models", "bag_size"),
    "rab": ("models",),
}
OWN = {
    "models": "its models are counted by --parts and --copies",
    "parts": "it is for votes over parts",
    "copies": "it is for finite-aggregation, run-off-fa and dpa-star-run-off",
    "bag_size": "it is for bagging and bagflip",
}
"""What a user is told who gives an option to a defense without it."""


def in_small_batches(trainer: Trainer, size: int, images: int) -> Trainer:
    """The same trainer for members that learn from `size` of so many images: as many steps in an epoch as on all of them, if it can be.

    In batches of the size that suits the whole set a member takes one step where a plain model takes as many as there are parts, and
    learns far less than its part could teach it. Heads on features are not changed.
    """
    if images < 1 or not isinstance(trainer, PooledTrainer | StackedTrainer):
        return trainer
    recipe = trainer.recipe
    least = LEAST_NORMALIZED if batch_statistics(recipe.architecture) else LEAST_BATCH
    batch = max(min(least, recipe.batch_size), round(recipe.batch_size * min(1.0, size / images)))
    return with_recipe(trainer, recipe.model_copy(update={"batch_size": batch}))


def _on_parts(trainer: Trainer, parts: int, setting: "Setting") -> Trainer:
    return in_small_batches(trainer, setting.images // parts, setting.images)


def _spread(name: str, run_off: bool, trainer: Trainer, setting: "Setting") -> FiniteAggregation:
    copies = setting.copies or COPIES
    parts = _parts(name, trainer, setting, copies)
    return FiniteAggregation(parts, published_shifts(parts, copies), run_off=run_off, device=setting.device)


def _parts(name: str, trainer: Trainer, setting: "Setting", copies: int = 1) -> int:
    """The number of parts, every one of which has images that the trainer can learn from."""
    _no_noise(name, setting)
    parts = setting.parts or min(MOST_PARTS, max(2, setting.images // PART_IMAGES))
    buckets = parts * copies
    if setting.images and buckets > setting.images:
        raise ValueError(f"{buckets} parts of {setting.images} images; every part needs at least 1 image to learn from")
    _check_learnable(trainer, copies * (setting.images // buckets) if setting.images else 2, "fewer parts (--parts)")
    return parts


def _bag_size(name: str, trainer: Trainer, setting: "Setting") -> int:
    _no_noise(name, setting)
    size = setting.bag_size or min(1000, max(50, setting.images // 50))
    if setting.images and setting.bag_size and size > setting.images:
        raise ValueError(
            f"a bag of {size} of {setting.images} images; larger bags than the set hold nearly every image, which proves nothing: give at "
            f"most {setting.images}"
        )
    _check_learnable(trainer, size, "larger bags (--bag-size)")
    return size


def _no_noise(name: str, setting: "Setting") -> None:
    if setting.sigma is not None:
        raise ValueError(f"sigma={setting.sigma:g} was given, but the defense {name!r} adds no noise; leave it out")


def _check_learnable(trainer: Trainer, least: int, more: str) -> None:
    """Before anything trains: a model with batch normalization does not learn from one image."""
    if least == 1 and isinstance(trainer, PooledTrainer) and batch_statistics(trainer.recipe.architecture):
        raise ValueError(single_image_refusal(trainer.recipe.architecture, more))
