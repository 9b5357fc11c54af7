"""Bullseye Polytope (Aghakhani et al., 2021): poisons whose mean feature is the target's feature.

A linear head that fits the poisons fits their mean, and so the target, with the poisons' label. The attack belongs to transfer
learning: it moves features of surrogates, so the victim's extractor must resemble one of them. Against end-to-end fine-tuning give it
several layers of each surrogate (`features.at_layers`).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from certidote.attacks.crafting import CIFAR10_STEP, Maps, Objective, Trials, adam, check_trials, craft_in_groups
from certidote.attacks.features import maps_of
from certidote.attacks.ranges import Count, CountOrNone, PixelStep, PixelSteps, numbers_checked
from certidote.attacks.selection import check_task, target_of
from certidote.streams import Key
from certidote.types import FeatureExtractor, Images, Knowledge, Poison, Task


def bullseye_polytope(
    task: Task,
    knowledge: Knowledge,
    key: Key,
    *,
    steps: Count = 1_200,
    step_size: PixelStep | PixelSteps = CIFAR10_STEP,
    views: UInt8[Tensor, "v c h w"] | None = None,
    dropout_draws: CountOrNone = 0,
) -> Poison:
    """Poisons around the target in feature space: min over p of mean_m ||mean_j phi_m(p_j) - phi_m(x_t)|| / ||phi_m(x_t)||.

    Adam from the base images on pixels, with projection onto the budget after every step; the last iterate, in 8 bits. For a
    surrogate that is a layer of feature maps (`features.AtLayer`) the norm is over channels, and the ratio is averaged over positions.
    With `knowledge.defense` the objective is averaged over draws of the poisons as the defense shows them, new ones in each step.

    Args:
        task: the clean training set, the target image, and the budget; bases are drawn from the adversarial class.
        knowledge: surrogates m in eval mode; neither their parameters nor their buffers change.
        key: decides which base images are used, and the defense's noise.
        steps: Adam steps; 1,200 as in the poisoning benchmark (the original's scripts use 800 to 4,000).
        step_size: Adam step in [0, 1] pixel units, one number or one for each channel (`crafting.CIFAR10_STEPS` is the original's for
            CIFAR-10). The default is right for 8/255 to 25/255; on images of few pixels, where epsilon must be larger for the same l2
            norm, about epsilon / 20 needs fewer steps.
        views: further pictures of the target's object (multi-target mode): the center is the mean feature of the target and these.
        dropout_draws: the original's multi-draw mode, 1, 3 or 5: dropout of the surrogates is active, and features are the mean of so
            many draws. 0: it is off.
    Returns: `budget.num_poisons` poisons, their indices ascending.
    Raises: ValueError if there is no surrogate or one is in train mode, the two labels of the goal are equal or not classes of the
        training set, the adversarial class has fewer images than the budget, `steps` or `step_size` is not positive, a view is of another
        shape or a training image, a surrogate has no dropout to draw, or there is neither one step size nor one for each channel.
    Source: objective as in the authors' `trainer.py`, mode "mean" (norm ratio not squared; the publication squares it), loop and
        number of steps as in the poisoning benchmark. Betas 0.9 and 0.999, no decay, no augmentation.
    Differs from the original: with `dropout_draws` the target's features, too, are the mean over so many draws, once before the first
        step (the original's: one draw); a position of a feature map where the target has no signal, whose ratio has no value, is
        measured by the mean norm of the other positions; by default one step of 0.008 for all channels, where the original's 0.04 on
        normalized pixels is one for each (`CIFAR10_STEPS`).
    """
    many = None if views is None else [views]
    return bullseye_polytope_batch(
        [task], knowledge, [key], steps=steps, step_size=step_size, views=many, dropout_draws=dropout_draws
    )[0]


@numbers_checked
def bullseye_polytope_batch(
    tasks: Sequence[Task],
    knowledge: Knowledge,
    keys: Sequence[Key],
    *,
    steps: Count = 1_200,
    step_size: PixelStep | PixelSteps = CIFAR10_STEP,
    views: Sequence[UInt8[Tensor, "_ c h w"]] | None = None,
    dropout_draws: CountOrNone = 0,
) -> list[Poison]:
    """`bullseye_polytope` for many trials in one loop: trial i has `tasks[i]`, `keys[i]` and, if given, `views[i]`.

    The loss is a sum over trials, surrogates in eval mode treat images separately, and Adam treats pixels separately, so no trial
    influences another, and no poison depends on what it is crafted with. All trials share one budget.

    Raises: as `bullseye_polytope`; ValueError if there are no tasks, not one key (and views) each, or the budgets differ.
    """
    check_trials(tasks, knowledge, keys, steps, step_size, dropout_draws)
    _check_views(tasks, views)

    def craft(trials: Trials, group: slice) -> tuple[Images, Objective]:
        objective = center_objective(trials.target_features(views[group] if views else None))
        return adam(trials, objective, steps=steps, step_size=step_size), objective

    return craft_in_groups(tasks, knowledge, keys, craft, dropout_draws=dropout_draws)


def center_objective(centers: Sequence[Float[Tensor, "trials ..."]]) -> Objective:
    """For each trial ||mean_j phi(p_j) - center|| / ||center||, averaged over positions and surrogates.

    A position where the center has no signal at all is measured by the mean norm of the others.

    Args:
        centers: for each surrogate, the targets' features: (trials, d), or (trials, channels, ...) at a layer of feature maps.
    """

    def objective(maps: Maps, _: int) -> Float[Tensor, "trials"]:
        ratios = []
        for features, center in zip(maps, centers, strict=True):
            mean = features.view(len(center), -1, *center.shape[1:]).mean(1)
            norms = center.norm(dim=1).view(len(center), -1)
            norms = torch.where(norms > 0, norms, norms.mean(1, keepdim=True))
            distances = (mean - center).norm(dim=1).view(norms.shape)
            ratios.append((distances / norms).mean(1))
        return torch.stack(ratios).mean(0)

    return objective


def center_distances(
    poisons: Images, centers: Sequence[Float[Tensor, "trials ..."]], surrogates: Sequence[FeatureExtractor]
) -> Float[Tensor, "trials"]:
    """The objective of images.

    Args:
        poisons: (trials * num_poisons, c, h, w), a trial's poisons next to each other.
        centers: as `center_objective`.
        surrogates: as many as `centers`.
    """
    return center_objective(centers)(maps_of(surrogates, poisons), 0)


def _check_views(tasks: Sequence[Task], views: Sequence[UInt8[Tensor, "_ c h w"]] | None) -> None:
    """Views are test images, as targets are."""
    if views is None:
        return
    if len(views) != len(tasks):
        raise ValueError(f"{len(views)} sets of views for {len(tasks)} tasks; give one set for each task")
    for task, pictures in zip(tasks, views, strict=True):
        for image in pictures:
            check_task(replace(task, goal=replace(target_of(task), image=image)))
