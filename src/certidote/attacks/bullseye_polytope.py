"""Bullseye Polytope (Aghakhani et al., 2021): poisons whose mean feature is the target's feature.

A linear head that fits the poisons fits their mean, and so the target, with the poisons' label. The attack belongs to transfer
learning: it moves features of surrogates, so the victim's extractor must resemble one of them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from certidote.adam import Adam
from certidote.attacks.budget import project, quantize
from certidote.attacks.selection import check_surrogates, check_task, choose_bases, target_of
from certidote.streams import Key
from certidote.types import FeatureExtractor, Images, Knowledge, Poison, Task, as_pixels

CIFAR10_STEP = 0.04 * 0.2
"""The original's Adam step, 0.04 on pixels normalized with a standard deviation of 0.2, in [0, 1] pixel units."""

IMAGES_TOGETHER = 128
"""Poisons in one forward pass, of as many whole trials as fit: enough to be fast, few enough to stay in the processor's cache."""


def bullseye_polytope(task: Task, knowledge: Knowledge, key: Key, *, steps: int = 1_200, step_size: float = CIFAR10_STEP) -> Poison:
    """Poisons around the target in feature space: min over p of mean_m ||mean_j phi_m(p_j) - phi_m(x_t)|| / ||phi_m(x_t)||.

    Adam from the base images on pixels, with projection onto the budget after every step; the last iterate, in 8 bits.

    Args:
        task: the clean training set, the target image, and the budget; bases are drawn from the adversarial class.
        knowledge: surrogates m in eval mode; neither their parameters nor their buffers change.
        key: decides which base images are used, nothing else.
        steps: Adam steps; 1,200 as in the poisoning benchmark (the original's scripts use 800 to 4,000).
        step_size: Adam step in [0, 1] pixel units. The default is right for 8/255 to 25/255; on images of few pixels, where epsilon
            must be larger for the same l2 norm, about epsilon / 20 needs fewer steps.
    Returns: `budget.num_poisons` poisons, their indices ascending.
    Raises: ValueError if there is no surrogate or one is in train mode, the two labels of the goal are equal or not classes of the
        training set, the adversarial class has fewer images than the budget, or `steps` or `step_size` is not positive.
    Source: objective as in the authors' `trainer.py`, mode "mean" (norm ratio not squared; the publication squares it), loop and
        number of steps as in the poisoning benchmark. Betas 0.9 and 0.999, no decay, no augmentation.
    """
    return bullseye_polytope_batch([task], knowledge, [key], steps=steps, step_size=step_size)[0]


def bullseye_polytope_batch(
    tasks: Sequence[Task],
    knowledge: Knowledge,
    keys: Sequence[Key],
    *,
    steps: int = 1_200,
    step_size: float = CIFAR10_STEP,
) -> list[Poison]:
    """`bullseye_polytope` for many trials in one loop: trial i has `tasks[i]` and `keys[i]`.

    The loss is a sum over trials, surrogates in eval mode treat images separately, and Adam treats pixels separately, so no trial
    influences another, and no poison depends on what it is crafted with. All trials share one budget.

    Raises: as `bullseye_polytope`; ValueError if there are no tasks, not one key each, or the budgets differ.
    """
    _check(tasks, knowledge, keys, steps, step_size)
    bases = [choose_bases(task, key / "bases") for task, key in zip(tasks, keys, strict=True)]
    together = max(1, IMAGES_TOGETHER // tasks[0].budget.num_poisons)
    crafted: list[Poison] = []
    for first in range(0, len(tasks), together):
        chosen = slice(first, first + together)
        crafted += _craft(tasks[chosen], bases[chosen], knowledge.surrogates, steps, step_size)
    return crafted


def _craft(
    tasks: Sequence[Task],
    bases: Sequence[Int64[Tensor, "m"]],
    surrogates: Sequence[FeatureExtractor],
    steps: int,
    step_size: float,
) -> list[Poison]:
    """The optimization loop over trials that are in memory together."""
    budget = tasks[0].budget
    stored = torch.cat([task.train.images[rows] for task, rows in zip(tasks, bases, strict=True)])
    start = as_pixels(stored)
    # One target at a time: a convolution may round a batch of one differently from a larger one.
    targets = [as_pixels(target_of(task).image.unsqueeze(0)) for task in tasks]
    with torch.no_grad():
        centers = [torch.cat([surrogate.penultimate(target) for target in targets]) for surrogate in surrogates]
    if any(bool((center.norm(dim=1) == 0).any()) for center in centers):
        raise ValueError("a surrogate's features of a target are all zero, so nothing can be aimed at; use a trained surrogate")
    pixels = start.clone()
    optimizer = Adam([pixels])
    with torch.enable_grad():
        for _ in range(steps):
            leaf = pixels.detach().requires_grad_()
            loss = center_distances(leaf, centers, surrogates).sum()
            optimizer.step(torch.autograd.grad(loss, [leaf]), step_size)  # of the pixels alone: surrogates get no gradients
            pixels.copy_(project(pixels, start, budget))
    images = torch.split(quantize(pixels, stored, budget), budget.num_poisons)
    poisons = [Poison(rows, image, task.goal, budget) for task, rows, image in zip(tasks, bases, images, strict=True)]
    for task, poison in zip(tasks, poisons, strict=True):
        poison.verify(task.train)
    return poisons


def center_distances(
    poisons: Images, centers: Sequence[Float[Tensor, "trials _"]], surrogates: Sequence[FeatureExtractor]
) -> Float[Tensor, "trials"]:
    """The objective for each trial: ||mean_j phi(p_j) - center|| / ||center||, averaged over surrogates.

    Args:
        poisons: (trials * num_poisons, c, h, w), a trial's poisons next to each other.
        centers: for each surrogate, the targets' features; surrogates may differ in d.
        surrogates: as many as `centers`.
    """
    ratios = []
    for surrogate, center in zip(surrogates, centers, strict=True):
        mean = surrogate.penultimate(poisons).view(len(center), -1, center.shape[1]).mean(1)
        ratios.append((mean - center).norm(dim=1) / center.norm(dim=1))
    return torch.stack(ratios).mean(0)


def _check(tasks: Sequence[Task], knowledge: Knowledge, keys: Sequence[Key], steps: int, step_size: float) -> None:
    if not tasks or len(tasks) != len(keys):
        raise ValueError(f"{len(tasks)} tasks and {len(keys)} keys; give at least one task, and one key for each")
    if any(task.budget != tasks[0].budget for task in tasks):
        raise ValueError("tasks crafted together must share one budget; craft each budget in its own call")
    if steps < 1 or not step_size > 0:
        raise ValueError(f"steps={steps}, step_size={step_size}; both must be positive (step_size in [0, 1] pixel units)")
    check_surrogates(knowledge.surrogates)
    for task in tasks:
        check_task(task)
        target_of(task)
