"""Certified rivals on real members: their certificates against every change of tiny sets, and what members may depend on."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from certidote.certification.bagflip import bagflip_radius, certify_bagflip
from certidote.certification.bagging import bagging_radius, certify_bagging
from certidote.certification.finite_aggregation import published_shifts
from certidote.certification.rankings import ranks_of
from certidote.data.digits import load_digits
from certidote.data.tiny import tiny
from certidote.defenses.bagflip import BagFlip, binned, flipped
from certidote.defenses.bagging import Bagging
from certidote.defenses.catalogue import DEFENSES, Setting
from certidote.defenses.certified import in_small_batches
from certidote.defenses.deep_partition import DeepPartition
from certidote.defenses.finite_aggregation import FiniteAggregation
from certidote.defenses.parts import REASON, buckets_of, part_view
from certidote.defenses.summed import SummedTrainer
from certidote.streams import Key
from certidote.training.pooled import trainer_for
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import (
    BUCKETS,
    Ballots,
    CountCertificate,
    ImageDataset,
    Lineage,
    Provenance,
    Retrained,
    Scheme,
    Trainer,
    Unproved,
    Untrusted,
    View,
)
from nearest import NearestMeanTrainer
from oracles import InnerProductTrainer
from running import ballots_of

FALSE_ALARM = 1e-6
MLP = StackedTrainer(Recipe(architecture="mlp-128", epochs=2, learning_rate=0.1), stack_size=4)
TRAIN, TEST = (tiny(20, 3, (1, 8, 8), Key(5) / split) for split in ("train", "test"))
PARTS = [DeepPartition, lambda parts, **options: FiniteAggregation(parts, published_shifts(parts, 2), **options)]
Sample = tuple[int, int]
"""A gray level and a label: a whole training image of the tiny sets."""


def dataset(samples: Sequence[Sample], classes: int = 3) -> ImageDataset:
    """Images of one pixel."""
    images = torch.tensor([level for level, _ in samples], dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return ImageDataset(images, torch.tensor([label for _, label in samples]), tuple("abcdef"[:classes]))


def polled(scheme: Scheme, trainer: Trainer, data: ImageDataset, tests: torch.Tensor) -> Ballots:
    """Ballots of all members, without an engine."""
    untrusted, keys = Untrusted(data), [Key(0) / "members" / member for member in range(scheme.members)]
    views = [scheme.view(untrusted, member, key) for member, key in enumerate(keys)]
    logits = trainer.fit(views, keys, Key(0) / "common")(tests)
    lineages, failed, ids = (Lineage(unsealed=(REASON,)),), np.zeros(len(keys), dtype=bool), np.zeros(len(keys), dtype=np.int64)
    return Ballots(
        logits.argmax(2).numpy(), failed, data.num_classes, lineages, ids, Provenance("", "given", None), ranks_of(logits.numpy())
    )


# ------------------------------------------------------------------------------------------------ certificates and brute force


def test_certificates_of_real_parts_of_the_digits() -> None:
    """Ten parts, labels of whole parts flipped: no flips of as many parts as certified change an answer, by vote or run-off.

    Any flips within a part cost an attacker an image or more and cast one vote. On average overlapping parts and the run-off certify
    more than disjoint parts and the plurality do.
    """
    train, test = load_digits("train"), load_digits("test").subset(range(150))
    recipe = Recipe(architecture="mlp-128", epochs=8, learning_rate=0.1, batch_size=10)
    trainer, schemes = StackedTrainer(recipe, stack_size=10), [DeepPartition(10), DeepPartition(10, run_off=True)]
    spread = FiniteAggregation(10, published_shifts(10, 4))
    flipped = ImageDataset(train.images, (train.labels + 1) % 10, train.class_names)
    clean, other = (polled(schemes[0], trainer, data, test.pixels()) for data in (train, flipped))
    certified = [scheme._certificate(clean) for scheme in schemes]
    changed = []
    for count in range(1, 6):
        for parts in itertools.combinations(range(10), count):
            votes, rankings = (np.array(each) for each in (clean.votes, clean.rankings()))
            votes[list(parts)], rankings[list(parts)] = other.votes[list(parts)], other.rankings()[list(parts)]
            attacked = replace(clean, votes=votes, ranks=rankings)
            for scheme, certificate in zip(schemes, certified, strict=True):
                moved = scheme.aggregate(attacked).labels != certificate.labels
                assert not (moved & (certificate.radii >= count)).any()
                changed.append(moved.any())
    assert any(changed)
    right = [np.where(found.labels == test.labels.numpy(), found.radii + 1, 0) for found in certified]
    overlapping = spread._certificate(polled(spread, trainer, train, test.pixels()))
    covered = np.where(overlapping.labels == test.labels.numpy(), overlapping.radii + 1, 0)
    assert right[1].mean() >= right[0].mean()
    noise = 2 * (right[0].std() + covered.std()) / len(test) ** 0.5
    assert covered.mean() >= right[0].mean() - noise


def altered(samples: Sequence[Sample], universe: Sequence[Sample], count: int) -> Iterator[list[Sample]]:
    """Every way to replace `count` samples in their place by others."""
    for rows in itertools.combinations(range(len(samples)), count):
        for others in itertools.product(*([other for other in universe if other != samples[row]] for row in rows)):
            changed = list(samples)
            for row, other in zip(rows, others, strict=True):
                changed[row] = other
            yield changed


@pytest.mark.parametrize("run_off", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_votes_of_one_image_each_are_certified_up_to_the_best_attack(run_off: bool, seed: int) -> None:
    """Whoever alters an image decides a vote, so plurality's certificate is exact; a run-off's is never too large."""
    labels = np.random.default_rng(seed).choice(3, size=5, p=[0.15, 0.65, 0.2])
    samples = [(100, int(label)) for label in labels]
    scheme, tests = DeepPartition(5, run_off=run_off), torch.tensor([0.4]).reshape(1, 1, 1, 1)
    certified = scheme._certificate(polled(scheme, NearestMeanTrainer(), dataset(samples), tests))
    universe = [(100, label) for label in range(3)]
    budget = 1
    while all(
        scheme.aggregate(polled(scheme, NearestMeanTrainer(), dataset(changed), tests)).labels[0] == certified.labels[0]
        for changed in altered(samples, universe, budget)
    ):
        budget += 1
    assert certified.radii[0] <= budget - 1
    if not run_off:
        assert certified.radii[0] == budget - 1


@pytest.mark.parametrize("run_off", [False, True])
def test_no_change_in_place_within_finite_aggregations_certificate_matters(run_off: bool) -> None:
    """Six buckets of one image, two for each member; attackers put an image of any class on the test image."""
    generator, beyond = np.random.default_rng(1), []
    tests = torch.tensor([0.5]).reshape(1, 1, 1, 1)
    universe = [(128, label) for label in range(3)]
    for labels in ([1, 1, 1, 1, 1, 0], [2, 1, 1, 1, 1, 1]):
        samples = list(zip(generator.choice([51, 128, 204], 6).tolist(), labels, strict=True))
        scheme = FiniteAggregation(3, (0, 2), run_off=run_off)
        certified = scheme._certificate(polled(scheme, NearestMeanTrainer(), dataset(samples), tests))
        for budget in (1, 2):
            same = all(
                scheme.aggregate(polled(scheme, NearestMeanTrainer(), dataset(changed), tests)).labels[0] == certified.labels[0]
                for changed in altered(samples, universe, budget)
            )
            assert same or certified.radii[0] < budget
            beyond.append(same)
    assert certified.radii[0] > 0
    assert not all(beyond), "enough units do change answers"


@pytest.mark.parametrize("make", PARTS, ids=["dpa", "fa"])
@pytest.mark.parametrize("run_off", [False, True])
def test_no_symmetric_difference_within_the_certificate_matters(make: Callable[..., Scheme], run_off: bool) -> None:
    """Eight samples by content, nearest means: all ways to remove some and to insert some of six others."""
    generator = np.random.default_rng(7)
    scheme = make(3, by_content=True, run_off=run_off)
    tests = torch.tensor([0.1, 0.35, 0.5, 0.9]).reshape(4, 1, 1, 1)
    flipped_beyond, certified_some = 0, 0
    for _ in range(2):
        levels = generator.choice(256, size=14, replace=False)
        samples = [(int(level), int(level > 110)) for level in levels[:8]]
        others = [(int(level), int(generator.integers(2))) for level in levels[8:]]
        certified = scheme._certificate(polled(scheme, NearestMeanTrainer(), dataset(samples, 2), tests))
        assert certified.unit == "samples inserted or removed"
        for budget in (1, 2):
            same = np.ones(4, dtype=bool)
            for chosen in itertools.combinations(range(14), budget):
                left = [sample for row, sample in enumerate(samples) if row not in chosen]
                changed = left + [others[row - 8] for row in chosen if row >= 8]
                same &= (
                    scheme.aggregate(polled(scheme, NearestMeanTrainer(), dataset(changed, 2), tests)).labels == certified.labels
                )
            assert same[certified.radii >= budget].all()
            certified_some += int((certified.radii >= budget).sum())
            flipped_beyond += int((~same).sum())
    assert certified_some > 0
    assert flipped_beyond > 0


@cache
def nearest_label(bag: tuple[Sample, ...], test: float, classes: int) -> int:
    held = dataset(bag, classes)
    stack = NearestMeanTrainer().fit([View(held.pixels(), held.labels, classes, Lineage())], [Key(0)], Key(0))
    return int(stack(torch.tensor([test]).reshape(1, 1, 1, 1))[0, 0].argmax())


def bagged(samples: Sequence[Sample], bag_size: int, test: float) -> list[Fraction]:
    """The exact probability of each class."""
    votes = [nearest_label(tuple(sorted(bag)), test, 3) for bag in itertools.product(samples, repeat=bag_size)]
    return [Fraction(votes.count(c), len(votes)) for c in range(3)]


def test_no_change_within_the_radius_of_the_exact_probabilities_matters_to_bagging() -> None:
    samples, universe = [(0, 0), (20, 0), (200, 1), (10, 0), (30, 0), (5, 0), (12, 0)], [(13, 1), (255, 0), (40, 2)]
    before = bagged(samples, 2, 0.05)
    top, second = sorted(before)[::-1][:2]
    radius = bagging_radius(top, second, num_samples=7, bag_size=2)
    assert radius == 1
    for changed in altered(samples, universe, radius):
        after = bagged(changed, 2, 0.05)
        assert after.index(max(after)) == before.index(top)
    beyond = [bagged(changed, 2, 0.05) for changed in altered(samples, universe, radius + 2)]
    assert any(after.index(max(after)) != before.index(top) for after in beyond)


def test_no_change_within_the_radius_of_the_exact_probabilities_matters_to_bagflip() -> None:
    """Bags of one image of one black or white pixel, which stays with probability 3/5."""
    keep = Fraction(3, 5)

    def probabilities(samples: Sequence[Sample]) -> list[Fraction]:
        found = [Fraction(0)] * 2
        for level, label in samples:
            for value, chance in ((level, keep), (255 - level, 1 - keep)):
                found[nearest_label(((value, label),), 0.0, 2)] += chance / len(samples)
        return found

    samples = [(0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (255, 0), (0, 0)]
    before = probabilities(samples)
    top = max(before)
    radius = bagflip_radius(top, 1 - top, num_samples=8, bag_size=1, keep=keep, levels=1, features=1)
    plain = bagging_radius(top, 1 - top, num_samples=8, bag_size=1)
    assert radius >= plain
    for chosen in itertools.combinations(range(8), max(radius, 0)):
        changed = [(255 - level, label) if row in chosen else (level, label) for row, (level, label) in enumerate(samples)]
        after = probabilities(changed)
        assert after.index(max(after)) == before.index(top)


# -------------------------------------------------------------------------------------------------- how schemes are related


@pytest.mark.parametrize("by_content", [False, True])
@pytest.mark.parametrize("run_off", [False, True])
def test_finite_aggregation_with_one_shift_is_deep_partition(by_content: bool, run_off: bool, tmp_path: Path) -> None:
    one = FiniteAggregation(6, (0,), by_content=by_content, run_off=run_off)
    other = DeepPartition(6, by_content=by_content, run_off=run_off)
    found = [ballots_of(scheme, MLP, TRAIN, TEST, tmp_path / f"{i}") for i, scheme in enumerate((one, other))]
    assert np.array_equal(found[0].ranks, found[1].ranks)
    first, second = one.certify(found[0]), other.certify(found[1])
    assert isinstance(first, CountCertificate)
    assert isinstance(second, CountCertificate)
    assert np.array_equal(first.labels, second.labels)
    if not run_off:
        assert np.array_equal(first.radii, second.radii)
    else:
        assert (first.radii <= second.radii).all()
    assert first.radii.max() > 0


def test_summed_models_vote_as_one(tmp_path: Path) -> None:
    scheme = DeepPartition(5, run_off=True)
    identical = [NearestMeanTrainer(), SummedTrainer(NearestMeanTrainer(), 3)]
    found = [ballots_of(scheme, trainer, TRAIN, TEST, tmp_path / f"{i}") for i, trainer in enumerate(identical)]
    assert np.array_equal(found[0].ranks, found[1].ranks)
    certified = [scheme.certify(ballots) for ballots in found]
    assert all(isinstance(each, CountCertificate) for each in certified)
    assert np.array_equal(certified[0].radii, certified[1].radii)  # type: ignore[union-attr]
    views = [scheme.view(Untrusted(TRAIN), member, Key(0)) for member in range(5)]
    keys = [Key(3) / member for member in range(5)]
    one, two = (SummedTrainer(MLP, copies).fit(views, keys, Key(4)) for copies in (1, 2))
    alone = MLP.fit(views, keys, Key(4))
    second = MLP.fit(views, [key / "copy" / 1 for key in keys], Key(4))
    assert torch.equal(one(TEST.pixels()), alone(TEST.pixels()).double())
    assert torch.equal(two(TEST.pixels()), alone(TEST.pixels()).double() + second(TEST.pixels()).double())
    assert torch.equal(two.member(3)(TEST.pixels()), two(TEST.pixels())[3])
    second.failed[2] = True
    assert two.failed.tolist() == [False] * 5
    assert replace(two, stacks=[alone, second]).failed.tolist() == [False, False, True, False, False]


def test_every_bucket_reaches_its_members_and_every_member_its_buckets() -> None:
    scheme = FiniteAggregation(5, published_shifts(5, 3))
    reached: dict[int, list[int]] = {bucket: [] for bucket in range(15)}
    for member in range(15):
        for bucket in scheme.buckets_of_member(member):
            reached[bucket].append(member)
    for bucket, members in reached.items():
        assert sorted(members) == sorted((bucket + shift) % 15 for shift in scheme.shifts)
        assert len(set(members)) == 3
    data = Untrusted(TRAIN)
    buckets = buckets_of(data, 15, "row number")
    view = scheme.view(data, 4, Key(0))
    expected = TRAIN.pixels()[np.isin(buckets, scheme.buckets_of_member(4))]
    assert sorted(image.flatten().tolist() for image in view.images) == sorted(image.flatten().tolist() for image in expected)


# ------------------------------------------------------------------------------------------------------- order and schedule


@pytest.mark.parametrize("make", PARTS, ids=["dpa", "fa"])
def test_by_content_the_order_of_images_does_not_matter(make: Callable[..., Scheme], tmp_path: Path) -> None:
    scheme = make(4, by_content=True)
    shuffled = TRAIN.subset(torch.from_numpy(np.random.default_rng(0).permutation(len(TRAIN))))
    for member in range(scheme.members):
        seen, again = (scheme.view(Untrusted(data), member, Key(0)) for data in (TRAIN, shuffled))
        assert torch.equal(seen.images, again.images)
        assert torch.equal(seen.labels, again.labels)
    first, second = (ballots_of(scheme, MLP, data, TEST, tmp_path / f"{i}") for i, data in enumerate((TRAIN, shuffled)))
    assert np.array_equal(first.ranks, second.ranks)
    assert isinstance(scheme.certify(first), CountCertificate)


def test_by_content_a_bucket_follows_from_pixels_alone() -> None:
    data = Untrusted(TRAIN)
    buckets = data.buckets(7)
    others = Untrusted(ImageDataset(TRAIN.images[5:], (TRAIN.labels[5:] + 1) % 3, TRAIN.class_names))
    assert np.array_equal(buckets[5:], others.buckets(7))
    assert set(buckets.tolist()) == set(range(7))
    watched = data.watched(Key(0))
    watched.buckets(7)
    assert watched.reads.unsealed == [BUCKETS], "it is a reading of pixels as they are"


SCHEMES: list[tuple[Scheme, Trainer]] = [
    (FiniteAggregation(4, published_shifts(4, 2)), MLP),
    (DeepPartition(8, by_content=True), SummedTrainer(MLP, 2)),
    (Bagging(20, 60, 12), MLP),
    (BagFlip(20, 60, 12), MLP),
]


@pytest.mark.parametrize(("scheme", "trainer"), SCHEMES, ids=["fa", "dpa-star", "bagging", "bagflip"])
def test_votes_do_not_depend_on_how_members_are_scheduled(scheme: Scheme, trainer: Trainer, tmp_path: Path) -> None:
    first = ballots_of(scheme, trainer, TRAIN, TEST, tmp_path / "here")
    small: Trainer = StackedTrainer(MLP.recipe, stack_size=3)
    small = SummedTrainer(small, 2) if isinstance(trainer, SummedTrainer) else small
    workers = 2 if isinstance(scheme, FiniteAggregation) else 0
    second = ballots_of(scheme, small, TRAIN, TEST, tmp_path / "there", workers=workers)
    assert np.array_equal(first.votes, second.votes)


# ------------------------------------------------------------------------------------------------------------------- bags


def test_bags_are_uniform_draws_of_each_member() -> None:
    scheme, data = Bagging(50, 60, 40), Untrusted(TRAIN)
    drawn = []
    for member in range(40):
        traced = data.watched(Key(1) / member)
        view = scheme.view(traced, member, Key(1) / member)
        rows = (view.images[:, None] == TRAIN.pixels()[None]).flatten(2).all(2).int().argmax(1)
        assert torch.equal(view.labels, TRAIN.labels[rows])
        assert np.array_equal(np.unique(rows), np.unique(np.concatenate(traced.reads.open_rows)))
        drawn.append(rows.numpy())
    counts = np.bincount(np.concatenate(drawn), minlength=60)
    assert scipy.stats.chisquare(counts).pvalue > FALSE_ALARM
    assert len({tuple(rows) for rows in drawn}) == 40
    repeats = [len(set(rows.tolist())) < 50 for rows in drawn]
    assert all(repeats), "with replacement"


def test_flips_are_what_the_proof_says() -> None:
    values = torch.arange(3).repeat(40_000)
    found = flipped(values, 2, Fraction(8, 10), Key(2))
    moved = (found - values) % 3
    counts = np.bincount(moved.numpy(), minlength=3)
    assert scipy.stats.chisquare(counts, np.array([0.8, 0.1, 0.1]) * len(values)).pvalue > FALSE_ALARM
    levels = torch.tensor([0.0, 0.2, 0.3, 0.74, 0.76, 1.0]).reshape(6, 1, 1, 1)
    assert binned(levels, 2).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    scheme = BagFlip(20, 60, 5)
    view = scheme.view(Untrusted(TRAIN), 0, Key(0))
    assert set(view.images.unique().tolist()) <= {0.0, 0.5, 1.0}
    shown = scheme.inputs(TEST.pixels(), range(60), Key(9))
    assert torch.equal(shown, (TEST.pixels() * 2).round() / 2)
    bag = Bagging(20, 60, 5).view(Untrusted(TRAIN), 0, Key(0))
    assert torch.equal(view.labels, bag.labels)
    stayed = (view.images == (bag.images * 2).round() / 2).flatten().numpy()
    assert scipy.stats.binomtest(int(stayed.sum()), len(stayed), 0.8).pvalue > FALSE_ALARM


def test_bags_are_certified_by_their_counts(tmp_path: Path) -> None:
    bagging, bagflip = Bagging(20, 60, 24), BagFlip(20, 60, 24, features=2)
    for scheme in (bagging, bagflip):
        ballots = ballots_of(scheme, NearestMeanTrainer(), TRAIN, TEST, tmp_path / scheme.describe()["scheme"], seed=None)
        outcome = scheme.certify(ballots)
        assert isinstance(outcome, CountCertificate)
        counts = ballots.counts(0, 24)
        if scheme is bagging:
            expected = certify_bagging(counts, 24, num_samples=60, bag_size=20, alpha=1e-3)
        else:
            expected = certify_bagflip(
                counts, 24, num_samples=60, bag_size=20, keep=Fraction(4, 5), levels=2, features=2, alpha=1e-3
            )
        assert np.array_equal(outcome.radii, expected.radii)
        assert np.array_equal(outcome.labels, expected.labels)
        assert (outcome.unit, outcome.alpha) == (expected.unit, 1e-3)
        assert outcome.radii.max() >= 0


# --------------------------------------------------------------------------------------------------------------- refusals


def test_a_part_without_images_votes_a_constant_and_voids_the_certificate(tmp_path: Path) -> None:
    scheme = DeepPartition(40, by_content=True)
    empty = sorted(set(range(40)) - set(Untrusted(TRAIN).buckets(40).tolist()))
    assert empty
    others = tiny(5, 3, (1, 8, 8), Key(9))
    assert not {int(b) for b in Untrusted(others).buckets(40)} & set(empty[:1])
    views = [scheme.view(Untrusted(data), empty[0], Key(0)) for data in (TRAIN, others)]
    assert torch.equal(views[0].images, views[1].images)
    assert views[0].labels.tolist() == [0, 1, 2]
    outcome = scheme.certify(ballots_of(scheme, MLP, TRAIN, TEST, tmp_path / "l"))
    assert isinstance(outcome, Unproved)
    assert "some parts have no image" in outcome.reasons[0]


@dataclass(frozen=True)
class Wandering(FiniteAggregation):
    """Faulty: the last member looks at one image of a bucket that does not reach it."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        if member == self.members - 1:
            foreign = next(b for b in range(self.members) if b not in self.buckets_of_member(member))
            data.unsealed(REASON, torch.from_numpy(np.flatnonzero(data.buckets(self.members) == foreign)[:1]))
        return super().view(data, member, key)


@dataclass(frozen=True)
class Everything(DeepPartition):
    """Faulty: all members learn from all images."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        data.buckets(self.parts)
        return part_view(data, torch.arange(len(data)), "cpu")


@pytest.mark.parametrize("stack_size", [1, 4])
@pytest.mark.parametrize(
    "scheme", [Wandering(4, (0, 3), by_content=True), Everything(4, by_content=True)], ids=["wandering", "everything"]
)
def test_members_that_read_other_buckets_prove_nothing(scheme: Scheme, stack_size: int, tmp_path: Path) -> None:
    ballots = ballots_of(scheme, InnerProductTrainer(stack_size=stack_size), TRAIN, TEST, tmp_path / "l")
    outcome = scheme.certify(ballots)
    assert isinstance(outcome, Unproved)
    assert any("rows of other parts" in reason for reason in outcome.reasons)


def test_shifts_are_those_on_record(tmp_path: Path) -> None:
    trained, claimed = FiniteAggregation(4, (0, 3)), FiniteAggregation(4, (0, 2))
    ballots = ballots_of(trained, NearestMeanTrainer(), TRAIN, TEST, tmp_path / "l")
    assert isinstance(trained.certify(ballots), CountCertificate)
    assert isinstance(replace(trained, run_off=True).certify(ballots), CountCertificate), "one ledger serves both"
    outcome = claimed.certify(ballots)
    assert isinstance(outcome, Unproved)
    assert outcome.reasons[0] == "members were trained with shifts=[0, 3], but the claim is about shifts=[0, 2]"


BAG = Lineage(unsealed=("a random bag of images, as they are",), open_rows=((9, 5), (8, 6)))
SEEN = Provenance("digest", "operating system", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lineages": (replace(BAG, unsealed=("plain training",)),)}, "did not learn from bags alone"),
        ({"lineages": (replace(BAG, start="untrusted"),)}, "weights trained on all of the data"),
        ({"lineages": (replace(BAG, open_rows=((21, 5),)),)}, "more than the 20 images of its bag"),
        ({"provenance": replace(SEEN, retrained=Retrained(3, 5, differing=5, exact=True))}, "crosses the stack"),
        ({"provenance": replace(SEEN, mixture=("a", "b"))}, "different numerics"),
        ({"provenance": replace(SEEN, scheme=Bagging(20, 60, 13).describe())}, "trained for n=13, but the claim is about n=12"),
        ({"votes": np.zeros((8, 5), np.uint8), "failed": np.zeros(8, bool), "noise_ids": np.zeros(8, np.int64)}, "8 members have"),
    ],
)
def test_ballots_of_another_making_prove_nothing_about_bags(change: dict[str, object], reason: str) -> None:
    ballots = Ballots(
        votes=np.zeros((12, 5), dtype=np.uint8), failed=np.zeros(12, dtype=bool), num_classes=3, lineages=(BAG,),
        noise_ids=np.zeros(12, dtype=np.int64), provenance=SEEN,
    )  # fmt: skip
    assert isinstance(Bagging(20, 60, 12).certify(ballots), CountCertificate)
    outcome = Bagging(20, 60, 12).certify(replace(ballots, **change))  # type: ignore[arg-type]
    assert isinstance(outcome, Unproved)
    assert any(reason in text for text in outcome.reasons)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FiniteAggregation(1, (0, 1)), "needs at least 2"),
        (lambda: FiniteAggregation(3, (0, 6)), "not 2 distinct numbers from 0 to 5"),
        (lambda: FiniteAggregation(3, ()), "0 shifts"),
        (lambda: FiniteAggregation(31, (0, 1)).view(Untrusted(TRAIN), 0, Key(0)), "62 parts of 60 images"),
        (lambda: DeepPartition(3, by_label=True, by_content=True), "ask for one of the two"),
        (lambda: SummedTrainer(MLP, 0), "copies=0"),
        (lambda: Bagging(0, 60, 5), "give at least 1 of each"),
        (lambda: Bagging(5, 60, 0), "n=0"),
        (
            lambda: Bagging(5, 61, 5).view(Untrusted(TRAIN), 0, Key(0)),
            "60 training images, but this scheme was made for num_samples=61",
        ),
        (lambda: BagFlip(5, 60, 5, keep=Fraction(1, 4)), r"outside \[1/3, 1\)"),
        (lambda: BagFlip(5, 60, 5, levels=0), "levels=0"),
    ],
)
def test_impossible_schemes_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bag_larger_than_the_set_is_refused() -> None:
    setting = Setting(lambda _: NotImplemented, None, 1, "cpu", images=60, bag_size=61)
    for name in ("bagging", "bagflip"):
        with pytest.raises(ValueError, match="a bag of 61 of 60 images; .* give at most 60"):
            DEFENSES[name](MLP, setting)
        DEFENSES[name](MLP, replace(setting, bag_size=60))


def test_one_image_is_too_few_for_batch_normalization() -> None:
    """Before anything trains, where the catalogue knows; and in training, where only that knows."""
    views = [DeepPartition(60).view(Untrusted(TRAIN), 0, Key(0))]
    refused = trainer_for(Recipe(architecture="resnet-18", epochs=1, learning_rate=0.1))
    with pytest.raises(ValueError, match="1 image to learn from, but resnet-18.*use resnet-18-gn, or fewer parts or larger bags$"):
        refused.fit(views, [Key(0)], Key(0))
    setting = Setting(lambda name: pytest.fail(name), None, 1, "cpu", images=60, parts=60)
    with pytest.raises(ValueError, match=r"use resnet-18-gn, or fewer parts \(--parts\)$"):
        DEFENSES["dpa"](refused, setting)
    with pytest.raises(ValueError, match=r"use resnet-18-gn, or larger bags \(--bag-size\)$"):
        DEFENSES["bagging"](refused, replace(setting, parts=None, bag_size=1))
    with pytest.raises(ValueError, match="61 parts of 60 images"):
        DEFENSES["dpa"](MLP, replace(setting, parts=61))
    with pytest.raises(ValueError, match="64 parts of 60 images"):
        DEFENSES["finite-aggregation"](MLP, replace(setting, parts=16))
    grouped = trainer_for(Recipe(architecture="resnet-18-gn", epochs=1, learning_rate=0.1))
    DEFENSES["dpa"](grouped, setting)
    assert not grouped.fit(views, [Key(0)], Key(0)).failed.any()
    DEFENSES["dpa"](refused, replace(setting, parts=30))


@pytest.mark.parametrize(
    ("architecture", "size", "images", "batch"),
    [
        ("mlp-128", 50, 500, 10),
        ("mlp-128", 250, 500, 50),
        ("mlp-128", 20, 1_000, 10),
        ("mlp-128", 700, 500, 100),
        ("resnet-18", 50, 500, 32),
    ],
)
def test_members_of_parts_take_small_steps(architecture: str, size: int, images: int, batch: int) -> None:
    """As many in an epoch as a model of all images, but of 10 images at least, 32 with statistics of the batch."""
    recipe = Recipe(architecture=architecture, epochs=2, batch_size=100, learning_rate=0.1)
    given = trainer_for(recipe)
    found = in_small_batches(given, size, images)
    assert found.describe()["recipe"] == recipe.model_copy(update={"batch_size": batch}).to_json()
    assert given.describe()["recipe"] == recipe.to_json()
    assert in_small_batches(given, size, 0) is given
    for name in ("dpa", "run-off-dpa", "finite-aggregation", "run-off-fa", "dpa-star-run-off", "bagging", "bagflip"):
        setting = Setting(lambda name: pytest.fail(name), None, 1, "cpu", images=1_000, parts=20, bag_size=50)
        _, trainer = DEFENSES[name](trainer_for(recipe.model_copy(update={"architecture": "mlp-128"})), setting)
        told = trainer.trainer if isinstance(trainer, SummedTrainer) else trainer
        assert told.describe()["recipe"]["batch_size"] == 10
