"""Poison Frogs (Shafahi et al., 2018): each poison collides with the target in feature space, and looks like its base image.

A linear head that gives a poison its label gives it to the target too. The attack belongs to transfer learning on an extractor that the
attacker knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from certidote.adam import three_drops
from certidote.attacks.crafting import Maps, Objective, Trials, adam_iterates, check_trials, craft_in_groups
from certidote.attacks.ranges import Count, Length, Share, Weight, numbers_checked
from certidote.attacks.selection import check_choice
from certidote.streams import Key
from certidote.types import Images, Knowledge, Poison, Task

Optimizer = Literal["line-search", "adam", "signed-adam"]

SHRINK, GROW = 0.5, 1.1
"""A poison's step size, after a step that was refused and after one that was taken."""


def poison_frogs(
    task: Task,
    knowledge: Knowledge,
    key: Key,
    *,
    steps: Count = 120,
    step_size: Length = 0.001,
    watermark: Share = 0.3,
    l2_penalty: Weight = 0.0,
    optimizer: Optimizer = "line-search",
) -> Poison:
    """Poisons at the target in feature space: min over each p of sum_m ||phi_m(p) - phi_m(x_t)||^2 + l2_penalty / 2 ||p - b||^2.

    Gradient descent with a projection onto the budget after every step. A step is taken if it lowers that poison's objective, and its next
    one is 1.1 times as long; if not, half as long. So the last iterate is the best one. It is returned in 8 bits. With
    `knowledge.defense` the objective is averaged over draws of the poisons as the defense shows them, new ones in each step; both ends of a
    step are compared under the same draws, which are not those of its gradient.

    Args:
        task: the clean training set, the target image, and the budget; bases are drawn from the adversarial class.
        knowledge: surrogates m in eval mode; neither their parameters nor their buffers change.
        key: decides which base images are used, and the defense's noise.
        steps: steps, taken or not.
        step_size: what the gradient is multiplied with in the first step, for pixels in [0, 1]. With Adam, in pixel units: about
            epsilon / 20.
        watermark: share of the target in the image to start from, in [0, 1], the rest being the base; then projected onto the budget.
        l2_penalty: 0 for the poisoning benchmark's default mode, in which the budget alone keeps a poison near its base. Above 0: the
            publication's, by forward-backward steps, within the budget too; the benchmark uses 4 (0.1 for pixels as they are), the
            publication 0.25 (2048 / numbers in an image)^2.
        optimizer: "line-search" as above; "adam", or "signed-adam" on the sign of the gradient, both with three drops of the step to
            a tenth, and the best iterate returned.
    Returns: `budget.num_poisons` poisons, their indices ascending.
    Raises: as `bullseye_polytope`; ValueError for a `watermark` outside [0, 1], an `l2_penalty` below 0 or an unknown `optimizer`.
    Source: algorithm 1, and the crafting script of the poisoning benchmark, whose defaults these are.
    Differs from the benchmark: the watermarked image is projected before the first step, and the *new* image is tested against the one
        held. The benchmark tests the image held against an earlier one, so that after one increase it never moves again.
    Differs from the publication: the penalty is halved, as its own backward step has it.
    """
    options = {"watermark": watermark, "l2_penalty": l2_penalty}
    return poison_frogs_batch([task], knowledge, [key], steps=steps, step_size=step_size, optimizer=optimizer, **options)[0]


@numbers_checked
def poison_frogs_batch(
    tasks: Sequence[Task],
    knowledge: Knowledge,
    keys: Sequence[Key],
    *,
    steps: Count = 120,
    step_size: Length = 0.001,
    watermark: Share = 0.3,
    l2_penalty: Weight = 0.0,
    optimizer: Optimizer = "line-search",
) -> list[Poison]:
    """`poison_frogs` for many trials in one loop: trial i has `tasks[i]` and `keys[i]`; no trial influences another.

    Raises: as `poison_frogs`; ValueError if there are no tasks, not one key each, or the budgets differ.
    """
    check_trials(tasks, knowledge, keys, steps, step_size)
    if not 0 <= watermark <= 1:
        raise ValueError(f"watermark={watermark}; give the target's share in the starting image, from 0 to 1")
    if not l2_penalty >= 0:
        raise ValueError(f"l2_penalty={l2_penalty}; give a number of at least 0")
    check_choice("optimizer", optimizer, Optimizer)

    def craft(trials: Trials, _: slice) -> tuple[Images, Objective]:
        objective = collision_objective(trials.target_features())
        start = watermarked(trials, watermark)
        if optimizer == "line-search":
            found = line_search(trials, objective, start, steps=steps, step_size=step_size, l2_penalty=l2_penalty)
            return found.pixels, objective
        rates = [step_size * three_drops(step, steps) for step in range(steps)]
        return _best_adam(trials, objective, start, rates, l2_penalty, signed=optimizer == "signed-adam"), objective

    return craft_in_groups(tasks, knowledge, keys, craft)


def watermarked(trials: Trials, share: float) -> Images:
    """Where poisons start: so much of the target, the rest of their base image, within the budget."""
    targets = trials.targets.repeat_interleave(trials.budget.num_poisons, 0)
    return trials.projected(share * targets + (1 - share) * trials.bases)


def collision_objective(targets: Sequence[Float[Tensor, "trials ..."]]) -> Objective:
    """sum_m ||phi_m(p) - phi_m(x_t)||^2 for each poison.

    Args:
        targets: for each surrogate, the targets' features.
    """

    def objective(maps: Maps, _: int) -> Float[Tensor, "n"]:
        terms = []
        for features, target in zip(maps, targets, strict=True):
            apart = features.view(len(target), -1, *target.shape[1:]) - target.unsqueeze(1)
            terms.append(apart.square().flatten(2).sum(2).flatten())
        return torch.stack(terms).sum(0)

    return objective


@dataclass(frozen=True, eq=False)
class Descent:
    """What a line search found.

    Attributes:
        pixels: the last images, which are the best.
        taken: (n,) how many of each poison's steps were taken.
    """

    pixels: Images
    taken: Int64[Tensor, "n"]


def line_search(
    trials: Trials, objective: Objective, start: Images, *, steps: int, step_size: float, l2_penalty: float = 0.0
) -> Descent:
    """Descent of each poison by itself: forward along the gradient, backward to the base, onto the budget; only downwards."""
    pixels, taken = start, torch.zeros(len(start), dtype=torch.int64, device=start.device)
    rates = start.new_full((len(start), 1, 1, 1), step_size)
    value, gradient = trials.look(pixels, 0, objective)
    for step in range(steps):
        if step and trials.knowledge.defense is not None:
            _, gradient = trials.look(pixels, step, objective)  # under new draws
        backward = rates * l2_penalty
        moved = trials.projected((pixels - rates * gradient + backward * trials.bases) / (1 + backward))
        if trials.knowledge.defense is None:
            moved_value, moved_gradient = trials.look(moved, step, objective)
        else:
            value, moved_value = (trials.values(each, step, objective) for each in (pixels, moved))
        lower = moved_value + _penalty(trials, moved, l2_penalty) < value + _penalty(trials, pixels, l2_penalty)
        chosen = lower.view(-1, 1, 1, 1)
        pixels, value = torch.where(chosen, moved, pixels), torch.where(lower, moved_value, value)
        if trials.knowledge.defense is None:
            gradient = torch.where(chosen, moved_gradient, gradient)
        rates = rates * torch.where(chosen, GROW, SHRINK)
        taken += lower
    return Descent(pixels, taken)


def _best_adam(
    trials: Trials, objective: Objective, start: Images, rates: Sequence[float], l2_penalty: float, *, signed: bool
) -> Images:
    """The best of Adam's iterates, poison by poison."""
    best, value = start, None
    iterates = adam_iterates(trials, objective, start, rates, signed=signed, pull=l2_penalty)
    for step, pixels in enumerate(iterates):
        if value is None or trials.knowledge.defense is not None:
            value = trials.values(best, step, objective) + _penalty(trials, best, l2_penalty)
        moved_value = trials.values(pixels, step, objective) + _penalty(trials, pixels, l2_penalty)
        lower = moved_value < value
        best = torch.where(lower.view(-1, 1, 1, 1), pixels, best)
        value = torch.where(lower, moved_value, value)
    return best


def _penalty(trials: Trials, pixels: Images, l2_penalty: float) -> Float[Tensor, "n"]:
    return l2_penalty / 2 * (pixels - trials.bases).flatten(1).square().sum(1)
