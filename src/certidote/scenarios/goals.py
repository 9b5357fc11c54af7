"""What attackers are asked for in trials: targets spread over the classes, or one that is named."""

import json
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from certidote.streams import Key
from certidote.types import ImageDataset, Target, content_hashes


def choose_targets(
    test: ImageDataset, num_targets: int, key: Key, train: ImageDataset | None = None, pretrain: ImageDataset | None = None
) -> tuple[Target, ...]:
    """Targets class by class, each with a uniformly drawn other class; which classes get one more is drawn too.

    Args:
        test: targets are among these images.
        num_targets: as evenly spread over the classes as possible.
        key: decides all draws.
        train: images that are in this set too are no targets: victims would learn their true label.
        pretrain: nor are those in this one, which extractors learn from.
    Raises: ValueError if `num_targets` is not positive or a class has too few test images for its share.
    """
    if num_targets < 1:
        raise ValueError(f"num_targets={num_targets}; a scenario needs at least 1 target")
    known = {value for learned in (train, pretrain) if learned is not None for value in content_hashes(learned.images)}
    fit = torch.tensor([value not in known for value in content_hashes(test.images)]) if known else torch.ones(len(test)).bool()
    generator = key.numpy()
    classes = test.num_classes
    share = np.full(classes, num_targets // classes)
    share[generator.permutation(classes)[: num_targets % classes]] += 1
    goals = []
    for true, wanted in enumerate(share.tolist()):
        rows = ((test.labels == true) & fit).nonzero().squeeze(1).numpy()
        if wanted > len(rows):
            left_out = int((test.labels == true).sum()) - len(rows)
            why = "; lower num_targets"
            if left_out:
                why = f" besides {left_out} that are in DATA or --pretrain, so that victims know them; give other images, or fewer targets"
            raise ValueError(
                f"num_targets={num_targets} needs {wanted} test images of class {test.class_names[true]!r}, which has {len(rows)}{why}"
            )
        for row in generator.choice(rows, size=wanted, replace=False).tolist():
            adversarial = (true + int(generator.integers(1, classes))) % classes
            goals.append(Target(test.images[row], true, adversarial, row))
    return tuple(goals)


def target_at(test: ImageDataset, row: int, adversarial_label: int | None, key: Key) -> Target:
    """One test image as a target; the class wanted is drawn among the others if none is given.

    Raises: ValueError if there is no such test image, or it is of the wanted class already.
    """
    if not 0 <= row < len(test):
        raise ValueError(f"target {row}; the test images are rows 0 to {len(test) - 1}")
    true = int(test.labels[row])
    if adversarial_label is None:
        adversarial_label = (true + int(key.numpy().integers(1, test.num_classes))) % test.num_classes
    if adversarial_label == true:
        name = test.class_names[true]
        raise ValueError(f"the target, test image {row}, is of class {name!r} already, the class wanted for it; choose another")
    return Target(test.images[row], true, adversarial_label, row)


def choose_pairs(
    classes: int, count: int, true_label: int | None, adversarial_label: int | None, every: bool, key: Key
) -> list[tuple[int | None, int]]:
    """(true label, adversarial label) for each trial of a backdoor: what is given stays, what is not is drawn among the others.

    Args:
        every: images of all classes but the adversarial one are attacked; true labels are None.
    Raises: ValueError if `count` is not positive, or the given labels are equal.
    """
    if count < 1:
        raise ValueError(f"num_targets={count}; a scenario needs at least 1 trial")
    if true_label is not None and true_label == adversarial_label:
        raise ValueError(f"the true and the adversarial class are both class {true_label}; give two classes")
    generator = key.numpy()
    pairs: list[tuple[int | None, int]] = []
    for _ in range(count):
        after = int(generator.integers(classes)) if adversarial_label is None else adversarial_label
        if every:
            pairs.append((None, after))
            continue
        if true_label is None:
            pairs.append(((after + int(generator.integers(1, classes))) % classes, after))
        elif adversarial_label is None:
            pairs.append((true_label, (true_label + int(generator.integers(1, classes))) % classes))
        else:
            pairs.append((true_label, after))
    return pairs


class ListedGoal(BaseModel):
    """One trial of a file of goals.

    Attributes:
        test_image: row number, from 0; a backdoor's goal has no use for it.
        true_class, adversarial_class: names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    test_image: int
    true_class: str
    adversarial_class: str


def listed_goals(file: Path, first: int | None = None) -> list[ListedGoal]:
    """The goals that a JSON file lists, or the first so many of them.

    Raises: ValueError, in one line, if the file cannot be read or holds something else, or fewer goals than wanted.
    """
    try:
        listed = TypeAdapter(list[ListedGoal]).validate_json(file.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read goals {str(file)!r}: {error.strerror or error}") from None
    except ValidationError as error:
        said = error.errors()[0]
        place = ".".join(map(str, said["loc"])) or "the top"
        raise ValueError(
            f"goals {str(file)!r}: at {place}: {said['msg'][0].lower()}{said['msg'][1:]}; give a JSON list of objects with test_image (a "
            "row number), true_class and adversarial_class"
        ) from None
    wanted = len(listed) if first is None else first
    if not 1 <= wanted <= len(listed):
        raise ValueError(f"{wanted} trials are wanted, but goals {str(file)!r} lists {len(listed)}; give 1 to {len(listed)}")
    return listed[:wanted]


def goals_text(listed: list[ListedGoal]) -> str:
    """A file of goals, one a line."""
    return "[\n" + ",\n".join(f"  {json.dumps(goal.model_dump())}" for goal in listed) + "\n]\n"


def spread_goals(test: ImageDataset, per_class: int, key: Key, train: ImageDataset | None = None) -> list[ListedGoal]:
    """So many targets of each class, in turns: the first k classes, then again, so that any beginning is spread over the classes.

    Args:
        test, key, train: as `choose_targets`.
    """
    names, classes = test.class_names, test.num_classes
    by_class: dict[int, list[Target]] = {}
    for goal in choose_targets(test, per_class * classes, key, train):
        by_class.setdefault(goal.true_label, []).append(goal)
    turns = [by_class[label][turn] for turn in range(per_class) for label in range(classes)]
    return [
        ListedGoal(test_image=goal.test_index, true_class=names[goal.true_label], adversarial_class=names[goal.adversarial_label])
        for goal in turns
    ]


def targets_of(listed: list[ListedGoal], test: ImageDataset) -> tuple[Target, ...]:
    """The targets that a file lists, taken from these test images.

    Raises: ValueError if an image does not exist or has another label, or a class is none of the data's.
    """
    goals = []
    for goal in listed:
        true, wanted = labels_of(goal, test.class_names)
        if not 0 <= goal.test_image < len(test) or int(test.labels[goal.test_image]) != true:
            raise ValueError(
                f"the goals list test image {goal.test_image} of class {goal.true_class!r}, which these test images do not have; give the "
                "test images that the file was made for"
            )
        goals.append(Target(test.images[goal.test_image], true, wanted, goal.test_image))
    return tuple(goals)


def labels_of(goal: ListedGoal, names: tuple[str, ...]) -> tuple[int, int]:
    """True and adversarial label of a listed goal. Raises: ValueError if a class is none of these, or both are one."""
    for name in (goal.true_class, goal.adversarial_class):
        if name not in names:
            raise ValueError(f"the goals name class {name!r}, which the data does not have; its classes are: {', '.join(names)}")
    if goal.true_class == goal.adversarial_class:
        raise ValueError(f"a listed goal has {goal.true_class!r} as true and as adversarial class; give two classes")
    return names.index(goal.true_class), names.index(goal.adversarial_class)
