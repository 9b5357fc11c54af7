"""Adversarial training: plain training at epsilon 0, robustness above it, and batch statistics that only see finished images."""

import copy

import pytest
import torch
from torch import nn

from certidote.ascent import ascend, random_start
from certidote.data.digits import load_digits
from certidote.streams import Key
from certidote.training.adversarial import AdversarialLoss, adversarial_trainer
from certidote.training.models import build
from certidote.training.pooled import Batch, BatchLoss, CrossEntropy, Learner, PooledTrainer
from certidote.training.recipe import RECIPES, Recipe
from certidote.types import Budget, Norm, Trainer
from fixtures_training import COMMON, accuracy, digit_views, keys, same

SHORT = Recipe(architecture="mlp-128", epochs=2, learning_rate=0.1, batch_size=50)
LEARNS = SHORT.model_copy(update={"epochs": 12, "learning_rate": 0.2})


def attacked_accuracy(model: nn.Module, epsilon: float) -> float:
    """On digits of the test split after ascent in linf."""
    test, budget = load_digits("test"), Budget(1, "linf", epsilon)
    pixels = test.pixels()

    def gradient(images: torch.Tensor, step: int) -> torch.Tensor:
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(nn.functional.cross_entropy(model(leaf), test.labels), [leaf])[0]

    start = random_start(pixels, budget, Key(3))
    hard = ascend(pixels, gradient, budget, start=start, steps=10, step_size=epsilon / 4)
    with torch.no_grad():
        return float((model(hard).argmax(1) == test.labels).double().mean())


def a_batch(rows: int = 30, sigma: float = 0.0) -> Batch:
    view = digit_views(1, rows=rows, sigma=sigma)[0]
    return Batch(view.images, view.labels, torch.arange(rows), Key(4))


def test_nothing_moved_is_plain_training() -> None:
    for architecture in ("mlp-128", "cnn-32-64"):
        recipe = SHORT.model_copy(update={"architecture": architecture})
        views, names = digit_views(2, rows=60, sigma=0.0), keys(2)
        plain = PooledTrainer(recipe).fit(views, names, COMMON)
        still = adversarial_trainer(recipe, 0.0, steps=1).fit(views, names, COMMON)
        assert all(same(plain.member(i), still.member(i)) for i in range(2))


def test_robust_models_resist_what_plain_ones_do_not() -> None:
    """At 0.15 on digits 17 % of a plain model's answers are right and 63 % of the robust one's; 8 % where training descends instead."""
    views, names = digit_views(1, sigma=0.0), keys(1)
    plain = PooledTrainer(LEARNS).fit(views, names, COMMON).member(0)
    robust = adversarial_trainer(LEARNS, 0.15, steps=5).fit(views, names, COMMON).member(0)
    assert attacked_accuracy(plain, 0.15) < 0.35
    assert attacked_accuracy(robust, 0.15) > 0.5
    assert accuracy([robust]) > 0.85


def test_members_depend_on_their_own_view_and_keys_alone() -> None:
    trainer = adversarial_trainer(SHORT, 0.1, steps=2)
    views, names = digit_views(2, rows=60, sigma=0.0), keys(2)
    stack, again = trainer.fit(views, names, COMMON), trainer.fit(views[1:], names[1:], COMMON)
    assert same(stack.member(1), again.member(0))
    assert not same(stack.member(0), stack.member(1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hardened_images_stay_near_and_are_harder(norm: Norm) -> None:
    batch, epsilon = a_batch(), 0.1 if norm == "linf" else 0.5
    learner = Learner(build("mlp-128", (1, 8, 8), 10, Key(0)), "float32", SHORT)
    hard = AdversarialLoss(epsilon, norm).hardened(learner, batch)
    step = (hard - batch.images).flatten(1)
    moved = step.abs().amax(1) if norm == "linf" else step.norm(dim=1)
    assert 0.9 * epsilon < float(moved.min())
    assert float(moved.max()) <= epsilon * (1 + 1e-5)
    assert float(hard.min()) >= 0
    assert float(hard.max()) <= 1
    near = random_start(batch.images, Budget(1, norm, epsilon), Key(1)).clamp(0, 1)
    losses = [float(learner.loss(images, batch.labels).detach()) for images in (batch.images, near, hard)]
    assert losses[2] - losses[0] > 5 * abs(losses[1] - losses[0])


def test_nearly_every_image_gets_harder_for_a_linear_model() -> None:
    batch = a_batch(rows=400)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    hard = AdversarialLoss(0.1).hardened(Learner(model, "float32", SHORT), batch)
    with torch.no_grad():
        before, after = (
            nn.functional.cross_entropy(model(images), batch.labels, reduction="none") for images in (batch.images, hard)
        )
    assert float((after >= before).double().mean()) >= 0.95


def test_images_that_noise_took_outside_go_no_farther() -> None:
    batch = a_batch(sigma=0.5)
    assert float(batch.images.min()) < -0.5
    learner = Learner(build("mlp-128", (1, 8, 8), 10, Key(0)), "float32", SHORT)
    hard = AdversarialLoss(0.1).hardened(learner, batch)
    assert float((hard - batch.images).abs().max()) == pytest.approx(0.1, rel=1e-4)
    assert bool((hard >= batch.images.clamp_max(0) - 1e-6).all())
    assert bool((hard <= batch.images.clamp_min(1) + 1e-6).all())


def test_batch_statistics_follow_finished_images_only() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)).train()
    learner, batch = Learner(model, "float32", SHORT), a_batch()
    before = copy.deepcopy(dict(model.named_buffers()))
    hard = AdversarialLoss(0.1).hardened(learner, batch)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())
    loss = AdversarialLoss(0.1)(learner, batch)
    assert int(model[0].num_batches_tracked) == 1
    torch.testing.assert_close(model[0].running_mean, 0.1 * hard.mean().view(1))
    assert loss.requires_grad


def test_the_loss_is_part_of_what_a_run_is_configured_with() -> None:
    trainer = adversarial_trainer(RECIPES["cnn"], 0.1, norm="l2", steps=3, step_size=0.05, dtype="bfloat16", stack_size=2)
    assert isinstance(trainer, Trainer)
    assert (trainer.stack_size, trainer.dtype, trainer.start) == (2, "bfloat16", "fresh")
    plain = PooledTrainer(RECIPES["cnn"], "bfloat16").describe()
    assert trainer.describe() == plain | {"adversarial": {"epsilon": 0.1, "norm": "l2", "steps": 3, "step_size": 0.05}}
    assert PooledTrainer(RECIPES["cnn"], "bfloat16", loss=CrossEntropy()).describe() == plain
    assert all(isinstance(loss, BatchLoss) for loss in (CrossEntropy(), AdversarialLoss(0.1)))


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"epsilon=8.0 is outside \[0, 1\] pixel units; for 8 of 255 levels give 8/255"):
        adversarial_trainer(SHORT, 8.0)
    with pytest.raises(ValueError, match=r"steps=0, step_size=None; both must be positive"):
        adversarial_trainer(SHORT, 0.1, steps=0)
    with pytest.raises(ValueError, match=r"steps=7, step_size=0.0; both must be positive"):
        adversarial_trainer(SHORT, 0.1, step_size=0.0)
