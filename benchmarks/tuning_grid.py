"""What benchmarks/tuning.py tries for each defense, and how each setting is made of a recipe and the numbers of the defense itself."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from certidote.defenses import catalogue
from certidote.defenses.activation_clustering import ActivationClustering
from certidote.defenses.certified import COPIES
from certidote.defenses.deep_knn import DeepKnn
from certidote.defenses.dp_sgd import PrivateTrainer
from certidote.defenses.epic import Epic, epic_trainer
from certidote.defenses.filtered import FilteredTrainer
from certidote.defenses.friends import Friends
from certidote.defenses.from_scratch import hooked, one_by_one
from certidote.defenses.gradient_shaping import GradientShaping
from certidote.defenses.mixing import CutMix, Mixup
from certidote.defenses.one_shot import OneShot
from certidote.defenses.partition import PartitionedSmoothing
from certidote.defenses.plain import PlainTraining
from certidote.defenses.poison_adversarial import PoisonAdversarialLoss
from certidote.defenses.preprocessing import preprocessed
from certidote.defenses.several_draws import SeveralDraws
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.defenses.spectral import SpectralSignatures
from certidote.defenses.summed import SummedTrainer
from certidote.diffusion.denoiser import load as load_denoiser
from certidote.diffusion.multistep import MultistepDenoiser
from certidote.streams import Key
from certidote.training.adversarial import AdversarialLoss
from certidote.training.recipe import RECIPES, Recipe
from certidote.types import Scheme, Trainer

RECIPE = "cnn"
SCALED = (3 * 32 * 32 / 64) ** 0.5
"""What a budget for photographs of 3x32x32 pixels is multiplied by on 8x8 pixels, so that whole images may move as far."""

Made = tuple[Scheme, Trainer]


@dataclass(frozen=True)
class Tried:
    """One setting of a defense.

    Attributes:
        learning: multiplies or replaces numbers of the recipe: "epochs", "rate" multiply, "batch" replaces, "recipe" names another one.
        setting: replaces values of `catalogue.Setting`.
        own: numbers of the defense itself, given to its maker in `OWN`; the catalogue's maker is used where there are none.
    """

    learning: Mapping[str, Any] = field(default_factory=dict)
    setting: Mapping[str, float] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return json.dumps({**self.learning, **self.setting, **self.own}, sort_keys=True)


STRENGTHS = (
    "quality", "std", "bits", "weight", "epsilon", "zeta", "noise", "ways", "laplace", "subset", "neighbors", "poison_fraction",
    "steps", "share", "method", "amplitude", "center", "draws",
)  # fmt: skip


def recipe_of(tried: Tried) -> Recipe:
    base = RECIPES[tried.learning.get("recipe", RECIPE)]
    return base.model_copy(
        update={
            "epochs": round(base.epochs * tried.learning.get("epochs", 1)),
            "learning_rate": base.learning_rate * tried.learning.get("rate", 1),
            "batch_size": int(tried.learning.get("batch", base.batch_size)),
        }
    )


def plainly(keep: Callable[..., Any], trainer: Trainer, setting: Any, **own: Any) -> Made:
    """A filter around the trainer."""
    return PlainTraining(setting.members), FilteredTrainer(trainer, keep(**own))


def hooks(name: str, hook: str, made: Callable[..., Any], trainer: Trainer, setting: Any, **own: Any) -> Made:
    """The trainer with a hook."""
    return PlainTraining(setting.members), hooked(trainer, name, **{hook: made(**own)})


def private(noise: float, trainer: Trainer, setting: Any, *, faster: float, lots: float = 1) -> Made:
    """DP-SGD with so many times the learning rate, and batches so many times as large."""
    recipe = one_by_one(trainer, "dp-sgd").recipe
    recipe = recipe.model_copy(update={"learning_rate": recipe.learning_rate * faster})
    rate = min(1.0, lots * recipe.batch_size / setting.images)
    return PlainTraining(setting.members), PrivateTrainer(recipe, rate, noise=noise)


def clears(name: str, trainer: Trainer, setting: Any, **own: Any) -> Made:
    return preprocessed(name, setting.members, **own), trainer


def epic(trainer: Trainer, setting: Any, **own: Any) -> Made:
    return PlainTraining(setting.members), epic_trainer(trainer, Epic(**own))


def purified(key: Key | None, trainer: Trainer, setting: Any, *, steps: int) -> Made:
    denoiser = MultistepDenoiser(setting.denoiser("auto"), steps, key)
    return OneShot(denoiser, catalogue.DEFAULT_SIGMA, setting.members), trainer


def several(trainer: Trainer, setting: Any, **own: Any) -> Made:
    once = OneShot(setting.denoiser("auto"), catalogue.DEFAULT_SIGMA, setting.members)
    return SeveralDraws(once, **own), trainer


SHARE = 0.02
"""The bound on the share of poisons that filters are told, on this set without any."""

OWN: dict[str, Callable[..., Made]] = {
    "jpeg": partial(clears, "jpeg"),
    "blur": partial(clears, "blur"),
    "bit-depth": partial(clears, "bit-depth"),
    "total-variation": partial(clears, "total-variation"),
    "purification": partial(purified, Key(0) / "purification"),
    "purification-deterministic": partial(purified, None),
    "several-draws": several,
    "deep-knn": partial(plainly, DeepKnn),
    "deep-knn-majority": partial(plainly, partial(DeepKnn, rule="majority")),
    "spectral": partial(plainly, SpectralSignatures),
    "activation-clustering": partial(plainly, ActivationClustering),
    "epic": epic,
    "adversarial-training": partial(hooks, "adversarial-training", "loss", partial(AdversarialLoss, norm="linf")),
    "poison-adversarial-training": partial(hooks, "poison-adversarial-training", "loss", PoisonAdversarialLoss),
    "gradient-shaping": partial(hooks, "gradient-shaping", "shaping", GradientShaping),
    "friends": partial(hooks, "friends", "disturbing", Friends),
    "mixup": partial(hooks, "mixup", "loss", Mixup),
    "cutmix": partial(hooks, "cutmix", "loss", CutMix),
    "dp-instahide": partial(hooks, "dp-instahide", "loss", Mixup),
    "dp-sgd": partial(private, 0.05),
    "dp-sgd-private": partial(private, 1.1),
}


def as_given(name: str, trainer: Trainer, setting: Any, **own: Any) -> Made:
    """The catalogue's scheme, and members that learn by the recipe as it is, whatever the catalogue makes of it for small parts."""
    scheme, _ = catalogue.DEFENSES[name](trainer, setting)
    return scheme, SummedTrainer(trainer, COPIES) if name == "dpa-star-run-off" else trainer


for _name in ("dpa", "run-off-dpa", "dpa-star-run-off", "finite-aggregation", "run-off-fa", "bagging", "bagflip"):
    OWN[_name] = partial(as_given, _name)


def learnt(*some: Mapping[str, Any], **own: Any) -> list[Tried]:
    """Ways to learn, each with these numbers of the defense's own."""
    return [Tried(learning=learning, own=own) for learning in some]


BATCHES = learnt({"batch": 100}, {"batch": 25}, {"batch": 10}, {"batch": 5}, {"epochs": 4})
ADVERSARIAL = {"epsilon": SCALED * 4 / 255, "steps": 7, "step_size": SCALED / 255}
POISONING = {"epsilon": SCALED * 16 / 255, "step_size": SCALED * 0.025}
FRIENDLY = {"zeta": SCALED * 16 / 255, "amplitude": SCALED * 16 / 255, "mu": 1 / SCALED**2}
INSTAHIDE = {"ways": 4, "laplace": 0.03}
PASSES = ({"epochs": 1}, {"epochs": 2}, {"epochs": 4})


USUAL: dict[str, dict[str, Any]] = {
    "purification": {"steps": catalogue.PURIFYING_STEPS}, "purification-deterministic": {"steps": catalogue.PURIFYING_STEPS},
    "deep-knn": {"poison_fraction": SHARE}, "deep-knn-majority": {"poison_fraction": SHARE}, "spectral": {"poison_fraction": SHARE},
    "activation-clustering": {"method": "silhouette", "reduction": "pca"}, "epic": {"subset": 0.2},
    "adversarial-training": ADVERSARIAL, "poison-adversarial-training": POISONING, "friends": FRIENDLY, "dp-instahide": INSTAHIDE,
    "gradient-shaping": {"noise": 0.01},
}  # fmt: skip
"""Numbers of the catalogue's own, of defenses that `OWN` makes with numbers."""


def longer(name: str, *passes: Mapping[str, Any]) -> list[Tried]:
    """The catalogue's defense with so many times the recipe's epochs."""
    return learnt(*(passes or ({"epochs": 2}, {"epochs": 4})), **USUAL.get(name, {}))


def strong(**own: Any) -> Tried:
    return Tried(own=own)


def twice(*some: Mapping[str, Any]) -> list[Tried]:
    """Other strengths, with the epochs of a defense that takes twice as many."""
    return [Tried({"epochs": 2}, own=own) for own in some]


def told(**setting: Any) -> Tried:
    return Tried(setting=setting)


GRID: dict[str, list[Tried]] = {
    "none": learnt({"epochs": 2}, {"epochs": 4}),
    "denoise": [*learnt({"epochs": 2}), told(sigma=0.1), told(sigma=0.5)],
    "noise": [*learnt({"epochs": 2}), told(sigma=0.1), told(sigma=0.5)],
    "several-draws": [*learnt({"epochs": 0.25}, {"epochs": 0.5}, {"epochs": 2}), strong(draws=2), strong(draws=8)],
    "purification": [*longer("purification", {"epochs": 2}), strong(steps=4), strong(steps=16), told(sigma=0.1), told(sigma=0.5)],
    "purification-deterministic": [*longer("purification-deterministic", {"epochs": 2}), strong(steps=4), strong(steps=16), told(sigma=0.1), told(sigma=0.5)],
    "jpeg": [*longer("jpeg"), strong(quality=25), strong(quality=75)],
    "blur": [*learnt({"epochs": 1}, {"epochs": 2}, {"epochs": 4}, {"epochs": 8}), *(Tried({"epochs": 4}, own={"std": std}) for std in (0.5, 1.5))],
    "bit-depth": [*longer("bit-depth"), strong(bits=2), strong(bits=4)],
    "total-variation": [*longer("total-variation", *PASSES), *twice({"weight": 0.05}, {"weight": 0.2})],
    "deep-knn": [*longer("deep-knn", *PASSES), *twice({"neighbors": 5}, {"neighbors": 50})],
    "deep-knn-majority": [*longer("deep-knn-majority", *PASSES), *twice({"neighbors": 5}, {"neighbors": 50})],
    "spectral": [
        *longer("spectral", *PASSES), told(poison_fraction=0.01), told(poison_fraction=0.03),
        *twice({"poison_fraction": SHARE, "center": False}),
    ],
    "activation-clustering": [
        *longer("activation-clustering", *PASSES),
        *(Tried({"epochs": 4}, own={"method": method, "reduction": "pca"}) for method in ("distance", "relative-size", "smaller")),
    ],
    "epic": [*learnt(*PASSES, subset=0.2), strong(subset=0.1), strong(subset=0.3)],
    "adversarial-training": [
        *learnt(*PASSES, **ADVERSARIAL), *learnt({"epochs": 2, "rate": 0.5}, **ADVERSARIAL),
        Tried({"epochs": 2}, own={"epsilon": 4 / 255, "steps": 7, "step_size": 1 / 255}),
        Tried({"epochs": 2}, own={"epsilon": SCALED * 8 / 255, "steps": 7, "step_size": SCALED * 2 / 255}),
    ],
    "poison-adversarial-training": [
        *learnt(*PASSES, **POISONING), Tried({"epochs": 2}, own={"share": 0.75, **POISONING}), Tried({"epochs": 2}, own={"share": 0.5}),
    ],
    "gradient-shaping": [
        *learnt({"rate": 0.3}, {"rate": 3}, {"rate": 10}, {"epochs": 2}, noise=0.01), Tried(own={"noise": 0.05}),
    ],
    "friends": [
        *learnt(*PASSES, **FRIENDLY), Tried({"epochs": 2}, own={**FRIENDLY, "mu": 1.0}), Tried({"epochs": 2}, own={"zeta": 16 / 255}),
    ],
    "mixup": [*learnt(*PASSES), *learnt({"epochs": 2}, alpha=0.4)],
    "cutmix": [*learnt(*PASSES), *learnt({}, chance=1.0)],
    "dp-instahide": [*learnt(*PASSES, **INSTAHIDE), strong(ways=2, laplace=0.03)],
    "dp-sgd": [
        *[Tried(own={"faster": faster}) for faster in (3, 30)], Tried(own={"faster": 10, "lots": 4}), Tried({"epochs": 2}, own={"faster": 10}),
    ],
    "dp-sgd-private": [
        *[Tried(own={"faster": faster}) for faster in (1, 10)], Tried(own={"faster": 3, "lots": 4}), Tried({"epochs": 2}, own={"faster": 3}),
    ],
    "dpa": [*BATCHES, told(parts=5), told(parts=25)],
    "run-off-dpa": [*BATCHES, told(parts=5), told(parts=25)],
    "dpa-star-run-off": BATCHES[:3],
    "finite-aggregation": [*BATCHES[:3], told(parts=5)],
    "run-off-fa": BATCHES[:3],
    "bagging": [
        *BATCHES, *learnt({"batch": 3}, {"batch": 10, "epochs": 2}, {"batch": 10, "recipe": "mlp"}, {"batch": 5, "recipe": "mlp"}),
        told(bag_size=100),
    ],
    "bagflip": [*BATCHES, told(bag_size=100)],
    "rab": [*learnt({"epochs": 2}), told(sigma=0.1), told(sigma=0.5)],
}  # fmt: skip
"""What is tried beside the catalogue's own settings, which come first."""

OTHER_RECIPE = "mlp"
"""That of victims from scratch in the tables of docs/results.md."""

for _name in (
    "none", "denoise", "noise", "jpeg", "blur", "total-variation", "deep-knn", "spectral", "activation-clustering", "epic", "adversarial-training",
    "gradient-shaping", "friends", "mixup", "cutmix", "dp-instahide",
):  # fmt: skip
    GRID[_name] += longer(_name, *({**each, "recipe": OTHER_RECIPE} for each in PASSES))

REJECTED = {
    (
        "bagging",
        '{"batch": 5}',
    ): "models of the recipe mlp diverge with it (row batch 5, recipe mlp), and those of cnn with batches of 3"
}
"""Ways to learn that do better here and are not chosen all the same."""


def smoothing(**own: Any) -> DenoisedSmoothing:
    return DenoisedSmoothing(denoiser("auto"), catalogue.DEFAULT_SIGMA, 0, VARIANT_MODELS, **own)


VARIANT_MODELS = 20
VARIANTS: dict[str, Callable[[], Scheme]] = {
    "denoise --models N": lambda: OneShot(denoiser("auto"), catalogue.DEFAULT_SIGMA, VARIANT_MODELS),
    "certidote certify": smoothing,
    "certidote certify --sigma-x S": lambda: smoothing(test_input="noised-denoised", sigma_x=catalogue.DEFAULT_SIGMA),
    "certidote certify --trusted FILE": smoothing,
    "certidote certify --parts Q": lambda: PartitionedSmoothing(smoothing(), 2),
}
"""Those of `catalogue.VARIANTS` that any data have; their costs are told for each model."""


def denoiser(name: str) -> Any:
    return load_denoiser("digits" if name == "auto" else name, dtype="float32")


def kind_of(tried: Tried | None, name: str) -> str:
    if tried is None:
        return "catalogue"
    if "recipe" in tried.learning:
        return "recipe"
    return "strength" if differs(name, tried) else "learning"


def differs(name: str, tried: Tried) -> bool:
    """Whether a setting is of another strength than the catalogue's."""
    usual = USUAL.get(name, {})
    if name == "dp-sgd-private" and (tried.learning or "lots" in tried.own):
        return True  # another epsilon
    unusual = any(key in STRENGTHS and key not in usual for key in tried.own)
    return bool(tried.setting) or unusual or any(tried.own.get(key) != value for key, value in usual.items())


def spelled(tried: Tried | None) -> str:
    return "" if tried is None else str(tried)
