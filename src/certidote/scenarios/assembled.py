"""The poisoning benchmark's fine-tuning sets: as many images whatever is poisoned, and never a clean base image beside its poison.

Source: Schwarzschild et al. (2021), `learning_module.py`: the first images of each class in the order of the data, base images left out,
the poisons at the end in place of as many of their class.
"""

import torch

from certidote.types import ImageDataset, Poison, Target


def assembled(train: ImageDataset, poison: Poison, size: int) -> tuple[ImageDataset, ImageDataset]:
    """(clean, poisoned) sets of `size` images each.

    Both hold the same size / classes images of every class but the adversarial one. Of that the clean set holds as many; the poisoned one
    as many less the poisons, and the poisons behind everything else.

    Args:
        train: all training images.
        poison: its budget is verified on them.
        size: a multiple of the number of classes.
    Raises: ValueError if `size` is no such multiple, a class has too few images that are no bases, there are more poisons than a class
        has images in a set, or the target is among the images; BudgetExceeded.
    """
    poison.verify(train)
    classes, wanted = train.num_classes, poison.goal.adversarial_label
    share, left = divmod(size, classes)
    if left or share < 1:
        raise ValueError(f"size={size} is no multiple of {classes} classes; give one, as every class has equally many images")
    if len(poison.indices) > share:
        raise ValueError(
            f"{len(poison.indices)} poisons, but each class has {share} of {size} images; raise size, or poison fewer images"
        )
    free = torch.ones(len(train), dtype=torch.bool)
    free[poison.indices] = False
    rows = []
    for label in range(classes):
        of_class = ((train.labels == label) & free).nonzero().squeeze(1)
        if len(of_class) < share:
            raise ValueError(
                f"class {train.class_names[label]!r} has {len(of_class)} images that are no bases, fewer than the {share} of a set of {size}; "
                "lower size"
            )
        rows.append(of_class[:share])
    clean = torch.cat(rows)
    kept = [each[: share - len(poison.indices)] if label == wanted else each for label, each in enumerate(rows)]
    poisoned = torch.cat(kept)
    labels = torch.cat([train.labels[poisoned], torch.full((len(poison.indices),), wanted)])
    images = torch.cat([train.images[poisoned], poison.images])
    sets = train.subset(clean), ImageDataset(images, labels, train.class_names)
    if isinstance(poison.goal, Target) and any(bool((each.images == poison.goal.image).flatten(1).all(1).any()) for each in sets):
        raise ValueError(f"the target, test image {poison.goal.test_index}, is among the training images; choose another target")
    return sets
