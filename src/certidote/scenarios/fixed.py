"""The poisoning benchmark's fixed trials: which test image is attacked, and which training images become poisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from certidote.attacks.benchmark_format import Setup, oddities, read_setups
from certidote.attacks.selection import check_task
from certidote.types import Budget, Goal, ImageDataset, Json

SHOWN = 4
"""Setups that are left out which a note of their own names."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """Trials with base images of their own.

    Attributes:
        goals, bases: one for each trial; as many bases for each, ascending rows of the training set.
        numbers: which setup of the file each trial is, from 0.
        notes: what is odd about the trials that are asked for, in sentences.
    """

    goals: tuple[Goal, ...]
    bases: tuple[Int64[Tensor, "m"], ...]
    numbers: tuple[int, ...]
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


def fixed_trials(path: Path, train: ImageDataset, test: ImageDataset, count: int | None = None, skip: int = 0) -> Fixed:
    """The first `count` trials of a setup file (all, if None), for these images.

    A pack has one number of poisons, so that a setup with fewer base images than most, because it names one of them twice, is left out.

    Args:
        skip: notes say nothing of the first so many trials, which another pack has.
    Raises: ValueError if this is no setup file, or its rows are not targets and base images of these sets.
    """
    found = read_setups(path, repeated_bases="drop").setups
    most = max(len(setup.bases) for setup in found)
    whole = [(number, setup) for number, setup in enumerate(found) if len(setup.bases) == most]
    if count is not None and not 1 <= count <= len(whole):
        there = "1 trial" if len(whole) == 1 else f"{len(whole)} trials"
        raise ValueError(
            f"setup file {str(path)!r} has {there} of {most} base images each; --targets {count} must lie in 1 to {len(whole)}"
        )
    chosen = whole[:count]
    goals, bases = [], []
    for _, setup in chosen:
        task = setup.task(train, test, Budget(most, "linf", 1.0))
        check_task(task)
        goals.append(task.goal)
        bases.append(torch.tensor(sorted(setup.bases)))
    numbers = tuple(number for number, _ in chosen)
    return Fixed(tuple(goals), tuple(bases), numbers, tuple(_notes(found, most, numbers, count is None, skip)))


def _notes(found: Sequence[Setup], most: int, numbers: Sequence[int], to_the_end: bool, skip: int) -> list[str]:
    """What is odd about the trials after the first `skip`, and which setups were left out on the way from the first of them to the last."""
    asked = numbers[skip:]
    if not asked:
        return []
    first, behind = (0 if not skip else numbers[skip - 1] + 1), (len(found) if to_the_end else asked[-1] + 1)
    left = [(number, found[number]) for number in range(first, behind) if len(found[number].bases) < most]
    notes = [
        f"setup {number} is left out: it has {len(setup.bases)} different base images and others {most}"
        + (f", because it names image {setup.repeated[0]} more than once" if setup.repeated else "")
        for number, setup in left[:SHOWN]
    ]
    if len(left) > SHOWN:
        notes.append(f"{len(left) - SHOWN} more setups are left out, because they have fewer different base images than others")
    return notes + oddities([(number, found[number]) for number in asked])
