"""At which scale tables are measured: data, recipes, budgets, options of attacks. Data, no code that runs anything.

Budgets on the digits have the l2 norm for each image that the paper's have on 3x32x32: an epsilon of 16/255 on 3,072 pixels is 0.4347 on
64, one of 8/255 is 0.2173. One percent of 500 images are 5, in a class of 50; attacks get 3 and 4 % there, with which they work undefended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from certidote.numerics import DType

ScenarioName = Literal["transfer", "scratch"]
ThroughName = Literal["denoise", "purification-deterministic"]
"""Our defense as an attacker may craft through it: the denoiser is asked once, or in several deterministic steps."""

CIFAR = "cifar10-jpeg.tar.xz"
"""CIFAR-10 as JPEG files, in the folder that --data names."""
TINY_IMAGENET = "tinyimagenet32-jpeg.tar.xz"
"""Tiny-ImageNet at 32x32 as JPEG files, beside it."""
EXTRACTOR, HEADS, PATCHES = "extractor.npz", "heads.npz", "photograph-patches.npz"
"""What `materials` makes."""


DRAWS = 4
"""Of our defense, for each step of an attack through it, unless a scale says otherwise; records do not name this number."""


@dataclass(frozen=True)
class Setup:
    """One scenario at one scale.

    Attributes:
        data: the set under attack: a name of the catalogue, a file in the data folder, or a part of it that `materials` makes.
        pretrain: transfer: trusted images that extractors are fitted to; "" from scratch.
        recipe: of surrogates and victims, or of the extractor ("auto": the small one); a .toml file is packaged with this.
        other_recipe: of the black box's victims, or of their extractor.
        num_poisons: of each trial.
        goals: packaged file that lists the trials.
        outside: images of another kind, for starts out of the domain.
        raw_epochs: of a start in the domain, on the poisoned set as it is.
    """

    data: str
    pretrain: str
    recipe: str
    other_recipe: str
    num_poisons: int
    goals: str
    outside: str
    raw_epochs: int


@dataclass(frozen=True)
class TriggerChoice:
    """A trigger of the catalogue, and its side in pixels if it is not the original's."""

    name: str
    side: int | None = None


@dataclass(frozen=True)
class Scale:
    """Attributes:
    name: for --scale.
    epsilon: linf, as `certidote poison` takes it.
    sigmas: the paper's that are measured; each is read twice, see `readings`.
    ensembles: surrogates of attacks from scratch, fewest first.
    setups: by scenario.
    options: of attacks, name=value.
    triggers: of the attacks that need one.
    dtype: of victims' training.
    seconds: rough seconds on one core (cifar10-resnet18: a GPU): to craft one trial by attack (NAME through: through our
        defense), for one victim of each scenario ("transfer", "scratch", "other"), for an extractor, and to denoise a training set ("denoise transfer", "denoise scratch"). Bullseye Polytope, Witches'
        Brew, victims, extractor and denoising are measured at cifar10-compact; the rest is in proportion to the digits, or guessed.
    unit: what these seconds are of: a core, or a GPU.
    trials: of each cell, unless the user says otherwise.
    more_trials: by attack, where it is another number.
    between: further settings of ours, of no cell of the paper, where one may stop every attack at little cost: a defense of the catalogue
        that asks the denoiser once or in several steps, and its sigma.
    through_options: of attacks through our defense, beside the others.
    through_draws: of our defense, that a step of such an attack averages over; each step has new ones.
    through_dtype: of the denoiser's network that such an attack looks through; `seconds` are those of this format.
    draws: of noise, which the trials of a cell take in turns, so that clean images are denoised once for each; None: each trial has its own.
    """

    name: str
    epsilon: str
    sigmas: tuple[float, ...]
    ensembles: tuple[int, ...]
    setups: Mapping[ScenarioName, Setup]
    options: Mapping[str, tuple[str, ...]]
    triggers: Mapping[str, TriggerChoice]
    dtype: str
    seconds: Mapping[str, int | float]
    unit: Literal["core", "GPU"] = "core"
    trials: int = 100
    more_trials: Mapping[str, int] = field(default_factory=dict)
    between: tuple[tuple[ThroughName, float], ...] = ()
    through_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    through_draws: int = DRAWS
    through_dtype: DType = "float32"
    draws: int | None = None

    def options_of(self, attack: str, *, through: bool) -> tuple[str, ...]:
        """Options of an attack, name=value; of one through our defense if `through`."""
        return (*self.options.get(attack, ()), *(self.through_options.get(attack, ()) if through else ()))

    def readings(self) -> tuple[float, ...]:
        """Our sigmas ([0, 1] pixels) for the paper's, which does not say its unit: sigma if it means [0, 1] pixels, sigma / 2 if [-1, 1]."""
        return tuple(sorted({value for sigma in self.sigmas for value in (sigma / 2, sigma)}))


_UNSHIFTED = ("shift=0", "flip=false")  # victims on the digits are not augmented either
_BORDER = "border=reflection"  # what shifts uncover in training, here and there
_SMALL_STEPS = ("steps=150", "step_size=0.02")
_FEW_STEPS = ("steps=300",)  # through the denoiser, where a step takes longer

OF_PHOTOGRAPHS = {
    "label-consistent": TriggerChoice("label-consistent"),
    "hidden-trigger": TriggerChoice("color-noise"),
    "sleeper-agent": TriggerChoice("bernoulli"),
}
"""Triggers on images of 32x32 pixels, by attack."""

SCALES: dict[str, Scale] = {
    "digits": Scale(
        name="digits",
        epsilon="0.4347",
        sigmas=(0.1, 0.25, 0.5, 1.0),
        ensembles=(1, 4),
        setups={
            "transfer": Setup("digits-5-9", "digits-0-4:trusted", "auto", "mlp", 10, "digits-5-9.json", PATCHES, 15),
            "scratch": Setup("digits", "", "mlp", "cnn", 15, "digits.json", PATCHES, 4),
        },
        options={
            "convex-polytope": _SMALL_STEPS,
            "bullseye-polytope": _SMALL_STEPS,
            "hidden-trigger": ("steps=500", "optimizer=adam", "step_size=0.02"),
            "witches-brew": ("restarts=1", "step_size=0.16", *_UNSHIFTED),
            "sleeper-agent": ("step_size=0.16", *_UNSHIFTED),
        },
        triggers={
            "label-consistent": TriggerChoice("label-consistent"),
            "hidden-trigger": TriggerChoice("color-noise", 3),
            "sleeper-agent": TriggerChoice("checker", 2),
        },
        dtype="float32",
        seconds={
            "poison-frogs": 0.2, "convex-polytope": 0.8, "bullseye-polytope": 0.5, "label-consistent": 0.1, "hidden-trigger": 0.4,
            "witches-brew": 0.5, "sleeper-agent": 0.6, "transfer": 0.02, "scratch": 0.01, "other": 0.25, "extractor": 0.3,
            "denoise transfer": 0.03, "denoise scratch": 0.04,
        },
    ),
    "cifar10-compact": Scale(
        name="cifar10-compact",
        epsilon="16/255",
        sigmas=(0.1, 0.25),
        ensembles=(1,),
        setups={
            "transfer": Setup("heads.npz", "extractor.npz", "compact", "cnn", 25, "cifar10.json", TINY_IMAGENET, 15),
            "scratch": Setup(f"{CIFAR}#10000", "", "compact-sgd.toml", "cnn", 100, "cifar10.json", TINY_IMAGENET, 4),
        },
        options={"witches-brew": ("restarts=1", _BORDER), "sleeper-agent": (_BORDER,)},
        triggers=OF_PHOTOGRAPHS,
        dtype="auto",
        seconds={
            "poison-frogs": 20, "convex-polytope": 80, "bullseye-polytope": 47, "label-consistent": 10, "hidden-trigger": 60,
            "bullseye-polytope through": 20, "witches-brew": 110, "sleeper-agent": 470, "transfer": 2, "scratch": 42, "other": 60, "extractor": 440,
            "denoise transfer": 6, "denoise scratch": 25,
        },
        trials=20,
        more_trials={"bullseye-polytope": 50},
        between=(("denoise", 0.2), ("purification-deterministic", 0.25)),
        through_options={"bullseye-polytope": _FEW_STEPS, "convex-polytope": _FEW_STEPS},
        through_draws=1,
        through_dtype="bfloat16",
        draws=4,
    ),
    "cifar10-resnet18": Scale(
        name="cifar10-resnet18",
        epsilon="16/255",
        sigmas=(0.1, 0.25, 0.5, 1.0),
        ensembles=(1, 4),
        setups={
            "transfer": Setup("heads.npz", "extractor.npz", "conservative", "compact-wide", 25, "cifar10.json", TINY_IMAGENET, 15),
            "scratch": Setup(CIFAR, "", "conservative", "compact-wide", 500, "cifar10.json", TINY_IMAGENET, 10),
        },
        options={"witches-brew": (_BORDER,), "sleeper-agent": (_BORDER,)},
        triggers=OF_PHOTOGRAPHS,
        dtype="auto",
        seconds={
            "poison-frogs": 10, "convex-polytope": 120, "bullseye-polytope": 60, "label-consistent": 5, "hidden-trigger": 120,
            "witches-brew": 900, "sleeper-agent": 2_500, "transfer": 3, "scratch": 400, "other": 400, "extractor": 400,
            "denoise transfer": 1, "denoise scratch": 15,
        },
        unit="GPU",
        through_dtype="bfloat16",
        draws=4,
    ),
}  # fmt: skip
