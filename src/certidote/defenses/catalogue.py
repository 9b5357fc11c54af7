"""Defenses by name, as `certidote replay` tries them on poisons: each makes a scheme and a trainer of what the user gives.

An entry is a function (victims' trainer, `Setting`) -> (scheme, trainer). What a defense does to images is in its scheme's `view`,
what it does to training in the trainer it returns; most return the one they were given. What is listed here is tested by being listed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from certidote.defenses import certified
from certidote.defenses.activation_clustering import ActivationClustering
from certidote.defenses.deep_knn import DeepKnn, Rule
from certidote.defenses.epic import Epic, epic_trainer
from certidote.defenses.filtered import FilteredTrainer
from certidote.defenses.one_shot import OneShot
from certidote.defenses.plain import PlainTraining
from certidote.defenses.spectral import SpectralSignatures
from certidote.training.head import HeadTrainer
from certidote.types import Denoiser, Scheme, Trainer


@dataclass(frozen=True)
class Setting:
    """What a defense may use.

    Attributes:
        denoiser: a name -> the denoiser; asked for "none" by defenses without one. Defenses that need no denoiser never call it.
        sigma: noise std, [0, 1] pixel units; None if the user gave none.
        members: models that vote.
        device: where they are trained.
        poison_fraction: upper bound on the share of poisons in the training set, for defenses that ask for one. A replay gives the
            true one, which no defender knows: it makes them as strong as they can be.
        images: of the training set.
        models, parts, copies, bag_size: what the user said about them, None for nothing; `OPTIONS` says who takes what.
    """

    denoiser: Callable[[str], Denoiser]
    sigma: float | None
    members: int
    device: str
    poison_fraction: float = 0.01
    images: int = 0
    models: int | None = None
    parts: int | None = None
    copies: int | None = None
    bag_size: int | None = None


DefenseMaker = Callable[[Trainer, Setting], tuple[Scheme, Trainer]]

DEFAULT_SIGMA = 0.25


@dataclass(frozen=True)
class Facts:
    """What a list of defenses says about one.

    Attributes:
        threat_model: what it is meant to resist.
        certificate: what it can prove; "none" where nothing.
        cost: relative to one plain training.
        source: who proposed it.
        unit: what the certificate counts, "-" where nothing.
    """

    threat_model: str
    certificate: str
    cost: str
    source: str
    unit: str = "-"


def no_defense(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on the images as they are."""
    return _as_they_are("none", setting), trainer


def denoise(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that each train on one noised and denoised copy."""
    return OneShot(setting.denoiser("auto"), _sigma(setting), setting.members, setting.device), trainer


def noise(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that each train on one noised copy: the baseline for `denoise`."""
    return OneShot(setting.denoiser("none"), _sigma(setting), setting.members, setting.device), trainer


def deep_knn(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on images whose label most of their neighbors have."""
    return _deep_knn("deep-knn", "plurality", trainer, setting)


def deep_knn_majority(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on images whose label at least half of their neighbors have."""
    return _deep_knn("deep-knn-majority", "majority", trainer, setting)


def spectral(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on images that do not stand out along the main direction of their class's features."""
    return _as_they_are("spectral", setting), FilteredTrainer(trainer, SpectralSignatures(setting.poison_fraction))


def activation_clustering(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on images outside small clusters of features that are clearly apart from the rest of their class.

    Chosen on digits among all rules and reductions: it alone finds label-consistent backdoors without half of the clean images, and
    is no worse than the others on colliding features; "distance" costs no clean images, but never sees a backdoor.
    """
    return _as_they_are("activation-clustering", setting), FilteredTrainer(trainer, ActivationClustering("silhouette", "pca"))


def epic(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that drop images with gradients of their own as they learn; heads judge in every epoch, as the original does there."""
    judged = Epic(0.2, start=1, every=1) if isinstance(trainer, HeadTrainer) else Epic(0.2)
    return _as_they_are("epic", setting), epic_trainer(trainer, judged)


DEFENSES: dict[str, DefenseMaker] = {
    "none": no_defense,
    "denoise": denoise,
    "noise": noise,
    "deep-knn": deep_knn,
    "deep-knn-majority": deep_knn_majority,
    "spectral": spectral,
    "activation-clustering": activation_clustering,
    "epic": epic,
    **certified.DEFENSES,
}

FACTS: dict[str, Facts] = {
    "none": Facts("nothing", "none", "1", "-"),
    "denoise": Facts(
        "changed pixels of training images", "none for few models; l2 radius over the training set with certidote certify",
        "1 for each model, and one denoiser call for each image", "Carlini et al. 2023, on training images",
    ),
    "noise": Facts(
        "changed pixels of training images", "none for few models; l2 radius over the training set with certidote certify",
        "1 for each model", "Weber et al. 2023 (RAB), without noise on test images",
    ),
    "deep-knn": Facts(
        "poisons whose features lie among those of another class", "none", "2, and n^2 distances; 1 and these for heads",
        "Peri et al. 2020, section 3",
    ),
    "deep-knn-majority": Facts(
        "poisons whose features lie among those of another class", "none", "2, and n^2 distances; 1 and these for heads",
        "Geiping et al. 2021 (Witches' Brew), its code",
    ),
    "spectral": Facts(
        "poisons that share a direction in feature space", "none", "2, and an eigenvector for each class; 1 and these for heads",
        "Tran et al. 2018, algorithm 1",
    ),
    "activation-clustering": Facts(
        "poisons that form a cluster of their own in feature space", "none", "2, and 2-means for each class; 1 and these for heads",
        "Chen et al. 2019, algorithm 2",
    ),
    "epic": Facts(
        "targeted poisons, alone in gradient space", "none", "1.1 to 1.3", "Yang et al. 2022, algorithm 1",
    ),
    **{name: Facts(*told) for name, told in certified.FACTS.items()},
}  # fmt: skip
"""By name, of every entry of `DEFENSES`."""

VARIANTS: dict[str, Facts] = {
    "denoise --models N": Facts(
        "changed pixels of training images", "none: a vote of few models", "N, and N denoiser calls for each image",
        "the vote of certidote certify, with fewer models",
    ),
    "certidote certify": Facts(
        "changed pixels of training images", "l2 radius, holds but for a chance of alpha", "n0 + n, and as many denoiser calls for each image",
        "Cohen et al. 2019 and Carlini et al. 2023, on training images", "joint l2 norm of all changes",
    ),
    "certidote certify --sigma-x S": Facts(
        "changed pixels of training and test images: backdoors", "l2 radius, holds but for a chance of alpha", "n0 + n",
        "the same, with noise on test images", "joint l2 norm of all changes",
    ),
    "certidote certify --trusted FILE": Facts(
        "changed pixels of images outside a trusted subset", "l2 radius, holds but for a chance of alpha", "n0 + n",
        "the same, without noise on trusted images", "joint l2 norm of all changes",
    ),
    "certidote certify --parts Q": Facts(
        "changed pixels of training images", "l2 radius, holds but for a chance of alpha", "n0 + n",
        "the same in each of Q parts, which vote", "joint l2 norm of all changes, or images altered in place",
    ),
    "certidote certify --model M --pretrained-trusted": Facts(
        "changed pixels of training images", "l2 radius, if the weights to start from are out of the attacker's reach", "n0 + n",
        "the same, with a warm start out of the domain", "joint l2 norm of all changes",
    ),
}  # fmt: skip
"""What else denoising can do here, as it is asked for."""

OPTIONS: Mapping[str, tuple[str, ...]] = certified.OPTIONS
"""Which of models, parts, copies and bag_size a defense takes; one that is not listed takes models."""


def check_options(name: str, setting: Setting) -> None:
    """Raises: ValueError if the user gave an option that this defense does not have, or one below 1."""
    taken = OPTIONS.get(name, ("models",))
    for option in ("models", "parts", "copies", "bag_size"):
        value, flag = getattr(setting, option), "--" + option.replace("_", "-")
        if value is not None and option not in taken:
            raise ValueError(f"{flag} {value}, but the defense {name!r} has no {flag}; leave it out ({certified.OWN[option]})")
        if value is not None and value < 1:
            raise ValueError(f"{flag} {value}; give at least 1")


def _deep_knn(name: str, rule: Rule, trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    keep = DeepKnn(poison_fraction=setting.poison_fraction, rule=rule)
    return _as_they_are(name, setting), FilteredTrainer(trainer, keep)


def _as_they_are(name: str, setting: Setting) -> Scheme:
    """The view of defenses that do nothing to the images that they keep."""
    if setting.sigma is not None:
        raise ValueError(f"sigma={setting.sigma:g} was given, but the defense {name!r} adds no noise; leave it out")
    return PlainTraining(setting.members, setting.device)


def _sigma(setting: Setting) -> float:
    return DEFAULT_SIGMA if setting.sigma is None else setting.sigma
