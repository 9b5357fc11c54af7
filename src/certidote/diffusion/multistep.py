"""Purification in several steps: from noisy images down the noise levels of a diffusion, instead of in one call.

A rival of one-shot denoising: it makes sharper images, not closer ones. Every step moves a part of the way towards the present
estimate, to a lower noise level, where the denoiser is asked again. What comes out is a function of the noisy image (and of coins of its own),
so a certificate that holds for one call holds for several. Where users name a denoiser, NAME@STEPS is the deterministic form.

Source: Nie et al. (2022), "Diffusion models for adversarial purification", and Bhat et al. (2024), "PureGen", with the deterministic
update of Song, Meng and Ermon (2021), or the ancestral one of Ho, Jain and Abbeel (2020) in the variance-exploding form of Karras et al.
(2022). Differs from them: any denoiser with the contract of this library serves; levels are spaced evenly in log sigma.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from certidote.diffusion.contract import check_sigma
from certidote.streams import Key
from certidote.types import Denoiser, Images, Json, digest_of

MARK = "@"
"""In names of denoisers, between the name and the number of calls: tiny-imagenet-32@5."""
MOST_CALLS = 100
"""That a name may ask for; each costs as much as denoising once, and more steps than a few change little."""
MOST_TOLD = 10
"""Noise levels that `conditioning` tells."""


class MultistepDenoiser:
    """Several calls of a denoiser, from the noise level it is told down to its lowest: a `Denoiser` itself.

    With one step it is the denoiser, bit for bit. Deterministic steps are differentiable as the denoiser is.
    """

    def __init__(self, denoiser: Denoiser, steps: int, key: Key | None = None, name: str = "") -> None:
        """
        Args:
            denoiser: takes noise from `sigma_min` to `sigma_max`.
            steps: calls, at least 1.
            key: of the noise that ancestral steps add, for each image by what it is when it comes, whatever it comes with. None: steps
                are deterministic.
            name: for its card; by default the denoiser's, with the number of steps.
        Raises: ValueError if `steps` is below 1, or the denoiser is in several steps already.
        """
        if steps < 1:
            raise ValueError(f"steps={steps}; give at least 1 call of the denoiser")
        if denoiser.card.kind == "multistep":
            raise ValueError(
                f"{steps} steps of denoiser {denoiser.card.name!r}, which takes several itself; name the denoiser without its {MARK}STEPS"
            )
        self.denoiser, self.steps, self.key = denoiser, steps, key
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        card = denoiser.card
        coins = None if key is None else [str(key.root), *map(str, key.path)]
        made = {"kind": "multistep", "of": card.digest, "steps": steps, "key": coins}
        told = {"of": card.digest, "steps": steps} | ({} if coins is None else {"key": coins})
        kept: Json = {fact: card.details[fact] for fact in ("data", "data_notes", "dtype") if fact in card.details}
        self.card = dataclasses.replace(
            card,
            name=name or f"{card.name}, {steps} steps",
            kind="multistep",
            digest=digest_of(made),
            details={**kept, **told, "each_call": {"name": card.name, "kind": card.kind, **card.details}},
        )

    def levels(self, sigma: float) -> list[float]:
        """The noise levels at which the denoiser is called, from `sigma` down.

        Raises: ValueError if `sigma` is outside the denoiser's range.
        """
        check_sigma(sigma, self.sigma_min, self.sigma_max)
        lowest = min(sigma, max(self.sigma_min, 1e-3))
        if self.steps == 1 or sigma <= lowest * (1 + 1e-6):  # nothing lies below it; float32 may have rounded it
            return [sigma]
        return [float(level) for level in np.geomspace(sigma, lowest, self.steps)]

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        """(n, c, h, w) estimates of the clean images, in [0, 1].

        Raises: ValueError if images of several noise levels come together, or as the denoiser.
        """
        if len(sigma) == 0:
            return self.denoiser(noisy, sigma)
        if bool((sigma != sigma[0]).any()):
            raise ValueError("several steps take images of one noise level at a time; split them by sigma")
        levels = self.levels(float(sigma[0]))
        coins = [] if self.key is None else _coins(noisy, self.key)
        x = noisy
        for step, (present, following) in enumerate(itertools.pairwise(levels)):
            estimate = self.denoiser(x, torch.full_like(sigma, present))
            kept = following if self.key is None else following**2 / present  # of the present noise
            x = estimate + (x - estimate) * (kept / present)
            if self.key is not None:
                x = x + (following**2 - kept**2) ** 0.5 * _noise(coins, step, x)
        return self.denoiser(x, torch.full_like(sigma, levels[-1]))

    def conditioning(self, sigma: float) -> str:
        levels = self.levels(sigma)
        if self.card.details["each_call"]["kind"] == "diffusers":  # what its network was told can be looked up nowhere else
            told = [self.denoiser.conditioning(level) for level in levels]
        else:
            told = [f"{level:.4f}" for level in levels]
        if len(told) > MOST_TOLD:
            told = [*told[: MOST_TOLD - 1], "...", told[-1]]
        return f"{len(levels)} step{'s' if len(levels) > 1 else ''}, sigma {', '.join(told)}"


def calls_named(name: str, means_itself: Callable[[str], bool] = lambda name: False) -> tuple[str, int | None]:
    """What NAME@STEPS asks for: a denoiser's name, and the calls of it; None where none are given.

    Args:
        means_itself: whether a name of that form is something's whole name, a folder's, say.
    Raises: ValueError for a number of steps that is not from 1 to `MOST_CALLS`, or two of them.
    """
    found = re.fullmatch(r"(.+)@([0-9]+)", name, re.DOTALL)
    if found is None or means_itself(name):
        return name, None
    base, steps = found[1], found[2].lstrip("0") or "0"
    if not (len(steps) <= len(str(MOST_CALLS)) and 1 <= int(steps) <= MOST_CALLS):
        given = steps if len(steps) < 10 else f"a number of {len(steps)} digits"
        raise ValueError(
            f"denoiser {_short(base)!r} in {given} steps; give {MARK}1 to {MARK}{MOST_CALLS} (1 is one call, as without)"
        )
    if re.fullmatch(r".+@[0-9]+", base, re.DOTALL) and not means_itself(base):
        raise ValueError(f"denoiser {_short(name)!r} names two numbers of steps; give one, as in NAME{MARK}5")
    return base, int(steps)


def called(denoiser: Denoiser, steps: int | None) -> Denoiser:
    """The denoiser in so many deterministic steps; itself with one, or None.

    Raises: ValueError for several steps of no denoiser.
    """
    if steps is None or steps == 1:
        return denoiser
    if denoiser.card.kind == "none":
        raise ValueError(f"denoiser none{MARK}{steps}: several steps of none change nothing; give none, or a denoiser")
    return MultistepDenoiser(denoiser, steps, name=f"{denoiser.card.name.rstrip('/')}{MARK}{steps}")


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:97]}..."


def _coins(noisy: Images, key: Key) -> list[Key]:
    """One stream for each image, by its content."""
    return [key / hashlib.sha256(image.tobytes()).hexdigest() for image in noisy.detach().cpu().contiguous().numpy()]


def _noise(coins: Sequence[Key], step: int, like: Images) -> Images:
    drawn = [(coin / step).numpy().standard_normal(tuple(like.shape[1:]), dtype=np.float32) for coin in coins]
    return torch.from_numpy(np.stack(drawn)).to(like)
