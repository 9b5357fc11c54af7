"""EPIC: which images are dropped and when, in both trainers that have the hook; and what dropping leaves alone."""

from typing import Any

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.defenses.epic import Epic, epic_trainer
from certidote.defenses.filtered import FilteredTrainer
from certidote.streams import Key, torch_seeded
from certidote.training.dropping import Dropping, output_errors, regrouped
from certidote.training.extractor import ConvExtractor
from certidote.training.head import HeadTrainer
from certidote.training.models import build
from certidote.training.pooled import PooledTrainer, trainer_for
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import Json, Lineage, View
from fixtures_filters import KeepAllBut
from fixtures_training import COMMON, digit_views, keys, same

MLP = Recipe(architecture="mlp-128", epochs=4, learning_rate=0.1, batch_size=50)
CNN = MLP.model_copy(update={"architecture": "cnn-32-64", "crop": 1, "epochs": 2})


class Drops:
    """Drops these rows before this epoch, and remembers what it was shown."""

    def __init__(self, epoch: int, rows: list[int]) -> None:
        self.epoch, self.rows = epoch, rows
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def due(self, epoch: int, epochs: int) -> bool:
        return epoch >= self.epoch

    def kept(self, errors: torch.Tensor, labels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        self.seen.append((errors, kept))
        left = kept.clone()
        left[self.rows] = False
        return left

    def describe(self) -> Json:
        return {"drops": [self.epoch, self.rows]}


def slow_kept(errors: torch.Tensor, labels: torch.Tensor, kept: torch.Tensor, subset: float) -> list[int]:
    """By loops over all candidates."""
    left = []
    for label in sorted(set(labels[kept].tolist())):
        rows = [row for row in range(len(labels)) if kept[row] and labels[row] == label]
        apart = torch.cdist(errors[rows].double(), errors[rows].double())
        chosen: list[int] = []
        for _ in range(max(1, round(subset * len(rows)))):
            totals = [float(apart[:, [*chosen, j]].amin(1).sum()) for j in range(len(rows))]
            chosen.append(min((j for j in range(len(rows)) if j not in chosen), key=lambda j: totals[j]))
        owner = [min(chosen, key=lambda j: float(apart[row, j])) for row in range(len(rows))]
        left += [rows[row] for row in range(len(rows)) if owner.count(owner[row]) > 1]
    return sorted(left)


def head_trainer(**options: Any) -> HeadTrainer:
    with torch_seeded(Key(0) / "extractor"):
        extractor = ConvExtractor((1, 8, 8), 10, 0.5, 0.3).eval().requires_grad_(False)
    return HeadTrainer(extractor, epochs=3, batch_size=20, **options)


@pytest.mark.parametrize("subset", [0.1, 0.45, 0.6])
def test_images_alone_with_themselves_are_dropped(subset: float) -> None:
    generator = Key(0).numpy()
    logits, labels = torch.from_numpy(generator.normal(size=(60, 3)) * 2), torch.from_numpy(generator.integers(0, 3, 60))
    errors, kept = output_errors(logits.float(), labels), torch.from_numpy(generator.random(60) < 0.8)
    left = Epic(subset).kept(errors, labels, kept)
    assert left.nonzero().flatten().tolist() == slow_kept(errors, labels, kept, subset)
    assert not (left & ~kept).any()
    assert int(left.sum()) < int(kept.sum()) or subset == 0.1


def test_planted_loners_go_and_crowds_stay() -> None:
    """Poisons far from everybody in gradient space are dropped; as many that lie together are not."""
    generator = Key(1).numpy()
    errors = torch.from_numpy(generator.normal(size=(100, 4)).astype("float32") * 0.01)
    labels, everything = torch.zeros(100, dtype=torch.int64), torch.ones(100, dtype=torch.bool)
    alone = errors.clone()
    alone[:4] += torch.eye(4)
    left = Epic(0.1).kept(alone, labels, everything)
    assert not left[:4].any()
    assert int(left.sum()) > 85
    together = errors.clone()
    together[:4, 0] += 1.0
    assert Epic(0.1).kept(together, labels, everything)[:4].all()


def test_errors_are_gradients_by_the_logits() -> None:
    generator = Key(0).numpy()
    logits = torch.from_numpy(generator.normal(size=(7, 4))).requires_grad_()
    labels = torch.from_numpy(generator.integers(0, 4, 7))
    (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"), [logits])
    torch.testing.assert_close(output_errors(logits.detach(), labels), expected)


def test_the_schedule_is_the_original_one_scaled() -> None:
    assert [epoch for epoch in range(40) if Epic().due(epoch, 40)] == list(range(10, 35, 2))
    assert [epoch for epoch in range(8) if Epic().due(epoch, 8)] == [2, 3, 4, 5, 6]
    assert [epoch for epoch in range(10) if Epic(start=1, every=4, stop=9).due(epoch, 10)] == [1, 5]


def test_batches_are_made_of_what_is_left() -> None:
    steps, kept = torch.arange(12).flip(0).view(3, 4), torch.ones(12, dtype=torch.bool)
    assert torch.equal(torch.stack(regrouped(steps, kept)), steps)
    kept[[11, 9, 3, 0]] = False
    assert [rows.tolist() for rows in regrouped(steps, kept)] == [[10, 8, 7, 6], [5, 4, 2, 1]]
    kept[10] = False
    assert [rows.tolist() for rows in regrouped(steps, kept)] == [[8, 7, 6], [5, 4, 2]]
    assert regrouped(steps, torch.zeros(12, dtype=torch.bool)) == []


@pytest.mark.parametrize("recipe", [MLP, CNN])
def test_dropping_nothing_is_plain_training(recipe: Recipe) -> None:
    views, names = digit_views(2, rows=120), keys(2)
    plain = PooledTrainer(recipe).fit(views, names, COMMON)
    watched = PooledTrainer(recipe, dropping=Drops(0, [])).fit(views, names, COMMON)
    assert all(same(plain.member(i), watched.member(i)) for i in range(2))
    heads = [head_trainer(dropping=dropping).fit(views, names, COMMON) for dropping in (None, Drops(0, []))]
    assert torch.equal(heads[0].weights, heads[1].weights)


def test_dropped_images_do_not_matter_any_more() -> None:
    """From the first epoch on nothing depends on their pixels; before a later one, it does."""
    views, names, rows = digit_views(1, rows=120), keys(1), [0, 5, 119]
    changed = views[0].images.clone()
    changed[rows] = 1 - changed[rows]
    others = [View(changed, views[0].labels, 10, Lineage())]
    for epoch, equal in ((0, True), (1, False)):
        drops = Drops(epoch, rows)
        pooled = [PooledTrainer(MLP, dropping=drops).fit(some, names, COMMON).member(0) for some in (views, others)]
        assert same(*pooled) == equal
        heads = [head_trainer(dropping=drops).fit(some, names, COMMON).weights for some in (views, others)]
        assert torch.equal(*heads) == equal
        assert [int(kept.sum()) for _, kept in drops.seen[:2]] == [120, 117]


def test_models_are_judged_in_eval_mode_on_images_as_they_are() -> None:
    """Before the first epoch, that is the freshly built model; and batch statistics do not follow the judging."""
    recipe = Recipe(architecture="mobilenet-v2", epochs=1, learning_rate=0.1, batch_size=20, crop=1)
    view, key, drops = digit_views(1, rows=40)[0], keys(1)[0], Drops(0, [])
    watched = PooledTrainer(recipe, dropping=drops).fit([view], [key], COMMON).member(0)
    plain = PooledTrainer(recipe).fit([view], [key], COMMON).member(0)
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), watched.buffers(), strict=True))
    fresh = build("mobilenet-v2", (1, 8, 8), 10, key).eval()
    with torch.no_grad():
        expected = output_errors(fresh(view.images), view.labels)
    torch.testing.assert_close(drops.seen[0][0], expected)


def test_heads_in_a_stack_drop_their_own_images() -> None:
    views, names = digit_views(3, rows=120), keys(3)
    trainer = head_trainer(dropping=Epic(0.3, start=1, every=1, stop=3))
    together, alone = trainer.fit(views, names, COMMON), trainer.fit(views[1:2], names[1:2], COMMON)
    torch.testing.assert_close(together.weights[1], alone.weights[0])
    assert not torch.equal(together.weights, head_trainer().fit(views, names, COMMON).weights)


def test_any_trainer_with_the_hook_becomes_one_that_drops() -> None:
    views, names, epic = digit_views(1, rows=120), keys(1), Epic(0.3, start=1, every=1, stop=4)
    for trainer in (trainer_for(MLP), PooledTrainer(MLP), head_trainer()):
        before = trainer.describe()
        dropping = epic_trainer(trainer, epic)
        assert dropping.describe()["epic"] == {"subset": 0.3, "start": 1, "every": 1, "stop": 4}
        assert trainer.describe() == before
        images = views[0].images.clone()
        first, second = (dropping.fit(views, names, COMMON)(images) for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(first, trainer.fit(views, names, COMMON)(images))
        assert torch.equal(views[0].images, images)
    assert isinstance(trainer_for(MLP), StackedTrainer)
    assert isinstance(epic, Dropping)
    with pytest.raises(TypeError, match=r"^a FilteredTrainer has no place for the defense 'epic'; use a PooledTrainer$"):
        epic_trainer(FilteredTrainer(trainer_for(MLP), KeepAllBut([])), epic)


def test_a_class_that_would_be_gone_is_refused() -> None:
    """Its only image is alone with itself whatever the subset."""
    data = tiny(10, 3, (1, 8, 8), Key(0)).subset([0, 1, 3, 4, 6, 7, 2])  # of class 2 one image
    view = View(data.pixels(), data.labels, 3, Lineage())
    trainer = PooledTrainer(MLP, dropping=Epic(0.2, start=1, every=1))
    with pytest.raises(
        ValueError, match=r"^the filter 'EPIC' would remove all 1 images of class number 2 \(1 of 7 images in all\)"
    ):
        trainer.fit([view], keys(1), COMMON)


def test_trainings_that_diverge_end_as_diverged() -> None:
    wild = Recipe(architecture="mlp-128", epochs=4, learning_rate=1e30)
    stack = PooledTrainer(wild, dropping=Epic(start=1, every=1)).fit(digit_views(1, rows=60), keys(1), COMMON)
    assert stack.failed.tolist() == [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": 0.0}, r"^subset=0; give a share of each class, above 0 and below 1$"),
        ({"subset": 1.0}, r"^subset=1; give"),
        ({"start": 0}, r"^start=0; give a number of epochs, at least 1$"),
        ({"every": 0}, r"^every=0; give"),
        ({"stop": 0}, r"^stop=0; give"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Epic(**options)
