"""Deep partitions end to end: an altered image reaches one member, and no attack within the certificate changes an answer."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote.certification.rankings import ranks_of
from certidote.data.digits import load_digits
from certidote.data.tiny import tiny
from certidote.defenses.deep_partition import DeepPartition
from certidote.defenses.parts import REASON, part_rows
from certidote.engine.jobs import BlockRecord, Payload, plan, work
from certidote.engine.ledger import Ledger
from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import Ballots, CountCertificate, ImageDataset, Lineage, Provenance, Retrained, Unproved, Untrusted, View
from oracles import InnerProductTrainer
from running import ballots_of

RECIPE = Recipe(architecture="mlp-128", epochs=3, learning_rate=0.1)
TRAIN = tiny(30, 3, (1, 8, 8), Key(1) / "train")
TEST = tiny(20, 3, (1, 8, 8), Key(1) / "test")


def altered(data: ImageDataset, rows: np.ndarray, seed: int) -> ImageDataset:
    """These images replaced by noise; labels as they are."""
    images = data.images.clone()
    images[rows] = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, images[rows].shape).astype(np.uint8))
    return ImageDataset(images, data.labels, data.class_names)


def records(scheme: DeepPartition, data: ImageDataset) -> list[BlockRecord]:
    payload = Payload(scheme, StackedTrainer(RECIPE, stack_size=4), Untrusted(data), TEST.images, Key(0))
    return [work(payload, job) for job in plan(scheme.members, 4)]


@pytest.mark.parametrize("by_label", [False, True])
def test_parts_are_disjoint_complete_and_never_move(by_label: bool) -> None:
    labels = load_digits("train").labels
    parts = [part_rows(labels, 50, part, by_label) for part in range(50)]
    assert sorted(torch.cat(parts).tolist()) == list(range(500))
    assert {len(rows) for rows in parts} == {10}
    if by_label:
        for label in range(10):
            numbers = [int((labels[rows] == label).sum()) for rows in parts]
            assert max(numbers) - min(numbers) <= 1, "every part has its share of every class"
    else:
        relabelled = part_rows((labels + 1) % 10, 50, 7)
        assert torch.equal(relabelled, parts[7]), "labels do not decide the part, so they may be altered too"


@pytest.mark.parametrize("by_label", [False, True])
def test_altered_images_change_their_own_member_only(by_label: bool) -> None:
    scheme = DeepPartition(7, by_label=by_label)
    rows = part_rows(TRAIN.labels, 7, 3, by_label).numpy()
    before, after = records(scheme, TRAIN), records(scheme, altered(TRAIN, rows, 0))
    ranks = [np.concatenate([record.ranks for record in side]) for side in (before, after)]
    same = (ranks[0] == ranks[1]).all(axis=(1, 2))
    assert same.tolist() == [member != 3 for member in range(7)]


def test_a_part_is_a_set_whatever_order_its_images_are_stored_in() -> None:
    scheme = DeepPartition(4)
    rows = part_rows(TRAIN.labels, 4, 1)
    order = torch.arange(len(TRAIN))
    order[rows] = rows.flip(0)
    reordered = TRAIN.subset(order)
    assert not torch.equal(reordered.images, TRAIN.images)
    for first, second in zip(records(scheme, TRAIN), records(scheme, reordered), strict=True):
        assert np.array_equal(first.ranks, second.ranks)


def test_votes_are_the_first_choices_and_come_back_from_the_ledger(tmp_path: Path) -> None:
    ballots = ballots_of(DeepPartition(9), StackedTrainer(RECIPE, stack_size=4), TRAIN, TEST, tmp_path / "l")
    assert ballots.ranks is not None
    assert ballots.votes.dtype == ballots.ranks.dtype == np.uint8
    assert np.array_equal(ballots.ranks.argmin(axis=2), ballots.votes)
    assert (np.sort(ballots.ranks, axis=2) == np.arange(3)).all()
    again = ballots_of(DeepPartition(9), StackedTrainer(RECIPE, stack_size=4), TRAIN, TEST, tmp_path / "l")
    assert np.array_equal(again.ranks, ballots.ranks)
    turned = np.roll(ballots.ranks[4:8], 1, axis=2).tobytes()
    with Ledger(tmp_path / "l") as ledger:
        ledger._db.execute("UPDATE rankings SET ranks = ? WHERE first = 4", (turned,))
        with pytest.raises(ValueError, match="rankings and votes disagree"):
            ledger.ballots(len(TEST), 3, ballots.provenance)
        ledger._db.execute("DELETE FROM rankings WHERE first = 4")
        with pytest.raises(ValueError, match="members 4 to 7 lack rankings"):
            ledger.ballots(len(TEST), 3, ballots.provenance)


@pytest.mark.parametrize("run_off", [False, True])
def test_no_attack_on_as_many_images_as_certified_changes_an_answer(run_off: bool, tmp_path: Path) -> None:
    """Real members, attackers who know the parts: they rewrite whole parts by one image each (a bright image decides a class mean)."""
    scheme = DeepPartition(11, run_off=run_off)
    trainer = InnerProductTrainer()
    clean = scheme.certify(ballots_of(scheme, trainer, TRAIN, TEST, tmp_path / "clean"))
    assert isinstance(clean, CountCertificate)
    assert clean.unit == "images altered in place"
    assert clean.radii.max() >= 3
    generator = np.random.default_rng(0)
    changed = 0
    for trial in range(10):
        budget = int(generator.integers(1, 6))
        parts = generator.choice(11, budget, replace=False)
        rows = np.array([int(generator.choice(part_rows(TRAIN.labels, 11, int(part)).numpy())) for part in parts])
        images, labels = TRAIN.images.clone(), TRAIN.labels.clone()
        images[rows], labels[rows] = 255, int(generator.integers(3))
        attacked = ImageDataset(images, labels, TRAIN.class_names)
        answers = scheme.aggregate(ballots_of(scheme, trainer, attacked, TEST, tmp_path / f"{trial}")).labels
        covered = clean.radii >= budget
        assert np.array_equal(answers[covered], clean.labels[covered])
        changed += int((answers != clean.labels).sum())
    assert changed > 0, "attacks beyond the certificate do change answers"


def test_run_off_differs_from_plurality_and_needs_rankings(tmp_path: Path) -> None:
    ranks = ranks_of(np.random.default_rng(1).normal(size=(9, 200, 4)))
    ballots = Ballots(
        votes=ranks.argmin(axis=2), failed=np.zeros(9, dtype=bool), num_classes=4, lineages=(PART,),
        noise_ids=np.zeros(9, dtype=np.int64), provenance=PUBLIC, ranks=ranks,
    )  # fmt: skip
    plurality, run_off = DeepPartition(9).aggregate(ballots), DeepPartition(9, run_off=True).aggregate(ballots)
    assert (plurality.labels != run_off.labels).any()
    with pytest.raises(ValueError, match="first choices only"):
        DeepPartition(9, run_off=True).certify(replace(ballots, ranks=None))


PART = Lineage(unsealed=("a part of the data, as it is",))
PUBLIC = Provenance("digest", "given", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lineages": (PART, Lineage(unsealed=("plain training",)))}, "read more than their part"),
        ({"lineages": (Lineage(sigma=0.5, draws=1),)}, "did not learn from parts"),
        ({"lineages": (replace(PART, start="untrusted"),)}, "weights trained on all of the data"),
        ({"provenance": Provenance("digest", "operating system", None)}, "coins are not public"),
        ({"provenance": replace(PUBLIC, retrained=Retrained(3, 5, differing=5, exact=True))}, "cast 5 of 5 votes otherwise"),
        ({"provenance": replace(PUBLIC, retrained=Retrained(3, 300, differing=1, exact=False))}, "cast 1 of 300 votes otherwise"),
        ({"provenance": replace(PUBLIC, retrained=Retrained(3, 5, differing=0, exact=False))}, "depends on which members train"),
        ({"provenance": replace(PUBLIC, mixture=("a", "b"))}, "computed with different numerics"),
        (
            {"votes": np.zeros((8, 5), np.uint8), "failed": np.zeros(8, bool), "noise_ids": np.zeros(8, np.int64)},
            "8 of 9 parts have voted",
        ),
    ],
)
def test_ballots_of_another_making_prove_nothing(change: dict[str, object], reason: str) -> None:
    ballots = Ballots(
        votes=np.zeros((9, 5), dtype=np.uint8), failed=np.zeros(9, dtype=bool), num_classes=3, lineages=(PART,),
        noise_ids=np.zeros(9, dtype=np.int64), provenance=PUBLIC,
    )  # fmt: skip
    assert isinstance(DeepPartition(9).certify(ballots), CountCertificate)
    outcome = DeepPartition(9).certify(replace(ballots, **change))
    assert isinstance(outcome, Unproved)
    assert any(reason in text for text in outcome.reasons)


def view_of(scheme: DeepPartition, data: Untrusted, rows: torch.Tensor) -> View:
    traced = data.unsealed(REASON, rows)
    return View(traced.images, data.labels[rows], len(data.class_names), traced.lineage)


@dataclass(frozen=True)
class AllRows(DeepPartition):
    """Faulty: every member learns from all images, under the reason that parts have."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return view_of(self, data, torch.arange(len(data)))


@dataclass(frozen=True)
class OnePartForAll(DeepPartition):
    """Faulty: every member learns from part 0."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return view_of(self, data, part_rows(data.labels, self.parts, 0, self.by_label))


@dataclass(frozen=True)
class OneRowMore(DeepPartition):
    """Faulty: the last member looks at an image of the first one's part as well, which then buys two votes."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        if member == self.parts - 1:
            data.unsealed(REASON, part_rows(data.labels, self.parts, 0, self.by_label)[:1])
        return super().view(data, member, key)


@dataclass(frozen=True)
class PartsByLabel(DeepPartition):
    """Faulty unless it says so: labels decide the part, so an altered label touches many."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return view_of(self, data, part_rows(data.labels, self.parts, member, by_label=True))


@pytest.mark.parametrize("by_label", [False, True])
@pytest.mark.parametrize("kind", [AllRows, OnePartForAll, OneRowMore, PartsByLabel, DeepPartition])
def test_members_that_read_other_parts_prove_nothing(kind: type[DeepPartition], by_label: bool, tmp_path: Path) -> None:
    for stack_size in (1, 4):
        scheme = kind(9, by_label)
        ballots = ballots_of(scheme, InnerProductTrainer(stack_size=stack_size), TRAIN, TEST, tmp_path / f"{stack_size}")
        outcome = scheme.certify(ballots)
        if kind is DeepPartition or (kind is PartsByLabel and by_label):
            assert isinstance(outcome, CountCertificate)
        else:
            assert isinstance(outcome, Unproved)
            assert [reason.partition(",")[0] for reason in outcome.reasons] == ["members read rows of other parts"]


def test_impossible_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 2"):
        DeepPartition(1)
    with pytest.raises(ValueError, match="101 parts of 90 images"):
        part_rows(torch.zeros(90, dtype=torch.int64), 101, 0)
    with pytest.raises(ValueError, match="numbered from 0 to 3"):
        part_rows(torch.zeros(90, dtype=torch.int64), 4, 4)
