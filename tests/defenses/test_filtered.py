"""Training on what a filter keeps: whose features, which rows, which coins; and what is refused."""

import pytest
import torch
from torch import nn

from certidote.data.tiny import tiny
from certidote.defenses.deep_knn import DeepKnn
from certidote.defenses.filtered import FilteredTrainer, check_classes_left, in_blocks
from certidote.defenses.plain import PlainTraining
from certidote.streams import ROW_BLOCK, Key
from certidote.training.extractor import ConvExtractor
from certidote.training.head import HeadTrainer
from certidote.training.pooled import PooledTrainer, trainer_for
from certidote.training.recipe import Recipe
from certidote.types import Filter, Lineage, Trainer, Untrusted, View
from fixtures_filters import KeepAllBut
from fixtures_training import COMMON, digit_views, keys, same

MLP = Recipe(architecture="mlp-128", epochs=2, learning_rate=0.1, batch_size=50)
CNN = MLP.model_copy(update={"architecture": "cnn-32-64", "crop": 1, "epochs": 1})


class Remembers(KeepAllBut):
    """Keeps what it was given to judge."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(rows)
        self.seen: list[tuple[torch.Tensor, torch.Tensor, Key]] = []

    def __call__(self, features: torch.Tensor, labels: torch.Tensor, key: Key) -> torch.Tensor:
        self.seen.append((features, labels, key))
        return super().__call__(features, labels, key)


def part(view: View, without: list[int]) -> View:
    rows = [row for row in range(len(view.labels)) if row not in without]
    return View(view.images[rows], view.labels[rows], view.num_classes, view.lineage)


@pytest.mark.parametrize("recipe", [MLP, CNN])
def test_members_learn_from_what_is_kept_with_the_coins_they_had(recipe: Recipe) -> None:
    views, names, trainer, gone = digit_views(2, rows=120), keys(2), trainer_for(recipe), [3, 50, 119]
    filtered = FilteredTrainer(trainer, KeepAllBut(gone)).fit(views, names, COMMON)
    expected = trainer.fit([part(view, gone) for view in views], names, COMMON)
    whole = trainer.fit(views, names, COMMON)
    for place in range(2):
        assert same(filtered.member(place), expected.member(place))
        assert not same(filtered.member(place), whole.member(place))


def test_features_are_those_of_a_model_trained_on_everything_as_it_is() -> None:
    """In eval mode, of images that are not augmented, and of another model than the one that learns from what is kept."""
    views, names, keep = digit_views(2, rows=90), keys(2), Remembers([])
    trainer = PooledTrainer(CNN)
    before = [view.images.clone() for view in views]
    FilteredTrainer(trainer, keep).fit(views, names, COMMON)
    first = trainer.fit(views, [key / "for the filter" for key in names], COMMON / "for the filter")
    for place, (features, labels, key) in enumerate(keep.seen):
        assert torch.equal(features, first.member(place).penultimate(views[place].images))
        assert torch.equal(labels, views[place].labels)
        assert key.under(names[place])
        assert torch.equal(views[place].images, before[place])
    assert not torch.equal(keep.seen[0][0], keep.seen[1][0])


def test_features_of_any_layer_by_name_or_of_a_function() -> None:
    views, names, keep = digit_views(1, rows=60), keys(1), Remembers([])
    FilteredTrainer(PooledTrainer(CNN), keep, "first").fit(views, names, COMMON)
    assert keep.seen[0][0].shape == (60, 32 * 8 * 8)
    FilteredTrainer(PooledTrainer(CNN), keep, lambda images: images[:, :, :2]).fit(views, names, COMMON)
    assert torch.equal(keep.seen[1][0], views[0].images[:, :, :2].flatten(1))
    with pytest.raises(ValueError, match=r"^no layer 'frist' in a Cnn; did you mean 'first'\?"):
        FilteredTrainer(PooledTrainer(CNN), keep, "frist").fit(views, names, COMMON)


def test_heads_are_filtered_by_the_features_they_stand_on() -> None:
    data, keep = tiny(10, 3, (1, 8, 8), Key(0)), Remembers([0, 7])
    extractor = ConvExtractor((1, 8, 8), 3, 0.5, 0.3).eval().requires_grad_(False)
    view, trainer = View(data.pixels(), data.labels, 3, Lineage(start="trusted")), HeadTrainer(extractor, epochs=2)
    filtered = FilteredTrainer(trainer, keep)
    heads = filtered.fit([view], [Key(1)], COMMON)
    assert torch.equal(keep.seen[0][0], extractor.penultimate(view.images))
    assert torch.equal(heads.member(0)(view.images), trainer.fit([part(view, [0, 7])], [Key(1)], COMMON).member(0)(view.images))
    FilteredTrainer(trainer, keep, "body.0").fit([view], [Key(1)], COMMON)
    assert keep.seen[1][0].shape == (30, 16 * 8 * 8)
    assert filtered.start == "trusted"
    assert isinstance(filtered, Trainer)


def test_members_do_not_depend_on_one_another() -> None:
    views, names = digit_views(3, rows=200, sigma=0.2), keys(3)
    trainer = FilteredTrainer(trainer_for(MLP), DeepKnn(5))
    together, alone = trainer.fit(views, names, COMMON), trainer.fit(views[2:], names[2:], COMMON)
    assert same(together.member(2), alone.member(0))
    first, second = (trainer.kept(views, names, COMMON) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None)
    assert 0 < len(first[0] if first[0] is not None else ()) < 200


def test_a_member_whose_first_model_diverged_counts_as_diverged() -> None:
    wild = Recipe(architecture="mlp-128", epochs=4, learning_rate=1e30)
    views, names, keep = digit_views(2, rows=60), keys(2), Remembers([])
    trainer = FilteredTrainer(trainer_for(wild), keep)
    stack = trainer.fit(views, names, COMMON)
    assert stack.failed.tolist() == [True, True]
    assert not keep.seen
    assert trainer.kept(views, names, COMMON) == [None, None]


def test_a_failed_filter_is_seen_in_the_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second fit of this trainer is sane; only the first, for the filter, diverges."""
    views, names, trainer = digit_views(2, rows=60), keys(2), trainer_for(MLP)
    real = type(trainer).fit

    def diverging(self: Trainer, given: list[View], some: list[Key], common: Key) -> object:
        stack = real(self, given, some, common)  # type: ignore[arg-type]
        if "for the filter" in some[0].path:
            next(iter(stack.member(1).parameters())).fill_(torch.nan)
        return stack

    monkeypatch.setattr(type(trainer), "fit", diverging)
    stack = FilteredTrainer(trainer, KeepAllBut([])).fit(views, names, COMMON)
    assert stack.failed.tolist() == [False, True]
    member = stack.member(1)
    assert isinstance(member, nn.Module)
    assert all(bool(weight.isnan().all()) for weight in member.parameters())


def test_features_of_a_given_function_must_be_finite() -> None:
    trainer = FilteredTrainer(trainer_for(MLP), KeepAllBut([]), lambda images: images.flatten(1) / 0)
    with pytest.raises(ValueError, match=r"^features of some images are not finite; give the filter another layer"):
        trainer.fit(digit_views(1, rows=60), keys(1), COMMON)


def test_filters_that_delete_a_class_are_refused_with_the_count() -> None:
    labels = torch.tensor([0, 0, 2, 2, 2, 5])
    check_classes_left(labels, torch.tensor([0, 3, 5]), "f")
    with pytest.raises(
        ValueError,
        match=r"^the filter 'f' would remove all 3 images of class number 2 \(4 of 6 images in all\), and nothing could be learned",
    ):
        check_classes_left(labels, torch.tensor([1, 5]), "f")
    with pytest.raises(ValueError, match=r"all 2 images of class number 0 and all of 2 other classes \(6 of 6 images in all\)"):
        check_classes_left(labels, torch.tensor([], dtype=torch.int64), "f")
    view = digit_views(1, rows=60)[0]
    threes = (view.labels == 3).nonzero().flatten().tolist()
    with pytest.raises(
        ValueError, match=rf"^the filter 'all but' would remove all {len(threes)} images of class number 3 \({len(threes)} of 60"
    ):
        FilteredTrainer(trainer_for(MLP), KeepAllBut(threes)).fit([view], keys(1), COMMON)


def test_features_are_made_a_block_at_a_time() -> None:
    sizes = []

    def features(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images.mean(2)

    found = in_blocks(features, torch.rand(ROW_BLOCK + 7, 2, 3, 3))
    assert sizes == [ROW_BLOCK, 7]
    assert found.shape == (ROW_BLOCK + 7, 6)


def test_what_decides_the_rows_is_described() -> None:
    extractor = ConvExtractor((1, 8, 8), 3, 0.5, 0.3).eval()
    plain = FilteredTrainer(trainer_for(MLP), DeepKnn(5)).describe()
    others = [
        FilteredTrainer(trainer_for(MLP), DeepKnn(6)).describe(),
        FilteredTrainer(trainer_for(CNN), DeepKnn(5)).describe(),
        FilteredTrainer(trainer_for(MLP), DeepKnn(5), "hidden").describe(),
        FilteredTrainer(trainer_for(MLP), DeepKnn(5), extractor.penultimate).describe(),
    ]
    assert plain not in others
    assert others[3]["features"]["digest"] == extractor.digest()
    assert isinstance(DeepKnn(5), Filter)


def test_nothing_is_proved_about_filtered_pixels_as_they_are() -> None:
    """The view of the scheme is what it was without a filter, with the mark that no certificate survives."""
    data = tiny(10, 3, (1, 8, 8), Key(0))
    view = PlainTraining().view(Untrusted(data), 0, Key(1))
    keep = FilteredTrainer(trainer_for(MLP), KeepAllBut([0]))
    assert view.lineage.unsealed
    keep.fit([view], [Key(1)], COMMON)
    assert len(view.images) == 30
