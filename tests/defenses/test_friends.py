"""FrieNDs: noise in its ball that leaves what the model says, whatever the batches; and when which noise is added."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from certidote.defenses.friends import BATCH, INITIAL, Friends
from certidote.defenses.from_scratch import hooked
from certidote.streams import Key
from certidote.training.learner import Learner
from certidote.training.models import build
from certidote.training.pooled import Disturbing, PooledTrainer, trainer_for
from certidote.training.recipe import Recipe
from certidote.types import Json
from fixtures_filters import unchecked
from fixtures_training import COMMON, accuracy, digit_views, keys, same

ZETA = 16 / 255
RECIPE = Recipe(architecture="mlp-128", epochs=12, learning_rate=0.2, batch_size=50)


class Linear(nn.Module):
    """Softmax regression: what the model says depends on ten directions of 64."""

    def __init__(self) -> None:
        super().__init__()
        weights = Key(2).numpy().normal(size=(10, 64))
        self.weights = nn.Parameter(torch.from_numpy(weights).float() * 0.4)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T


def digits(rows: int) -> Tensor:
    return digit_views(1, rows=rows, sigma=0.0)[0].images


def linear() -> Learner:
    return Learner(Linear().eval(), "float32", RECIPE)


def start(images: Tensor) -> Tensor:
    return torch.from_numpy(Key(5).numpy().uniform(-INITIAL * ZETA, INITIAL * ZETA, size=tuple(images.shape))).float()


def divergence(learner: Learner, images: Tensor, noise: Tensor) -> Tensor:
    """KL(p(x) || p(x + e)) of each image, in float64."""
    with torch.no_grad():
        before = learner.model(images).double().log_softmax(1)
        after = learner.model((images + noise).clamp(0, 1)).double().log_softmax(1)
    return (before.exp() * (before - after)).sum(1)


def test_the_objective_is_the_originals() -> None:
    """KLDivLoss with logarithms of both, batchmean, minus mu times the mean square; on a batch of 128."""
    learner, images = linear(), digits(BATCH)
    noise, friends = 3 * start(images), Friends(mu=2.0)
    wanted = learner.logits(images).log_softmax(1).detach()
    inside = noise.clamp(-16 / 255, 16 / 255)
    found = learner.logits((images + inside).clamp(0, 1)).log_softmax(1)
    expected = nn.KLDivLoss(reduction="batchmean", log_target=True)(found, wanted) - 2.0 * inside.square().mean()
    torch.testing.assert_close(friends.objective(learner, images, noise, wanted), expected)


def test_noise_stays_in_its_ball_and_disturbs_less_than_random_noise_of_its_size() -> None:
    learner, images = linear(), digits(200)
    first = start(images)
    before = [images.clone(), first.clone()]
    noise = Friends().friendly(learner, images, first)
    assert torch.equal(images, before[0])
    assert torch.equal(first, before[1])
    assert float(noise.abs().max()) <= 16 / 255 + 1e-7  # in float32
    assert float(noise.abs().mean()) > float(first.abs().mean())  # mu rewards it
    scaled = first * (noise.square().mean().sqrt() / first.square().mean().sqrt())
    assert float(divergence(learner, images, noise).mean()) < 0.5 * float(divergence(learner, images, scaled).mean())


def test_without_a_reward_for_size_the_divergence_only_falls() -> None:
    learner, images = linear(), digits(200)
    first = start(images)
    seen = [float(divergence(learner, images, first).mean())]
    for steps in (1, 4, 10, 30):
        noise = Friends(mu=0.0, steps=steps, learning_rate=1.0).friendly(learner, images, first)
        seen.append(float(divergence(learner, images, noise).mean()))
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.5 * seen[0]


def test_images_do_not_depend_on_their_batch() -> None:
    learner, images = linear(), digits(60)
    first = start(images)
    whole = Friends().friendly(learner, images, first)
    parts = torch.cat([Friends().friendly(learner, images[rows], first[rows]) for rows in (slice(0, 13), slice(13, 60))])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_the_step_is_torchs_sgd_with_nesterov_momentum() -> None:
    learner, images, friends = linear(), digits(BATCH), Friends(steps=5)
    first = start(images)
    noise = first.clone().requires_grad_()
    optimizer = torch.optim.SGD([noise], lr=100, momentum=0.9, nesterov=True)
    wanted = learner.logits(images).log_softmax(1).detach()
    for _ in range(5):
        optimizer.zero_grad()
        friends.objective(learner, images, noise, wanted).backward()
        optimizer.step()
    expected = noise.detach().clamp(-16 / 255, 16 / 255)
    torch.testing.assert_close(friends.friendly(learner, images, first), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mlp-128", "mobilenet-v2"])
def test_all_images_are_moved_in_eval_mode_and_the_model_stays(architecture: str) -> None:
    model = build(architecture, (1, 8, 8), 10, Key(0)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = digits(150).contiguous(memory_format=torch.channels_last)
    learner = Learner(model, "float32", RECIPE)
    moved = Friends(steps=3).moved(learner, images, Key(1))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert float((moved - images).abs().max()) <= 16 / 255 + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert torch.equal(moved, Friends(steps=3).moved(learner, images, Key(1)))
    assert not torch.equal(moved, Friends(steps=3).moved(learner, images, Key(2)))
    outside = Friends(steps=3).moved(learner, images * 3 - 1, Key(1))
    assert float((outside - (images * 3 - 1)).abs().max()) <= 16 / 255 + 1e-6


def test_random_noise_is_of_its_kind_and_is_not_clipped() -> None:
    images = digits(200)
    steps = {
        kind: Friends(random=kind, amplitude=0.1).with_fresh_noise(images, Key(0)) - images
        for kind in ("bernoulli", "uniform", "gaussian")
    }
    size = images.numel()
    torch.testing.assert_close(steps["bernoulli"].abs(), torch.full_like(images, 0.1))
    assert abs(float(steps["bernoulli"].mean())) < 5 * 0.1 / size**0.5
    assert 0.099 < float(steps["uniform"].abs().max()) <= 0.1 + 1e-6
    assert float(steps["uniform"].std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert float(steps["gaussian"].std()) == pytest.approx(0.1, rel=0.05)
    assert float((images + steps["bernoulli"]).min()) < -0.09
    assert torch.equal(Friends(random="none").with_fresh_noise(images, Key(0)), images)


class Watched:
    """Moves images by 1/2 before one epoch, and keeps what it was shown."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.means, self.calls = epoch, [], 0
        self.training: list[bool] = []

    def due(self, epoch: int, epochs: int) -> bool:
        return epoch == self.epoch

    def moved(self, learner: Learner, images: Tensor, key: Key) -> Tensor:
        self.calls += 1
        self.training.append(learner.model.training)
        return images + 0.5

    def with_fresh_noise(self, images: Tensor, key: Key) -> Tensor:
        self.means.append(float(images.mean()))
        return images

    def describe(self) -> Json:
        return {"watched": self.epoch}


def test_images_are_moved_once_and_stay_so() -> None:
    views, names, watch = digit_views(1, rows=50, sigma=0.0), keys(1), Watched(2)
    before = views[0].images.clone()
    assert isinstance(watch, Disturbing)
    recipe = RECIPE.model_copy(update={"epochs": 4})
    moved = PooledTrainer(recipe, disturbing=watch).fit(views, names, COMMON).member(0)
    assert watch.calls == 1
    mean = float(before.mean())
    assert watch.means == pytest.approx([mean, mean, mean + 0.5, mean + 0.5])
    assert torch.equal(views[0].images, before)
    plain = PooledTrainer(recipe).fit(views, names, COMMON).member(0)
    assert not same(moved, plain)
    assert same(PooledTrainer(recipe, disturbing=Watched(9)).fit(views, names, COMMON).member(0), plain)


def test_the_schedule_is_the_original_one_scaled() -> None:
    assert [epoch for epoch in range(40) if Friends().due(epoch, 40)] == [5]
    assert [epoch for epoch in range(8) if Friends().due(epoch, 8)] == [1]
    assert [epoch for epoch in range(1) if Friends().due(epoch, 1)] == [0]
    assert [epoch for epoch in range(3) if Friends(start=7).due(epoch, 3)] == [2]


def test_models_learn_with_noise_and_their_coins_are_their_own() -> None:
    views, names = digit_views(2, sigma=0.0), keys(2)
    before = views[0].images.clone()
    trainer = hooked(trainer_for(RECIPE), "friends", disturbing=Friends(steps=5))
    first, second = trainer.fit(views, names, COMMON), trainer.fit(views[1:], names[1:], COMMON)
    assert same(first.member(1), second.member(0))
    assert torch.equal(views[0].images, before)
    assert accuracy([first.member(0)]) > 0.85
    assert trainer.describe()["friends"]["steps"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zeta": 16.0}, r"zeta=16, amplitude=0.0627451 must lie in \[0, 1\] pixel units"),
        ({"zeta": 0.0}, "zeta above 0"),
        ({"amplitude": 8.0}, "for 16 of 255 levels give 16/255"),
        ({"steps": 0}, "give at least 1 step"),
        ({"learning_rate": 0.0}, "a rate above 0"),
        ({"start": -1}, "an epoch of at least 0"),
        ({"random": "salt"}, "unknown random noise 'salt'; choose one of: bernoulli, uniform, gaussian, none"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked(Friends, **options)
