"""Which rows make up each step, and how large the step is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certidote.streams import Key
from certidote.training.recipe import Recipe
from certidote.training.schedule import batches, rates


def recipe(epochs: int = 2, batch_size: int = 100, warm_up: float = 0.1) -> Recipe:
    return Recipe(architecture="mlp-128", epochs=epochs, batch_size=batch_size, learning_rate=0.3, warm_up=warm_up)


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 300), st.integers(1, 3))
def test_every_epoch_is_cut_into_equal_batches_that_nearly_cover_it(rows: int, batch_size: int, epochs: int) -> None:
    steps = batches(recipe(epochs, batch_size), rows, Key(0))
    per_epoch = len(steps) // epochs
    assert per_epoch >= 1
    assert len(steps) == per_epoch * epochs
    assert {len(step) for step in steps} == {rows // per_epoch}
    assert rows // per_epoch <= batch_size
    for epoch in range(epochs):
        seen = torch.cat(steps[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(seen.unique()) == len(seen)
        assert 0 <= int(seen.min()) <= int(seen.max()) < rows
        assert rows - len(seen) < per_epoch


def test_the_order_is_a_function_of_the_common_key() -> None:
    first, again = batches(recipe(), 500, Key(0)), batches(recipe(), 500, Key(0))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(torch.cat(first[:5]), torch.cat(first[5:])), "every epoch has its own order"
    assert not torch.equal(first[0], batches(recipe(), 500, Key(1))[0])
    longer = batches(recipe(epochs=3), 500, Key(0))
    assert all(torch.equal(a, b) for a, b in zip(first, longer, strict=False)), "more epochs begin like fewer"


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0, 1, exclude_max=True))
def test_rates_rise_to_the_peak_and_fall_towards_0(steps: int, warm_up: float) -> None:
    chosen = recipe(warm_up=warm_up)
    values = rates(chosen, steps)
    assert len(values) == steps
    assert max(values) == pytest.approx(0.3)
    assert min(values) > 0
    top = values.index(max(values))
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)


def test_rates_by_hand() -> None:
    assert rates(recipe(warm_up=0.4), 5) == pytest.approx([0.15, 0.3, 0.3, 0.2, 0.1])
    assert rates(recipe(warm_up=0.0), 3) == pytest.approx([0.3, 0.2, 0.1])
    assert rates(recipe(), 1) == [0.3]


def test_rates_drop_by_ten_at_the_first_step_of_an_epoch() -> None:
    dropping = recipe(epochs=5, warm_up=0.0).model_copy(update={"drops": (2, 4)})
    assert rates(dropping, 15) == pytest.approx([0.3] * 6 + [0.03] * 6 + [0.003] * 3)
    warmed = dropping.model_copy(update={"warm_up": 0.2})
    assert rates(warmed, 15) == pytest.approx([0.1, 0.2, 0.3] + [0.3] * 3 + [0.03] * 6 + [0.003] * 3)
