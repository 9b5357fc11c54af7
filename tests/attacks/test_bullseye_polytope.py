import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn

from certidote.attacks.bullseye_polytope import bullseye_polytope, bullseye_polytope_batch, center_distances
from certidote.attacks.crafting import CIFAR10_STEP
from certidote.attacks.features import at_layers, maps_of
from certidote.streams import Key
from certidote.training.head import HeadTrainer
from certidote.types import Budget, Knowledge, Lineage, View, as_pixels
from false_alarms import assert_rate_is
from fixtures_attacks import Linear, small_task
from fixtures_transfer import (
    NUM_POISONS,
    STEP_SIZE,
    STEPS,
    bullseye_poisons,
    fixture_tasks,
    transfer_fixture,
    trial_keys,
)


def test_mean_feature_reaches_the_target() -> None:
    """||mean phi(p) - phi(x_t)|| relative to the bases': median 0.31 here; 2.0 with the sign flipped, 0.86 in the wrong space."""
    fixture, poisons = transfer_fixture(), bullseye_poisons()
    centers = [fixture.extractor.penultimate(as_pixels(torch.stack([goal.image for goal in fixture.goals])))]
    before = as_pixels(torch.cat([fixture.train.images[poison.indices] for poison in poisons]))
    after = as_pixels(torch.cat([poison.images for poison in poisons]))
    distances = [center_distances(images, centers, [fixture.extractor]) for images in (before, after)]
    assert float((distances[1] / distances[0]).median()) <= 0.40


def test_poisoned_set_is_assembled_in_place() -> None:
    """The set keeps its size, order and labels; each base image is replaced, not joined, by its poison; the target is absent."""
    train = transfer_fixture().train
    for poison in bullseye_poisons():
        poisoned = poison.apply(train)
        others = torch.ones(len(train), dtype=torch.bool)
        others[poison.indices] = False
        assert torch.equal(poisoned.labels, train.labels)
        assert torch.equal(poisoned.images[others], train.images[others])
        assert torch.equal(poisoned.images[poison.indices], poison.images)
        assert torch.bincount(poisoned.labels).tolist() == [60] * 5
        assert bool((train.labels[poison.indices] == poison.goal.adversarial_label).all())
        bases = {image.numpy().tobytes() for image in train.images[poison.indices]}
        assert not bases & {image.numpy().tobytes() for image in poisoned.images}
        assert poison.goal.image.numpy().tobytes() not in {image.numpy().tobytes() for image in poisoned.images}


def test_objective_is_the_mean_over_surrogates_of_the_norm_ratio() -> None:
    surrogates = [Linear(0, 16, 5), Linear(1, 16, 9)]
    generator = torch.Generator().manual_seed(0)
    poisons, targets = torch.rand(6, 1, 4, 4, generator=generator), torch.rand(2, 1, 4, 4, generator=generator)
    centers = [surrogate.penultimate(targets) for surrogate in surrogates]
    found = center_distances(poisons, centers, surrogates)
    for trial in range(2):
        expected = 0.0
        for surrogate in surrogates:
            mean = sum(surrogate.penultimate(poisons[3 * trial + j : 3 * trial + j + 1])[0] for j in range(3)) / 3
            center = surrogate.penultimate(targets[trial : trial + 1])[0]
            expected += float((mean - center).square().sum().sqrt() / center.square().sum().sqrt()) / 2
        assert float(found[trial]) == pytest.approx(expected, rel=1e-5)


def test_a_reachable_target_is_hit_in_the_middle() -> None:
    """Linear features and an ample budget: mean phi(p) = phi(x_t) has a solution, and Adam finds it up to its step."""
    task = replace(small_task(4), budget=Budget(4, "linf", 1.0))
    surrogate = Linear(0, 16, 6)
    poison = bullseye_polytope(task, Knowledge((surrogate,)), Key(0), steps=400, step_size=0.002)
    center = surrogate.penultimate(as_pixels(task.goal.image.unsqueeze(0)))
    assert float(center_distances(as_pixels(poison.images), [center], [surrogate])) < 0.02


def test_bases_are_uniform_over_the_adversarial_class() -> None:
    """Each of 8 candidates is among 3 bases with probability 3/8; with replacement it would be 1 - (7/8)^3 = 0.33."""
    task, trials = small_task(3), 1_500
    keys = [Key(0) / "bases" / i for i in range(trials)]
    poisons = bullseye_polytope_batch([task] * trials, Knowledge((Linear(0, 16, 2),)), keys, steps=1)
    chosen = torch.stack([poison.indices for poison in poisons])
    assert bool((task.train.labels[chosen] == 1).all())
    assert bool((chosen[:, 1:] > chosen[:, :-1]).all())
    for row in (task.train.labels == 1).nonzero().flatten().tolist():
        assert_rate_is(int((chosen == row).sum()), trials, 3 / 8)


def test_all_of_a_class_may_be_poisoned() -> None:
    poison = bullseye_polytope(small_task(8), Knowledge((Linear(0, 16, 2),)), Key(0), steps=1)
    assert poison.indices.tolist() == list(range(1, 24, 3))


def test_defaults_are_the_benchmark_s() -> None:
    """0.04 on normalized CIFAR-10 pixels is 2.0 to 2.1 of 255 levels."""
    assert 2.0 < CIFAR10_STEP * 255 < 2.1
    for attack in (bullseye_polytope, bullseye_polytope_batch):
        options = inspect.signature(attack).parameters.values()
        defaults = {option.name: option.default for option in options if option.kind is option.KEYWORD_ONLY}
        assert defaults == {"steps": 1_200, "step_size": CIFAR10_STEP, "views": None, "dropout_draws": 0}


def test_fixture_is_the_one_the_thresholds_were_measured_on() -> None:
    fixture = transfer_fixture()
    assert (STEPS, STEP_SIZE, NUM_POISONS, len(fixture.train), len(fixture.goals)) == (150, 0.02, 10, 300, 10)
    view = View(fixture.train.pixels(), fixture.train.labels, 5, Lineage(start="trusted"))
    logits = HeadTrainer(fixture.extractor).fit([view], [Key(0)], Key(0))(fixture.test.pixels())
    assert float((logits[0].argmax(1) == fixture.test.labels).float().mean()) > 0.95


def test_several_views_share_a_center() -> None:
    """The center is the mean feature of all of them, and without views, that of the target."""
    task, surrogate = replace(small_task(4), budget=Budget(4, "linf", 1.0)), Linear(0, 16, 6)
    views = torch.stack([small_task(4, seed).goal.image for seed in (5, 6)])
    options = {"steps": 400, "step_size": 0.002}
    several = bullseye_polytope(task, Knowledge((surrogate,)), Key(0), views=views, **options)
    alone = bullseye_polytope(task, Knowledge((surrogate,)), Key(0), **options)
    target = surrogate.penultimate(as_pixels(task.goal.image.unsqueeze(0)))
    center = surrogate.penultimate(as_pixels(torch.cat([task.goal.image.unsqueeze(0), views]))).mean(0, keepdim=True)
    assert float(center_distances(as_pixels(several.images), [center], [surrogate])) < 0.02
    assert float(center_distances(as_pixels(alone.images), [center], [surrogate])) > 0.2
    assert float(center_distances(as_pixels(alone.images), [target], [surrogate])) < 0.02


def test_each_task_has_views_of_its_own() -> None:
    tasks = [small_task(2, seed) for seed in (0, 1)]
    views = [torch.stack([small_task(2, seed).goal.image for seed in seeds]) for seeds in ((5, 6), (7,))]
    options = {"steps": 20, "step_size": 0.02}
    knowledge, keys = Knowledge((Linear(0, 16, 6),)), [Key(0), Key(1)]
    together = bullseye_polytope_batch(tasks, knowledge, keys, views=views, **options)
    for i in range(2):
        alone = bullseye_polytope(tasks[i], knowledge, keys[i], views=views[i], **options)
        assert torch.equal(alone.images, together[i].images)
    with pytest.raises(ValueError, match=r"^1 sets of views for 2 tasks; give one set for each task$"):
        bullseye_polytope_batch(tasks, knowledge, keys, views=views[:1])
    with pytest.raises(ValueError, match=r"is image 3 of the training set too"):
        bullseye_polytope(tasks[0], knowledge, Key(0), views=tasks[0].train.images[3:4])
    with pytest.raises(ValueError, match=r"a target of shape \(1, 4, 3\) for training images of \(1, 4, 4\)"):
        bullseye_polytope(tasks[0], knowledge, Key(0), views=tasks[0].train.images[3:4, :, :, :3])


def test_at_layers_of_maps_the_ratio_is_taken_over_channels_at_each_position() -> None:
    """Written out position by position; where the target has no signal, the mean norm of the other positions stands in."""
    model = transfer_fixture().extractor
    surrogates = at_layers(model, ["body.5", "penultimate"])
    generator = torch.Generator().manual_seed(0)
    poisons, targets = torch.rand(6, 1, 8, 8, generator=generator), torch.rand(2, 1, 8, 8, generator=generator)
    centers = maps_of(surrogates, targets)
    centers[0][1, :, 2, 3] = 0
    found = center_distances(poisons, centers, surrogates)
    maps, last = maps_of(surrogates, poisons)
    assert maps.shape == (6, 32, 4, 4)
    for trial in range(2):
        mean, center = maps[3 * trial : 3 * trial + 3].mean(0), centers[0][trial]
        norms = [float(center[:, i, j].norm()) for i in range(4) for j in range(4)]
        fallback = sum(norms) / 16
        distances = [float((mean[:, i, j] - center[:, i, j]).norm()) for i in range(4) for j in range(4)]
        at_maps = sum(distance / (norm or fallback) for distance, norm in zip(distances, norms, strict=True)) / 16
        pooled = last[3 * trial : 3 * trial + 3].mean(0) - centers[1][trial]
        assert float(found[trial]) == pytest.approx((at_maps + float(pooled.norm() / centers[1][trial].norm())) / 2, rel=1e-5)


def test_several_layers_are_all_moved_towards_the_target() -> None:
    model = transfer_fixture().extractor
    surrogates = at_layers(model, ["body.5", "penultimate"])
    task = fixture_tasks()[0]
    poison = bullseye_polytope(task, Knowledge(surrogates), trial_keys()[0], steps=60, step_size=STEP_SIZE)
    for surrogate in surrogates:
        center = maps_of([surrogate], as_pixels(task.goal.image.unsqueeze(0)))
        images = (as_pixels(task.train.images[poison.indices]), as_pixels(poison.images))
        before, after = (float(center_distances(each, center, [surrogate])) for each in images)
        assert after < 0.7 * before


class Dropping(nn.Module):
    """phi(x) = dropout of x W."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = Linear(0, 16, 6), nn.Dropout(0.3)

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.linear.penultimate(images))


def test_dropout_draws_are_named_by_the_key_and_leave_the_surrogate_in_eval_mode() -> None:
    tasks, keys, knowledge = [small_task(3, seed) for seed in (0, 1)], [Key(0), Key(1)], Knowledge((Dropping().eval(),))
    options = {"steps": 20, "step_size": 0.02}
    off, one, three = (bullseye_polytope_batch(tasks, knowledge, keys, dropout_draws=draws, **options) for draws in (0, 1, 3))
    again = bullseye_polytope(tasks[1], knowledge, keys[1], dropout_draws=3, **options)
    assert torch.equal(again.images, three[1].images)
    assert not torch.equal(off[0].images, three[0].images)
    assert not torch.equal(one[0].images, three[0].images)
    assert not any(module.training for module in knowledge.surrogates[0].modules())
