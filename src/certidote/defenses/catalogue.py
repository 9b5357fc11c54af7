"""Defenses by name, as `certidote replay` tries them on poisons: each makes a scheme and a trainer of what the user gives.

An entry is a function (victims' trainer, `Setting`) -> (scheme, trainer). What a defense does to images is in its scheme's `view`,
what it does to training in the trainer it returns; most return the one they were given. What is listed here is tested by being listed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from certidote.defenses.one_shot import OneShot
from certidote.defenses.plain import PlainTraining
from certidote.types import Denoiser, Scheme, Trainer


@dataclass(frozen=True)
class Setting:
    """What a defense may use.

    Attributes:
        denoiser: a name -> the denoiser; asked for "none" by defenses without one. Defenses that need no denoiser never call it.
        sigma: noise std, [0, 1] pixel units; None if the user gave none.
        members: models that vote.
        device: where they are trained.
    """

    denoiser: Callable[[str], Denoiser]
    sigma: float | None
    members: int
    device: str


DefenseMaker = Callable[[Trainer, Setting], tuple[Scheme, Trainer]]

DEFAULT_SIGMA = 0.25


def no_defense(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that train on the images as they are."""
    if setting.sigma is not None:
        raise ValueError(f"sigma={setting.sigma:g} was given, but the defense 'none' adds no noise; leave it out")
    return PlainTraining(setting.members, setting.device), trainer


def denoise(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that each train on one noised and denoised copy."""
    return OneShot(setting.denoiser("auto"), _sigma(setting), setting.members, setting.device), trainer


def noise(trainer: Trainer, setting: Setting) -> tuple[Scheme, Trainer]:
    """Models that each train on one noised copy: the baseline for `denoise`."""
    return OneShot(setting.denoiser("none"), _sigma(setting), setting.members, setting.device), trainer


DEFENSES: dict[str, DefenseMaker] = {
    "none": no_defense,
    "denoise": denoise,
    "noise": noise,
}


def _sigma(setting: Setting) -> float:
    return DEFAULT_SIGMA if setting.sigma is None else setting.sigma
