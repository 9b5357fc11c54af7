"""Sleeper Agent (Souri et al., 2022): a hidden-trigger backdoor by gradient matching, for victims that train from scratch.

The poisons' training gradient is that of images with the trigger and the adversarial label; no poison carries the trigger. Surrogates
are trained again on the poisoned set while it is made, so that the attack holds against what learning from the poisons changes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
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
)
from certidote.attacks.ranges import Count, CountOrNone, PixelStep, PixelSteps, Share, numbers_checked
from certidote.attacks.selection import base_candidates, check_choice, check_task, choose_bases, source_rows, trigger_of
from certidote.attacks.shifts import Border, shifts_for
from certidote.streams import Key
from certidote.types import ImageDataset, Images, Knowledge, Poison, Task, Trigger, as_pixels

Selection = Literal["gradient-norm", "random"]


@numbers_checked
def sleeper_agent(
    task: Task,
    knowledge: Knowledge,
    key: Key,
    *,
    steps: Count = 250,
    step_size: PixelStep | PixelSteps = CIFAR10_STEP,
    retrains: CountOrNone = 4,
    selection: Selection = "gradient-norm",
    loss: Loss = "similarity",
    match: Match = "full",
    batch_size: Count = BATCH_SIZE,
    shift: Share = 1 / 8,
    flip: bool = True,
    border: Border = "fill",
) -> Poison:
    """Poisons whose mean gradient is parallel to that of CE(f(s), adversarial label), averaged over training images s with the trigger.

    Signed Adam from the base images plus clipped Gaussian noise of std epsilon; `retrains` times, evenly spread over the steps,
    surrogates are trained from scratch on the set with the poisons of that moment, in 8 bits, and the wanted gradient is taken on
    them. The optimizer goes on as it is. The last iterate, in 8 bits.

    Args:
        task: the clean training set, the trigger, and the budget. Images of the trigger's true class in the training set, or of all
            classes but the adversarial one, are its sources.
        knowledge: surrogates in eval mode, modules trained on clean data; neither their parameters nor their buffers change. How to
            retrain, if `retrains` > 0. With a defense, each step looks at poisons through it.
        key: decides where triggers are pasted, where poisons begin, surrogates' coins, augmentation and the defense's noise.
        steps, step_size, loss, match, batch_size, shift, flip, border: as in `witches_brew`.
        retrains: 4 as in the original; 0 keeps the first surrogates. At most `steps` - 2, so that each is followed by a step.
        selection: bases, unless the task names them: "gradient-norm", the images of the adversarial class whose own gradients on the
            clean surrogates are largest, as in the original; "random" draws them.
    Returns: `budget.num_poisons` poisons, their indices ascending.
    Raises: ValueError if there is no surrogate, one is in train mode or no module, the attacker cannot retrain, the goal or the bases
        do not fit the training set, no training image is of the trigger's class, the steps have no room for so many retrainings, or a
        number is out of range.
    Source: Souri et al. (2022) and the code of its authors, one restart. Differs from the original: poisons that surrogates are trained
        on are rounded to 8 bits; more than `batch_size` poisons are matched jointly unless asked otherwise; dropout is off; by default
        one step of 0.025 for all channels, where the original's 0.1 on normalized pixels is one for each; the step is not multiplied
        by `batch_size` / 512, as the original's is.
    """
    matching = Matching(steps, step_size, loss, match, batch_size, shifts_for(task.train, shift, flip, border))
    surrogates, retrain = _check(task, knowledge, steps, retrains, selection), knowledge.retrain
    rows = _bases(task, surrogates, selection, key / "bases")
    sources = patched_sources(task.train, trigger_of(task), key / "sources")
    label = torch.tensor([task.goal.adversarial_label])
    bases = task.train.images[rows].unsqueeze(0)
    descent = Descent(bases, label, task.budget, [key], matching, knowledge.defense, surrogates[0].device)

    def poisons() -> Poison:
        return Poison(rows, descent.quantized()[0], task.goal, task.budget)

    aims = source_aims(surrogates, sources, task.goal.adversarial_label)
    last_steps = [round_ * steps // (retrains + 1) for round_ in range(1, retrains + 1)]  # none twice, see `check_room`
    for step in range(steps):
        descent.step(aims)
        for round_, last in enumerate(last_steps):
            if step == last and retrain is not None:
                trained = retrain(poisons().apply(task.train), key / "retrain" / round_)
                aims = source_aims(differentiated(trained, task.train), sources, task.goal.adversarial_label)
    poison = poisons()
    poison.verify(task.train)
    images = poison.images.unsqueeze(0)
    (objective,) = defended_objective(aims, images, label, matching, knowledge.defense, [key / "choice"]).tolist()
    return replace(poison, objective=objective)


def patched_sources(train: ImageDataset, goal: Trigger, key: Key) -> Images:
    """(k, c, h, w) pixels of the training images that the trigger is for, with the trigger on them; `key` draws places once.

    Raises: ValueError if there are none.
    """
    return as_pixels(goal.stamped(train.images[source_rows(train, goal, "training")], key))


def source_aims(surrogates: Sequence[Differentiated], sources: Images, adversarial_label: int) -> list[Aim]:
    """The gradient that the poisons of one problem shall have, on each surrogate: the mean over triggered images."""
    labels = torch.full((len(sources),), adversarial_label)
    return [Aim(surrogate, surrogate.mean_gradient(sources, labels).unsqueeze(0)) for surrogate in surrogates]


def largest_gradients(task: Task, surrogates: Sequence[Differentiated]) -> Int64[Tensor, "m"]:
    """Rows of the adversarial class with the largest norm of their own gradient, averaged over surrogates; ascending.

    Raises: ValueError if the class has fewer images than the budget allows poisons.
    """
    candidates = base_candidates(task)
    norms = mean_gradient_norms(task.train, candidates, surrogates)
    return candidates[norms.argsort(descending=True, stable=True)[: task.budget.num_poisons]].sort().values


def mean_gradient_norms(train: ImageDataset, rows: Int64[Tensor, "k"], surrogates: Sequence[Differentiated]) -> Float[Tensor, "k"]:
    """The norm of the gradient of the loss of each of these rows, with its label, averaged over surrogates."""
    images, labels = as_pixels(train.images[rows]), train.labels[rows]
    return torch.stack([surrogate.gradient_norms(images, labels) for surrogate in surrogates]).mean(0)


def _bases(task: Task, surrogates: Sequence[Differentiated], selection: Selection, key: Key) -> Int64[Tensor, "m"]:
    if task.bases is not None or selection == "random":
        return choose_bases(task, key)
    return largest_gradients(task, surrogates)


def check_room(steps: int, retrains: int) -> None:
    """Raises: ValueError if surrogates would be trained again twice at one step, or after the last one."""
    most = max(0, steps - 2)
    if retrains > most:
        raise ValueError(
            f"retrains={retrains} with steps={steps}: a step must follow each retraining, and they are spread evenly, so that at most {most} "
            "fit; give fewer retrains, or more steps"
        )


def _check(task: Task, knowledge: Knowledge, steps: int, retrains: int, selection: Selection) -> list[Differentiated]:
    check_choice("selection", selection, Selection)
    check_task(task)
    trigger_of(task)
    if retrains < 0:
        raise ValueError(f"retrains={retrains}; give 0 or more")
    if retrains and knowledge.retrain is None:
        raise ValueError(
            f"retrains={retrains}, but the attacker does not know how to retrain; give knowledge.retrain, or retrains=0"
        )
    if retrains:
        check_room(steps, retrains)
    return differentiated(knowledge.surrogates, task.train)
