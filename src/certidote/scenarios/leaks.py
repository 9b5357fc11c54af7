"""Images that extractors, and victims before anything else, must not have learned from: those that a trial is about.

Victims whose extractor was fitted to a target with its true label know it beforehand, and a low success then says nothing about attack or
defense. Images are the same if their stored pixels are.
"""

from collections.abc import Sequence

from certidote.attacks.selection import source_rows
from certidote.types import Goal, ImageDataset, Target, content_hashes


def check_leaks(
    goals: Sequence[Goal],
    test: ImageDataset,
    name: str,
    learned: ImageDataset,
    first: int = 0,
    *,
    learner: str = "the extractor learns from",
    option: str = "--pretrain",
) -> None:
    """Whether an extractor fitted to these images, or victims that start from them, can be asked about these goals.

    Args:
        goals: of trials; what is asked about a trigger are the test images of the class attacked.
        test: where goals come from.
        name, learned: what the extractor is fitted to, or victims learn from first.
        first: number of the first trial.
        learner: who learns from them, for the error.
        option: what names them on the command line, for the error.
    Raises: ValueError, in one line, naming the first trial that is about one of these images.
    """
    known = set(content_hashes(learned.images))
    hashes = [value in known for value in content_hashes(test.images)]
    other_way = ", or another target" if option == "--pretrain" else ""  # victims get the targets of a pack
    for trial, goal in enumerate(goals, first):
        if isinstance(goal, Target):
            if content_hashes(goal.image.unsqueeze(0))[0] in known:
                raise ValueError(
                    f"the target of trial {trial}, test image {goal.test_index}, is among the images that {learner} "
                    f"({name!r}), with its true label; give other images as {option}{other_way}"
                )
            continue
        rows = source_rows(test, goal, "test").tolist()
        if held := sum(hashes[row] for row in rows):
            raise ValueError(
                f"trial {trial} is counted on {len(rows)} test images with the trigger, and {held} of them are among the images that "
                f"{learner} ({name!r}); give other images as {option}"
            )


def shared_with(train: ImageDataset, learned: ImageDataset) -> str | None:
    """A note about images that the extractor learned from and that are in the set under attack too; None if there are none."""
    known = set(content_hashes(train.images))
    both = sum(value in known for value in content_hashes(learned.images))
    return f"{both:,} of the {len(learned):,} images that the extractor learned from are in DATA too" if both else None
