"""DP-SGD against gradients of one image at a time, noise of the size that the accounting assumes, and refusals."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from certidote.defenses.dp_sgd import PrivateTrainer
from certidote.streams import Key
from certidote.training.models import build
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import RECIPES, Recipe
from certidote.types import Trainer
from fixtures_training import COMMON, accuracy, digit_views, keys, same, weights

pytest.importorskip("opacus")

RECIPE = Recipe(architecture="mlp-128", epochs=12, learning_rate=0.2, batch_size=50)


def trainer(**options: Any) -> PrivateTrainer:
    return PrivateTrainer(options.pop("recipe", RECIPE), options.pop("sampling_rate", 0.1), **options)


@pytest.mark.parametrize("architecture", ["mlp-128", "cnn-32-64", "mobilenet-v2-gn"])
@pytest.mark.parametrize("clip", [0.5, 2.0, 1e3])
def test_sums_are_those_of_single_gradients(architecture: str, clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    view, smoothed = (
        digit_views(1, rows=7, sigma=0.0)[0],
        RECIPE.model_copy(update={"architecture": architecture, "label_smoothing": 0.1}),
    )
    model = build(architecture, (1, 8, 8), 10, Key(0)).train()
    named = dict(model.named_parameters())
    expected, norms = torch.zeros(sum(weight.numel() for weight in named.values())), []
    for image, label in zip(view.images, view.labels, strict=True):
        loss = cross_entropy(model(image.unsqueeze(0)), label.unsqueeze(0), label_smoothing=0.1)
        flat = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(named.values()))])
        norms.append(float(flat.norm()))
        expected += flat * min(1.0, clip / norms[-1])
    monkeypatch.setattr("certidote.defenses.dp_sgd.GRADIENT_NUMBERS", 3 * len(expected))  # in three parts
    private = trainer(recipe=smoothed, clip=clip)
    found = private.clipped_sum(model, list(named), view.images, view.labels)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    one = private.clipped_sum(model, list(named), view.images[:1], view.labels[:1])
    assert float(one.double().norm()) <= clip * (1 + 1e-6)
    assert not private.clipped_sum(model, list(named), view.images[:0], view.labels[:0]).any()
    assert max(norms) > 0.5  # something is clipped
    assert all(weight.grad is None for weight in named.values())


def test_no_image_ends_a_training() -> None:
    """Where weights are so large that one image's gradient overflows, the sum is that of the others."""
    view, private = digit_views(1, rows=6, sigma=0.0)[0], trainer()
    model, extreme = build("mlp-128", (1, 8, 8), 10, Key(0)).train(), view.images.clone()
    extreme[2] = torch.inf
    names = [name for name, _ in model.named_parameters()]
    others = [0, 1, 3, 4, 5]
    found = private.clipped_sum(model, names, extreme, view.labels)
    torch.testing.assert_close(found, private.clipped_sum(model, names, view.images[others], view.labels[others]))
    assert found.any()


def test_noise_is_that_of_the_accounting() -> None:
    """On gradients of zero: std z C / expected batch; of 40,000 numbers, 5 standard errors."""
    private = trainer(noise=0.7, clip=2.0, sampling_rate=0.25)
    released = private.released(torch.zeros(40_000), 80, Key(1))
    assert float(released.std()) == pytest.approx(0.7 * 2.0 / 20, rel=5 / (2 * 40_000) ** 0.5)
    torch.testing.assert_close(private.released(torch.full((40_000,), 3.0), 80, Key(1)) - released, torch.full((40_000,), 3 / 20))


def test_every_image_is_taken_with_the_same_chance() -> None:
    """1,000 steps of 50 images: each is taken about 100 times, and sizes vary as they must; 5.5 standard deviations."""
    private, taken, sizes = trainer(), torch.zeros(50), []
    for step in range(1_000):
        rows = private.sample(50, Key(0) / step)
        assert len(set(rows.tolist())) == len(rows)
        taken[rows] += 1
        sizes.append(len(rows))
    assert float((taken - 100).abs().max()) < 5.5 * 90**0.5
    assert min(sizes) == 0 or min(sizes) < 2
    assert float(torch.tensor(sizes).float().var()) == pytest.approx(4.5, rel=5.5 * (2 / 1_000) ** 0.5)


def test_without_noise_and_clipping_whole_batches_are_plain_training() -> None:
    views, names = digit_views(1, rows=60, sigma=0.0), keys(1)
    recipe = Recipe(architecture="cnn-32-64", epochs=5, learning_rate=0.05, batch_size=60, weight_decay=1e-3)
    plain = PooledTrainer(recipe).fit(views, names, COMMON).member(0)
    private = trainer(recipe=recipe, sampling_rate=1.0, noise=0.0, clip=1e6)
    torch.testing.assert_close(weights(private.fit(views, names, COMMON).member(0)), weights(plain), rtol=1e-3, atol=1e-5)
    assert private.epsilon == math.inf
    assert private.describe()["privacy"]["epsilon"] is None


def test_models_learn_with_noise_and_their_coins_are_their_own() -> None:
    views, names = digit_views(2, sigma=0.0), keys(2)
    before = views[0].images.clone()
    private = trainer(noise=0.05)
    assert isinstance(private, Trainer)
    first, second = private.fit(views, names, COMMON), private.fit(views[1:], names[1:], Key(99))
    assert same(first.member(1), second.member(0))
    assert torch.equal(views[0].images, before)
    assert not first.failed.any()
    assert accuracy([first.member(0)]) > 0.85


def test_augmented_images_and_empty_steps_are_no_trouble() -> None:
    recipe = RECIPE.model_copy(update={"crop": 1, "flip": True, "epochs": 2})
    views = digit_views(1, rows=20, sigma=0.0)
    assert not trainer(recipe=recipe, sampling_rate=0.02).fit(views, keys(1), COMMON).failed.any()


def test_epsilon_is_part_of_the_description() -> None:
    told = {noise: trainer(noise=noise).describe()["privacy"] for noise in (0.05, 1.1, 8.0)}
    assert "no guarantee" in told[0.05]["statement"]
    assert [told[noise]["guarantee"] for noise in told] == [False, told[1.1]["epsilon"] <= 10, True]
    assert told[0.05]["epsilon"] > told[1.1]["epsilon"] > told[8.0]["epsilon"] > 0
    more = trainer(recipe=RECIPE.model_copy(update={"epochs": 24}), noise=8.0).epsilon
    assert more > told[8.0]["epsilon"]


@pytest.mark.parametrize(
    ("architecture", "instead"),
    [("resnet-18", "use 'resnet-18-gn'"), ("compact", "use 'compact-gn'"), ("vgg-11", "use 'vgg-11-gn'")],
)
def test_batch_norm_is_refused(architecture: str, instead: str) -> None:
    with pytest.raises(ValueError, match=f"architecture '{architecture}' has BatchNorm, .* nothing is private; {instead}$"):
        trainer(recipe=RECIPES["mlp"].model_copy(update={"architecture": architecture}))
    trainer(recipe=RECIPES["mlp"].model_copy(update={"architecture": f"{architecture}-gn"}))


def test_wrong_numbers_are_refused() -> None:
    for options in ({"clip": 0.0}, {"stack_size": 0}):
        with pytest.raises(ValueError, match="give a clip above 0 and at least 1 member"):
            trainer(**options)
    for options in ({"sampling_rate": 0.0}, {"sampling_rate": 1.5}, {"noise": -1.0}, {"delta": 1.0}):
        with pytest.raises(ValueError, match=r"a rate in \(0, 1\], at least 1 step and a delta in \(0, 1\)"):
            trainer(**options)
