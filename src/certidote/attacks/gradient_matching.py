"""Gradient matching, the shared core of Witches' Brew and Sleeper Agent: poisons that push a learner where the attacker wants it.

A learner that takes a step on the poisons takes, as far as the attack succeeds, a step that decreases the attacker's loss: the mean
gradient of the poisons' loss by the weights is made parallel to the gradient of the attacker's loss by the weights.

Several independent problems (trials, restarts) are moved together. Within a step, a problem's poisons are defended and augmented
once for all surrogates, the gradients by the weights are taken (`layerwise`; a model that uses its weights in ways not known there is
differentiated twice as a whole), and one backward pass leads from the objective to the augmented pixels and from there, first order only,
to the poisons. Problems that do not fit into one batch take their graphs one batch after the other: memory is bounded by `batch_size`
images whatever the number of poisons.

Source: Geiping et al. (2021); `forest/witchcoven` of its code.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from certidote.adam import Adam, three_drops
from certidote.attacks.adaptive import seen
from certidote.attacks.budget import project, quantize
from certidote.attacks.layerwise import LayerwisePass, Problems, layerwise
from certidote.attacks.selection import (
    check_answers,
    check_choice,
    check_logits,
    check_surrogates,
    device_of,
    first_output,
)
from certidote.attacks.shifts import Shifts
from certidote.attacks.steps import StepSize, check_steps, of_channels
from certidote.streams import Key
from certidote.types import Budget, DifferentiableDefense, FeatureExtractor, ImageDataset, Images, as_pixels

Loss = Literal["similarity", "layers", "squared"]
Match = Literal["full", "batch"]

CIFAR10_STEP = 0.025
"""The original's step, 0.1 on pixels normalized by standard deviations of 0.2435 to 0.2616 on CIFAR-10, in [0, 1] pixel units."""
CIFAR10_STEPS = (0.1 * 0.2470, 0.1 * 0.2435, 0.1 * 0.2616)
"""The same for each channel, as the original has it."""

BATCH_SIZE = 512
"""Poisons of one problem in a graph at a time, as in the original."""
PIXELS_TOGETHER = 1 << 15
"""Pixel positions of several problems in one pass, of as many whole problems as fit: 512 images of 8x8. Small images are limited by
the number of calls, which this saves; large ones by arithmetic, of which it makes more."""
NUMBERS_TOGETHER = 1 << 26
"""Numbers in per-image gradients that are in memory at a time."""


@dataclass(frozen=True)
class Matching:
    """How poisons are moved.

    Attributes:
        steps: of signed Adam; its step falls to a tenth after 3/8, 5/8 and 7/8 of them, as the original's.
        step_size: [0, 1] pixel units, divided by the number of surrogates; one for all channels or one for each.
        loss: "similarity", 1 - cos over all parameters concatenated; "layers", the mean of that over single parameter tensors;
            "squared", the squared distance relative to the squared norm of the wanted gradient.
        match: "full", the gradient of all poisons; "batch", that of each `batch_size` poisons, as the original does.
        batch_size: most poisons of one problem in a graph at a time.
        augmentation: how learners will see poisons; None for as they are.
    Raises: ValueError if a number is not positive, or there is no such loss or match.
    """

    steps: int = 250
    step_size: StepSize = CIFAR10_STEP
    loss: Loss = "similarity"
    match: Match = "full"
    batch_size: int = BATCH_SIZE
    augmentation: Shifts | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps, self.step_size)
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}; give at least 1")
        check_choice("loss", self.loss, Loss)
        check_choice("match", self.match, Match)

    def decay(self, step: int) -> float:
        """The factor of the step size at a step, counted from 0."""
        return three_drops(step, self.steps)

    def channel_steps(self, channels: int) -> Float[Tensor, "c 1 1"]:
        """The step of each channel. Raises: ValueError if there is neither one step nor one for each channel."""
        return torch.tensor(of_channels(self.step_size, channels), dtype=torch.float64).view(-1, 1, 1)


def problems_together(num_poisons: int, image_shape: tuple[int, int, int]) -> int:
    """How many problems are moved in one pass, at least 1; decides speed and memory, not results."""
    return max(1, PIXELS_TOGETHER // (num_poisons * image_shape[1] * image_shape[2]))


# ------------------------------------------------------------------------------------------------------- gradients by the weights


@dataclass(frozen=True, eq=False)
class Differentiated:
    """A surrogate as a function of its parameters. They share memory with its own, which never ask for gradients themselves.

    Attributes:
        model: in eval mode, so its buffers are only read.
        parameters: by name, all of them.
    """

    model: nn.Module
    parameters: Mapping[str, Tensor]

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(iter(self.parameters.values())).device

    def loss(self, parameters: Mapping[str, Tensor], images: Images, labels: Int64[Tensor, "n"]) -> Float[Tensor, ""]:
        """The mean cross-entropy."""
        return cross_entropy(functional_call(self.model, dict(parameters), (images,)), labels)

    @torch.enable_grad()
    def passed(self, images: Problems, labels: Int64[Tensor, "p"], *, differentiable: bool = False) -> "LayerwisePass | WholePass":
        """One pass of the images, all of a problem labelled alike: each problem's gradient by the weights, and what moves it.

        Args:
            differentiable: whether the pass will be asked for `slopes`.
        """
        each = labels[:, None].expand(images.shape[:2])
        layers = layerwise(self.model, self.parameters, images, each, differentiable=differentiable)
        return self._whole(images, each, differentiable) if layers is None else layers

    def _whole(self, images: Problems, each: Int64[Tensor, "p m"], differentiable: bool) -> "WholePass":
        leaf = images.detach().requires_grad_(differentiable)
        if len(images) > 1:
            found = vmap(grad(self.loss), in_dims=(None, 0, 0))(self.parameters, leaf, each)
            return WholePass(torch.cat([gradient.flatten(1) for gradient in found.values()], 1), leaf)
        weights = {name: weight.detach().requires_grad_() for name, weight in self.parameters.items()}
        loss = self.loss(weights, leaf[0], each[0])
        alone = torch.autograd.grad(loss, list(weights.values()), create_graph=differentiable, materialize_grads=True)
        return WholePass(torch.cat([gradient.flatten() for gradient in alone]).unsqueeze(0), leaf)

    def gradients(self, images: Problems, labels: Int64[Tensor, "p"]) -> Float[Tensor, "p d"]:
        """The gradient of each problem's mean loss, all images of a problem labelled alike, flat over all parameters."""
        return self.passed(images, labels).gradients.detach()

    @torch.no_grad()
    def mean_gradient(self, images: Images, labels: Int64[Tensor, "n"], batch_size: int = BATCH_SIZE) -> Float[Tensor, "d"]:
        """The gradient of the mean loss over any number of images of any labels, a batch in memory at a time; on the surrogate's device."""
        total = torch.zeros((), device=self.device)
        for batch, wanted in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            found = grad(self.loss)(self.parameters, batch.to(self.device), wanted.to(self.device))
            total = total + torch.cat([gradient.flatten() for gradient in found.values()]) * (len(batch) / len(images))
        return total

    @torch.no_grad()
    def gradient_norms(self, images: Images, labels: Int64[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The norm of each image's own gradient, exactly, some images in memory at a time; on the device of the images."""
        together = max(1, NUMBERS_TOGETHER // sum(weight.numel() for weight in self.parameters.values()))

        def squared(parameters: Mapping[str, Tensor], image: Float[Tensor, "c h w"], label: Int64[Tensor, ""]) -> Float[Tensor, ""]:
            found = grad(self.loss)(parameters, image.unsqueeze(0), label.unsqueeze(0))
            return torch.stack([gradient.square().sum() for gradient in found.values()]).sum()

        each = vmap(squared, in_dims=(None, 0, 0))
        pieces = zip(torch.split(images, together), torch.split(labels, together), strict=True)
        found = [each(self.parameters, some.to(self.device), their.to(self.device)) for some, their in pieces]
        return torch.cat(found).sqrt().to(images.device)


@dataclass(frozen=True, eq=False)
class WholePass:
    """A `LayerwisePass` for any model, by differentiating twice through all of it.

    Attributes:
        gradients: as there, but with a graph if `slopes` will be asked for.
    """

    gradients: Float[Tensor, "p d"]
    _images: Problems

    def slopes(self, directions: Float[Tensor, "p d"]) -> Problems:
        """As there."""
        return torch.autograd.grad(self.gradients, [self._images], directions)[0]


def differentiated(surrogates: Sequence[FeatureExtractor], train: ImageDataset | None = None) -> list[Differentiated]:
    """Surrogates as functions of their parameters.

    Args:
        train: the training set whose classes they must know, if given.
    Raises: ValueError if there is none, one is in train mode, one is no module, whose parameters nobody could replace, they are on
        several devices, or one cannot take its images or gives another number of logits than the training set has classes.
    """
    check_surrogates(surrogates)
    functions = []
    for number, surrogate in enumerate(surrogates):
        if not isinstance(surrogate, nn.Module):
            raise ValueError(
                f"surrogate {number}, a {type(surrogate).__name__}, is no torch.nn.Module; attacks that match gradients differentiate "
                "by its parameters: give a module"
            )
        check_answers(number, surrogate)
        functions.append(Differentiated(surrogate, {name: weight.detach() for name, weight in surrogate.named_parameters()}))
    device_of(surrogates)  # one
    if train is not None:
        for number, function in enumerate(functions):
            check_logits(number, first_output(number, function.model, train, function.device), train)
    return functions


# ------------------------------------------------------------------------------------------------------------------ the objective


@dataclass(frozen=True, eq=False)
class Aim:
    """What one surrogate says about several problems.

    Attributes:
        surrogate: whose gradients are matched.
        wanted: (p, d) gradient that the poisons of each problem shall have.
    Raises: ValueError if one is zero everywhere or not finite.
    """

    surrogate: Differentiated
    wanted: Float[Tensor, "p d"]

    def __post_init__(self) -> None:
        norms = self.wanted.norm(dim=1)
        if not bool((norms > 0).all()) or not bool(norms.isfinite().all()):
            raise ValueError(
                "a surrogate's gradient at a target is zero or not finite, so there is nothing to match; use a surrogate that learned, "
                "and a target that it does not already give the adversarial label"
            )

    def gaps(self, gradients: Float[Tensor, "p d"], loss: Loss) -> tuple[Float[Tensor, "p"], Float[Tensor, "p d"]]:
        """How far gradients are from the wanted ones, 0 where they match; and the slopes of that by the gradients."""
        if loss == "squared":
            apart, squares = gradients - self.wanted, self.wanted.square().sum(1)
            return apart.square().sum(1) / squares, apart * (2 / squares)[:, None]
        if loss == "similarity":
            return _dissimilarity(gradients, self.wanted)
        sizes = [weight.numel() for weight in self.surrogate.parameters.values()]
        pairs = zip(torch.split(gradients, sizes, 1), torch.split(self.wanted, sizes, 1), strict=True)
        gaps, slopes = zip(*(_dissimilarity(made, wanted) for made, wanted in pairs), strict=True)
        return torch.stack(gaps).mean(0), torch.cat(slopes, 1) / len(sizes)


def _dissimilarity(made: Float[Tensor, "p d"], wanted: Float[Tensor, "p d"]) -> tuple[Float[Tensor, "p"], Float[Tensor, "p d"]]:
    """1 - cos of the angle between rows, 1 for a row of zeros; and its slopes by `made`."""
    sizes = [torch.linalg.vector_norm(vectors, dim=1).clamp_min(torch.finfo(made.dtype).tiny ** 0.5) for vectors in (made, wanted)]
    scale = 1 / (sizes[0] * sizes[1])
    cosines = torch.linalg.vecdot(made, wanted) * scale
    inward = made * (cosines / sizes[0].square())[:, None]
    return 1 - cosines, inward.addcmul_(wanted, -scale[:, None])


def objective(aims: Sequence[Aim], images: Problems, labels: Int64[Tensor, "p"], matching: Matching) -> Float[Tensor, "p"]:
    """The gap of each problem, averaged over surrogates and, where batches are matched one by one, over batches. No augmentation."""
    return objective_and_gradient(aims, images, labels, matching, wants_gradient=False)[0]


def objective_and_gradient(
    aims: Sequence[Aim], images: Problems, labels: Int64[Tensor, "p"], matching: Matching, *, wants_gradient: bool = True
) -> tuple[Float[Tensor, "p"], Problems]:
    """The objective of each problem, and its gradient by the images (zeros if not wanted)."""
    values = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    slopes = torch.zeros_like(images)
    batches = [range(images.shape[1])]
    if matching.match == "batch":
        batches = [batches[0][first : first + matching.batch_size] for first in range(0, images.shape[1], matching.batch_size)]
    for batch in batches:
        part = slice(batch.start, batch.stop)
        for aim in aims:
            found, slope = _pulled(aim, images[:, part], labels, matching, wants_gradient)
            values += found.to(torch.float64) / (len(aims) * len(batches))
            slopes[:, part] += slope / (len(aims) * len(batches))
    return values, slopes


def _pulled(
    aim: Aim, images: Problems, labels: Int64[Tensor, "p"], matching: Matching, wants_gradient: bool
) -> tuple[Float[Tensor, "p"], Problems]:
    """For one surrogate and one joint gradient: the gap of each problem and its gradient by the images.

    That gradient is linear in the gap's gradient by the poisons' gradient, so it may be taken a piece of the images at a time; the
    graph of a single piece is kept from the first pass, others are made again.
    """
    if images.shape[1] <= matching.batch_size:
        whole = aim.surrogate.passed(images, labels, differentiable=wants_gradient)
        gaps, pull = aim.gaps(whole.gradients.detach(), matching.loss)
        return gaps, whole.slopes(pull) if wants_gradient else torch.zeros_like(images)
    pieces = torch.split(images, matching.batch_size, 1)
    shares = [piece.shape[1] / images.shape[1] for piece in pieces]
    parts = [aim.surrogate.gradients(piece, labels) * share for piece, share in zip(pieces, shares, strict=True)]
    gaps, pull = aim.gaps(torch.stack(parts).sum(0), matching.loss)
    if not wants_gradient:
        return gaps, torch.zeros_like(images)
    again = (aim.surrogate.passed(piece, labels, differentiable=True) for piece in pieces)
    return gaps, torch.cat([one.slopes(pull * share) for one, share in zip(again, shares, strict=True)], 1)


# ------------------------------------------------------------------------------------------------------------------ the descent


class Descent:
    """The poisons of several problems on their way, moved by signed Adam: Adam on the sign of the gradient, then projection.

    Attributes:
        pixels: (p, m, c, h, w) now.
    """

    def __init__(
        self,
        stored: UInt8[Tensor, "p m c h w"],
        labels: Int64[Tensor, "p"],
        budget: Budget,
        keys: Sequence[Key],
        matching: Matching,
        defense: DifferentiableDefense | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            stored: base images.
            labels: the adversarial label of each problem, which is that of its bases.
            budget: of each problem.
            keys: one for each problem; decide where it starts, and its augmentation and the defense's noise at every step.
            defense: looked through, if the attacker knows of one.
            device: of the surrogates.
        Raises: ValueError if there is neither one step size nor one for each channel.
        """
        self.stored, self.labels = stored.to(device), labels.to(device)
        self.budget, self.keys, self.matching, self.defense = budget, keys, matching, defense
        self.bases = as_pixels(self.stored.flatten(0, 1))
        self.reach = matching.channel_steps(stored.shape[2]).to(self.bases)
        shape = tuple(stored.shape[1:])
        noise = torch.stack([torch.from_numpy((key / "start").numpy().standard_normal(shape, dtype=np.float32)) for key in keys])
        start = self.bases + budget.epsilon * noise.flatten(0, 1).to(self.bases)
        self.pixels: Problems = project(start, self.bases, budget).view(stored.shape)
        self.steps_done = 0
        self._move = torch.zeros_like(self.pixels)
        self._adam = Adam([self._move])

    def step(self, aims: Sequence[Aim]) -> Float[Tensor, "p"]:
        """One step; returns the objective of each problem before it, as augmented and defended in this step."""
        keys = [key / "step" / self.steps_done for key in self.keys]
        values, slopes = self._gradient(aims, keys)
        self._move.zero_()
        self._adam.step([slopes.sign()], self.matching.decay(self.steps_done) / len(aims))
        moved = (self.pixels + self._move * self.reach).flatten(0, 1)
        self.pixels = project(moved, self.bases, self.budget).view_as(self.pixels)
        self.steps_done += 1
        return values

    def quantized(self) -> UInt8[Tensor, "p m c h w"]:
        """The poisons as they are stored, on the CPU."""
        return quantize(self.pixels.flatten(0, 1), self.stored.flatten(0, 1), self.budget).view(self.stored.shape).cpu()

    @torch.enable_grad()
    def _gradient(self, aims: Sequence[Aim], keys: Sequence[Key]) -> tuple[Float[Tensor, "p"], Problems]:
        """The objective and its gradient, averaged over the defense's draws. One augmentation serves all draws and surrogates."""
        leaf = self.pixels.detach().requires_grad_()
        augmentation, coins = self.matching.augmentation, None
        if augmentation is not None:
            drawn = [augmentation.drawn(leaf.shape[1], key / "augmentation") for key in keys]
            coins = tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))
        values: list[Tensor] = []
        total = torch.zeros_like(leaf)
        for draws in views(leaf, self.defense, keys):
            moved = draws
            if augmentation is not None and coins is not None:
                moved = [augmentation.moved(images.flatten(0, 1), *coins).view(leaf.shape) for images in draws]
            found = [objective_and_gradient(aims, images.detach(), self.labels, self.matching) for images in moved]
            values += [value for value, _ in found]
            total += torch.autograd.grad(moved, [leaf], [slopes for _, slopes in found])[0]
        return torch.stack(values).mean(0), total


def views(images: Problems, defense: DifferentiableDefense | None, keys: Sequence[Key]) -> Iterator[list[Problems]]:
    """Draws of the defense of all problems, some at a time; the noise of a problem is that of its own key, whatever it is crafted with."""
    for draws in seen(list(images), defense, [key / "defense" for key in keys]):
        yield [draw.view(images.shape) for draw in draws]


def defended_objective(
    aims: Sequence[Aim],
    images: UInt8[Tensor, "p m c h w"],
    labels: Int64[Tensor, "p"],
    matching: Matching,
    defense: DifferentiableDefense | None,
    keys: Sequence[Key],
) -> Float[Tensor, "p"]:
    """`objective` of each problem on stored poisons as the defense shows them, averaged over its draws; not augmented.

    Args:
        keys: one for each problem; decide the defense's noise.
    """
    device = aims[0].surrogate.device
    pixels = as_pixels(images.flatten(0, 1).to(device)).view(images.shape)
    with torch.no_grad():
        draws = [draw for some in views(pixels, defense, keys) for draw in some]
    return torch.stack([objective(aims, draw, labels.to(device), matching) for draw in draws]).mean(0).cpu()
