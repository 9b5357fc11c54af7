"""Witches' Brew (Geiping et al., 2021): poisons whose training gradient is that of the target with the adversarial label.

The attack belongs to training from scratch: no weights of the victim are known, only how it is trained. Surrogates are trained on
clean data; a victim that follows the poisons' gradients follows the target's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from certidote.attacks.gradient_matching import (
    BATCH_SIZE,
    CIFAR10_STEP,
    Aim,
    Descent,
    Differentiated,
    Loss,
    Match,
    Matching,
    defended_objective,
    differentiated,
    problems_together,
)
from certidote.attacks.ranges import Count, PixelStep, PixelSteps, Share, numbers_checked
from certidote.attacks.selection import check_batch, check_task, choose_bases, target_of
from certidote.attacks.shifts import Border, shifts_for
from certidote.streams import Key
from certidote.types import Knowledge, Poison, Task, as_pixels


def witches_brew(
    task: Task,
    knowledge: Knowledge,
    key: Key,
    *,
    steps: Count = 250,
    step_size: PixelStep | PixelSteps = CIFAR10_STEP,
    restarts: Count = 8,
    loss: Loss = "similarity",
    match: Match = "full",
    batch_size: Count = BATCH_SIZE,
    shift: Share = 1 / 8,
    flip: bool = True,
    border: Border = "fill",
) -> Poison:
    """Poisons whose mean gradient by a surrogate's weights is parallel to that of CE(f(x_t), adversarial label), averaged over surrogates.

    Each restart begins at the base images plus clipped Gaussian noise of std epsilon and takes `steps` steps of signed Adam, with
    projection onto the budget after each. Of the restarts' last iterates, in 8 bits, the one with the smallest objective is kept.

    Args:
        task: the clean training set, the target image, and the budget; bases are the task's or drawn from the adversarial class.
        knowledge: surrogates in eval mode, modules trained on clean data; neither their parameters nor their buffers change. With a
            defense, each step looks at poisons through it, and so does the choice of the restart.
        key: decides which base images are used, where restarts begin, augmentation and the defense's noise.
        steps: 250 as in the original.
        step_size: [0, 1] pixel units, divided by the number of surrogates; one number or one for each channel
            (`gradient_matching.CIFAR10_STEPS` is the original's for CIFAR-10). On images of few pixels, where epsilon must be larger
            for the same l2 norm, about 0.4 epsilon.
        restarts: 8 as in the original.
        loss: "similarity" as in the original's default; "layers" and "squared" are its alternatives.
        match: "full" matches the gradient of all poisons, "batch" that of each `batch_size`.
        batch_size: poisons in memory at a time, 512 as in the original.
        shift, flip, border: how learners will see poisons: largest shift as a fraction of the image's side (1/8 is 4 pixels of 32, as
            in the original), whether mirrored, and what shifts uncover: the training set's mean color, as in the original, or a
            "reflection", as in this library's training. `shift=0, flip=False` for learners that do not augment.
    Returns: `budget.num_poisons` poisons, their indices ascending.
    Raises: ValueError if there is no surrogate, one is in train mode or no module, the goal or the bases do not fit the training set,
        a surrogate already gives the target the adversarial label so surely that its gradient vanishes, or a number is not positive.
    Source: Geiping et al. (2021), `forest/witchcoven`. Differs from the original: the restart is chosen by an evaluation without
        augmentation, not by the noisy loss of the last step; more than `batch_size` poisons are matched jointly unless asked
        otherwise; dropout is off; poisons are rounded to 8 bits; by default one step of 0.025 for all channels, where the original's
        0.1 on normalized pixels is one for each (`CIFAR10_STEPS`); the step is not multiplied by `batch_size` / 512, as the
        original's is.
    """
    options = {"steps": steps, "step_size": step_size, "restarts": restarts, "loss": loss, "match": match, "batch_size": batch_size}
    return witches_brew_batch([task], knowledge, [key], shift=shift, flip=flip, border=border, **options)[0]  # type: ignore[arg-type]


@numbers_checked
def witches_brew_batch(
    tasks: Sequence[Task],
    knowledge: Knowledge,
    keys: Sequence[Key],
    *,
    steps: Count = 250,
    step_size: PixelStep | PixelSteps = CIFAR10_STEP,
    restarts: Count = 8,
    loss: Loss = "similarity",
    match: Match = "full",
    batch_size: Count = BATCH_SIZE,
    shift: Share = 1 / 8,
    flip: bool = True,
    border: Border = "fill",
) -> list[Poison]:
    """`witches_brew` for many trials in one loop: trial i has `tasks[i]` and `keys[i]`; trials share surrogates and training set.

    No trial influences another beyond the rounding of products that are computed together.

    Raises: as `witches_brew`; ValueError if there are no tasks, not one key each, or the budgets differ.
    """
    check_batch(tasks, keys)
    matching = Matching(steps, step_size, loss, match, batch_size, shifts_for(tasks[0].train, shift, flip, border))
    return matched(tasks, knowledge, keys, matching, restarts=restarts)


def matched(
    tasks: Sequence[Task], knowledge: Knowledge, keys: Sequence[Key], matching: Matching, *, restarts: int = 8
) -> list[Poison]:
    """`witches_brew_batch` with any augmentation.

    Raises: as there; ValueError if `restarts` is below 1.
    """
    _check(tasks, keys, restarts)
    surrogates = differentiated(knowledge.surrogates, tasks[0].train)
    bases = [choose_bases(task, key / "bases") for task, key in zip(tasks, keys, strict=True)]
    wanted = [target_gradients(surrogate, tasks) for surrogate in surrogates]
    started = [(trial, restart) for trial in range(len(tasks)) for restart in range(restarts)]
    together = problems_together(tasks[0].budget.num_poisons, tasks[0].train.image_shape)
    ended: list[tuple[float, UInt8[Tensor, "m c h w"]]] = []
    for group in (started[first : first + together] for first in range(0, len(started), together)):
        trials = [trial for trial, _ in group]
        descent = Descent(
            torch.stack([tasks[trial].train.images[bases[trial]] for trial in trials]),
            torch.tensor([tasks[trial].goal.adversarial_label for trial in trials]),
            tasks[0].budget,
            [keys[trial] / "restart" / restart for trial, restart in group],
            matching,
            knowledge.defense,
            surrogates[0].device,
        )
        aims = [Aim(surrogate, each[trials]) for surrogate, each in zip(surrogates, wanted, strict=True)]
        ended += _descended(descent, aims, [keys[trial] / "choice" for trial in trials])
    poisons = []
    for trial, task in enumerate(tasks):
        of_trial = ended[trial * restarts : (trial + 1) * restarts]
        objective, images = min(of_trial, key=lambda end: end[0])
        poisons.append(Poison(bases[trial], images, task.goal, task.budget, objective))
        poisons[-1].verify(task.train)
    return poisons


def target_gradients(surrogate: Differentiated, tasks: Sequence[Task]) -> Float[Tensor, "trials d"]:
    """For each task, the gradient of CE(f(x_t), adversarial label) by the surrogate's weights, flat. The target is not augmented."""
    targets = [(as_pixels(target_of(task).image.unsqueeze(0)), torch.tensor([task.goal.adversarial_label])) for task in tasks]
    return torch.stack([surrogate.mean_gradient(*target) for target in targets])


def _descended(descent: Descent, aims: Sequence[Aim], choice: Sequence[Key]) -> list[tuple[float, UInt8[Tensor, "m c h w"]]]:
    """All steps; then, for each problem, the objective of its poisons in 8 bits, without augmentation, and these poisons."""
    for _ in range(descent.matching.steps):
        descent.step(aims)
    images = descent.quantized()
    values = defended_objective(aims, images, descent.labels, descent.matching, descent.defense, choice)
    return list(zip(values.tolist(), images, strict=True))


def _check(tasks: Sequence[Task], keys: Sequence[Key], restarts: int) -> None:
    check_batch(tasks, keys)
    if restarts < 1:
        raise ValueError(f"restarts={restarts}; give at least 1")
    for task in tasks:
        check_task(task)
        target_of(task)
