"""Stacked training against the textbook loop, and the independence of members that certificates rest on."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from certidote.data.digits import load_digits
from certidote.numerics import DType
from certidote.streams import Key
from certidote.training import stacked
from certidote.training.models import build
from certidote.training.recipe import RECIPES, Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import Lineage, Stack, Trainer, View
from fixtures_training import COMMON, accuracy, digit_views, keys, same, textbook_fit, weights

SHORT = Recipe(architecture="mlp-128", epochs=3, learning_rate=0.3)
DTYPES: list[DType] = ["float32", "bfloat16"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Workers have one thread each, and bit-for-bit equality is promised for that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


VARIANTS = {
    "plain": {"momentum": 0.0, "nesterov": False},
    "heavy ball": {"nesterov": False},
    "nesterov": {},
    "weight decay": {"weight_decay": 0.01},
    "label smoothing": {"label_smoothing": 0.1},
    "all": {"weight_decay": 0.003, "label_smoothing": 0.2, "momentum": 0.8, "warm_up": 0.5, "batch_size": 64},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_members_equal_the_textbook_loop(variant: str) -> None:
    recipe = Recipe.from_json({"architecture": "mlp-128", "epochs": 4, "learning_rate": 0.2, **VARIANTS[variant]})
    views, names = digit_views(3, rows=250), keys(3)
    stack = StackedTrainer(recipe).fit(views, names, COMMON)
    for member, (view, key) in enumerate(zip(views, names, strict=True)):
        expected = weights(textbook_fit(recipe, view, key, COMMON))
        moved = (weights(build(recipe.architecture, (1, 8, 8), 10, key)) - expected).abs().max()
        worst = float((weights(stack.member(member)) - expected).abs().max())
        assert moved > 0.05
        assert worst < 1e-5, f"{variant}: parameters differ from the float64 loop by {worst:.1e}"


def test_one_step_is_the_gradient_of_autograd() -> None:
    recipe = Recipe(architecture="mlp-128", epochs=1, batch_size=500, learning_rate=1.0, momentum=0.0, nesterov=False, warm_up=0.0)
    view, key = digit_views(1)[0], keys(1)[0]
    model = build("mlp-128", (1, 8, 8), 10, key).double()
    loss = torch.nn.functional.cross_entropy(model(view.images.double()), view.labels)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    after = StackedTrainer(recipe).fit([view], [key], COMMON).member(0)
    stepped = weights(model) - weights(after)
    torch.testing.assert_close(stepped, gradient, rtol=1e-4, atol=2e-7)  # weights near 1 are rounded to 6e-8


def test_bfloat16_follows_float32() -> None:
    """Rounding each product to 8 bits must leave a small random error, far below what training moved."""
    views, names = digit_views(4), keys(4)
    exact, rounded = (StackedTrainer(SHORT, dtype).fit(views, names, COMMON) for dtype in DTYPES)
    for member, key in enumerate(names):
        moved = weights(exact.member(member)) - weights(build("mlp-128", (1, 8, 8), 10, key))
        error = weights(rounded.member(member)) - weights(exact.member(member))
        assert 0 < error.norm() < 0.05 * moved.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "members"), [(1, 8), (2, 8), (37, 32), (250, 8)])
def test_a_member_is_the_same_in_every_stack_and_place(
    dtype: DType, rows: int, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = StackedTrainer(SHORT, dtype)
    views, names = digit_views(members, rows), keys(members)
    full = trainer.fit(views, names, COMMON)
    assert not same(full.member(0), full.member(1))
    last = members - 1
    for chosen in ([0], [last], [5, 0, 3], [last, 6, 1, 2, 4], list(range(last, -1, -1))):
        some = trainer.fit([views[i] for i in chosen], [names[i] for i in chosen], COMMON)
        assert all(same(some.member(place), full.member(i)) for place, i in enumerate(chosen)), f"stack {chosen}"
    monkeypatch.setattr(stacked, "CACHE_BYTES", 0)
    pairs = trainer.fit(views, names, COMMON)
    assert all(same(pairs.member(i), full.member(i)) for i in range(members)), "groups of two"


@pytest.mark.parametrize(("shape", "classes"), [((3, 9, 11), 2), ((1, 8, 8), 3), ((3, 32, 32), 101)])
def test_any_shape_and_number_of_classes_is_independent_of_the_stack(shape: tuple[int, int, int], classes: int) -> None:
    views = []
    for key in keys(7):
        generator = (key / "view").numpy()
        images = torch.from_numpy(generator.random((33, *shape), dtype="float32"))
        views.append(View(images, torch.from_numpy(generator.integers(0, classes, 33)), classes, Lineage()))
    recipe = SHORT.model_copy(update={"learning_rate": 0.01})
    for dtype in DTYPES:
        trainer = StackedTrainer(recipe, dtype)
        full = trainer.fit(views, keys(7), COMMON)
        assert not full.failed.any()
        for chosen in ([3], [6, 2]):
            some = trainer.fit([views[i] for i in chosen], [keys(7)[i] for i in chosen], COMMON)
            assert all(same(some.member(place), full.member(i)) for place, i in enumerate(chosen))
    expected = weights(textbook_fit(recipe, views[0], keys(7)[0], COMMON))
    assert (weights(StackedTrainer(recipe).fit(views, keys(7), COMMON).member(0)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_member_that_diverges_leaves_the_others_alone(dtype: DType, bad: float) -> None:
    trainer = StackedTrainer(SHORT, dtype)
    views, names = digit_views(4, 120), keys(4)
    healthy = trainer.fit(views, names, COMMON)
    broken = views[2].images.clone()
    broken[17, 0, 3, 3] = bad
    views[2] = replace(views[2], images=broken)
    stack = trainer.fit(views, names, COMMON)
    assert stack.failed.tolist() == [False, False, True, False]
    assert not healthy.failed.any()
    assert all(same(stack.member(i), healthy.member(i)) for i in (0, 1, 3))
    pixels = load_digits("test").pixels()
    assert torch.equal(stack(pixels)[[0, 1, 3]], healthy(pixels)[[0, 1, 3]])


def test_members_of_different_sizes_equal_members_trained_alone() -> None:
    trainer = StackedTrainer(SHORT)
    views = [digit_views(5, rows)[i] for i, rows in enumerate((40, 120, 40, 7, 120))]
    stack = trainer.fit(views, keys(5), COMMON)
    for i in range(5):
        alone = trainer.fit([views[i]], [keys(5)[i]], COMMON)
        assert same(alone.member(0), stack.member(i))


@pytest.mark.parametrize("dtype", DTYPES)
def test_coins_come_from_the_member_key_and_the_common_key_alone(dtype: DType) -> None:
    trainer = StackedTrainer(SHORT, dtype)
    view, key = digit_views(1, 120)[0], keys(1)[0]

    def fit(view: View = view, key: Key = key, common: Key = COMMON) -> torch.nn.Module:
        return trainer.fit([view], [key], common).member(0)

    torch.manual_seed(1)
    first = fit()
    state = torch.manual_seed(2).get_state()
    assert same(first, fit()), "the global generator decided something"
    assert torch.equal(state, torch.default_generator.get_state()), "the global generator was advanced"
    assert same(first, fit(view=replace(view, lineage=Lineage(unsealed=("other",)))))
    assert not same(first, fit(key=key / "other"))
    assert not same(first, fit(common=COMMON / "other"))
    assert not same(first, fit(view=replace(view, images=view.images + 1e-3)))


def test_inputs_are_left_alone() -> None:
    views = digit_views(2, 50)
    before = [(view.images.clone(), view.labels.clone()) for view in views]
    StackedTrainer(SHORT).fit(views, keys(2), COMMON)
    for view, (images, labels) in zip(views, before, strict=True):
        assert torch.equal(view.images, images)
        assert torch.equal(view.labels, labels)


def test_a_member_alone_gives_the_logits_of_its_stack() -> None:
    stack = StackedTrainer(SHORT, "bfloat16").fit(digit_views(3, 120), keys(3), COMMON)
    pixels = load_digits("test").pixels()
    logits = stack(pixels)
    assert logits.shape == (3, 400, 10)
    assert logits.dtype == torch.float32
    for i in range(3):
        assert torch.equal(stack.member(i)(pixels), logits[i])
    assert len(stack) == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_digits_are_learned(dtype: DType) -> None:
    """Measured over 32 members: 95.2 % clean, 90.5 % at sigma 0.5, with std 0.5 and 1.3 points between members."""
    trainer = StackedTrainer(RECIPES["mlp"], dtype)
    clean = trainer.fit(digit_views(8, sigma=0.0), keys(8), COMMON)
    noised = trainer.fit(digit_views(8, sigma=0.5), keys(8), COMMON)
    assert accuracy([clean.member(i) for i in range(8)]) > 0.94
    assert accuracy([noised.member(i) for i in range(8)]) > 0.88
    test = load_digits("test")
    ballots = torch.nn.functional.one_hot(noised(test.pixels()).argmax(2), 10).sum(0).argmax(1)
    assert float((ballots == test.labels).double().mean()) > 0.90


def test_a_trainer_is_what_the_engine_expects() -> None:
    trainer = StackedTrainer(SHORT, "bfloat16", stack_size=8)
    assert isinstance(trainer, Trainer)
    assert trainer.start == "fresh"
    assert trainer.stack_size == 8
    assert trainer.describe() == {"trainer": "stacked", "dtype": "bfloat16", "recipe": SHORT.to_json()}
    assert isinstance(trainer.fit(digit_views(1, 10), keys(1), COMMON), Stack)


def test_wrong_input_is_refused() -> None:
    trainer, view = StackedTrainer(SHORT), digit_views(1, 10)[0]
    with pytest.raises(ValueError, match="0 views and 0 keys; give at least one view"):
        trainer.fit([], [], COMMON)
    with pytest.raises(ValueError, match="1 views and 2 keys"):
        trainer.fit([view], keys(2), COMMON)
    with pytest.raises(ValueError, match="a view has no images"):
        trainer.fit([replace(view, images=view.images[:0], labels=view.labels[:0])], keys(1), COMMON)
    with pytest.raises(ValueError, match=r"\(\(1, 8, 8\), 10\), \(\(1, 8, 8\), 11\).*need the same"):
        trainer.fit([view, replace(view, num_classes=11)], keys(2), COMMON)
    with pytest.raises(ValueError, match="architecture 'cnn-32-64' cannot be stacked; choose one of: mlp-128"):
        StackedTrainer(RECIPES["cnn"])
    with pytest.raises(ValueError, match="stack_size=0"):
        StackedTrainer(SHORT, stack_size=0)
