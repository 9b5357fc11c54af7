"""What an attacker is asked for, may know and do, and what comes of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from numbers import Integral, Real
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor, nn

from certidote.streams import Key
from certidote.types.datasets import ImageDataset
from certidote.types.values import Images

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Budget:
    """What the attacker may do: how many images, how far each.

    Attributes:
        num_poisons: most training images that may be replaced.
        norm: in which a replaced image's movement is measured.
        epsilon: largest movement, [0, 1] pixel units.
        visible_trigger: the goal's trigger may be pasted on the poisons, in plain sight and at any strength (a label-consistent
            backdoor proper). Movement is then counted from the nearest level between the base image and the base image with the
            patch pasted in full, pixel by pixel; so what lies under the trigger is not free: epsilon holds there too, beyond the
            trigger itself. The goal must be a `Trigger` with a fixed place.
    Raises: ValueError if there is no poison or no whole number of them, no such norm, or epsilon is no number of at least 0, infinite, or
        (linf) above 1 or the integer 1, which may mean a level.
    """

    num_poisons: int
    norm: Norm
    epsilon: float
    visible_trigger: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.num_poisons, bool) or not isinstance(self.num_poisons, Integral) or self.num_poisons < 1:
            raise ValueError(f"num_poisons={self.num_poisons}; a budget allows at least 1 poison, and a whole number of them")
        if self.norm not in get_args(Norm):
            raise ValueError(f"unknown norm {self.norm!r}; choose {' or '.join(get_args(Norm))}")
        if isinstance(self.epsilon, bool) or not isinstance(self.epsilon, Real):
            raise ValueError(
                f"epsilon={self.epsilon!r} is no number; give one in [0, 1] pixel units, such as 16 / 255 without quotes"
            )
        if self.norm == "linf" and isinstance(self.epsilon, Integral) and self.epsilon == 1:
            raise ValueError("epsilon=1 may mean one of 255 levels or the whole range; give 1 / 255, or 1.0 for no constraint")
        if self.norm == "linf" and self.epsilon != self.epsilon:
            raise ValueError("epsilon=nan is not a number; give one in [0, 1] pixel units, such as 16 / 255")
        if self.norm == "linf" and not 0 <= self.epsilon <= 1:
            levels = f"{self.epsilon:g}" if self.epsilon > 1 else "16"
            whole = self.epsilon <= 255 and float(levels).is_integer()
            hint = f"for {levels} of 255 levels give {levels}/255" if whole else "it is at most 1.0 (255/255)"
            raise ValueError(f"epsilon={self.epsilon} is outside [0, 1] pixel units; {hint}")
        if not 0 <= self.epsilon < inf:
            raise ValueError(f"epsilon={self.epsilon}; give a finite number of at least 0, in [0, 1] pixel units")


@dataclass(frozen=True, eq=False)
class Target:
    """A triggerless goal: one test image, its class, and the class the attacker wants for it."""

    image: UInt8[Tensor, "c h w"]
    true_label: int
    adversarial_label: int
    test_index: int


@dataclass(frozen=True, eq=False)
class Trigger:
    """A backdoor goal: test images that carry a patch shall be given another class.

    Attributes:
        patch: (c, s, t) what is pasted.
        mask: (s, t) which of its pixels are pasted; the others let the image through.
        place: (row, column) of its top left corner, or None: every image has a place of its own, drawn uniformly.
        true_label: the class whose images shall be misclassified; None for all classes but the adversarial one.
        adversarial_label: the class that the attacker wants for them.
        amplitude: 1 overwrites pixels. Below 1, in (0, 1): the patch must hold 0 and 255 only, and 255 * amplitude is added where
            it is white and taken away where it is black, clipped to the range of a pixel.
    Raises: ValueError if shapes disagree, nothing is pasted, the two labels are equal, or the amplitude is out of range.
    """

    patch: UInt8[Tensor, "c s t"]
    mask: Bool[Tensor, "s t"]
    place: tuple[int, int] | None
    true_label: int | None
    adversarial_label: int
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if self.patch.ndim != 3 or self.mask.shape != self.patch.shape[1:] or not self.mask.any():
            given = f"a mask of shape {tuple(self.mask.shape)} with {int(self.mask.sum())} pixels for a patch of {tuple(self.patch.shape)}"
            raise ValueError(
                f"{given}; give a patch (c, s, t) and one truth value for each of its pixels, at least one of them true"
            )
        if self.true_label == self.adversarial_label:
            raise ValueError(f"the adversarial label {self.adversarial_label} is the true label; choose another class to aim for")
        if not 0 < self.amplitude <= 1:
            raise ValueError(f"amplitude={self.amplitude}; give a number above 0, at most 1")
        pasted = self.patch[:, self.mask]
        if self.amplitude < 1 and not bool(((pasted == 0) | (pasted == 255)).all()):
            raise ValueError(
                f"amplitude={self.amplitude} with a patch that is not black and white (levels 0 and 255 only); choose such a patch, or "
                "amplitude=1, which overwrites pixels"
            )

    def places(self, count: int, image_shape: tuple[int, int, int], key: Key) -> Int64[Tensor, "n 2"]:
        """(count, 2) top left corners: the fixed place, or for each image one drawn from `key`.

        Raises: ValueError if the patch does not lie inside images of this (c, h, w) shape.
        """
        room = (image_shape[1] - self.patch.shape[1], image_shape[2] - self.patch.shape[2])
        top, left = self.place or (0, 0)
        if self.patch.shape[0] != image_shape[0] or not (0 <= top <= room[0] and 0 <= left <= room[1]):
            where = "anywhere" if self.place is None else f"at {self.place}"
            raise ValueError(
                f"a patch of {tuple(self.patch.shape)} does not fit {where} on images of {image_shape}; give a smaller patch, of as "
                "many channels, that lies inside the image"
            )
        if self.place is not None:
            return torch.tensor([self.place], dtype=torch.int64).repeat(count, 1)
        generator = key.numpy()
        drawn = [generator.integers(0, space + 1, size=count) for space in room]
        return torch.stack([torch.from_numpy(axis) for axis in drawn], 1)

    def stamped(self, images: UInt8[Tensor, "n c h w"], key: Key) -> UInt8[Tensor, "n c h w"]:
        """Copies of images with the patch on them; `key` draws the places if they are not fixed. Raises as `places`."""
        corners = self.places(len(images), (images.shape[1], images.shape[2], images.shape[3]), key)
        down, across = self.mask.nonzero(as_tuple=True)
        image = torch.arange(len(images)).unsqueeze(1)
        where = (image, slice(None), corners[:, :1] + down, corners[:, 1:] + across)  # (n, pasted pixels, c)
        pasted = self.patch[:, self.mask].T.to(images.device)
        if self.amplitude < 1:
            added = (pasted.to(torch.float64) / 127.5 - 1) * 255 * self.amplitude
            pasted = (images[where] + added).round().clamp(0, 255).to(torch.uint8)
        stamped = images.clone()
        stamped[where] = pasted
        return stamped


Goal = Target | Trigger


class BudgetExceeded(ValueError):
    """Poisons that break the budget they claim to keep."""


@dataclass(frozen=True, eq=False)
class Poison:
    """Replacements for some training rows. It has no labels: clean-label by construction.

    Attributes:
        objective: what the attack made small, for these images as they are stored; None if it does not say. Attacks that match
            gradients: 1 - cos to the wanted gradient, averaged over surrogates (or the loss that was chosen instead). Attacks on features:
            what their docstring minimizes, without penalties; where each poison has its own, the mean. Label-consistent images: minus the
            loss that was made large, before the trigger is pasted. Through a defense: as it shows them.
    """

    indices: Int64[Tensor, "m"]
    images: UInt8[Tensor, "m c h w"]
    goal: Goal
    budget: Budget
    objective: float | None = None

    def apply(self, train: ImageDataset) -> ImageDataset:
        """The training set with the poisons in place; every other row, and every label, is unchanged.

        Raises: BudgetExceeded if there are more poisons than the budget allows, indices repeat or are out of range, a base image
            is not of the adversarial class, or an 8-bit perturbation exceeds epsilon; ValueError if shapes disagree.
        """
        self.verify(train)
        images = train.images.clone()
        images[self.indices] = self.images
        return replace(train, images=images)

    def verify(self, train: ImageDataset) -> None:
        """Check the budget on the 8-bit images, exactly; raises as `apply` does."""
        m, budget = len(self.indices), self.budget
        if self.images.shape != (m, *train.image_shape):
            raise ValueError(f"poisons of shape {tuple(self.images.shape)} for {m} rows of a {train.image_shape} training set")
        if m > budget.num_poisons:
            raise BudgetExceeded(f"{m} poisons, but the budget allows {budget.num_poisons}")
        if m != len(torch.unique(self.indices)):
            raise BudgetExceeded(
                f"{m} poisons on {len(torch.unique(self.indices))} distinct rows; each base image may be used once"
            )
        if m and (int(self.indices.min()) < 0 or int(self.indices.max()) >= len(train)):
            raise BudgetExceeded(f"poison indices must lie in 0 to {len(train) - 1}")
        wrong = (train.labels[self.indices] != self.goal.adversarial_label).sum()
        if wrong:
            raise BudgetExceeded(f"{int(wrong)} base images are not of the adversarial class {self.goal.adversarial_label}")
        moved = self._movement(train.images[self.indices])
        worst = float(moved.max()) if m else 0.0
        if worst > budget.epsilon * (1 + 1e-12):
            raise BudgetExceeded(
                f"a poison moved by {worst:.6f} in {budget.norm}, but epsilon is {budget.epsilon:.6f} ([0, 1] pixel units)"
            )

    def _movement(self, bases: UInt8[Tensor, "m c h w"]) -> Float64[Tensor, "m"]:
        """How far each poison is from what costs nothing: its base image, or if triggers may be seen, the way from there to the patch."""
        steps = self.images.to(torch.int64) - bases.to(torch.int64)
        if self.budget.visible_trigger:
            if not isinstance(self.goal, Trigger) or self.goal.place is None:
                has = "a trigger without a fixed place" if isinstance(self.goal, Trigger) else "no trigger but one target image"
                raise BudgetExceeded(
                    f"the budget allows a visible trigger, but the goal has {has}; give a trigger with a fixed place"
                )
            pasted = replace(self.goal, amplitude=1.0).stamped(bases, Key(0)).to(torch.int64) - bases.to(torch.int64)
            steps = steps - steps.clamp(min=pasted.clamp_max(0), max=pasted.clamp_min(0))
        steps = steps.flatten(1)
        if self.budget.norm == "linf":
            return steps.abs().amax(1).to(torch.float64) / 255
        return steps.square().sum(1).to(torch.float64).sqrt() / 255


@runtime_checkable
class FeatureExtractor(Protocol):
    """A model in eval mode that takes [0, 1] pixels (normalisation is inside it)."""

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]: ...


@runtime_checkable
class Surrogate(FeatureExtractor, Protocol):
    """A whole classifier in eval mode that the attacker differentiates: (n, c, h, w) pixels -> (n, classes) logits."""

    def __call__(self, images: Images) -> Float[Tensor, "n classes"]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@dataclass(frozen=True, eq=False)
class Task:
    """What the attacker works on.

    Attributes:
        train: the clean training set.
        goal: what shall happen at test time.
        budget: what may be changed.
        bases: rows of `train` that are to become poisons, distinct and of the adversarial class; None leaves the choice to the attack.
    Raises: ValueError if the bases are no such tensor.
    """

    train: ImageDataset
    goal: Goal
    budget: Budget
    bases: Int64[Tensor, "m"] | None = None

    def __post_init__(self) -> None:
        bases: object = self.bases
        if bases is None or (isinstance(bases, Tensor) and bases.ndim == 1 and bases.dtype == torch.int64):
            return
        given = f"{bases.dtype} of shape {tuple(bases.shape)}" if isinstance(bases, Tensor) else f"a {type(bases).__name__}"
        raise ValueError(f"bases are {given}; give row numbers as an int64 tensor of one dimension, torch.tensor([1, 4]) say")


Retrain = Callable[[ImageDataset, Key], tuple[Surrogate, ...]]
"""Fresh surrogates in eval mode, trained from scratch on a training set as the attacker believes that victims are."""


@runtime_checkable
class DifferentiableDefense(Protocol):
    """What a member of a defended classifier sees instead of training images, as an adaptive attacker differentiates it.

    Attributes:
        draws: independent draws that one step of an attack averages over.
    """

    draws: int

    def __call__(self, images: Images, key: Key) -> Images:
        """One draw: (n, c, h, w) pixels -> (n, c, h, w) pixels, differentiable; the key decides the noise."""
        ...


Parts = Sequence[Float[Tensor, "_ c h w"]]
"""Several sets of images of one shape, [0, 1] pixels."""


@runtime_checkable
class DefendsTogether(Protocol):
    """A `DifferentiableDefense` that is faster on several sets of images at once."""

    def together(self, parts: Parts, keys: Sequence[Key]) -> Images:
        """What it gives for each part with its own key, up to rounding, one part behind the other."""
        ...


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the attacker knows.

    Attributes:
        surrogates: one or several models in eval mode, of one or several architectures. Attacks on features need a `FeatureExtractor`,
            attacks on losses a `Surrogate`.
        retrain: how to train new surrogates on a (poisoned) set; None if the attacker cannot.
        defense: the defense that the attacker sees through; None for an attacker who is unaware of any.
    Raises: ValueError if `surrogates` is one model instead of a tuple.
    """

    surrogates: tuple[FeatureExtractor, ...]
    retrain: Retrain | None = None
    defense: DifferentiableDefense | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.surrogates, tuple | list):
            raise ValueError(f"surrogates is a {type(self.surrogates).__name__}; give a tuple of models, (model,) for one")


Attack = Callable[[Task, Knowledge, Key], Poison]
AttackTogether = Callable[[Sequence[Task], Knowledge, Sequence[Key]], list[Poison]]
"""An attack on several tasks at once; each poison is that of the attack alone, up to rounding."""
