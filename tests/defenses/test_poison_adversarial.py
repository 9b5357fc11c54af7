"""Poison-adversarial training: carriers in their ball, moved so that gradients match, and everybody else as they were."""

from typing import Any

import pytest
import torch

from certidote.defenses.from_scratch import hooked
from certidote.defenses.poison_adversarial import PoisonAdversarialLoss, dissimilarity, gradients
from certidote.streams import Key
from certidote.training.learner import Learner
from certidote.training.models import build
from certidote.training.pooled import Batch, BatchLoss, PooledTrainer, trainer_for
from certidote.training.recipe import Recipe
from fixtures_training import COMMON, accuracy, digit_views, keys, same

RECIPE = Recipe(architecture="mlp-128", epochs=8, learning_rate=0.2, batch_size=50)


def a_batch(rows: int = 30, sigma: float = 0.0) -> Batch:
    view = digit_views(1, rows=rows, sigma=sigma)[0]
    return Batch(view.images, view.labels, torch.arange(rows), Key(4))


def learner(architecture: str = "mlp-128") -> Learner:
    return Learner(build(architecture, (1, 8, 8), 10, Key(0)).train(), "float32", RECIPE)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_carriers_stay_in_their_ball_and_targets_as_they_are(sigma: float) -> None:
    batch, loss = a_batch(sigma=sigma), PoisonAdversarialLoss()
    before = batch.images.clone()
    made = loss.poisoned(learner(), batch)
    carriers, targets = loss.split(30, batch.key / "carriers")
    assert sorted([*carriers.tolist(), *targets.tolist()]) == list(range(30))
    assert len(carriers) == 15
    assert torch.equal(batch.images, before)
    assert torch.equal(made[targets], batch.images[targets])
    step = made[carriers] - batch.images[carriers]
    assert 0.9 * 16 / 255 < float(step.abs().max()) <= 16 / 255 + 1e-6
    assert bool((made.clamp(0, 1) - made).abs().le((batch.images.clamp(0, 1) - batch.images).abs() + 1e-6).all())
    assert torch.equal(made, loss.poisoned(learner(), batch))


def test_gradients_are_made_parallel() -> None:
    """The more steps, the more alike; what carriers are matched with is worked out here again."""
    batch, model = a_batch(60), learner()
    seen = []
    for steps in (1, 5, 40):
        loss = PoisonAdversarialLoss(epsilon=0.3, steps=steps)
        made = loss.poisoned(model, batch)
        carriers, targets = loss.split(60, batch.key / "carriers")
        counts = [batch.labels[carriers].tolist().count(label) for label in range(10)]
        wanted = torch.full_like(targets, counts.index(max(counts)))
        toward = gradients(model, batch.images[targets], wanted)
        seen.append(float(dissimilarity(gradients(model, made[carriers], batch.labels[carriers]), toward)))
    assert seen == sorted(seen, reverse=True)
    assert seen[0] - seen[2] > 0.1


def test_dissimilarity_is_one_minus_the_cosine() -> None:
    generator = Key(0).numpy()
    first, second = ([torch.from_numpy(generator.normal(size=shape)) for shape in ((3, 2), (4,))] for _ in range(2))
    flat = [torch.cat([part.flatten() for part in parts]) for parts in (first, second)]
    torch.testing.assert_close(dissimilarity(first, second), 1 - torch.cosine_similarity(*flat, dim=0))
    assert float(dissimilarity(first, [-2 * part for part in first])) == pytest.approx(2)


def test_the_model_is_looked_at_in_eval_mode_and_stays() -> None:
    model, batch = learner("mobilenet-v2"), a_batch(10)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    PoisonAdversarialLoss().poisoned(model, batch)
    assert all(module.training for module in model.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert all(weight.grad is None for weight in model.model.parameters())


def test_small_batches_have_one_of_each_or_stay() -> None:
    for share in (0.01, 0.99):
        assert [len(part) for part in PoisonAdversarialLoss(share=share).split(2, Key(0))] == [1, 1]
    one = a_batch(1)
    assert torch.equal(PoisonAdversarialLoss().poisoned(learner(), one), one.images)


def test_models_learn_and_the_loss_is_described() -> None:
    views, names, loss = digit_views(1, sigma=0.0), keys(1), PoisonAdversarialLoss()
    assert isinstance(loss, BatchLoss)
    trainer = hooked(trainer_for(RECIPE), "poison", loss=loss)
    first, second = (trainer.fit(views, names, COMMON).member(0) for _ in range(2))
    assert same(first, second)
    assert not same(first, PooledTrainer(RECIPE).fit(views, names, COMMON).member(0))
    assert accuracy([first]) > 0.85
    assert trainer.describe() == PooledTrainer(RECIPE).describe() | loss.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 16.0}, r"epsilon=16.0 is outside \[0, 1\] pixel units"),
        ({"share": 1.0}, "give a share of a batch above 0 and below 1"),
        ({"steps": 0}, "positive steps"),
        ({"step_size": 0.0}, "positive steps"),
    ],
)
def test_wrong_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoisonAdversarialLoss(**options)
