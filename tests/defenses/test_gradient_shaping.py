"""Gradient shaping: clip factors by hand, noise of the right size, and plain training where nothing is clipped or added."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from certidote.defenses.from_scratch import hooked
from certidote.defenses.gradient_shaping import GradientShaping
from certidote.streams import Key
from certidote.training.pooled import PooledTrainer, Shaping, trainer_for
from certidote.training.recipe import Recipe
from certidote.types import Json
from fixtures_training import COMMON, accuracy, digit_views, keys, same, weights

RECIPE = Recipe(architecture="mlp-128", epochs=12, learning_rate=0.2, batch_size=50)


def gradients(scale: float) -> list[Tensor]:
    generator = Key(3).numpy()
    drawn = [torch.from_numpy(generator.normal(size=shape)).float() for shape in ((4, 3), (5,), (2, 1, 3, 3))]
    length = sum(float(part.square().sum()) for part in drawn) ** 0.5
    return [part * scale / length for part in drawn]


class Untouched:
    """Passes gradients on, and keeps their norms."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def __call__(self, gradients: Sequence[Tensor], key: Key) -> list[Tensor]:
        self.norms.append(float(torch.cat([part.flatten() for part in gradients]).norm()))
        return list(gradients)

    def describe(self) -> Json:
        return {}


@pytest.mark.parametrize(("scale", "factor"), [(0.5, 1.0), (2.0, 1.0), (3.0, 2 / 3), (40.0, 1 / 20)])
def test_long_gradients_are_shortened_and_short_ones_stay(scale: float, factor: float) -> None:
    given = gradients(scale)
    found = GradientShaping(clip=2.0, noise=0.0)(given, Key(0))
    for before, after in zip(given, found, strict=True):
        torch.testing.assert_close(after, factor * before)


def test_noise_has_its_std_whatever_the_gradient() -> None:
    """Of 40,000 numbers, 5 standard errors; the same for one key, others for another."""
    still = [torch.zeros(200, 200)]
    (noise,) = GradientShaping(clip=2.0, noise=0.1)(still, Key(0))
    assert float(noise.std()) == pytest.approx(0.2, rel=5 / (2 * 40_000) ** 0.5)
    assert abs(float(noise.mean())) < 5 * 0.2 / 200
    assert torch.equal(noise, GradientShaping(clip=2.0, noise=0.1)(still, Key(0))[0])
    assert not torch.equal(noise, GradientShaping(clip=2.0, noise=0.1)(still, Key(1))[0])
    (moved,) = GradientShaping(clip=2.0, noise=0.1)([torch.full((200, 200), 0.001)], Key(0))
    torch.testing.assert_close(moved, noise + 0.001)


def test_nothing_clipped_and_nothing_added_is_plain_training() -> None:
    views, names = digit_views(1, rows=100, sigma=0.0), keys(1)
    plain = PooledTrainer(RECIPE).fit(views, names, COMMON).member(0)
    watch = Untouched()
    assert isinstance(watch, Shaping)
    assert same(plain, PooledTrainer(RECIPE, shaping=watch).fit(views, names, COMMON).member(0))
    assert len(watch.norms) == 24
    wide = hooked(trainer_for(RECIPE), "shaping", shaping=GradientShaping(1e3, 0.0)).fit(views, names, COMMON).member(0)
    torch.testing.assert_close(weights(wide), weights(plain))
    tight = hooked(trainer_for(RECIPE), "shaping", shaping=GradientShaping(0.1, 0.0)).fit(views, names, COMMON).member(0)
    assert not torch.allclose(weights(tight), weights(plain))


def test_shaped_models_learn_and_coins_are_their_own() -> None:
    views, names = digit_views(2, sigma=0.0), keys(2)
    trainer = hooked(PooledTrainer(RECIPE), "shaping", shaping=GradientShaping())
    first, second = trainer.fit(views, names, COMMON), trainer.fit(views[1:], names[1:], COMMON)
    assert same(first.member(1), second.member(0))
    assert accuracy([first.member(0)]) > 0.85
    assert trainer.describe() == PooledTrainer(RECIPE).describe() | {"gradient_shaping": {"clip": 1.0, "noise": 0.01}}
    assert PooledTrainer(RECIPE).describe() == trainer_for(RECIPE).describe() | {"trainer": "pooled"}


def test_wrong_numbers_are_refused() -> None:
    for options in ({"clip": 0.0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match="give a clip above 0 and noise of at least 0"):
            GradientShaping(**options)
