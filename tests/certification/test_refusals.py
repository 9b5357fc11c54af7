"""Everything that voids a certificate, committed for real: each faulty pipeline runs through the engine and meets its refusal.

A row is one line of the list of what voids a certificate, or of what is harmless. Every row trains members on tiny data and
certifies their votes; the faults are those that software can see. What it cannot see: pixels that reach a member past `Untrusted`
(a scheme that holds the data itself), choices made by people who looked at other runs, test images chosen after looking at models,
and whether a denoiser said to be made from trusted images was tuned by looking at untrusted ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote import engine
from certidote.data.tiny import tiny
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.diffusion.closed_form import Identity, LinearMMSE
from certidote.engine import code
from certidote.engine.jobs import BlockRecord, Job, Payload
from certidote.engine.ledger import Ledger
from certidote.engine.local import Pool
from certidote.streams import Key, row_blocks
from certidote.training.models import ModelStack
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import Ballots, Certificate, ImageDataset, Images, Retrained, Start, Trainer, Unproved, Untrusted, View
from oracles import InnerProductStack, InnerProductTrainer
from running import ballots_of

TRAIN = tiny(6, 2, (1, 8, 8), Key(1) / "train")
OTHER = tiny(6, 2, (1, 8, 8), Key(2) / "train")
TRUSTED = tiny(20, 2, (1, 8, 8), Key(3) / "train")
TEST = tiny(10, 2, (1, 8, 8), Key(1) / "test")
RANDOM = ImageDataset(
    torch.from_numpy(Key(6).numpy().integers(0, 256, (300, 1, 8, 8), np.uint8)), torch.arange(300) % 2, TRAIN.class_names
)
"""Images of no class, near every decision boundary: hardly two members agree on all of them."""
MLP = Recipe(architecture="mlp-128", epochs=2, learning_rate=0.3)
N0, N = 2, 12

Base = DenoisedSmoothing


def honest_view(scheme: Base, data: Untrusted, key: Key) -> View:
    return Base.view(scheme, data, 0, key)


def scheme(kind: type[Base] = Base, **changes: object) -> Base:
    return kind(**{"denoiser": Identity(), "sigma": 0.5, "n0": N0, "n": N, **changes})  # type: ignore[arg-type]


def certified(
    tmp_path: Path, defense: Base, trainer: Trainer | None = None, seed: int | None = None, test: ImageDataset = TEST
) -> tuple[Certificate | Unproved, Ballots]:
    ballots = ballots_of(defense, trainer or InnerProductTrainer(stack_size=4), TRAIN, test, tmp_path / "ledger", seed)
    return defense.certify(ballots), ballots


# ------------------------------------------------------------------- h sees un-noised untrusted data: schemes that look at raw pixels


@dataclass(frozen=True)
class Filter(Base):
    """Drops the images that lie farthest from the mean, by their raw pixels."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        raw = data.unsealed("filter").images
        keep = (raw - raw.mean(0)).flatten(1).norm(dim=1).argsort()[: len(raw) - 2]
        return replace(view, images=view.images[keep], labels=view.labels[keep])


@dataclass(frozen=True)
class Normalization(Base):
    """Subtracts the mean of the raw images."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        return replace(view, images=view.images - data.unsealed("normalization statistics").images.mean(0))


@dataclass(frozen=True)
class Deduplication(Base):
    """Keeps one of each set of equal raw images."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        raw = data.unsealed("deduplication").images.flatten(1).numpy()
        keep = torch.from_numpy(np.sort(np.unique(raw, axis=0, return_index=True)[1]))
        return replace(view, images=view.images[keep], labels=view.labels[keep])


@dataclass(frozen=True)
class NoiseTold(Base):
    """Puts known images under its own noise, which tells the noise, and takes that away from the untrusted ones."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        black = data.replaced(torch.arange(len(data)), torch.zeros((len(data), *data.image_shape), dtype=torch.uint8))
        noise = torch.cat([black.noised(self.sigma, key / "noise", rows).images for rows in row_blocks(len(data))])
        return replace(view, images=view.images - noise)


@dataclass(frozen=True)
class Balancing(Base):
    """Repeats bright images, by their raw content."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        rows = torch.cat([torch.arange(len(data)), data.unsealed("balancing").images.flatten(1).mean(1).argsort()[-3:]])
        return replace(view, images=view.images[rows], labels=view.labels[rows])


@dataclass(frozen=True)
class PseudoLabels(Base):
    """Labels by nearest raw class mean."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        raw = data.unsealed("pseudo-labels").images.flatten(1)
        means = torch.stack([raw[data.labels == c].mean(0) for c in range(2)])
        return replace(view, labels=torch.cdist(raw, means).argmin(1))


@dataclass(frozen=True)
class EarlyStopping(Base):
    """Chooses how much of the noised copy to train on by accuracy on the raw images."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        raw = data.unsealed("early stopping").images
        best = max((4, 8, 12), key=lambda k: int((nearest_mean(view.images[:k], view.labels[:k], raw) == data.labels).sum()))
        return replace(view, images=view.images[:best], labels=view.labels[:best])


@dataclass(frozen=True)
class SigmaByContent(Base):
    """More noise for every image if the raw images are bright."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        bright = float(data.unsealed("noise level by content").images.mean()) > 0.5
        return honest_view(replace(self, sigma=self.sigma * (2 if bright else 1)), data, key)


@dataclass(frozen=True)
class SigmaByImage(Base):
    """More noise for those images that are bright."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        weak, strong = (honest_view(replace(self, sigma=self.sigma * factor), data, key / factor) for factor in (1, 2))
        bright = data.unsealed("noise level by image").images.flatten(1).mean(1) > 0.5
        return replace(weak, images=torch.where(bright.view(-1, 1, 1, 1), strong.images, weak.images))


@dataclass(frozen=True)
class ModelSelection(Base):
    """Trains on plain or on mirrored copies, whichever does better on the raw images."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        raw = data.unsealed("model selection").images
        tried = (view.images, view.images.flip(-1))
        best = max(tried, key=lambda images: int((nearest_mean(images, view.labels, raw) == data.labels).sum()))
        return replace(view, images=best)


@dataclass(frozen=True)
class AugmentedFirst(Base):
    """Mirrors the raw images beside themselves and gives each copy noise of its own."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        mirrored = data.unsealed("augmentation before the noise").images.flip(-1)
        noise = torch.from_numpy((key / "more").numpy().standard_normal(mirrored.shape, dtype=np.float32))
        images = torch.cat([view.images, mirrored + self.sigma * noise])
        return replace(view, images=images, labels=torch.cat([view.labels, data.labels]))


@dataclass(frozen=True)
class OneDrawTwoStrengths(Base):
    """Never reads a raw pixel, and has them all: one draw z at two strengths gives x + s z and x + 2 s z."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        weak, strong = (honest_view(replace(self, sigma=self.sigma * factor), data, key) for factor in (1, 2))
        clean = 2 * weak.images - strong.images
        assert torch.allclose(clean, TRAIN.pixels(), atol=1e-5), "the attack works"
        return replace(weak, images=clean)


@dataclass(frozen=True)
class KeyedByContent(Base):
    """Noise keyed by the digest of the data, below the member's own key."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return honest_view(self, data, key / data.digest)


@dataclass(frozen=True)
class KnownImages(Base):
    """Trains on fewer images if it recognizes one by its content."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        known = data.overlap(frozenset({1, 2, 3}))
        return replace(view, images=view.images[known:], labels=view.labels[known:])


@dataclass(frozen=True)
class RawPretraining(Base):
    """Mixes weights learned from the raw images into the view: a warm start by another name."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        start = data.unsealed("pretraining").images
        return replace(view, images=torch.cat([view.images, start]), labels=torch.cat([view.labels, data.labels]))


def nearest_mean(images: Images, labels: torch.Tensor, queries: Images) -> torch.Tensor:
    means = torch.stack([images[labels == c].mean(0) for c in range(2)])
    return torch.cdist(queries.flatten(1), means.flatten(1)).argmin(1)


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (Filter, "read without noise (filter)"),
        (Normalization, "read without noise (normalization statistics)"),
        (Deduplication, "read without noise (deduplication)"),
        (NoiseTold, "read without noise (known images put in the place of its own)"),
        (Balancing, "read without noise (balancing)"),
        (PseudoLabels, "read without noise (pseudo-labels)"),
        (EarlyStopping, "read without noise (early stopping)"),
        (SigmaByContent, "read without noise (noise level by content)"),
        (SigmaByImage, "read without noise (noise level by image)"),
        (ModelSelection, "read without noise (model selection)"),
        (AugmentedFirst, "read without noise (augmentation before the noise)"),
        (RawPretraining, "read without noise (pretraining)"),
        (KeyedByContent, "read without noise (the digest of the images)"),
        (KnownImages, "read without noise (how many images are among known ones)"),
        (OneDrawTwoStrengths, "read without noise (one noise draw at two strengths"),
    ],
)
def test_un_noised_untrusted_pixels_void_it(faulty: type[Base], reason: str, tmp_path: Path) -> None:
    outcome, _ = certified(tmp_path, scheme(faulty))
    assert isinstance(outcome, Unproved)
    assert any(reason in each for each in outcome.reasons)


def test_pixels_names_and_sizes_are_not_there_to_be_read() -> None:
    data = Untrusted(TRAIN).watched(Key(0))
    for name in ("images", "pixels", "data", "path", "names", "sizes"):
        assert not hasattr(data, name)
    assert {name for name in dir(data) if not name.startswith("_")} == {
        "buckets", "class_names", "digest", "first_row", "image_shape", "labels", "labels_on", "movement", "noised", "overlap", "pictured",
        "reads", "replaced", "restricted", "trusted", "unsealed", "watched",
    }  # fmt: skip


def test_warm_start_on_the_untrusted_data_voids_it_and_on_trusted_data_is_named(tmp_path: Path) -> None:
    starts: tuple[Start, ...] = ("untrusted", "trusted")
    for start in starts:
        (tmp_path / start).mkdir()
        outcome, _ = certified(tmp_path / start, scheme(), InnerProductTrainer(stack_size=4, start=start))
        if start == "untrusted":
            assert isinstance(outcome, Unproved)
            assert "weights trained on the untrusted data" in outcome.reasons[0]
        else:
            assert isinstance(outcome, Certificate)
            assert any("start from" in item.text and item.verdict == "assumed" for item in outcome.assumptions)


def test_a_denoiser_trained_on_the_untrusted_set_voids_it_and_one_that_saw_some_of_it_does_not(tmp_path: Path) -> None:
    outcome, _ = certified(tmp_path, scheme(denoiser=LinearMMSE(TRAIN)))
    assert isinstance(outcome, Unproved)
    assert "the denoiser was trained on the untrusted images themselves" in outcome.reasons[0]
    (tmp_path / "trusted").mkdir()
    assert isinstance(certified(tmp_path / "trusted", scheme(denoiser=LinearMMSE(TRUSTED)))[0], Certificate)
    # Trained on clean originals of half of the images: a constant, so the certificate holds; the accuracy is optimistic, and it says so.
    denoiser, data = LinearMMSE(TRAIN.subset(range(6))), Untrusted(TRAIN)
    overlap = data.overlap(denoiser.card.training_images or frozenset())
    defense, trainer = scheme(denoiser=denoiser), InnerProductTrainer(stack_size=4)
    with Ledger(tmp_path / "overlap") as ledger, Pool(0) as pool:
        config = engine.configuration(defense, trainer, data, TEST, {})
        ballots = engine.run(defense, trainer, data, TEST, ledger=ledger, pool=pool, config=config, overlap=overlap)
    outcome = defense.certify(ballots)
    assert isinstance(outcome, Certificate)
    assert any("trained on 6 of the very images" in item.evidence and "optimistic" in item.evidence for item in outcome.assumptions)


# ------------------------------------------------------------------------------------------ more than one noise draw for an image


@dataclass(frozen=True)
class FreshNoisePerEpoch(Base):
    """A newly noised copy for each of three epochs."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        epochs = [honest_view(self, data, key / epoch) for epoch in range(3)]
        images, labels = (torch.cat([getattr(epoch, name) for epoch in epochs]) for name in ("images", "labels"))
        return replace(epochs[0], images=images, labels=labels)


@dataclass(frozen=True)
class Retry(Base):
    """Draws again if it does not like the first draw."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        first, second = (honest_view(self, data, key / attempt) for attempt in range(2))
        return first if first.images.std() < second.images.std() else second


@pytest.mark.parametrize(("faulty", "draws"), [(FreshNoisePerEpoch, 3), (Retry, 2)])
def test_several_draws_shrink_the_radius(faulty: type[Base], draws: int, tmp_path: Path) -> None:
    defense = scheme(faulty)
    outcome, ballots = certified(tmp_path, defense)
    assert isinstance(outcome, Certificate)
    once = defense.certify(replace(ballots, lineages=tuple(replace(each, draws=1) for each in ballots.lineages)))
    assert isinstance(once, Certificate)
    assert once.radii.max() > 0
    assert outcome.radii == pytest.approx(once.radii / np.sqrt(draws), rel=1e-12)
    assert any(f"{draws} draw(s) per image" in item.evidence for item in outcome.assumptions)


# ---------------------------------------------------------------------------------------------------------------- votes not i.i.d.


@dataclass(frozen=True)
class SharedNoise(Base):
    """All members see one draw."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return honest_view(self, data, Key(0) / "shared")


@dataclass(frozen=True)
class SharedSecondDraw(Base):
    """A first draw of its own, thrown away, and the draw of all members: what is trained on is shared."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        honest_view(self, data, key)
        return honest_view(self, data, Key(0) / "shared")


@dataclass(frozen=True)
class NeighborsNoise(Base):
    """Members 2 k and 2 k + 1 see one draw, that of the former."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return honest_view(self, data, Key(key.root, (*key.path[:-1], member - member % 2)))


@dataclass(frozen=True)
class HalvedNoise(Base):
    def view(self, data: Untrusted, member: int, key: Key) -> View:
        return honest_view(replace(self, sigma=self.sigma / 2), data, key)


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        (SharedNoise, "two counted members share one noise draw"),
        (SharedNoise, "a stream that is not the member's own"),
        (SharedSecondDraw, "a stream that is not the member's own"),
        (NeighborsNoise, "two counted members share one noise draw"),
        (HalvedNoise, "members saw noise of std 0.25, but the claim is about sigma=0.5"),
    ],
)
def test_shared_or_wrong_noise_voids_it(faulty: type[Base], reason: str, tmp_path: Path) -> None:
    # Stacks of one: in a stack of four, only every second neighbor would have a lineage of its own.
    outcome, _ = certified(tmp_path, scheme(faulty), InnerProductTrainer(stack_size=1))
    assert isinstance(outcome, Unproved)
    assert any(reason in each for each in outcome.reasons)


def test_images_never_share_noise_whatever_a_scheme_asks_for() -> None:
    black = replace_images(tiny(1_100, 2, (1, 8, 8), Key(4)), 0)
    data, key = Untrusted(black), Key(5)
    noise = torch.cat([data.noised(1.0, key, rows).images for rows in row_blocks(len(black))]).flatten(1)
    assert len(torch.unique(noise, dim=0)) == len(black) == 2_200
    with pytest.raises(ValueError, match="not one aligned block"):
        data.noised(1.0, key, range(1, 5))


def replace_images(data, level: int):  # type: ignore[no-untyped-def]
    return replace(data, images=torch.full_like(data.images, level))


class ClippedTogether(InnerProductTrainer):
    """Softmax regression from random weights, its gradient clipped by the norm over the whole stack."""

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> InnerProductStack:
        inputs = torch.stack([view.images.flatten(1) for view in views])
        wanted = torch.nn.functional.one_hot(views[0].labels, 2).float()
        weights = torch.stack([torch.from_numpy((key / "init").numpy().standard_normal((2, 64), np.float32)) for key in keys])
        for _ in range(5):
            error = (inputs @ weights.transpose(1, 2)).softmax(2) - wanted
            gradient = error.transpose(1, 2) @ inputs
            weights -= gradient / gradient.norm()
        return InnerProductStack(weights)


class StackStatistics(StackedTrainer):
    """Normalizes by statistics of everything in the stack."""

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> ModelStack:
        mean = torch.stack([view.images for view in views]).mean((0, 1))
        return super().fit([replace(view, images=20 * (view.images - mean)) for view in views], keys, common)


class AbortTogether(StackedTrainer):
    """Counts all members as failed where one of them looks bad."""

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> ModelStack:
        stack = super().fit(views, keys, common)
        stack.failed = torch.full_like(stack.failed, len(views) > 1)
        return stack


class CoinsFromNowhere(StackedTrainer):
    """Initial weights from a generator that no key seeds."""

    generator = torch.Generator().manual_seed(0)

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> ModelStack:
        noise = [torch.randn(view.images.shape, generator=self.generator) for view in views]
        return super().fit([replace(v, images=v.images + 3 * z) for v, z in zip(views, noise, strict=True)], keys, common)


@pytest.mark.parametrize(
    "faulty",
    [
        lambda: ClippedTogether(stack_size=7),
        lambda: StackStatistics(MLP, stack_size=7),
        lambda: AbortTogether(MLP, stack_size=7),
        lambda: CoinsFromNowhere(MLP, stack_size=7),
    ],
    ids=["gradient clipping", "batch statistics", "early abort", "coins from no key"],
)
def test_anything_across_a_stack_is_found_by_training_one_member_alone(
    faulty: Callable[[], Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which member is picked decides whether a fault that touches few votes shows; here it is the one that shows it best.
    honest = engine.retrain

    def telling(pool: Pool, payload: Payload, ballots: Ballots, members: Sequence[int], exact: bool) -> list[Retrained]:
        return [max(honest(pool, payload, ballots, range(len(ballots)), exact), key=lambda each: each.differing)]

    monkeypatch.setattr(engine, "retrain", telling)
    outcome, ballots = certified(tmp_path, scheme(sigma=1.0), faulty(), test=RANDOM)
    retrained = ballots.provenance.retrained
    assert retrained is not None
    assert retrained.differing > 0
    assert isinstance(outcome, Unproved)
    assert (
        f"member {retrained.member}, trained again alone, cast {retrained.differing} of 300 votes otherwise" in outcome.reasons[0]
    )


def test_members_that_keep_to_themselves_pass_the_same_check(tmp_path: Path) -> None:
    outcome, ballots = certified(tmp_path, scheme(sigma=1.0), StackedTrainer(MLP, stack_size=7), test=RANDOM)
    assert len(np.unique(ballots.votes, axis=0)) == N0 + N, "members disagree, or equal votes show nothing"
    assert isinstance(outcome, Certificate)
    assert any("trained again alone, cast 300 of 300 votes again" in item.evidence for item in outcome.assumptions)


class Diverging(InnerProductTrainer):
    """Every fourth member diverges."""

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> InnerProductStack:
        stack = super().fit(views, keys, common)
        stack.failed = torch.tensor([key.path[-1] % 4 == 3 for key in keys])  # type: ignore[operator]
        return stack


class Dropping(Diverging):
    """Hands back only the members that did not diverge."""

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> InnerProductStack:
        failed = super().fit(views, keys, common).failed
        return super().fit([view for view, bad in zip(views, failed, strict=True) if not bad], keys[: int((~failed).sum())], common)


def test_failed_members_count_vote_for_nobody_and_cannot_be_dropped_or_trained_anew(tmp_path: Path) -> None:
    outcome, ballots = certified(tmp_path, scheme(n=40), Diverging(stack_size=4))
    assert isinstance(outcome, Certificate)
    assert outcome.failed == 10
    assert outcome.top_counts.max() <= 30
    (tmp_path / "dropped").mkdir()
    with pytest.raises(RuntimeError, match="4 members were to be trained, 3 came back; a failed member is marked and counted"):
        certified(tmp_path / "dropped", scheme(), Dropping(stack_size=4))
    with (
        Ledger(tmp_path / "ledger") as ledger,
        pytest.raises(RuntimeError, match="have voted already; the first committed votes stand"),
    ):
        block = slice(0, 4)
        again = BlockRecord(
            Job(0, 4),
            1 - ballots.votes[block].astype(np.int64),
            ballots.failed[block] & False,
            ballots.noise_ids[block],
            ballots.lineages[0],
            0.0,
            0.0,
        )
        ledger.commit(again, 2)


class LastFirst(Pool):
    """Finishes jobs in reverse order, and stops after some."""

    def __init__(self, stop_after: int) -> None:
        super().__init__(0)
        self.stop_after = stop_after

    def map(self, payload: Payload, jobs: Iterator[Job]) -> Iterator[BlockRecord]:  # type: ignore[override]
        for job in list(jobs)[::-1][: self.stop_after]:
            yield from super().map(payload, [job])


def test_members_count_by_number_and_not_in_order_of_completion(tmp_path: Path) -> None:
    defense, trainer, data = scheme(), InnerProductTrainer(stack_size=2), Untrusted(TRAIN)
    config = engine.configuration(defense, trainer, data, TEST, {})
    with Ledger(tmp_path / "reversed") as ledger, pytest.raises(ValueError, match="holds no votes yet"):
        engine.run(defense, trainer, data, TEST, ledger=ledger, pool=LastFirst(3), config=config, seed=1)
    with Ledger(tmp_path / "reversed") as ledger:
        assert len(ledger.jobs()) == 3
        finished = engine.run(defense, trainer, data, TEST, ledger=ledger, pool=LastFirst(99), config=config, seed=1)
    in_order = ballots_of(defense, trainer, TRAIN, TEST, tmp_path / "in order", seed=1)
    assert np.array_equal(finished.votes, in_order.votes)
    some = Ballots(in_order.votes[:9], in_order.failed[:9], 2, in_order.lineages, in_order.noise_ids[:9], in_order.provenance)
    outcome = defense.certify(some)
    assert isinstance(outcome, Unproved)
    assert "9 members have voted, but 14 were fixed beforehand" in outcome.reasons[0]


def test_ledgers_with_overlapping_seeds_cannot_be_pooled(tmp_path: Path) -> None:
    first, second = (ballots_of(scheme(), InnerProductTrainer(), TRAIN, TEST, tmp_path / name, seed=7) for name in "ab")
    pooled = replace(
        first,
        votes=np.concatenate([first.votes, second.votes]),
        failed=np.concatenate([first.failed, second.failed]),
        noise_ids=np.concatenate([first.noise_ids, second.noise_ids]),
        provenance=replace(first.provenance, scheme=scheme(n=2 * N + N0).describe()),
    )
    outcome = scheme(n=2 * N + N0).certify(pooled)
    assert isinstance(outcome, Unproved)
    assert any("two counted members share one noise draw" in reason for reason in outcome.reasons)


# --------------------------------------------------------------------------------------------------------- choices made after looking


def go_on(path: Path, defense: Base, trainer: Trainer | None = None, train=TRAIN, test=TEST) -> Ballots:  # type: ignore[no-untyped-def]
    return ballots_of(defense, trainer or InnerProductTrainer(stack_size=4), train, test, path, seed=None)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "alpha": (lambda path: go_on(path, scheme(alpha=0.01)), "scheme.alpha=0.001, but this command asks for scheme.alpha=0.01"),
    "n": (lambda path: go_on(path, scheme(n=N + 1)), "scheme.n=12, but this command asks for scheme.n=13"),
    "split": (lambda path: go_on(path, scheme(n0=N0 + 2, n=N - 2)), "scheme.n=12, but this command asks for scheme.n=10"),
    "statement": (lambda path: go_on(path, scheme(simultaneous=True)), "scheme.simultaneous=False"),
    "sigma": (lambda path: go_on(path, scheme(sigma=0.25)), "scheme.sigma=0.5, but this command asks for scheme.sigma=0.25"),
    "denoiser": (lambda path: go_on(path, scheme(denoiser=LinearMMSE(TRUSTED))), "scheme.conditioning=none"),
    "test points": (lambda path: go_on(path, scheme(), test=TEST.subset(range(5))), "test="),
    "data": (lambda path: go_on(path, scheme(), train=OTHER), "data="),
    "trainer": (lambda path: go_on(path, scheme(), Diverging(stack_size=4)), "code.oracles.InnerProductTrainer="),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_changes_once_votes_were_cast(change: str, tmp_path: Path) -> None:
    go_on(tmp_path / "ledger", scheme())
    asked, text = CHANGES[change]
    with pytest.raises(ValueError, match="is fixed before its first model trains") as refusal:
        asked(tmp_path / "ledger")
    assert text in str(refusal.value)


def test_another_recipe_is_another_configuration(tmp_path: Path) -> None:
    go_on(tmp_path / "ledger", scheme(), StackedTrainer(MLP, stack_size=4))
    with pytest.raises(ValueError, match=r"trainer\.recipe\.epochs=2, but this command asks for trainer\.recipe\.epochs=3"):
        go_on(tmp_path / "ledger", scheme(), StackedTrainer(MLP.model_copy(update={"epochs": 3}), stack_size=4))


def test_other_code_is_another_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on(tmp_path / "ledger", scheme())
    go_on(tmp_path / "ledger", scheme())
    monkeypatch.setattr(code, "package_digest", lambda: "another")
    with pytest.raises(ValueError, match=r"code\.certidote=\w{64}, but this command asks for code\.certidote=another"):
        go_on(tmp_path / "ledger", scheme())


@pytest.mark.parametrize(
    ("change", "text"), [({"alpha": 0.01}, "alpha"), ({"n0": 4, "n": 10}, "n"), ({"simultaneous": True}, "simultaneous")]
)
def test_votes_cannot_be_certified_for_another_claim(change: dict[str, object], text: str, tmp_path: Path) -> None:
    _, ballots = certified(tmp_path, scheme())
    outcome = scheme(**change).certify(ballots)
    assert isinstance(outcome, Unproved)
    assert f"the members were trained for {text}=" in outcome.reasons[0]


def test_members_chosen_by_their_accuracy_are_too_few(tmp_path: Path) -> None:
    defense = scheme()
    _, ballots = certified(tmp_path, defense)
    best = np.sort((ballots.votes == TEST.labels.numpy()).mean(axis=1).argsort()[4:])
    chosen = replace(ballots, votes=ballots.votes[best], failed=ballots.failed[best], noise_ids=ballots.noise_ids[best])
    outcome = defense.certify(chosen)
    assert isinstance(outcome, Unproved)
    assert "10 members have voted, but 14 were fixed beforehand" in outcome.reasons[0]


def test_a_seed_known_beforehand_is_an_assumption_and_one_from_the_system_is_not(tmp_path: Path) -> None:
    for seed, verdict, words in (
        (5, "assumed", "must have been unknown"),
        (None, "enforced", "after the data digest was recorded"),
    ):
        (tmp_path / verdict).mkdir()
        outcome, _ = certified(tmp_path / verdict, scheme(), seed=seed)
        assert isinstance(outcome, Certificate)
        root = next(item for item in outcome.assumptions if "could not know the noise" in item.text)
        assert root.verdict == verdict
        assert words in root.evidence


# ----------------------------------------------------------------------------------------------------------------------- harmless


@dataclass(frozen=True)
class OwnStatistics(Base):
    """Normalizes by statistics of the member's own noised copy."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        return replace(view, images=(view.images - view.images.mean(0)) / view.images.std())


@dataclass(frozen=True)
class OwnEarlyStopping(Base):
    """Chooses how much to train on by the member's own noised copy, with coins of its own, and augments what it has."""

    def view(self, data: Untrusted, member: int, key: Key) -> View:
        view = honest_view(self, data, key)
        best = max(
            (4, 8, 12), key=lambda k: int((nearest_mean(view.images[:k], view.labels[:k], view.images) == view.labels).sum())
        )
        order = torch.from_numpy((key / "own coins").numpy().permutation(best))
        return replace(view, images=0.9 * view.images[order].clamp(0, 1), labels=view.labels[order])


class RetrainsOnceMore(InnerProductTrainer):
    """Trains twice with other coins on the same noised copy and keeps the second."""

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> InnerProductStack:
        super().fit(views, keys, common)
        jitter = [
            torch.from_numpy((key / "again").numpy().normal(0, 0.01, view.images.shape))
            for key, view in zip(keys, views, strict=True)
        ]
        return super().fit([replace(v, images=v.images + z.float()) for v, z in zip(views, jitter, strict=True)], keys, common)


@pytest.mark.parametrize(
    ("kind", "trainer"),
    [
        (OwnStatistics, InnerProductTrainer(stack_size=4)),
        (OwnEarlyStopping, InnerProductTrainer(stack_size=4)),
        (Base, RetrainsOnceMore(stack_size=4)),
        (Base, StackedTrainer(MLP.model_copy(update={"epochs": 9}), stack_size=4)),
    ],
    ids=["own statistics", "own early stopping and augmentation", "retraining with new coins", "many epochs on one draw"],
)
def test_what_a_member_does_with_its_own_noised_copy_is_harmless(kind: type[Base], trainer: Trainer, tmp_path: Path) -> None:
    outcome, _ = certified(tmp_path, scheme(kind), trainer, seed=1)  # with twelve votes, not every root certifies something
    assert isinstance(outcome, Certificate)
    assert (outcome.radii > 0).any()


def test_the_same_draws_for_two_noise_levels_are_harmless_while_not_pooled(tmp_path: Path) -> None:
    outcomes, ids = [], []
    for sigma in (0.25, 0.5):
        (tmp_path / f"{sigma}").mkdir()
        outcome, ballots = certified(tmp_path / f"{sigma}", scheme(sigma=sigma), seed=3)
        outcomes.append(outcome)
        ids.append(ballots.noise_ids)
    assert all(isinstance(outcome, Certificate) for outcome in outcomes)
    assert np.array_equal(*ids)


def test_every_certificate_says_what_it_does_not_cover(tmp_path: Path) -> None:
    outcome, _ = certified(tmp_path, scheme(denoiser=LinearMMSE(TRUSTED)))
    assert isinstance(outcome, Certificate)
    texts = [item.text for item in outcome.assumptions]
    for words in ("Labels, number and order", "pseudo-random and added in floating point", "The denoiser is a constant"):
        assert sum(words in text for text in texts) == 1


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Retrained(5, 300, 15, exact=False), ""),
        (Retrained(5, 300, 16, exact=False), "member 5, trained again alone, cast 16 of 300 votes otherwise"),
        (Retrained(5, 300, 1, exact=True), "member 5, trained again alone, cast 1 of 300 votes otherwise"),
        (Retrained(5, 300, 300, exact=False, same_noise=False), "member 5, trained again, drew other noise than is on record"),
    ],
    ids=["a GPU rounds otherwise", "too much for rounding", "a CPU does not", "other noise"],
)
def test_what_training_again_may_change(found: Retrained, reason: str, tmp_path: Path) -> None:
    defense = scheme(sigma=1.0)
    _, ballots = certified(tmp_path, defense, InnerProductTrainer(stack_size=4), test=RANDOM)
    again = replace(ballots, provenance=replace(ballots.provenance, retrained=found))
    outcome = defense.certify(again)
    assert isinstance(outcome, Unproved) == bool(reason)
    assert not reason or reason in outcome.reasons[0]


def test_a_certificate_says_what_drew_its_noise(tmp_path: Path) -> None:
    defense = scheme(sigma=1.0)
    _, ballots = certified(tmp_path, defense, InnerProductTrainer(stack_size=4), test=RANDOM)
    for noise in ("SFC64", "Philox", "SFC64 and Philox"):
        outcome = defense.certify(replace(ballots, provenance=replace(ballots.provenance, noise=noise)))
        assert f"{noise} streams keyed by run, member and block of rows; float32" in [each.evidence for each in outcome.assumptions]
