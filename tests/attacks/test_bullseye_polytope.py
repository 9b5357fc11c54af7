import copy
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from certidote.attacks.bullseye_polytope import CIFAR10_STEP, bullseye_polytope, bullseye_polytope_batch, center_distances
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor
from certidote.training.head import HeadTrainer
from certidote.types import Budget, ImageDataset, Knowledge, Lineage, Poison, Target, Task, View, as_pixels
from false_alarms import assert_rate_is
from fixtures_transfer import (
    EPSILON,
    NUM_POISONS,
    NUM_TARGETS,
    STEP_SIZE,
    STEPS,
    bullseye_poisons,
    transfer_fixture,
    trial_keys,
)


class Double:
    """A surrogate that computes in float64, where rounding cannot decide anything."""

    def __init__(self, model: ConvExtractor) -> None:
        self.model = copy.deepcopy(model).double()

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.penultimate(images.double())


class Linear:
    """phi(x) = x W, flattened."""

    def __init__(self, seed: int, pixels: int, width: int) -> None:
        self.weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(pixels, width)).astype("float32"))

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def small_task(num_poisons: int = 3, seed: int = 0, per_class: int = 8) -> Task:
    generator = np.random.default_rng(seed)
    images = torch.from_numpy(generator.integers(0, 256, (3 * per_class + 1, 1, 4, 4)).astype("uint8"))
    train = ImageDataset(images[1:], torch.arange(3 * per_class) % 3, ("a", "b", "c"))
    return Task(train, Target(images[0], 0, 1, 0), Budget(num_poisons, "linf", 0.2))


def heads_on(sets: list[ImageDataset]) -> torch.Tensor:
    """Predictions (trials,) of a head fitted to each set, for the fixture's target of the same number."""
    fixture = transfer_fixture()
    views = [View(s.pixels(), s.labels, 5, Lineage(unsealed=("test",), start="trusted")) for s in sets]
    keys = [key / "victim" for key in trial_keys()]
    heads = HeadTrainer(fixture.extractor).fit(views, keys, Key(0))
    return heads(as_pixels(torch.stack([goal.image for goal in fixture.goals]))).argmax(2).diagonal()


def test_poisons_stay_in_the_ball_and_the_box_after_rounding() -> None:
    train = transfer_fixture().train
    for poison in bullseye_poisons():
        poison.verify(train)
        moved = (poison.images.int() - train.images[poison.indices].int()).abs().max()
        assert 0.8 * EPSILON < int(moved) / 255 <= EPSILON  # the attack uses what it has


def test_mean_feature_reaches_the_target() -> None:
    """||mean phi(p) - phi(x_t)|| relative to the bases': median 0.31 here; 2.0 with the sign flipped, 0.86 in the wrong space."""
    fixture, poisons = transfer_fixture(), bullseye_poisons()
    centers = [fixture.extractor.penultimate(as_pixels(torch.stack([goal.image for goal in fixture.goals])))]
    before = as_pixels(torch.cat([fixture.train.images[poison.indices] for poison in poisons]))
    after = as_pixels(torch.cat([poison.images for poison in poisons]))
    distances = [center_distances(images, centers, [fixture.extractor]) for images in (before, after)]
    assert float((distances[1] / distances[0]).median()) <= 0.40


def test_heads_trained_on_the_poisons_fall_for_them() -> None:
    """At least 6 of 10 (9 here; flipped sign 0, budget in the wrong space 0 to 1), and none without poison."""
    fixture = transfer_fixture()
    wanted = torch.tensor([goal.adversarial_label for goal in fixture.goals])
    poisoned = heads_on([poison.apply(fixture.train) for poison in bullseye_poisons()])
    control = heads_on([fixture.train] * NUM_TARGETS)
    assert int((poisoned == wanted).sum()) >= 6
    assert int((control == wanted).sum()) == 0


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


def test_surrogates_are_unchanged_to_the_last_bit() -> None:
    extractor = transfer_fixture().extractor
    before = copy.deepcopy(extractor.state_dict())
    task = Task(transfer_fixture().train, transfer_fixture().goals[0], Budget(4, "linf", EPSILON))
    bullseye_polytope(task, Knowledge((extractor,)), Key(0), steps=5, step_size=STEP_SIZE)
    after = extractor.state_dict()
    assert len([name for name in after if "running" in name]) == 6
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert all(parameter.grad is None for parameter in extractor.parameters())


def test_crafting_together_gives_the_poisons_of_crafting_alone() -> None:
    """In float64 to the last level, in an order and in groups that differ."""
    fixture = transfer_fixture()
    knowledge = Knowledge((Double(fixture.extractor),))
    tasks = [Task(fixture.train, goal, Budget(40, "linf", EPSILON)) for goal in fixture.goals[:4]]
    keys = trial_keys()[:4]
    together = bullseye_polytope_batch(tasks, knowledge, keys, steps=12, step_size=STEP_SIZE)
    for trial in (3, 0):
        alone = bullseye_polytope(tasks[trial], knowledge, keys[trial], steps=12, step_size=STEP_SIZE)
        assert torch.equal(alone.indices, together[trial].indices)
        assert torch.equal(alone.images, together[trial].images)
        assert alone.goal is together[trial].goal
    assert len({tuple(poison.indices.tolist()) for poison in together}) == 4


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


def test_l2_budget_is_kept() -> None:
    task = replace(small_task(4), budget=Budget(4, "l2", 0.5))
    poison = bullseye_polytope(task, Knowledge((Linear(0, 16, 6),)), Key(0), steps=50)
    moved = (poison.images.double() - task.train.images[poison.indices].double()).flatten(1).norm(dim=1) / 255
    assert float(moved.max()) <= 0.5
    assert float(moved.max()) > 0.45


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
        assert defaults == {"steps": 1_200, "step_size": CIFAR10_STEP}


def refused(task: Task, knowledge: Knowledge | None = None, **options: float) -> Poison:
    return bullseye_polytope(task, knowledge or Knowledge((Linear(0, 16, 2),)), Key(0), **options)


def test_surrogates_in_train_mode_are_refused() -> None:
    extractor = copy.deepcopy(transfer_fixture().extractor)
    extractor.body[1].train()  # one BatchNorm is enough to spoil later trials
    with pytest.raises(
        ValueError, match=r"surrogate 1 is in train mode, where crafting would change its BatchNorm; call .eval\(\)"
    ):
        refused(small_task(), Knowledge((Linear(0, 16, 2), extractor)))


def test_what_cannot_be_crafted_is_refused() -> None:
    task = small_task()
    with pytest.raises(ValueError, match=r"num_poisons=9 base images are wanted, but the adversarial class 'b' has 8; lower"):
        refused(small_task(9))
    with pytest.raises(ValueError, match=r"the adversarial label 0 is the target's true label; choose another class"):
        refused(replace(task, goal=replace(task.goal, adversarial_label=0)))
    with pytest.raises(ValueError, match=r"labels 0 and 3 of the goal must lie in 0 to 2"):
        refused(replace(task, goal=replace(task.goal, adversarial_label=3)))
    with pytest.raises(ValueError, match=r"no surrogates given; the attack needs at least 1 model to aim at"):
        refused(task, Knowledge(()))
    with pytest.raises(ValueError, match=r"steps=0, step_size=0.01; both must be positive"):
        refused(task, steps=0, step_size=0.01)
    with pytest.raises(ValueError, match=r"step_size=-0.1; both must be positive"):
        refused(task, steps=1, step_size=-0.1)
    dead = Linear(0, 16, 2)
    dead.weight.zero_()
    with pytest.raises(ValueError, match=r"features of a target are all zero"):
        refused(task, Knowledge((dead,)))


def test_batches_that_do_not_fit_together_are_refused() -> None:
    task, knowledge = small_task(), Knowledge((Linear(0, 16, 2),))
    with pytest.raises(ValueError, match=r"0 tasks and 0 keys; give at least one task"):
        bullseye_polytope_batch([], knowledge, [])
    with pytest.raises(ValueError, match=r"2 tasks and 1 keys; .* one key for each"):
        bullseye_polytope_batch([task, task], knowledge, [Key(0)])
    with pytest.raises(ValueError, match=r"must share one budget"):
        bullseye_polytope_batch([task, small_task(4)], knowledge, [Key(0), Key(1)])


def test_fixture_is_the_one_the_thresholds_were_measured_on() -> None:
    fixture = transfer_fixture()
    assert (STEPS, STEP_SIZE, NUM_POISONS, len(fixture.train), len(fixture.goals)) == (150, 0.02, 10, 300, 10)
    view = View(fixture.train.pixels(), fixture.train.labels, 5, Lineage(start="trusted"))
    logits = HeadTrainer(fixture.extractor).fit([view], [Key(0)], Key(0))(fixture.test.pixels())
    assert float((logits[0].argmax(1) == fixture.test.labels).float().mean()) > 0.95
