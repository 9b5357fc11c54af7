"""Poison packs: the poisons of one or several trials as a value that can be written, read back bit for bit, and tried on victims.

A pack says what its poisons replace (digests of the training set and of the base images), what they are for (the goal of each trial),
what they may do (one budget), and how they came to be (attack, options, surrogates, streams). `pack_files` has the form on disk.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from certidote.types import Budget, ImageDataset, Json, Poison, Target, Trigger

MOST_BEFORE = 1_000_000
"""Trials that may come before those of a pack."""


@dataclass(frozen=True)
class PackedData:
    """What the poisons replace rows of.

    Attributes:
        name: as the user called the data; for people, never opened.
        images: number of training images.
        image_shape: (c, h, w).
        classes: names, in the order of labels.
        digest: `ImageDataset.digest` of the training set.
    """

    name: str
    images: int
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    digest: str

    @staticmethod
    def of(name: str, train: ImageDataset) -> "PackedData":
        return PackedData(name, len(train), train.image_shape, train.class_names, train.digest())


@dataclass(frozen=True, eq=False)
class PoisonPack:
    """Poisons, one entry for each trial, and how they came to be.

    Attributes:
        poisons: of each trial; one budget, goals of one kind, patches of one shape.
        bases: for each trial `bases_digest` of the images that its poisons replace.
        data: the training set.
        recipe: how they were made: "attack" (its name) and whatever else is worth knowing, as JSON.
        notes: sentences for people, from imports say.
        files: SHA-256 of each file that lies beside the poisons, by its name; of packs that were read.
    Raises: ValueError if there are no trials, their first number is none, budgets or kinds of goals differ, poisons do not fit the data, or lengths disagree.
    """

    poisons: tuple[Poison, ...]
    bases: tuple[str, ...]
    data: PackedData
    recipe: Json
    notes: tuple[str, ...] = ()
    files: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.poisons:
            raise ValueError("a poison pack needs at least one trial; this one has none")
        if len(self.bases) != len(self.poisons):
            raise ValueError(f"{len(self.poisons)} trials but {len(self.bases)} digests of base images; give one for each")
        if not isinstance(self.recipe.get("attack"), str):
            raise ValueError("the recipe of a poison pack names its 'attack'; this one does not")
        first = self.recipe.get("first_trial", 0)
        if type(first) is not int or not 0 <= first <= MOST_BEFORE:
            raise ValueError(
                f"the recipe of a poison pack says that its first trial is {first!r}; it must be a whole number, 0 to {MOST_BEFORE}"
            )
        for trial, poison in enumerate(self.poisons):
            self._check(trial, poison)

    def _check(self, trial: int, poison: Poison) -> None:
        first = self.poisons[0]
        where = f"trial {trial} of the pack"
        if poison.budget != first.budget:
            raise ValueError(f"{where} has another budget than trial 0; put trials of each budget into a pack of their own")
        if type(poison.goal) is not type(first.goal):
            raise ValueError(f"{where} has another kind of goal than trial 0; put targets and triggers into packs of their own")
        shape, count = self.data.image_shape, len(poison.indices)
        if tuple(poison.images.shape) != (count, *shape):
            raise ValueError(f"{where}: {tuple(poison.images.shape)} poisons for {count} rows of {shape} images")
        if not 1 <= count <= poison.budget.num_poisons:
            raise ValueError(f"{where} has {count} poisons; its budget allows 1 to {poison.budget.num_poisons}")
        rows = torch.unique(poison.indices)
        if len(rows) != count or int(rows[0]) < 0 or int(rows[-1]) >= self.data.images:
            raise ValueError(f"{where}: indices must be distinct rows, 0 to {self.data.images - 1}")
        goal = poison.goal
        labels = [goal.adversarial_label] if goal.true_label is None else [goal.adversarial_label, goal.true_label]
        if len(set(labels)) < len(labels) or not set(labels) <= set(range(len(self.data.classes))):
            raise ValueError(f"{where}: labels {labels} of its goal must be two of the {len(self.data.classes)} classes")
        if isinstance(goal, Target) and tuple(goal.image.shape) != shape:
            raise ValueError(f"{where}: a target of shape {tuple(goal.image.shape)} for {shape} images")
        if isinstance(goal, Target) and goal.test_index < 0:
            raise ValueError(f"{where}: test image {goal.test_index}; rows are counted from 0")
        if isinstance(goal, Trigger):
            assert isinstance(first.goal, Trigger), "kinds agree"
            if goal.patch.shape != first.goal.patch.shape:
                raise ValueError(f"{where} has a patch of another shape than trial 0; put it into a pack of its own")

    def __len__(self) -> int:
        return len(self.poisons)

    @property
    def first_trial(self) -> int:
        """The number of its first trial, from 0: of trials that several packs share, each has a part. It decides random streams."""
        return int(self.recipe.get("first_trial", 0))

    @property
    def budget(self) -> Budget:
        return self.poisons[0].budget

    def check(self, train: ImageDataset) -> None:
        """Whether these are poisons of this training set, within their budget.

        Raises: ValueError if the set is another one, naming the first thing that differs; BudgetExceeded.
        """
        if train.image_shape != self.data.image_shape:
            raise ValueError(
                f"the pack's poisons have shape {self.data.image_shape}, but the data {train.image_shape}; give its data"
            )
        if train.class_names != self.data.classes:
            raise ValueError(f"the pack was made for classes {_few(self.data.classes)}, but the data has {_few(train.class_names)}")
        if train.digest() != self.data.digest:
            raise ValueError(
                f"the pack was made for {self.data.name!r} with digest {self.data.digest[:12]}..., but this training set has "
                f"{train.digest()[:12]}...; give the data it was made for ('certidote data info' prints digests)"
            )
        for trial, (poison, digest) in enumerate(zip(self.poisons, self.bases, strict=True)):
            if bases_digest(poison, train) != digest:
                raise ValueError(f"trial {trial} of the pack replaces other images than it was made for; the pack is damaged")
            poison.verify(train)


def make_pack(poisons: Sequence[Poison], train: ImageDataset, name: str, recipe: Json, notes: Sequence[str] = ()) -> PoisonPack:
    """A pack of these poisons of `train`; their budget is verified.

    Args:
        poisons: one for each trial.
        name: what the user calls the data.
        recipe: JSON, with "attack" in it.
    Raises: ValueError as `PoisonPack`; BudgetExceeded.
    """
    for poison in poisons:
        poison.verify(train)
    digests = tuple(bases_digest(poison, train) for poison in poisons)
    return PoisonPack(tuple(poisons), digests, PackedData.of(name, train), recipe, tuple(notes))


def bases_digest(poison: Poison, train: ImageDataset) -> str:
    """SHA-256 over the stored images that a poison replaces, in the order of its indices; 64 hex digits."""
    return hashlib.sha256(train.images[poison.indices].contiguous().numpy().tobytes()).hexdigest()


def _few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
