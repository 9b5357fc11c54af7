"""Label-consistent backdoors (Turner et al., 2019): images that are hard to classify by what they show, with a trigger that is not.

A learner that cannot make sense of an image's content learns its trigger; at test time the trigger alone brings the poisons' label.
Meant for victims that are trained from scratch. The trigger is in plain sight, so the budget must allow a visible one.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy

from certidote.ascent import ascend, random_start
from certidote.attacks.adaptive import average, seen
from certidote.attacks.budget import quantize
from certidote.attacks.crafting import IMAGES_TOGETHER
from certidote.attacks.ranges import Count, Factor, Length, numbers_checked
from certidote.attacks.selection import check_choice, check_task, choose_bases, classifiers_of, device_of, trigger_of
from certidote.streams import Key
from certidote.types import Images, Knowledge, Poison, Surrogate, Task, Trigger, as_pixels

Constraint = Literal["linf_all", "linf_content_only"]


@numbers_checked
def label_consistent(
    task: Task,
    knowledge: Knowledge,
    key: Key,
    *,
    steps: Count = 20,
    step_size: Length | None = None,
    amplitude_train: Factor = 1.0,
    constraint: Constraint = "linf_content_only",
) -> Poison:
    """Base images made hard by projected gradient ascent on the loss of their own label, and then the trigger pasted on them.

    Args:
        task: its goal is a trigger; bases are drawn from the adversarial class if the task names none.
        knowledge: surrogate classifiers in eval mode, whose mean loss grows. The original takes an adversarially trained one
            (`training.adversarial`; `--robust-surrogates` from scratch), so that images leave their class to the eye too and for any victim. For victims that are known to
            be like a plain surrogate, a plain one is nearer.
        key: decides base images, random starts, places of the trigger if they are not fixed, and noise of a defense.
        steps: of the ascent, from a point drawn uniformly from the ball; 20 as in the poisoning benchmark.
        step_size: length of a step in the budget's norm, [0, 1] pixel units; None is epsilon / 4, the benchmark's 2/255 at its 8/255.
        amplitude_train: strength of the trigger on poisons, in (0, 1]. At test time it is that of the goal's trigger.
        constraint: "linf_content_only", the original: epsilon holds for the content, and the budget must allow a visible trigger.
            "linf_all", the benchmark: the trigger, too, is cut down to epsilon on poisons and full at test time, which all but undoes
            the attack. Called after the benchmark's norm; l2 budgets mean l2.
    Returns: `budget.num_poisons` poisons, their indices ascending. Their `objective` is minus the surrogates' mean cross-entropy of the
        adversarial label, which is the poisons' own, on the 8-bit images before the trigger is pasted: that is what the ascent raises,
        and covering a part of the image raises it by itself. At most 0, and as everywhere lower is better for the attacker.
    Raises: ValueError if a surrogate is missing, in train mode or no classifier, the goal is no trigger or does not fit the training
        set, the budget and the constraint disagree, the adversarial class is too small, or a number is out of range.
    Source: Turner, Tsipras and Madry (2019), who publish ready-made images from ascent in l2 (300/255 by default) or linf; steps as in
        the benchmark of Schwarzschild et al. (2021), the ascent of Madry et al. (2018). Differs from the original: the mean loss of several
        surrogates may grow, and a surrogate may be plain (in the tables of this project it is); images are crafted here, not ready-made. Differs
        from the benchmark: the default constraint is the original's, with the trigger in plain sight.
    """
    goal = _check(task, steps, step_size, constraint)
    trigger = replace(goal, amplitude=amplitude_train)
    rows = choose_bases(task, key / "bases")
    stored = task.train.images[rows]
    hard = harder(task, stored, knowledge, key, steps=steps, step_size=step_size)
    images = trigger.stamped(hard, key / "places")
    if constraint == "linf_all":
        images = quantize(as_pixels(images), stored, task.budget)
    poison = Poison(rows, images, goal, task.budget, -own_loss(task, hard, knowledge, key))
    poison.verify(task.train)
    return poison


def harder(
    task: Task, bases: UInt8[Tensor, "m c h w"], knowledge: Knowledge, key: Key, *, steps: int, step_size: float | None = None
) -> UInt8[Tensor, "m c h w"]:
    """Bases as `label_consistent` makes them hard, before the trigger is pasted; within epsilon in 8 bits. Arguments as there."""
    surrogates = classifiers_of(knowledge.surrogates, task.train)
    length = task.budget.epsilon / 4 if step_size is None else step_size
    losses = partial(_losses, surrogates, task.goal.adversarial_label)
    made = []
    for number, part in enumerate(torch.split(bases.to(device_of(surrogates)), IMAGES_TOGETHER)):
        pixels, stream = as_pixels(part), key / "ascent" / number

        def gradient(images: Images, step: int, stream: Key = stream) -> Images:
            return average([images], knowledge.defense, [stream / "seen" / step], lambda shown, _: losses(shown))[1]

        start = random_start(pixels, task.budget, stream / "start")
        moved = ascend(pixels, gradient, task.budget, start=start, steps=steps, step_size=length)
        made.append(quantize(moved, part, task.budget).cpu())
    return torch.cat(made)


@torch.no_grad()
def own_loss(task: Task, images: UInt8[Tensor, "m c h w"], knowledge: Knowledge, key: Key) -> float:
    """The surrogates' mean cross-entropy of the adversarial label, averaged over images and over draws of a defense that no gradient has
    seen; what `harder` raises."""
    surrogates = classifiers_of(knowledge.surrogates, task.train)
    losses = []
    for number, part in enumerate(torch.split(images.to(device_of(surrogates)), IMAGES_TOGETHER)):
        draws = chain.from_iterable(seen([as_pixels(part)], knowledge.defense, [key / "judge" / number]))
        losses.append(torch.stack([_losses(surrogates, task.goal.adversarial_label, shown) for shown in draws]).mean(0))
    return float(torch.cat(losses).mean())


def _losses(surrogates: Sequence[Surrogate], label: int, images: Images) -> Float[Tensor, "n"]:
    """Of each image, the mean over surrogates."""
    wanted = torch.tensor(label, device=images.device).expand(len(images))
    return torch.stack([cross_entropy(surrogate(images), wanted, reduction="none") for surrogate in surrogates]).mean(0)


def _check(task: Task, steps: int, step_size: float | None, constraint: Constraint) -> Trigger:
    """The goal."""
    if steps < 1 or not (step_size is None or 0 < step_size < float("inf")):
        raise ValueError(
            f"steps={steps}, step_size={step_size}; both must be positive and finite (step_size in [0, 1] pixel units)"
        )
    check_choice("constraint", constraint, Constraint)
    check_task(task)
    if constraint == "linf_content_only" and not task.budget.visible_trigger:
        raise ValueError(
            "the trigger is pasted in plain sight, but the budget counts it; give Budget(..., visible_trigger=True), or "
            'constraint="linf_all" to cut it down to epsilon'
        )
    return trigger_of(task)
