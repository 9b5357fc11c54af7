"""What Poison Frogs, Convex Polytope and Bullseye Polytope have in common, each of them on the digits transfer fixture."""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import config

from certidote.attacks import ATTACKS, crafting
from certidote.attacks.bullseye_polytope import center_objective
from certidote.attacks.convex_polytope import hull_objective, residual
from certidote.attacks.crafting import Maps, Objective, Trials
from certidote.attacks.poison_frogs import collision_objective
from certidote.attacks.selection import choose_bases
from certidote.attacks.simplex import gram, nearest_in_hull
from certidote.diffusion.denoiser import load
from certidote.diffusion.through import ThroughDenoiser
from certidote.streams import Key, torch_seeded
from certidote.training.extractor import ConvExtractor
from certidote.training.head import HeadTrainer
from certidote.types import Budget, ImageDataset, Knowledge, Lineage, Poison, Task, Trigger, View, as_pixels
from fixtures_attacks import Double, Linear, Unchanged, small_task
from fixtures_transfer import BATCHES, EPSILON, NUM_TARGETS, OPTIONS, crafted, fixture_tasks, transfer_fixture, trial_keys


@pytest.fixture
def _no_checks_of_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uses the library has none."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


each_attack = pytest.mark.parametrize("name", list(BATCHES))


def heads_on(sets: list[ImageDataset]) -> torch.Tensor:
    """Predictions (trials,) of a head fitted to each set, for the fixture's target of the same number."""
    fixture = transfer_fixture()
    views = [View(s.pixels(), s.labels, 5, Lineage(unsealed=("test",), start="trusted")) for s in sets]
    keys = [key / "victim" for key in trial_keys()]
    heads = HeadTrainer(fixture.extractor).fit(views, keys, Key(0))
    return heads(as_pixels(torch.stack([goal.image for goal in fixture.goals]))).argmax(2).diagonal()


def wanted() -> torch.Tensor:
    return torch.tensor([goal.adversarial_label for goal in transfer_fixture().goals])


@each_attack
def test_poisons_stay_in_the_ball_and_the_box_after_rounding(name: str) -> None:
    train = transfer_fixture().train
    for poison in crafted(name):
        poison.verify(train)
        moved = (poison.images.int() - train.images[poison.indices].int()).abs().max()
        assert 0.8 * EPSILON < int(moved) / 255 <= EPSILON  # the attack uses what it has


@pytest.mark.parametrize(("name", "least"), [("bullseye-polytope", 6), ("poison-frogs", 5), ("convex-polytope", 4)])
def test_heads_trained_on_the_poisons_fall_for_them(name: str, least: int) -> None:
    """Of 10 targets 8, 7 and 7 here; with a flipped sign 0, with the budget in the wrong space 0 to 1."""
    poisoned = heads_on([poison.apply(transfer_fixture().train) for poison in crafted(name)])
    assert int((poisoned == wanted()).sum()) >= least


def test_heads_trained_without_poison_do_not_fall() -> None:
    assert int((heads_on([transfer_fixture().train] * NUM_TARGETS) == wanted()).sum()) == 0


@each_attack
def test_surrogates_are_unchanged_to_the_last_bit(name: str) -> None:
    extractor = copy.deepcopy(transfer_fixture().extractor)
    before = copy.deepcopy(extractor.state_dict())
    extractor.requires_grad_(True)  # as an attacker's own would be
    ATTACKS[name](fixture_tasks(4)[0], Knowledge((extractor,)), Key(0), **{**OPTIONS[name], "steps": 5})
    after = extractor.state_dict()
    assert len([name for name in after if "running" in name]) == 6
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in extractor.parameters())


@each_attack
@pytest.mark.parametrize("defense", [None, ThroughDenoiser(load("none"), 0.2, 2)], ids=["unaware", "adaptive"])
def test_crafting_together_gives_the_poisons_of_crafting_alone(name: str, defense: ThroughDenoiser | None) -> None:
    """In float64 to the last level: the last, which has a group of its own, and one in the middle of a group."""
    knowledge = Knowledge((Double(transfer_fixture().extractor),), defense=defense)
    tasks, keys = fixture_tasks(40)[:4], trial_keys()[:4]
    options = {**OPTIONS[name], "steps": 6}
    together = BATCHES[name](tasks, knowledge, keys, **options)
    for trial in (3, 1):
        alone = ATTACKS[name](tasks[trial], knowledge, keys[trial], **options)
        assert torch.equal(alone.indices, together[trial].indices)
        assert torch.equal(alone.images, together[trial].images)
        assert alone.goal is together[trial].goal
    assert len({tuple(poison.indices.tolist()) for poison in together}) == 4


@each_attack
def test_poisons_say_what_their_attack_reached(name: str) -> None:
    """The objective of the stored images, by its formula, in groups of trials as alone; frogs' is the mean over a trial's poisons."""
    extractor, poisons = Double(transfer_fixture().extractor), crafted(name)
    for poison, goal in zip(poisons, transfer_fixture().goals, strict=True):
        found = extractor.penultimate(as_pixels(poison.images))
        wanted = extractor.penultimate(as_pixels(goal.image.unsqueeze(0)))
        if name == "poison-frogs":
            expected = float((found - wanted).square().sum(1).mean())
        elif name == "bullseye-polytope":
            expected = float((found.mean(0) - wanted[0]).norm() / wanted.norm())
        else:
            product = gram(found, wanted[0])
            coefficients = nearest_in_hull(product.unsqueeze(0)).coefficients
            expected = float(residual(found.unsqueeze(0), wanted, coefficients))
        assert poison.objective == pytest.approx(expected, rel=1e-3)


@each_attack
def test_l2_budget_is_kept(name: str) -> None:
    task = replace(small_task(4), budget=Budget(4, "l2", 0.5))
    poison = ATTACKS[name](task, Knowledge((Linear(0, 16, 6),)), Key(0), **{**OPTIONS[name], "steps": 60})
    moved = (poison.images.double() - task.train.images[poison.indices].double()).flatten(1).norm(dim=1) / 255
    assert float(moved.max()) <= 0.5
    assert float(moved.max()) > 0.45


@each_attack
def test_named_bases_become_the_poisons(name: str) -> None:
    task = replace(small_task(3), bases=torch.tensor([7, 1, 22]))
    poison = ATTACKS[name](task, Knowledge((Linear(0, 16, 6),)), Key(0), steps=2)
    assert poison.indices.tolist() == [1, 7, 22]


@each_attack
@pytest.mark.parametrize("draws", [1, 2])
def test_through_a_defense_that_does_nothing_the_poisons_are_those_of_an_unaware_attack(name: str, draws: int) -> None:
    extractor, options = transfer_fixture().extractor, {**OPTIONS[name], "steps": 15}
    unaware, adaptive = (
        BATCHES[name](fixture_tasks()[:3], Knowledge((extractor,), defense=defense), trial_keys()[:3], **options)
        for defense in (None, Unchanged(draws))
    )
    for plain, through in zip(unaware, adaptive, strict=True):
        assert torch.equal(plain.indices, through.indices)
        assert torch.equal(plain.images, through.images)


class Watched(ThroughDenoiser):
    """Remembers what it was shown, and under which keys."""

    def __init__(self, draws: int) -> None:
        super().__init__(load("none"), 0.2, draws)
        self.keys: list[Key] = []
        self.shown: list[torch.Tensor] = []

    def together(self, parts: Sequence[torch.Tensor], keys: Sequence[Key]) -> torch.Tensor:
        self.keys += keys
        self.shown += [part.detach().clone() for part in parts]
        return super().together(parts, keys)


@each_attack
def test_a_defense_has_new_noise_in_each_step_and_never_sees_the_target(name: str) -> None:
    """Gradients of three steps, two trials and two draws: twelve streams; a line search compares both ends under others."""
    tasks, keys, defense = [small_task(3, seed) for seed in (0, 1)], [Key(0), Key(1)], Watched(2)
    BATCHES[name](tasks, Knowledge((Linear(0, 16, 6),), defense=defense), keys, steps=3)
    judged = [key for key in defense.keys if "judge" in key.path and "end" not in key.path]
    ended = [key for key in defense.keys if "end" in key.path]  # what the stored poisons reached
    assert len(ended) == len(set(ended)) == 4
    looked = [key for key in defense.keys if "judge" not in key.path]
    assert len(looked) == len(set(looked)) == 12
    assert len(judged) == 2 * len(set(judged)) == (24 if name == "poison-frogs" else 0)
    for trial, root in enumerate(keys):
        bases = as_pixels(tasks[trial].train.images[choose_bases(tasks[trial], root / "bases")])
        for key, images in zip(defense.keys, defense.shown, strict=True):
            if key.root == root.root:
                assert float((images - bases).abs().max()) <= 0.2 + 1e-6


def objective_of(name: str, targets: Maps) -> Objective:
    """One number for each trial."""
    if name == "poison-frogs":
        each = collision_objective(targets)
        return lambda maps, draw: each(maps, draw).view(len(targets[0]), -1).mean(1)
    return {"convex-polytope": hull_objective, "bullseye-polytope": center_objective}[name](targets)


@each_attack
def test_an_attack_that_sees_the_denoiser_does_better_behind_it(name: str) -> None:
    """Paired: on each trial the defended objective, over draws that nobody crafted with, is lower than the unaware attack's."""
    extractor, denoiser = transfer_fixture().extractor, load("digits")
    tasks, keys = fixture_tasks(4)[:3], trial_keys()[:3]
    rows = [choose_bases(task, key / "bases") for task, key in zip(tasks, keys, strict=True)]
    judge = Trials(tasks, rows, [key / "judge" for key in keys], Knowledge((extractor,), defense=ThroughDenoiser(denoiser, 0.5, 8)))
    objective = objective_of(name, judge.target_features())
    options = {"steps": 30} if name == "poison-frogs" else {"steps": 40, "step_size": 0.025}
    found = []
    for defense in (None, ThroughDenoiser(denoiser, 0.5, 1)):
        poisons = BATCHES[name](tasks, Knowledge((extractor,), defense=defense), keys, **options)
        found.append(judge.values(as_pixels(torch.cat([poison.images for poison in poisons])), 0, objective))
    unaware, adaptive = found
    assert bool((adaptive < unaware).all())
    assert float((adaptive / unaware).mean()) < 0.95


def refused(name: str, task: Task, knowledge: Knowledge | None = None, **options: float) -> Poison:
    return ATTACKS[name](task, knowledge or Knowledge((Linear(0, 16, 2),)), Key(0), **options)


@each_attack
def test_surrogates_in_train_mode_are_refused(name: str) -> None:
    extractor = copy.deepcopy(transfer_fixture().extractor)
    extractor.body[1].train()  # one BatchNorm is enough to spoil later trials
    with pytest.raises(
        ValueError, match=r"^surrogate 1 is in train mode, where crafting would change its BatchNorm; call .eval\(\) on it$"
    ):
        refused(name, small_task(), Knowledge((Linear(0, 16, 2), extractor)))


@each_attack
def test_what_cannot_be_crafted_is_refused_in_one_line(name: str) -> None:
    task = small_task()
    trigger = Trigger(torch.zeros(1, 2, 2, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.bool), (0, 0), 0, 1)
    cases = [
        (replace(task, budget=replace(task.budget, num_poisons=9)), r"num_poisons=9 base images .* class 'b' has 8; lower"),
        (
            replace(task, goal=replace(task.goal, adversarial_label=0)),
            r"the adversarial label 0 is the target's true label; choose",
        ),
        (replace(task, goal=replace(task.goal, adversarial_label=3)), r"labels 0 and 3 of the goal must lie in 0 to 2$"),
        (replace(task, goal=replace(task.goal, image=task.train.images[4])), r"test image 0, is image 4 of the training set too"),
        (
            replace(task, bases=torch.tensor([1, 4, 4])),
            r"base image 4 is given more than once; each base image becomes one poison$",
        ),
        (replace(task, bases=torch.tensor([1, 4])), r"2 base images for a budget of num_poisons=3; give as many$"),
        (
            replace(task, bases=torch.tensor([1, 4, 5])),
            r"base image 5 is of class 'c'; bases must be of the adversarial class 'b'$",
        ),
        (replace(task, goal=trigger), r"the goal is a trigger, but this attack aims at one test image; give a target$"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message) as raised:
            refused(name, wrong)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"^no surrogates given; the attack needs at least 1 model to aim at$"):
        refused(name, task, Knowledge(()))
    with pytest.raises(ValueError, match=r"^steps=0, step_size=0.01; both must be positive"):
        refused(name, task, steps=0, step_size=0.01)
    with pytest.raises(ValueError, match=r"step_size=-0.1; both must be positive"):
        refused(name, task, steps=1, step_size=-0.1)
    dead = Linear(0, 16, 2)
    dead.weight.zero_()
    with pytest.raises(ValueError, match=r"features of a target are all zero"):
        refused(name, task, Knowledge((dead,)))


@pytest.mark.parametrize("name", ["convex-polytope", "bullseye-polytope"])
def test_dropout_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^dropout_draws=3, but surrogate 0 has no dropout to draw; give 0$"):
        refused(name, small_task(), dropout_draws=3)
    with pytest.raises(ValueError, match=r"^dropout_draws=-1; give 0 for dropout off"):
        refused(name, small_task(), dropout_draws=-1)


@each_attack
def test_batches_that_do_not_fit_together_are_refused(name: str) -> None:
    batch, task, knowledge = BATCHES[name], small_task(), Knowledge((Linear(0, 16, 2),))
    with pytest.raises(ValueError, match=r"0 tasks and 0 keys; give at least one task"):
        batch([], knowledge, [])
    with pytest.raises(ValueError, match=r"2 tasks and 1 keys; .* one key for each"):
        batch([task, task], knowledge, [Key(0)])
    with pytest.raises(ValueError, match=r"must share one budget"):
        batch([task, small_task(4)], knowledge, [Key(0), Key(1)])


def test_epsilon_in_levels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^epsilon=8.0 is outside \[0, 1\] pixel units; for 8 of 255 levels give 8/255$"):
        Budget(3, "linf", 8.0)
    with pytest.raises(ValueError, match=r"^epsilon=-0.1 is outside \[0, 1\] pixel units; for 16 of 255 levels give 16/255$"):
        Budget(3, "linf", -0.1)


def test_trials_are_where_the_surrogates_are() -> None:
    """On a device of shapes without numbers: nothing here may be left on the CPU."""
    surrogate = copy.deepcopy(transfer_fixture().extractor).to("meta")
    tasks, keys = fixture_tasks()[:2], trial_keys()[:2]
    rows = [choose_bases(task, key / "bases") for task, key in zip(tasks, keys, strict=True)]
    trials = Trials(tasks, rows, keys, Knowledge((surrogate,)))
    for held in (trials.stored, trials.bases, trials.targets):
        assert held.is_meta
    for objective in (center_objective, collision_objective):
        value, gradient = trials.look(trials.bases, 0, objective([surrogate.penultimate(trials.targets)]))
        assert value.is_meta
        assert gradient.is_meta


@pytest.mark.usefixtures("_no_checks_of_types")
@pytest.mark.parametrize(
    ("norm", "epsilon", "message"),
    [
        ("l1", 0.1, "unknown norm 'l1'; choose linf or l2"),
        ("Linf", 0.1, "unknown norm 'Linf'; choose linf or l2"),
        ("l2", float("inf"), "epsilon=inf; give a finite number of at least 0, in [0, 1] pixel units"),
        ("l2", float("nan"), "epsilon=nan; give a finite number of at least 0"),
        ("linf", float("inf"), "epsilon=inf is outside [0, 1] pixel units"),
        ("linf", "16/255", "epsilon='16/255' is no number; give one in [0, 1] pixel units, such as 16 / 255 without quotes"),
        ("l2", True, "epsilon=True is no number"),
        ("linf", 1, "epsilon=1 may mean one of 255 levels or the whole range; give 1 / 255, or 1.0 for no constraint"),
    ],
)
def test_budgets_that_bound_nothing_are_refused(norm: object, epsilon: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Budget(3, norm, epsilon)


@pytest.mark.usefixtures("_no_checks_of_types")
def test_epsilon_may_be_a_number_of_any_kind() -> None:
    assert Budget(3, "linf", np.float32(0.5)).epsilon == 0.5
    assert Budget(3, "l2", 3).epsilon == 3
    assert Budget(np.int64(3), "linf", 1.0).epsilon == 1


@pytest.mark.usefixtures("_no_checks_of_types")
@pytest.mark.parametrize("number", [0, 2.5, True])
def test_poisons_are_counted_in_whole_numbers(number: object) -> None:
    with pytest.raises(ValueError, match=f"^num_poisons={number}; a budget allows at least 1 poison, and a whole number of them$"):
        Budget(number, "linf", 0.1)


@pytest.mark.usefixtures("_no_checks_of_types")
@pytest.mark.parametrize(
    ("bases", "given"),
    [([1, 4], "a list"), (np.array([1, 4]), "a ndarray"), (torch.tensor([[1, 4]]), "torch.int64 of shape (1, 2)"),
     (torch.tensor([1.0]), "torch.float32 of shape (1,)")],
)  # fmt: skip
def test_bases_that_are_no_tensor_of_rows_are_refused(bases: object, given: str) -> None:
    task = small_task()
    message = f"bases are {given}; give row numbers as an int64 tensor of one dimension, torch.tensor([1, 4]) say"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Task(task.train, task.goal, task.budget, bases)


@pytest.mark.usefixtures("_no_checks_of_types")
def test_one_model_is_no_tuple_of_surrogates() -> None:
    with pytest.raises(ValueError, match=r"^surrogates is a Linear; give a tuple of models, \(model,\) for one$"):
        Knowledge(torch.nn.Linear(3, 3))


@each_attack
def test_step_sizes_are_finite(name: str) -> None:
    """Feature collision steps along raw gradients; the others' steps are of pixels, at most their whole range."""
    with pytest.raises(ValueError, match=r"^steps=3, step_size=inf; both must be positive"):
        refused(name, small_task(), steps=3, step_size=float("inf"))
    if name != "poison-frogs":
        with pytest.raises(ValueError, match=r"step_size=16.0; .* at most 1 \(16/255 for 16 levels\)$"):
            refused(name, small_task(), steps=3, step_size=16.0)


@pytest.mark.usefixtures("_no_checks_of_types")
@each_attack
def test_surrogates_for_other_images_are_refused(name: str) -> None:
    """One for three channels, one for more pixels, and one without features."""
    for surrogate in (ConvExtractor((3, 8, 8), 5, 0.3, 0.3).eval(), Linear(0, 64, 2)):
        with pytest.raises(
            ValueError,
            match=r"^surrogate 1 cannot take images of \(1, 4, 4\), as the training set has: [^\n]*; give one trained on",
        ):
            ATTACKS[name](small_task(), Knowledge((Linear(0, 16, 2), surrogate)), Key(0))
    with pytest.raises(ValueError, match=r"^surrogate 0, a ReLU, has no method `penultimate`, of images; give the model one$"):
        ATTACKS[name](small_task(), Knowledge((torch.nn.ReLU().eval(),)), Key(0))


@each_attack
def test_surrogates_on_several_devices_are_refused(name: str) -> None:
    extractor = transfer_fixture().extractor
    knowledge = Knowledge((extractor, copy.deepcopy(extractor).to("meta")))
    with pytest.raises(ValueError, match=r"^surrogates are on cpu and meta; move them to one device$"):
        ATTACKS[name](fixture_tasks()[0], knowledge, Key(0))


class Expanding(torch.nn.Module):
    """Features by way of a thousand numbers for each pixel, which a backward pass needs; and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.drop = torch.nn.Linear(16, 16_000), torch.nn.Linear(16_000, 5), torch.nn.Dropout(0.3)
        self.eval().requires_grad_(False)

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return self.narrow(self.drop(self.wide(images.flatten(1)).tanh()))


@pytest.mark.parametrize("dropout_draws", [0, 2])
@pytest.mark.parametrize("make", [center_objective, hull_objective])
def test_many_poisons_are_looked_at_in_parts(
    make: Callable[..., Objective], dropout_draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 poisons, as on the whole of CIFAR-10: what a backward pass needs is kept of none of them while features are made."""
    with torch_seeded(Key(1)):
        surrogate = Expanding()
    task, kept = small_task(500, per_class=500), [0]
    trials = Trials([task], [choose_bases(task, Key(0))], [Key(0)], Knowledge((surrogate,)), dropout_draws)

    def packed(saved: torch.Tensor) -> torch.Tensor:
        kept[0] += saved.nbytes
        return saved

    def look() -> tuple[torch.Tensor, torch.Tensor, int]:
        kept[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(packed, lambda saved: saved):
            value, gradient = trials.look(trials.bases, 0, make(trials.target_features()))
        return value, gradient, kept[0]

    value, gradient, small = look()
    assert small < 4_000_000
    assert bool((gradient != 0).any())
    again = look()
    assert torch.equal(again[1], gradient)
    if dropout_draws:
        return  # parts have masks of their own
    monkeypatch.setattr(crafting, "IMAGES_TOGETHER", 500)
    whole_value, whole, large = look()
    assert large > 30_000_000
    torch.testing.assert_close(value, whole_value)
    torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-7)
