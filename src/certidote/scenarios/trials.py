"""Trials as members of one run: for each, victims trained on the clean set (the control) and on the poisoned one, under one defense.

So a replay is what the engine runs anyway: it survives kills, goes on with the same command, and can be spread over processes. All
victims vote on the clean test images and on the images that trials are about; outcomes are read off the recorded votes.

Victims of one trial have the same keys in both arms, so that initial weights, order and noise are paired. Trials may share noise too, so that
clean images are denoised once for many of them (`shared_draws`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from certidote.attacks.pack import PoisonPack
from certidote.attacks.selection import source_rows
from certidote.defenses.one_shot import OneShot
from certidote.defenses.several_draws import SeveralDraws
from certidote.scenarios.shared_draws import SharedDraws, shared_draw
from certidote.streams import Key
from certidote.types import (
    Ballots,
    Certificate,
    CountCertificate,
    ImageDataset,
    Images,
    Json,
    KeepsRankings,
    Prediction,
    PreparesInputs,
    Scheme,
    SealedInputs,
    Stack,
    Target,
    Trainer,
    TrainsInGroups,
    Trigger,
    Unproved,
    Untrusted,
    View,
)

MOST_STAMPED = 1_000
"""Test images of one trial that carry its trigger; of more, an evenly spread part."""


@dataclass(frozen=True)
class Place:
    """Which trial a member belongs to, on which side, and which of the defense's models it is."""

    trial: int
    poisoned: bool
    model: int


@dataclass(frozen=True, eq=False)
class Trials:
    """The scheme: trial by trial, the defense's models on the clean set, then those on the poisoned set.

    Args:
        pack: checked against the training set before the run.
        defense: as it would be used on the whole set.
        draws: of noise, which trials take in turns, so that clean images are denoised once for each; None: each trial has its own.
    Raises: ValueError if there are no draws to share, or the defense does not add noise once.
    """

    pack: PoisonPack
    defense: Scheme
    draws: int | None = None
    _shared: SharedDraws | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.draws is None:
            return
        if self.draws < 1:
            raise ValueError(f"draws={self.draws}; give at least 1 that trials share, or none if each trial is to have its own")
        if isinstance(self.defense, SeveralDraws):
            raise ValueError(
                f"draws={self.draws}, but several-draws always trains each model on {self.defense.draws} copies of its own (--draws says how "
                "many noise draws trials take in turns, with denoise, noise and purification); leave it out"
            )
        if not isinstance(self.defense, OneShot):
            raise ValueError(
                f"draws={self.draws}, but only defenses that add noise once to the images as they came have draws to share; leave it out"
            )
        object.__setattr__(self, "_shared", SharedDraws(self.defense))

    @property
    def members(self) -> int:
        return 2 * len(self.pack) * self.defense.members

    @property
    def device(self) -> str:
        return str(getattr(self.defense, "device", "cpu"))

    @property
    def keeps_rankings(self) -> bool:
        return isinstance(self.defense, KeepsRankings) and self.defense.keeps_rankings

    def place(self, member: int) -> Place:
        arm, model = divmod(member, self.defense.members)
        return Place(arm // 2, bool(arm % 2), model)

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        place = self.place(member)
        poison = self.pack.poisons[place.trial]
        changed = slice(None) if place.poisoned else slice(0)  # nothing is replaced for the control, but its record is alike
        poisoned = data.replaced(poison.indices[changed], poison.images[changed])
        if self._shared is not None and self.draws is not None:
            draw = shared_draw(key, (self.pack.first_trial + place.trial) % self.draws, place.model)
            return self._shared.view(data, poisoned, poison.indices[changed], draw)
        return self.defense.view(poisoned, place.model, paired(key, self.defense.members, self.pack.first_trial))

    @property
    def inputs_per_member(self) -> bool:
        return isinstance(self.defense, PreparesInputs) and self.defense.inputs_per_member

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        """Test images as the defense shows them to its models."""
        if isinstance(self.defense, PreparesInputs):
            return self.defense.inputs(images, rows, key)
        assert isinstance(images, Tensor), "sealed only where members have inputs of their own"
        return images

    def aggregate(self, ballots: Ballots) -> Prediction:
        raise ValueError("victims of several trials give no common answer; read outcomes off their votes")

    def certify(self, ballots: Ballots) -> Certificate | CountCertificate | Unproved:
        return Unproved(("a replay of poisons is measured, not proved",))

    def describe(self) -> Json:
        trials = [
            {"bases": digest, "goal": _goal_json(poison.goal), "poisons": content_digest(poison.images)}
            for digest, poison in zip(self.pack.bases, self.pack.poisons, strict=True)
        ]
        shared = {} if self.draws is None else {"draws": self.draws}
        part = {"first_trial": self.pack.first_trial} if self.pack.first_trial else {}
        return {"scheme": "trials", "defense": self.defense.describe(), **shared, **part, "trials": trials}


class PairedTrainer:
    """The victims' trainer: a model learns from the key of its trial, the same on the clean and on the poisoned set."""

    def __init__(self, trainer: Trainer, models: int, first_trial: int = 0) -> None:
        """
        Args:
            trainer: as the defense would use it.
            models: of the defense, in one arm of one trial.
            first_trial: number of the pack's first trial.
        """
        self.trainer, self.models, self.first_trial = trainer, models, first_trial
        self.stack_size, self.start = trainer.stack_size, trainer.start
        self.together = trainer.together if isinstance(trainer, TrainsInGroups) else trainer.stack_size

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> Stack:
        return self.trainer.fit(views, [paired(key, self.models, self.first_trial) for key in keys], common)

    def describe(self) -> Json:
        return {"trainer": "paired", "of": self.trainer.describe()}


def paired(key: Key, models: int, first_trial: int = 0) -> Key:
    """The key that a member shares with its counterpart on the other side: members / 17 -> trials / 2 / 5, say."""
    member = int(key.path[-1])
    return Key(key.root, (*key.path[:-2], "trials", first_trial + member // (2 * models), member % models))


@dataclass(frozen=True, eq=False)
class Questions:
    """What victims are asked: the test images, then for each trial the images that it is about.

    Attributes:
        asked: all of them, in this order; labels are true ones.
        num_tests: how many are the plain test images.
        rows: for each trial, where its images are in `asked`.
        sources: for each trial, which test images they are (with a trigger on them, or as a target).
        single: for each trial, which of its images it counts by when trials are counted; drawn, for triggers.
    """

    asked: ImageDataset
    num_tests: int
    rows: tuple[range, ...]
    sources: tuple[Int64[np.ndarray, "_"], ...]
    single: tuple[int, ...]


def questions(pack: PoisonPack, test: ImageDataset, key: Key) -> Questions:
    """Targets as packed; for a trigger, test images of its class (at most `MOST_STAMPED`) with the trigger on them.

    Args:
        key: for each trial `key / trial`, its number, draws the places of triggers that have no fixed one, and the single image.
    Raises: ValueError if a target's test image does not exist or has another label, a patch does not fit, or no test image is left.
    """
    images, labels, rows, sources = [test.images], [test.labels], [], []
    first = len(test)
    for trial, poison in enumerate(pack.poisons, pack.first_trial):
        goal = poison.goal
        if isinstance(goal, Target):
            chosen, shown = torch.tensor([goal.test_index]), goal.image.unsqueeze(0)
            if goal.test_index >= len(test) or int(test.labels[goal.test_index]) != goal.true_label:
                raise ValueError(
                    f"trial {trial} is about test image {goal.test_index} of class {test.class_names[goal.true_label]!r}, which these test "
                    "images do not have; give the test images that the pack was made with"
                )
        else:
            chosen = _triggered(test, goal)
            shown = goal.stamped(test.images[chosen], key / trial / "places")
        images.append(shown)
        labels.append(test.labels[chosen])
        rows.append(range(first, first := first + len(chosen)))
        sources.append(chosen.numpy())
    asked = ImageDataset(torch.cat(images), torch.cat(labels), test.class_names)
    numbered = enumerate(sources, pack.first_trial)
    single = tuple(int((key / trial / "single").numpy().integers(len(each))) for trial, each in numbered)
    return Questions(asked, len(test), tuple(rows), tuple(sources), single)


def _triggered(test: ImageDataset, goal: Trigger) -> Int64[Tensor, "k"]:
    chosen = source_rows(test, goal, "test")
    if len(chosen) <= MOST_STAMPED:
        return chosen
    return chosen[torch.linspace(0, len(chosen) - 1, MOST_STAMPED).round().long()]


@dataclass(frozen=True, eq=False)
class TrialOutcome:
    """What one trial's victims answered, in one arm.

    Attributes:
        predicted: (k,) class given to each image that the trial is about.
        reached: (k,) whether that is the adversarial label.
        lost: (k,) whether it is neither that nor the true label.
        before: (k,) class given to the same test images without the trigger; for a target, `predicted` again.
        clean_accuracy: on the plain test images, without targets.
    """

    predicted: Int64[np.ndarray, "k"]
    reached: Bool[np.ndarray, "k"]
    lost: Bool[np.ndarray, "k"]
    before: Int64[np.ndarray, "k"]
    clean_accuracy: float


def outcomes(trials: Trials, asked: Questions, ballots: Ballots) -> list[tuple[TrialOutcome, TrialOutcome]]:
    """For each trial whose victims have all voted: (control, poisoned).

    The answer is what the defense makes of its models' ballots (their plurality, mostly); -1, no class, where all of them diverged.
    """
    models = trials.defense.members
    labels = asked.asked.labels.numpy()
    held_out = np.ones(asked.num_tests, dtype=bool)
    for poison in trials.pack.poisons:
        if isinstance(poison.goal, Target):
            held_out[poison.goal.test_index] = False
    found = []
    for trial in range(len(ballots) // (2 * models)):
        arms = []
        for arm in range(2):
            first = (2 * trial + arm) * models
            answered = ballots.counts(first, first + models).any(axis=1)
            answers = np.where(answered, trials.defense.aggregate(ballots.of_members(first, first + models)).labels, -1)
            arms.append(_outcome(trials, asked, trial, answers, labels, held_out))
        found.append((arms[0], arms[1]))
    return found


def _outcome(
    trials: Trials,
    asked: Questions,
    trial: int,
    answers: Int64[np.ndarray, "n"],
    labels: Int64[np.ndarray, "n"],
    held_out: Bool[np.ndarray, "t"],
) -> TrialOutcome:
    goal, rows = trials.pack.poisons[trial].goal, asked.rows[trial]
    predicted, true = answers[rows.start : rows.stop], labels[rows.start : rows.stop]
    reached = predicted == goal.adversarial_label
    before = predicted if isinstance(goal, Target) else answers[asked.sources[trial]]
    tested = answers[: asked.num_tests] == labels[: asked.num_tests]
    return TrialOutcome(predicted, reached, ~reached & (predicted != true), before, float(tested[held_out].mean()))


def content_digest(images: UInt8[Tensor, "..."]) -> str:
    """SHA-256 of stored images, 64 hex digits."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def _goal_json(goal: Target | Trigger) -> Json:
    if isinstance(goal, Target):
        return {"test_index": goal.test_index, "adversarial_label": goal.adversarial_label, "image": content_digest(goal.image)}
    return {
        "patch": content_digest(goal.patch),
        "mask": content_digest(goal.mask.to(torch.uint8)),
        "place": None if goal.place is None else list(goal.place),
        "true_label": goal.true_label,
        "adversarial_label": goal.adversarial_label,
        "amplitude": goal.amplitude,
    }
