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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from certidote.diffusion.contract import check_sigma
from certidote.streams import Key
from certidote.types import Denoiser, Images, digest_of

MARK = "@"
"""In names of denoisers, between the name and the number of calls: tiny-imagenet-32@5."""


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
        Raises: ValueError if `steps` is below 1.
        """
        if steps < 1:
            raise ValueError(f"steps={steps}; give at least 1 call of the denoiser")
        self.denoiser, self.steps, self.key = denoiser, steps, key
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        card = denoiser.card
        coins = None if key is None else [str(key.root), *map(str, key.path)]
        made = {"kind": "multistep", "of": card.digest, "steps": steps, "key": coins}
        kept = {fact: card.details[fact] for fact in ("data", "data_notes", "dtype") if fact in card.details}
        self.card = dataclasses.replace(
            card,
            name=name or f"{card.name}, {steps} steps",
            kind="multistep",
            digest=digest_of(made),
            details={**kept, **made, "kind_of_each_call": card.kind},
        )

    def levels(self, sigma: float) -> list[float]:
        """The noise levels at which the denoiser is called, from `sigma` down.

        Raises: ValueError if `sigma` is outside the denoiser's range.
        """
        check_sigma(sigma, self.sigma_min, self.sigma_max)
        lowest = min(sigma, max(self.sigma_min, 1e-3))
        if self.steps == 1 or lowest == sigma:  # nothing lies below it
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
        return f"{len(levels)} steps, sigma {', '.join(f'{level:.4f}' for level in levels)}"


def calls_named(name: str) -> tuple[str, int | None]:
    """What NAME@STEPS asks for: a denoiser's name, and the calls of it; None where none are given. A folder of that name is a folder.

    Raises: ValueError for 0 steps.
    """
    base, mark, steps = name.rpartition(MARK)
    if not (mark and base and steps.isdecimal()) or Path(name).exists():
        return name, None
    if int(steps) < 1:
        raise ValueError(f"denoiser {name!r}: {steps} calls; give at least 1 ({base}{MARK}5 calls it five times)")
    return base, int(steps)


def called(denoiser: Denoiser, steps: int | None) -> Denoiser:
    """The denoiser in so many deterministic steps; itself with one, or None.

    Raises: ValueError for several steps of no denoiser.
    """
    if steps is None or steps == 1:
        return denoiser
    if denoiser.card.kind == "none":
        raise ValueError(f"denoiser none{MARK}{steps}: several steps of none change nothing; give none, or a denoiser")
    return MultistepDenoiser(denoiser, steps, name=f"{denoiser.card.name}{MARK}{steps}")


def _coins(noisy: Images, key: Key) -> list[Key]:
    """One stream for each image, by its content."""
    return [key / hashlib.sha256(image.tobytes()).hexdigest() for image in noisy.detach().cpu().contiguous().numpy()]


def _noise(coins: Sequence[Key], step: int, like: Images) -> Images:
    drawn = [(coin / step).numpy().standard_normal(tuple(like.shape[1:]), dtype=np.float32) for coin in coins]
    return torch.from_numpy(np.stack(drawn)).to(like)
