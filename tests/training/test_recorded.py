"""Trainings in fixed memory, which a GPU replays, against trainings as everybody writes them."""

import pickle
from collections.abc import Callable

import pytest
import torch

from certidote.graphed import WARM_UP
from certidote.streams import Key
from certidote.training.learner import Learner
from certidote.training.models import build
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import Recipe
from certidote.training.recorded import RecordedTraining, train_side_by_side
from certidote.types import Lineage, View
from fixtures_training import COMMON, digit_views, keys, weights

CNN = Recipe(architecture="cnn-32-64", epochs=2, learning_rate=0.1, batch_size=40, weight_decay=0.001, label_smoothing=0.1)
WHITENED = Recipe(
    architecture="compact", epochs=2, batch_size=15, learning_rate=0.1, muon=0.05, momentum=0.85, crop=2, flip=True, subpixel=True
)


def photographs(members: int, size: int = 45) -> list[View]:
    generator = torch.Generator().manual_seed(3)
    return [
        View(torch.rand(size, 3, 16, 16, generator=generator), torch.arange(size) % 10, 10, Lineage(sigma=0.25, draws=1))
        for _ in range(members)
    ]


def at_once(call: Callable[[], None], device: torch.device, stream: object) -> Callable[[], None]:
    return call


def recording(recipe: Recipe, view: View, device: str = "cpu") -> RecordedTraining:
    channels, height, width = view.images.shape[1:]
    model = build(recipe.architecture, (channels, height, width), view.num_classes, Key(99)).to(memory_format=torch.channels_last)
    placed = View(view.images.to(device), view.labels.to(device), view.num_classes, view.lineage)
    return RecordedTraining(Learner(model.to(device).train(), "float32", recipe), placed, at_once)


@pytest.mark.parametrize(
    ("recipe", "views"), [(CNN, digit_views(3, rows=100)), (WHITENED, photographs(3))], ids=["cnn", "whitened"]
)
def test_one_memory_serves_members_one_after_the_other(recipe: Recipe, views: list[View]) -> None:
    names, found = keys(3), []
    course = recording(recipe, views[0])
    for view, key in zip(views, names, strict=True):
        model = build(recipe.architecture, tuple(view.images.shape[1:]), view.num_classes, key)
        train_side_by_side([course], [model], [view], [key], COMMON)
        found.append(model)
    usual = PooledTrainer(recipe).fit(views, names, COMMON)
    for member, (model, view, key) in enumerate(zip(found, views, names, strict=True)):
        fresh = weights(build(recipe.architecture, tuple(view.images.shape[1:]), view.num_classes, key))
        expected = weights(usual.member(member))
        assert (fresh - expected).abs().max() > 0.02
        assert (weights(model) - expected).abs().max() < 1e-4
    assert (weights(found[0]) - weights(found[1])).abs().max() > 0.02


def test_members_beside_each_other_are_as_members_in_turn() -> None:
    views, names = photographs(3), keys(3)
    places = [recording(WHITENED, view) for view in views]
    beside = [build("compact", (3, 16, 16), 10, key) for key in names]
    train_side_by_side(places, beside, views, names, COMMON)
    for model, place, view, key in zip(beside, places[::-1], views, names, strict=True):
        alone = build("compact", (3, 16, 16), 10, key)
        train_side_by_side([place], [alone], [view], [key], COMMON)
        assert torch.equal(weights(model), weights(alone))


def test_buffers_travel_too() -> None:
    (view,), (key,) = photographs(1), keys(1)
    model = build("compact", (3, 16, 16), 10, key)
    train_side_by_side([recording(WHITENED, view)], [model], [view], [key], COMMON)
    usual = PooledTrainer(WHITENED).fit([view], [key], COMMON).member(0)
    for (name, mine), theirs in zip(model.named_buffers(), usual.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4, msg=name)
    assert any("running" in name and bool(buffer.any()) for name, buffer in model.named_buffers())


def test_a_recording_that_misses_a_launch_is_refused() -> None:
    (view,), (key,) = digit_views(1, rows=100), keys(1)

    def deaf(call: Callable[[], None], device: torch.device, stream: object) -> Callable[[], None]:
        return lambda: None

    course = RecordedTraining(Learner(build("cnn-32-64", (1, 8, 8), 10, Key(1)).train(), "float32", CNN), view, deaf)
    with pytest.raises(RuntimeError, match="does not do what the step does"):
        train_side_by_side([course], [build("cnn-32-64", (1, 8, 8), 10, key)], [view], [key], COMMON)


def test_a_training_may_be_shorter_than_what_comes_before_a_recording() -> None:
    """On a GPU, rows beyond the last step would end the process's use of it."""
    (view,), (key,), recipe = digit_views(1, rows=40), keys(1), CNN.model_copy(update={"epochs": 1})

    def warmed(call: Callable[[], None], device: torch.device, stream: object) -> Callable[[], None]:
        for _ in range(WARM_UP):
            call()
        return call

    model = build("cnn-32-64", (1, 8, 8), 10, Key(1)).to(memory_format=torch.channels_last).train()
    place = RecordedTraining(Learner(model, "float32", recipe), view, warmed)
    assert place.steps < WARM_UP
    found = build("cnn-32-64", (1, 8, 8), 10, key)
    train_side_by_side([place], [found], [view], [key], COMMON)
    assert (weights(found) - weights(PooledTrainer(recipe).fit([view], [key], COMMON).member(0))).abs().max() < 1e-4


def test_only_views_of_its_shape_fit() -> None:
    view = digit_views(1, rows=100)[0]
    course = recording(CNN, view)
    assert course.fits(digit_views(2, rows=100)[1])
    assert not course.fits(digit_views(1, rows=99)[0])
    assert not course.fits(View(view.images, view.labels, 11, view.lineage))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_replays_what_it_would_launch(dtype: str) -> None:
    """Over few steps: rounding alone drives long trainings of such a network apart."""
    views = [View(v.images.cuda(), v.labels.cuda(), v.num_classes, v.lineage) for v in photographs(5, 30)]
    names = keys(5)
    trainer, launching = PooledTrainer(WHITENED, dtype, together=3), PooledTrainer(WHITENED, dtype)
    launching._is_recordable = lambda device: False  # type: ignore[method-assign]
    replayed, launched, other = (
        each.fit(views, names, common) for each, common in ((trainer, COMMON), (launching, COMMON), (launching, COMMON / "other"))
    )
    assert (len(trainer._recorded), len(launching._recorded)) == (3, 0)
    for member, key in enumerate(names):
        reached = weights(launched.member(member).cpu())
        moved = (reached - weights(build("compact", (3, 16, 16), 10, key))).norm()
        apart, elsewhere = ((weights(each.member(member).cpu()) - reached).norm() / moved for each in (replayed, other))
        assert apart < (0.02 if dtype == "float32" else 0.3)
        assert elsewhere > 0.4, "another order of rows must show"
    assert pickle.loads(pickle.dumps(trainer))._recorded == []
