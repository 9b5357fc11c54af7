"""The poisoning benchmark's fixed trials: which test image is attacked, and which training images become poisons."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from certidote.attacks.benchmark_format import read_setups
from certidote.attacks.selection import check_task
from certidote.types import Budget, Goal, ImageDataset, Json


@dataclass(frozen=True, eq=False)
class Fixed:
    """Trials with base images of their own.

    Attributes:
        goals, bases: one for each trial; as many bases for each, ascending rows of the training set.
        notes: what is odd about the file, in sentences.
    """

    goals: tuple[Goal, ...]
    bases: tuple[Int64[Tensor, "m"], ...]
    notes: tuple[str, ...]

    @property
    def num_poisons(self) -> int:
        return len(self.bases[0])

    def to_json(self) -> Json:
        """Targets with the labels wanted for them, and base images: what a run that goes on must find unchanged."""
        return {
            "targets": [[getattr(goal, "test_index", None), goal.true_label, goal.adversarial_label] for goal in self.goals],
            "bases": [bases.tolist() for bases in self.bases],
        }


def fixed_trials(path: Path, train: ImageDataset, test: ImageDataset, count: int | None = None) -> Fixed:
    """The first `count` trials of a setup file (all, if None), for these images.

    A pack has one number of poisons, so that a setup with fewer base images than most, because it names one of them twice, is left out.

    Raises: ValueError if this is no setup file, or its rows are not targets and base images of these sets.
    """
    found = read_setups(path, repeated_bases="drop")
    most = max((len(setup.bases) for setup in found.setups), default=0)
    whole = [setup for setup in found.setups if len(setup.bases) == most]
    left = len(found.setups) - len(whole)
    if not most or (count is not None and not 1 <= count <= len(whole)):
        raise ValueError(
            f"{len(whole)} trials of {most} base images each are in setup file {str(path)!r}; give --targets from 1 to that number"
        )
    goals, bases = [], []
    for setup in whole[:count]:
        task = setup.task(train, test, Budget(most, "linf", 1.0))
        check_task(task)
        goals.append(task.goal)
        bases.append(torch.tensor(sorted(setup.bases)))
    said = [f"{left} setups that name a base image twice are left out"] if left else []
    return Fixed(tuple(goals), tuple(bases), (*found.notes, *said))
