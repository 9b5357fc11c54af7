"""Convex Polytope (Zhu et al., 2019): poisons whose convex hull in feature space contains the target.

A linear head that gives all poisons their label gives it to every convex combination of them. The attack belongs to transfer learning,
and is meant for extractors that resemble none of the surrogates exactly. Against end-to-end fine-tuning give it several layers of each
surrogate (`features.at_layers`): each gets a convex combination of its own.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from certidote.attacks.crafting import CIFAR10_STEP, Maps, Objective, Trials, adam, check_trials, craft_in_groups
from certidote.attacks.ranges import Count, CountOrNone, PixelStep, PixelSteps, numbers_checked
from certidote.attacks.simplex import gram, nearest_in_hull
from certidote.streams import Key
from certidote.types import Images, Knowledge, Poison, Task


def convex_polytope(
    task: Task,
    knowledge: Knowledge,
    key: Key,
    *,
    steps: Count = 1_200,
    step_size: PixelStep | PixelSteps = CIFAR10_STEP,
    dropout_draws: CountOrNone = 0,
) -> Poison:
    """Poisons around the target: min over p, c of sum_m ||phi_m(x_t) - sum_j c_mj phi_m(p_j)||^2 / (2 ||phi_m(x_t)||^2), c_m convex.

    Adam from the base images on pixels, with projection onto the budget after every step; before each step the coefficients are solved
    for, from where they were, and held fixed. The last iterate, in 8 bits. Optimal coefficients are sparse, so with many poisons most of
    them do not move. With `knowledge.defense` the objective is averaged over draws of the poisons as the defense shows them, new ones in
    each step; each draw has coefficients of its own.

    Args:
        task: the clean training set, the target image, and the budget; bases are drawn from the adversarial class.
        knowledge: surrogates m in eval mode; neither their parameters nor their buffers change.
        key: decides which base images are used, and the defense's noise.
        steps: Adam steps; 1,200 as in the poisoning benchmark (the original uses 4,000).
        step_size: Adam step in [0, 1] pixel units, one number or one for each channel; as in `bullseye_polytope`.
        dropout_draws: 1 is the original's mode: dropout of the surrogates is active. More: features are the mean of so many draws. 0: it
            is off, as in the poisoning benchmark.
    Returns: `budget.num_poisons` poisons, their indices ascending.
    Raises: as `bullseye_polytope`.
    Source: algorithm 1, and the authors' `trainer.py` (sum over surrogates).
    Differs from the original: coefficients are solved for by an exact method with a certificate (`simplex`), where the original's stop
        rule is a small change. At several layers the combination is convex at each; the original multiplies pooled features by
        coefficients of the wrong shape, which makes it feature collision there. By default one step for all channels, as in
        `bullseye_polytope`.
    """
    return convex_polytope_batch([task], knowledge, [key], steps=steps, step_size=step_size, dropout_draws=dropout_draws)[0]


@numbers_checked
def convex_polytope_batch(
    tasks: Sequence[Task],
    knowledge: Knowledge,
    keys: Sequence[Key],
    *,
    steps: Count = 1_200,
    step_size: PixelStep | PixelSteps = CIFAR10_STEP,
    dropout_draws: CountOrNone = 0,
) -> list[Poison]:
    """`convex_polytope` for many trials in one loop: trial i has `tasks[i]` and `keys[i]`; no trial influences another.

    Raises: as `convex_polytope`; ValueError if there are no tasks, not one key each, or the budgets differ.
    """
    check_trials(tasks, knowledge, keys, steps, step_size, dropout_draws)

    def craft(trials: Trials, _: slice) -> tuple[Images, Objective]:
        objective = hull_objective(trials.target_features())
        return adam(trials, objective, steps=steps, step_size=step_size), objective

    return craft_in_groups(tasks, knowledge, keys, craft, dropout_draws=dropout_draws)


def hull_objective(targets: Sequence[Float[Tensor, "trials ..."]]) -> Objective:
    """The attack's objective; remembers each draw's coefficients, to start from them in the next step.

    Args:
        targets: for each surrogate, the targets' features.
    """
    goals = [target.flatten(1) for target in targets]
    known: dict[int, Float64[Tensor, "surrogates trials p"]] = {}

    def objective(maps: Maps, draw: int) -> Float[Tensor, "trials"]:
        points = [each.reshape(len(goal), -1, goal.shape[1]) for each, goal in zip(maps, goals, strict=True)]
        grams = torch.stack([gram(each.detach(), goal) for each, goal in zip(points, goals, strict=True)])
        known[draw] = nearest_in_hull(grams, known.get(draw)).coefficients
        return torch.stack([residual(*terms) for terms in zip(points, goals, known[draw], strict=True)]).sum(0)

    return objective


def residual(
    points: Float[Tensor, "trials p d"], target: Float[Tensor, "trials d"], coefficients: Float64[Tensor, "trials p"]
) -> Float[Tensor, "trials"]:
    """One surrogate's term: ||target - sum_j c_j point_j||^2 / (2 ||target||^2)."""
    combined = (coefficients.to(points.dtype).unsqueeze(1) @ points).squeeze(1)
    return (target - combined).square().sum(1) / (2 * target.square().sum(1))
