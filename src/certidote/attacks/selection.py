"""What attacks ask of a task before they start, alike for all of them, and which training images become poisons."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from certidote.streams import Key
from certidote.types import FeatureExtractor, ImageDataset, Images, Surrogate, Target, Task, Trigger, as_pixels


def check_task(task: Task) -> None:
    """Raises: ValueError, in one line, unless the goal's labels are two classes of the training set, the target is not one of its
    images, a trigger lies inside them and has a fixed place if it may be seen, and the bases, if the task names them, are as many
    distinct rows of the adversarial class as the budget allows.
    """
    goal, classes = task.goal, task.train.num_classes
    labels = [goal.adversarial_label] if goal.true_label is None else [goal.true_label, goal.adversarial_label]
    if len(set(labels)) < len(labels):
        raise ValueError(
            f"the adversarial label {goal.adversarial_label} is the target's true label; choose another class to aim for"
        )
    if not set(labels) <= set(range(classes)):
        raise ValueError(f"labels {' and '.join(map(str, labels))} of the goal must lie in 0 to {classes - 1}")
    if isinstance(goal, Target):
        if goal.image.shape != task.train.image_shape:
            given = f"a target of shape {tuple(goal.image.shape)} for training images of {task.train.image_shape}"
            raise ValueError(f"{given}; they must agree: resize one of them")
        twins = (task.train.images == goal.image).flatten(1).all(1).nonzero().squeeze(1)
        if len(twins):
            raise ValueError(
                f"the target, test image {goal.test_index}, is image {int(twins[0])} of the training set too, so victims would learn "
                "its true label; choose another target, or take it out of the training set"
            )
    else:
        goal.places(0, task.train.image_shape, Key(0))
    if task.budget.visible_trigger and (isinstance(goal, Target) or goal.place is None):
        raise ValueError("the budget allows a visible trigger; the goal must be a trigger with a fixed place")
    if task.bases is not None:
        _check_bases(task, task.bases)


def check_batch(tasks: Sequence[Task], keys: Sequence[Key]) -> None:
    """Raises: ValueError unless tasks can be crafted together: there is one at least, each has a key, and all have one budget."""
    if not tasks or len(tasks) != len(keys):
        raise ValueError(f"{len(tasks)} tasks and {len(keys)} keys; give at least one task, and one key for each")
    if any(task.budget != tasks[0].budget for task in tasks):
        raise ValueError("tasks crafted together must share one budget; craft each budget in its own call")


def check_choice(what: str, value: str, choices: Any) -> None:
    """Raises: ValueError if `value` is none of the strings of a `Literal`; `what` is the option's name."""
    if value not in get_args(choices):
        raise ValueError(f"unknown {what} {value!r}; choose one of: {', '.join(get_args(choices))}")


def check_surrogates(surrogates: Sequence[FeatureExtractor], train: ImageDataset | None = None) -> None:
    """Raises: ValueError if there is no surrogate, or one is in train mode; or, with a training set, one gives no features of its images."""
    if not surrogates:
        raise ValueError("no surrogates given; the attack needs at least 1 model to aim at")
    for number, surrogate in enumerate(surrogates):
        if isinstance(surrogate, nn.Module) and any(module.training for module in surrogate.modules()):
            raise ValueError(f"surrogate {number} is in train mode, where crafting would change its BatchNorm; call .eval() on it")
    if train is None:
        return
    for number, surrogate in enumerate(surrogates):
        if not isinstance(surrogate, FeatureExtractor):
            raise ValueError(
                f"surrogate {number}, a {type(surrogate).__name__}, has no method `penultimate`, of images; give the model one"
            )
        first_output(number, surrogate.penultimate, train, device_of([surrogate]))


@torch.no_grad()
def first_output(number: int, compute: Callable[[Images], Tensor], train: ImageDataset, device: torch.device) -> Tensor:
    """What a surrogate of this number computes of the first training image, (1, ...).

    Raises: ValueError, in one line, if it cannot take images of that shape.
    """
    image = as_pixels(train.images[:1].to(device))
    try:
        return compute(image)
    except RuntimeError as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"surrogate {number} cannot take images of {train.image_shape}, as the training set has: {said}; give one trained on such images"
        ) from None


def device_of(surrogates: Sequence[FeatureExtractor]) -> torch.device:
    """Where surrogates compute, and so where poisons are crafted: the CPU, unless their parameters are elsewhere.

    Raises: ValueError if they are on several devices.
    """
    weights = [next(each.parameters(), None) for each in surrogates if isinstance(each, nn.Module)]
    devices = {weight.device for weight in weights if weight is not None} or {torch.device("cpu")}
    if len(devices) > 1:
        raise ValueError(f"surrogates are on {' and '.join(sorted(map(str, devices)))}; move them to one device")
    return devices.pop()


def classifiers_of(surrogates: Sequence[FeatureExtractor], train: ImageDataset) -> list[Surrogate]:
    """The surrogates of an attack that looks at logits.

    Raises: ValueError as `check_surrogates`, or if one gives features only, or another number of logits than the training set has classes.
    """
    check_surrogates(surrogates)
    found: list[Surrogate] = []
    for number, surrogate in enumerate(surrogates):
        check_answers(number, surrogate)
        assert isinstance(surrogate, Surrogate)
        found.append(surrogate)
    for number, surrogate in enumerate(found):
        check_logits(number, first_output(number, surrogate, train, device_of([surrogate])), train)
    return found


def check_answers(number: int, surrogate: FeatureExtractor) -> None:
    """Raises: ValueError if it gives features only: it cannot be called, or is a module that does not say what calling it does."""
    if not isinstance(surrogate, Surrogate) or getattr(type(surrogate), "forward", None) is nn.Module.forward:
        raise ValueError(f"surrogate {number} gives features only, but this attack looks at logits; give a whole classifier")


def check_logits(number: int, logits: Tensor, train: ImageDataset) -> None:
    """Raises: ValueError unless these, which a surrogate gave for one image, are one for each class of the training set."""
    if logits.shape != (1, train.num_classes):
        raise ValueError(
            f"surrogate {number} gives outputs of shape {tuple(logits.shape[1:])} for the {train.num_classes} classes of the training set; "
            "train it on these classes"
        )


def choose_bases(task: Task, key: Key) -> Int64[Tensor, "m"]:
    """The task's bases; or rows of the adversarial class, drawn without replacement. Ascending.

    Raises: ValueError if the class has fewer images than the budget allows poisons.
    """
    if task.bases is not None:
        return task.bases.sort().values
    candidates, wanted = base_candidates(task).numpy(), task.budget.num_poisons
    return torch.from_numpy(np.sort(key.numpy().choice(candidates, size=wanted, replace=False)))


def base_candidates(task: Task) -> Int64[Tensor, "k"]:
    """All rows of the adversarial class, ascending.

    Raises: ValueError if there are fewer than the budget allows poisons.
    """
    label, wanted = task.goal.adversarial_label, task.budget.num_poisons
    candidates = (task.train.labels == label).nonzero().squeeze(1)
    if wanted > len(candidates):
        raise ValueError(
            f"num_poisons={wanted} base images are wanted, but the adversarial class {task.train.class_names[label]!r} has "
            f"{len(candidates)}; lower num_poisons or choose another class"
        )
    return candidates


def source_rows(data: ImageDataset, goal: Trigger, what: str) -> Int64[Tensor, "k"]:
    """The rows that a trigger is for: those of its true class, or of all classes but the adversarial one. Ascending.

    Args:
        what: images these are, for the message: "training", "test".
    Raises: ValueError if there are none.
    """
    if goal.true_label is None:
        rows, kind = data.labels != goal.adversarial_label, f"of another class than {data.class_names[goal.adversarial_label]!r}"
    else:
        rows, kind = data.labels == goal.true_label, f"of the class {data.class_names[goal.true_label]!r}"
    if not rows.any():
        raise ValueError(f"no {what} image is {kind}, which the trigger is for; give other images or another trigger")
    return rows.nonzero().squeeze(1)


def target_of(task: Task) -> Target:
    """The goal of an attack on one test image. Raises: ValueError if the goal is a trigger."""
    if not isinstance(task.goal, Target):
        raise ValueError("the goal is a trigger, but this attack aims at one test image; give a target")
    return task.goal


def trigger_of(task: Task) -> Trigger:
    """The goal of a backdoor attack. Raises: ValueError if the goal is one test image."""
    if not isinstance(task.goal, Trigger):
        raise ValueError("the goal is one test image, but this attack makes a backdoor; give a trigger")
    return task.goal


def _check_bases(task: Task, bases: Int64[Tensor, "m"]) -> None:
    values = bases.sort().values
    repeated = values[1:][values[1:] == values[:-1]]
    if len(repeated):
        raise ValueError(f"base image {int(repeated[0])} is given more than once; each base image becomes one poison")
    if len(bases) != task.budget.num_poisons:
        raise ValueError(f"{len(bases)} base images for a budget of num_poisons={task.budget.num_poisons}; give as many")
    if int(values[0]) < 0 or int(values[-1]) >= len(task.train):
        raise ValueError(f"base images must be rows 0 to {len(task.train) - 1} of the training set")
    wrong = bases[task.train.labels[bases] != task.goal.adversarial_label]
    if len(wrong):
        name, label = task.train.class_names[task.goal.adversarial_label], task.train.class_names[int(task.train.labels[wrong[0]])]
        raise ValueError(f"base image {int(wrong[0])} is of class {label!r}; bases must be of the adversarial class {name!r}")
