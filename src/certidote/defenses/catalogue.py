"""Defenses by name, as `certidote replay` tries them on poisons: each makes a scheme and a trainer of what the user gives.

An entry is a function (victims' trainer, `Setting`) -> (scheme, trainer). What a defense does to images is in its scheme's `view`,
what it does to training in the trainer it returns; most return the one they were given. What is listed here is tested by being listed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from certidote.defenses import certified
from certidote.defenses.activation_clustering import ActivationClustering
from certidote.defenses.deep_knn import DeepKnn, Rule
from certidote.defenses.dp_sgd import PrivateTrainer
from certidote.defenses.epic import Epic, epic_trainer
from certidote.defenses.filtered import FilteredTrainer
from certidote.defenses.friends import Friends
from certidote.defenses.from_scratch import hooked, one_by_one, taught
from certidote.defenses.gradient_shaping import GradientShaping
from certidote.defenses.mixing import CutMix, Mixup
from certidote.defenses.one_shot import OneShot
from certidote.defenses.plain import PlainTraining
from certidote.defenses.poison_adversarial import PoisonAdversarialLoss
from certidote.defenses.preprocessing import preprocessed
from certidote.defenses.private_vote import PrivateVote
from certidote.defenses.several_draws import SeveralDraws
from certidote.defenses.spectral import SpectralSignatures
from certidote.diffusion.multistep import MultistepDenoiser
from certidote.streams import Key
from certidote.training.adversarial import AdversarialLoss
from certidote.training.head import HeadTrainer
from certidote.training.pooled import PooledTrainer
from certidote.training.stacked import StackedTrainer
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
            true one, which no defender knows.
        images: of the training set.
        image_shape: (c, h, w) of each of them.
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
    image_shape: tuple[int, int, int] = (3, 32, 32)


DefenseMaker = Callable[[Trainer, Setting], tuple[Scheme, Trainer]]

DEFAULT_SIGMA = 0.25

PURIFYING_STEPS = 8

PHOTOGRAPH = 3 * 32 * 32
"""Pixels of the images for which budgets of 4/255 or 16/255 were proposed."""

PASSES, MORE_PASSES = 2, 4
"""How many times the epochs of plain training those defenses take that are harder to learn under, as their tuning records say."""


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


def several_draws(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that each train on several noised and denoised copies at once: more of each image comes through, and of an attack."""
    return SeveralDraws(OneShot(setting.denoiser("auto"), _sigma(setting), setting.members, setting.device)), trainer


def deep_knn(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on images whose label most of their neighbors have."""
    return _deep_knn("deep-knn", "plurality", trainer, setting)


def deep_knn_majority(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on images whose label at least half of their neighbors have."""
    return _deep_knn("deep-knn-majority", "majority", trainer, setting)


def spectral(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on images that do not stand out along the main direction of their class's features."""
    return _as_they_are("spectral", setting), FilteredTrainer(_longer(trainer), SpectralSignatures(setting.poison_fraction))


def activation_clustering(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on images outside small clusters of features that are clearly apart from the rest of their class.

    By the silhouette, of principal components: what "smaller", "relative-size" and "distance" cost in clean accuracy is in the tuning
    record (results/tuning/digits.json). "distance" never removes clusters that lie in the midst of their own class, as backdoors may.
    """
    keep = ActivationClustering("silhouette", "pca")
    return _as_they_are("activation-clustering", setting), FilteredTrainer(_longer(trainer, MORE_PASSES), keep)


def epic(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that drop images with gradients of their own as they learn; heads judge in every epoch, as the original does there."""
    scheme = _as_they_are("epic", setting)
    if isinstance(trainer, HeadTrainer):
        return scheme, epic_trainer(trainer, Epic(0.2, start=1, every=1))
    return scheme, epic_trainer(taught(one_by_one(trainer, "epic"), PASSES), Epic(0.2))


def purification(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that each train on a noised copy, taken back by ancestral steps of the same denoiser that `denoise` asks once.

    Noise that the steps add comes from a stream of its own for each noised image.
    """
    return _purified(trainer, setting, Key(0) / "purification")


def purification_deterministic(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """As `purification`, by steps that add no noise."""
    return _purified(trainer, setting, None)


def jpeg(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on, and are asked about, images that went through JPEG."""
    return _preprocessed("jpeg", trainer, setting)


def blur(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on, and are asked about, blurred images."""
    return _preprocessed("blur", _longer(trainer, MORE_PASSES), setting)


def bit_depth(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on, and are asked about, images of few levels."""
    return _preprocessed("bit-depth", trainer, setting)


def total_variation(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on, and are asked about, images made smooth between their edges."""
    return _preprocessed("total-variation", _longer(trainer), setting)


def adversarial_training(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that learn from images made hard for them: 7 steps of 1/255 within 4/255, whatever the attack's budget is."""
    loss = AdversarialLoss(_budget(4, setting), "linf", 7, _budget(1, setting))
    return _as_they_are("adversarial-training", setting), hooked(trainer, "adversarial-training", loss=loss, passes=PASSES)


def poison_adversarial_training(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that learn from batches of which one half was just poisoned against the other."""
    name, usual = "poison-adversarial-training", PoisonAdversarialLoss()
    epsilon = _budget(16, setting)
    loss = PoisonAdversarialLoss(epsilon, step_size=usual.step_size * epsilon / usual.epsilon)
    return _as_they_are(name, setting), hooked(trainer, name, loss=loss, passes=PASSES)


def gradient_shaping(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models whose gradients are clipped and noised, batch by batch."""
    return _as_they_are("gradient-shaping", setting), hooked(trainer, "gradient-shaping", shaping=GradientShaping())


def friends(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that learn from images with as much noise as they do not mind, and some at random."""
    usual, largest = Friends(), _budget(16, setting)
    reward = usual.mu * (usual.zeta / largest) ** 2  # for mean squares, which grow with the budget where divergences do not
    disturbing = Friends(zeta=largest, amplitude=largest, mu=reward)
    return _as_they_are("friends", setting), hooked(trainer, "friends", disturbing=disturbing, passes=PASSES)


def mixup(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that learn from mixtures of two images and of their labels."""
    return _as_they_are("mixup", setting), hooked(trainer, "mixup", loss=Mixup(), passes=PASSES)


def cutmix(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that learn from images with a part of another."""
    return _as_they_are("cutmix", setting), hooked(trainer, "cutmix", loss=CutMix(), passes=PASSES)


def dp_instahide(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that learn from noisy mixtures of four images."""
    loss = Mixup(ways=4, laplace=0.03)
    return _as_they_are("dp-instahide", setting), hooked(trainer, "dp-instahide", loss=loss, passes=PASSES)


def dp_sgd(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models whose gradients are clipped image by image, with the little noise that is used against poisons: no guarantee."""
    return _private("dp-sgd", 0.05, 10.0, trainer, setting)


def dp_sgd_private(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """As `dp_sgd`, with noise that makes a guarantee possible."""
    return _private("dp-sgd-private", 1.1, 3.0, trainer, setting)


DEFENSES: dict[str, DefenseMaker] = {
    "none": no_defense,
    "denoise": denoise,
    "noise": noise,
    "several-draws": several_draws,
    "purification": purification,
    "purification-deterministic": purification_deterministic,
    "jpeg": jpeg,
    "blur": blur,
    "bit-depth": bit_depth,
    "total-variation": total_variation,
    "deep-knn": deep_knn,
    "deep-knn-majority": deep_knn_majority,
    "spectral": spectral,
    "activation-clustering": activation_clustering,
    "epic": epic,
    "adversarial-training": adversarial_training,
    "poison-adversarial-training": poison_adversarial_training,
    "gradient-shaping": gradient_shaping,
    "friends": friends,
    "mixup": mixup,
    "cutmix": cutmix,
    "dp-instahide": dp_instahide,
    "dp-sgd": dp_sgd,
    "dp-sgd-private": dp_sgd_private,
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
    "several-draws": Facts(
        "changed pixels of training images", "none for few models; 4 draws of each image halve any l2 radius", "4 for each model, and 4 denoiser calls for each image",
        "denoise, 4 copies mixed",
    ),
    "purification": Facts(
        "changed pixels of training images", "none; certidote certify asks once, or as often as --denoiser NAME@STEPS says", "1 for each model, and 8 denoiser calls "
        "for each image", "Bhat et al. 2024 (PureGen), its DDPM; here 8 levels from sigma down, of our denoiser",
    ),
    "purification-deterministic": Facts(
        "changed pixels of training images", "none; certidote certify asks once, or as often as --denoiser NAME@STEPS says", "1 for each model, and 8 denoiser calls "
        "for each image", "Nie et al. 2022 on training images, with steps of Song et al. 2021",
    ),
    "jpeg": Facts("small changes of pixels, by an attacker who does not expect it", "none", "1", "Dziugaite et al. 2016; quality 50 is our choice"),
    "blur": Facts("small changes of pixels, by an attacker who does not expect it", "none", "4, for four times the epochs", "folklore; a Gaussian of 1 pixel is our choice"),
    "bit-depth": Facts("small changes of pixels, by an attacker who does not expect it", "none", "1", "Xu et al. 2018, 3 bits"),
    "total-variation": Facts(
        "small changes of pixels, by an attacker who does not expect it", "none", "2, for twice the epochs, and 100 steps for each image",
        "Guo et al. 2018, without dropping pixels",
    ),
    "deep-knn": Facts(
        "poisons whose features lie among those of another class", "none", "4: 2, for twice the epochs, and n^2 distances; 1 and these for heads",
        "Peri et al. 2020, section 3",
    ),
    "deep-knn-majority": Facts(
        "poisons whose features lie among those of another class", "none", "4: 2, for twice the epochs, and n^2 distances; 1 and these for heads",
        "Geiping et al. 2021 (Witches' Brew), its code",
    ),
    "spectral": Facts(
        "poisons that share a direction in feature space", "none", "4: 2, for twice the epochs, and an eigenvector for each class; 1 and these for heads",
        "Tran et al. 2018, algorithm 1",
    ),
    "activation-clustering": Facts(
        "poisons that form a cluster of their own in feature space", "none", "8: 2, for four times the epochs, and 2-means for each class; 1 and these for heads",
        "Chen et al. 2019, algorithm 2",
    ),
    "epic": Facts(
        "targeted poisons, alone in gradient space", "none", "2.4, for twice the epochs; 12 for heads, which judge in every epoch", "Yang et al. 2022, algorithm 1",
    ),
    "adversarial-training": Facts(
        "small changes of test images, and poisons by shortcuts; from scratch only", "none", "16: 8, for twice the epochs",
        "Madry et al. 2018, PGD-7 at 4/255",
    ),
    "poison-adversarial-training": Facts(
        "poisons by gradient matching; from scratch only", "none", "20 to 32: 10 to 16, for twice the epochs",
        "Geiping et al. 2021a, gradient matching, half of each batch",
    ),
    "gradient-shaping": Facts(
        "poisons with large or unusual gradients; from scratch only", "none, not private either", "1.1",
        "Hong et al. 2020; batch form, clip 1, noise 0.01, of Geiping et al. 2021",
    ),
    "friends": Facts(
        "clean-label poisons of small perturbations; from scratch only", "none", "4: 2, for twice the epochs",
        "Liu et al. 2022, 16/255 both",
    ),
    "mixup": Facts(
        "poisons that have to arrive whole; from scratch only", "none", "2, for twice the epochs", "Zhang et al. 2018; Borgnia et al. 2021",
    ),
    "cutmix": Facts(
        "poisons that have to arrive whole; from scratch only", "none", "2, for twice the epochs", "Yun et al. 2019; Borgnia et al. 2021",
    ),
    "dp-instahide": Facts(
        "poisons that have to arrive whole; from scratch only", "none for the classifier", "2, for twice the epochs",
        "Borgnia et al. 2021, 4 ways, Laplace 0.03",
    ),
    "dp-sgd": Facts(
        "few altered images of any kind; from scratch only", "none: epsilon, which is reported, is far too large", "1.5 to 4",
        "Abadi et al. 2016; clip 1, noise 0.05",
    ),
    "dp-sgd-private": Facts(
        "few altered images of any kind; from scratch only", "none for few models; count by group privacy for the vote of many, holds but "
        "for a chance of alpha, if the epsilon that is reported is small", "1.5 to 4 for each model",
        "Abadi et al. 2016, Ma et al. 2019; clip 1, noise 1.1", "images altered in place",
    ),
    **{name: Facts(*told) for name, told in certified.FACTS.items()},
}  # fmt: skip
"""By name, of every entry of `DEFENSES`."""

VARIANTS: dict[str, Facts] = {
    "denoise --models N": Facts(
        "changed pixels of training images", "none: a vote of few models", "N, and N denoiser calls for each image",
        "the vote of certidote certify, with fewer models",
    ),
    "denoise --raw-epochs E": Facts(
        "changed pixels of training images", "none: models see the images as they are first", "1, and one denoiser call for each image",
        "warm start in the domain, the paper's section 4.2",
    ),
    "denoise --start-from DATA": Facts(
        "changed pixels of training images", "none for few models; DATA out of the attacker's reach does not touch a proof",
        "1, a training on DATA, and one denoiser call for each image", "warm start out of the domain, the paper's section 4.2",
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


DENOISING = ("denoise", "several-draws", "purification", "purification-deterministic")
"""Which defenses ask for a denoiser."""


def check_options(name: str, setting: Setting, denoiser: str = "auto") -> None:
    """Raises: ValueError if the user gave an option that this defense does not have, a denoiser included, or one below 1."""
    if denoiser != "auto" and name not in DENOISING:
        raise ValueError(
            f"--denoiser {denoiser}, but the defense {name!r} has no use for one; leave it out (it is for {', '.join(DENOISING)})"
        )
    taken = OPTIONS.get(name, ("models",))
    for option in ("models", "parts", "copies", "bag_size"):
        value, flag = getattr(setting, option), "--" + option.replace("_", "-")
        if value is not None and option not in taken:
            raise ValueError(f"{flag} {value}, but the defense {name!r} has no {flag}; leave it out ({certified.OWN[option]})")
        if value is not None and value < 1:
            raise ValueError(f"{flag} {value}; give at least 1")


def _deep_knn(name: str, rule: Rule, trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    keep = DeepKnn(poison_fraction=setting.poison_fraction, rule=rule)
    return _as_they_are(name, setting), FilteredTrainer(_longer(trainer), keep)


def _longer(trainer: Trainer, passes: int = PASSES) -> Trainer:
    """Whole networks learn for so many times the epochs of their recipe; heads are not changed."""
    return taught(trainer, passes) if isinstance(trainer, PooledTrainer | StackedTrainer) else trainer


def _purified(trainer: Trainer, setting: Setting, key: Key | None) -> tuple[Scheme, Trainer]:
    denoiser = MultistepDenoiser(setting.denoiser("auto"), PURIFYING_STEPS, key)
    return OneShot(denoiser, _sigma(setting), setting.members, setting.device), trainer


def _private(name: str, noise: float, faster: float, trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Clipped gradients are short, so the recipe's learning rate is multiplied.

    Neighboring factors, larger batches and longer trainings are in the tuning record (results/tuning/digits.json).
    """
    _without_sigma(name, setting)
    plain = one_by_one(trainer, name)
    if setting.images < 1:
        raise ValueError(
            f"the defense {name!r} draws batches at random and needs the number of training images; give Setting.images"
        )
    if plain.warm is not None:
        raise ValueError(f"the defense {name!r} trains fresh models; leave out the weights to start from")
    recipe = plain.recipe.model_copy(update={"learning_rate": plain.recipe.learning_rate * faster})
    rate = min(1.0, plain.recipe.batch_size / setting.images)
    private = PrivateTrainer(recipe, rate, noise=noise, stack_size=plain.stack_size, start=plain.start, sources=plain.sources)
    return PrivateVote(private, setting.images, setting.members, device=setting.device), private


def _preprocessed(name: str, trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    _without_sigma(name, setting)
    return preprocessed(name, setting.members, setting.device), trainer


def _budget(levels: int, setting: Setting) -> float:
    """So many of 255 levels; on images of fewer than `PHOTOGRAPH` pixels more, so that whole images may move as far in l2 norm.

    Attackers' budgets on small images are scaled alike (0.43 instead of 16/255 on 8x8 pixels): what was proposed against 16/255 would be
    no defense there.
    """
    channels, height, width = setting.image_shape
    return min(1.0, levels / 255 * max(1.0, PHOTOGRAPH / (channels * height * width)) ** 0.5)


def _as_they_are(name: str, setting: Setting) -> Scheme:
    """The view of defenses that do nothing to images before training."""
    _without_sigma(name, setting)
    return PlainTraining(setting.members, setting.device)


def _without_sigma(name: str, setting: Setting) -> None:
    if setting.sigma is not None:
        raise ValueError(f"sigma={setting.sigma:g} was given, but the defense {name!r} has no use for it; leave it out")


def _sigma(setting: Setting) -> float:
    return DEFAULT_SIGMA if setting.sigma is None else setting.sigma
