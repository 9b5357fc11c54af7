"""What attackers are asked for in trials: targets spread over the classes, or one that is named."""

import numpy as np
import torch

from certidote.streams import Key
from certidote.types import ImageDataset, Target, content_hashes


def choose_targets(test: ImageDataset, num_targets: int, key: Key, train: ImageDataset | None = None) -> tuple[Target, ...]:
    """Targets class by class, each with a uniformly drawn other class; which classes get one more is drawn too.

    Args:
        test: targets are among these images.
        num_targets: as evenly spread over the classes as possible.
        key: decides all draws.
        train: images that are in this set too are no targets: victims would learn their true label.
    Raises: ValueError if `num_targets` is not positive or a class has too few test images for its share.
    """
    if num_targets < 1:
        raise ValueError(f"num_targets={num_targets}; a scenario needs at least 1 target")
    known = set() if train is None else set(content_hashes(train.images))
    fit = torch.tensor([value not in known for value in content_hashes(test.images)]) if known else torch.ones(len(test)).bool()
    generator = key.numpy()
    classes = test.num_classes
    share = np.full(classes, num_targets // classes)
    share[generator.permutation(classes)[: num_targets % classes]] += 1
    goals = []
    for true, wanted in enumerate(share.tolist()):
        rows = ((test.labels == true) & fit).nonzero().squeeze(1).numpy()
        if wanted > len(rows):
            raise ValueError(
                f"num_targets={num_targets} needs {wanted} test images of class {test.class_names[true]!r}, which has {len(rows)}; "
                "lower num_targets"
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
