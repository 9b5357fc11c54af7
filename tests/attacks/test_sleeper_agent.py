"""Sleeper Agent on the digits from-scratch fixture: attack success over all triggered test images of victims from fresh seeds."""

import copy
import inspect
from dataclasses import replace

import pytest
import torch
from jaxtyping import config
from torch import nn

from certidote.attacks.gradient_matching import Aim, Descent, Matching, defended_objective, differentiated, objective
from certidote.attacks.sleeper_agent import largest_gradients, patched_sources, sleeper_agent, source_aims
from certidote.diffusion.denoiser import load
from certidote.diffusion.through import ThroughDenoiser
from certidote.scenarios.scratch import evaluate_triggers
from certidote.streams import Key
from certidote.types import Budget, ImageDataset, Images, Knowledge, Poison, Surrogate, Task, Trigger, as_pixels
from fixtures_scratch import KEY, clean_knowledge, digits, sleepers, targets, triggers

STEP = 0.4 * 0.3


def test_victims_obey_the_trigger_and_nothing_else_changes() -> None:
    """Success at least 45 % over 5 class pairs (90 % here; 1 to 4 % with a stale gradient, below 1 % with un-patched sources)."""
    result = evaluate_triggers(triggers(), sleepers(), KEY / "evaluation").plain
    assert float(result.poisoned.success_rate.mean()) >= 0.45
    assert float(result.poisoned.switched_rate.mean()) >= 0.45
    assert float(result.control.success_rate.mean()) <= 0.03
    assert float((result.control.clean_accuracy - result.poisoned.clean_accuracy).mean()) <= 0.02


def test_no_poison_carries_the_trigger() -> None:
    """Poisons stay in the budget, trigger's place included."""
    for poison in sleepers():
        poison.verify(digits()[0])
        moved = (poison.images.int() - digits()[0].images[poison.indices].int()).abs()
        assert int(moved.max()) <= 0.3 * 255


def test_bases_are_those_with_the_largest_gradients() -> None:
    """Against gradients of single images, by `backward`, on two surrogates."""
    train = digits()[0]
    second = copy.deepcopy(clean_knowledge().surrogates[0])
    with torch.no_grad():
        second.hidden.weight.add_(0.05)
    surrogates = (clean_knowledge().surrogates[0], second)
    for task in triggers().tasks()[:2]:
        label = task.goal.adversarial_label
        norms = {}
        for row in (train.labels == label).nonzero().flatten().tolist():
            total = 0.0
            for surrogate in surrogates:
                model = copy.deepcopy(surrogate).requires_grad_()
                nn.CrossEntropyLoss()(model(as_pixels(train.images[row : row + 1])), torch.tensor([label])).backward()
                total += float(torch.cat([weight.grad.flatten() for weight in model.parameters()]).double().norm())
            norms[row] = total
        expected = sorted(sorted(norms, key=lambda row: -norms[row])[: task.budget.num_poisons])
        assert largest_gradients(task, differentiated(surrogates)).tolist() == expected
        options = {"steps": 1, "retrains": 0, "step_size": STEP}
        assert sleeper_agent(task, Knowledge(surrogates), Key(0), **options).indices.tolist() == expected
        drawn = sleeper_agent(task, Knowledge(surrogates), Key(0), selection="random", **options).indices.tolist()
        assert drawn != expected
        named = replace(task, bases=torch.tensor(drawn))
        assert sleeper_agent(named, Knowledge(surrogates), Key(5), **options).indices.tolist() == drawn


class Spy:
    """Retrains, and remembers on what."""

    def __init__(self) -> None:
        self.sets: list[ImageDataset] = []
        self.keys: list[Key] = []
        self.trained: list[Surrogate] = []

    def __call__(self, data: ImageDataset, key: Key) -> tuple[Surrogate, ...]:
        assert clean_knowledge().retrain is not None
        self.sets.append(data)
        self.keys.append(key)
        trained = clean_knowledge().retrain(data, key)
        self.trained += trained
        return trained


def test_surrogates_are_trained_on_the_poisons_of_that_moment() -> None:
    """Exactly 4 times, each on a set that differs in the poisons alone, with other poisons and other coins each time."""
    task, spy = triggers().tasks()[0], Spy()
    knowledge = replace(clean_knowledge(), retrain=spy)
    options = {"steps": 10, "retrains": 4, "step_size": STEP, "shift": 0.0, "flip": False}
    poison = sleeper_agent(task, knowledge, Key(3), **options)
    assert len(spy.sets) == 4
    assert len(set(spy.keys)) == 4
    others = torch.ones(len(task.train), dtype=torch.bool)
    others[poison.indices] = False
    images = [data.images[poison.indices] for data in spy.sets]
    for data, mine in zip(spy.sets, images, strict=True):
        assert torch.equal(data.labels, task.train.labels)
        assert torch.equal(data.images[others], task.train.images[others])
        Poison(poison.indices, mine, task.goal, task.budget).verify(task.train)
    assert len({moment.numpy().tobytes() for moment in [*images, poison.images]}) == 5
    last = differentiated(spy.trained[-1:], task.train)
    aim = source_aims(last, patched_sources(task.train, task.goal, Key(3) / "sources"), task.goal.adversarial_label)
    label = torch.tensor([task.goal.adversarial_label])
    assert poison.objective == pytest.approx(
        float(objective(aim, as_pixels(poison.images).unsqueeze(0), label, Matching())), abs=1e-5
    )
    assert torch.equal(poison.images, sleeper_agent(task, clean_knowledge(), Key(3), **options).images)


def test_retraining_is_spread_evenly_and_its_set_has_the_poisons_of_that_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """After steps 5, 10, 15 and 20 of 25, counted from 0, as 50, 100, 150 and 200 of 250; each new gradient is taken on the new surrogate."""
    task, spy = triggers().tasks()[0], Spy()
    moments: list[torch.Tensor] = []
    steps: list[list[Aim]] = []
    step = Descent.step

    def watched(self: Descent, aims: list[Aim]) -> torch.Tensor:
        steps.append(aims)
        value = step(self, aims)
        moments.append(self.quantized()[0])
        return value

    monkeypatch.setattr(Descent, "step", watched)
    knowledge = replace(clean_knowledge(), retrain=spy)
    poison = sleeper_agent(task, knowledge, Key(3), steps=25, retrains=4, step_size=STEP, shift=0.0, flip=False)
    assert torch.equal(moments[-1], poison.images)
    for data, number in zip(spy.sets, (5, 10, 15, 20), strict=True):
        assert torch.equal(data.images[poison.indices], moments[number])
    models = [clean_knowledge().surrogates[0], *spy.trained]
    sources = patched_sources(task.train, task.goal, Key(3) / "sources")
    label = torch.full((len(sources),), task.goal.adversarial_label)
    for number, (aim,) in enumerate(steps):
        model = models[0 if number <= 5 else (number - 1) // 5]
        assert aim.surrogate.model is model
        (function,) = differentiated([model])
        assert torch.equal(aim.wanted[0], function.mean_gradient(sources, label))


def test_optimizer_and_schedule_go_on_through_retraining() -> None:
    """With a retraining that gives the same surrogates again, nothing changes."""
    task, options = triggers().tasks()[0], {"steps": 12, "step_size": STEP}
    still = replace(clean_knowledge(), retrain=lambda data, key: clean_knowledge().surrogates)
    often, never = (sleeper_agent(task, still, Key(2), retrains=retrains, **options) for retrains in (4, 0))
    assert torch.equal(often.images, never.images)


def test_sources_are_all_images_of_the_true_class_with_the_trigger() -> None:
    train = digits()[0]
    goal = triggers().goals[0]
    sources = patched_sources(train, goal, Key(0))
    plain = as_pixels(train.images[train.labels == goal.true_label])
    assert sources.shape == plain.shape
    assert bool((sources[:, :, 6:, 6:] == 1).all())
    sources[:, :, 6:, 6:] = plain[:, :, 6:, 6:]
    assert torch.equal(sources, plain)
    anywhere = replace(goal, true_label=None, place=None)
    assert len(patched_sources(train, anywhere, Key(0))) == int((train.labels != goal.adversarial_label).sum())
    first, again, other = (patched_sources(train, anywhere, Key(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Untouched:
    draws = 2

    def __call__(self, images: Images, key: Key) -> Images:
        return images


def test_through_no_defense_it_is_the_unaware_attack() -> None:
    task, options = triggers().tasks()[1], {"steps": 6, "retrains": 1, "step_size": STEP}
    plain = sleeper_agent(task, clean_knowledge(), Key(1), **options)
    defended = sleeper_agent(task, replace(clean_knowledge(), defense=Untouched()), Key(1), **options)
    assert torch.equal(plain.images, defended.images)


def test_adaptive_poisons_reach_a_lower_defended_objective_than_unaware_ones() -> None:
    """Paired, in each of two class pairs, at equal steps: the gap through noise 0.5 and the best linear denoiser, over 8 fresh draws."""
    denoiser = load("digits-linear-mmse")
    looking = ThroughDenoiser(denoiser, 0.5, draws=8)
    for task in triggers().tasks()[:2]:
        sources = patched_sources(task.train, task.goal, Key(4) / "sources")
        label = task.goal.adversarial_label
        aims = source_aims(differentiated(clean_knowledge().surrogates), sources, label)
        gaps = []
        for defense in (None, ThroughDenoiser(denoiser, 0.5)):
            known = replace(clean_knowledge(), defense=defense)
            poison = sleeper_agent(task, known, Key(4), steps=40, retrains=0, step_size=STEP, shift=0.0, flip=False)
            one, labels = poison.images.unsqueeze(0), torch.tensor([label])
            gaps.append(float(defended_objective(aims, one, labels, Matching(), looking, [Key(5)])))
        assert gaps[1] < gaps[0] - 0.01


def test_defaults_are_the_original_s() -> None:
    options = inspect.signature(sleeper_agent).parameters.values()
    defaults = {option.name: option.default for option in options if option.kind is option.KEYWORD_ONLY}
    assert defaults == {
        "steps": 250,
        "step_size": 0.025,
        "retrains": 4,
        "selection": "gradient-norm",
        "loss": "similarity",
        "match": "full",
        "batch_size": 512,
        "shift": 1 / 8,
        "flip": True,
        "border": "fill",
    }


def refused(task: Task | None = None, knowledge: Knowledge | None = None, **options: int | str) -> Poison:
    return sleeper_agent(task or triggers().tasks()[0], knowledge or clean_knowledge(), Key(0), **options)


def test_what_cannot_be_crafted_is_refused() -> None:
    task = triggers().tasks()[0]
    with pytest.raises(ValueError, match=r"retrains=4, but the attacker does not know how to retrain; give knowledge.retrain, or"):
        refused(knowledge=Knowledge(clean_knowledge().surrogates))
    with pytest.raises(ValueError, match=r"retrains=-1; give 0 or more"):
        refused(retrains=-1)
    with pytest.raises(
        ValueError, match=r"retrains=4 with steps=5: a step must follow each retraining, .* at most 3 fit; give fewer"
    ):
        refused(retrains=4, steps=5)
    with pytest.raises(ValueError, match=r"num_poisons=900 base images are wanted"):
        refused(replace(task, budget=Budget(900, "linf", 0.4)))
    empty = replace(task.train, labels=torch.where(task.train.labels == 0, 1, task.train.labels))
    with pytest.raises(
        ValueError, match=r"no training image is of the class '0', which the trigger is for; give other images or another trigger"
    ):
        refused(replace(task, train=empty, goal=replace(task.goal, true_label=0, adversarial_label=1)))
    with pytest.raises(ValueError, match=r"the goal is one test image, but this attack makes a backdoor; give a trigger"):
        refused(targets().tasks()[0])


def test_unknown_selections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # whoever uses the library has no checks of types
    with pytest.raises(ValueError, match=r"^unknown selection 'gradient_norm'; choose one of: gradient-norm, random$"):
        refused(selection="gradient_norm")


def test_retrained_surrogates_are_checked_too() -> None:
    def train_mode(data: ImageDataset, key: Key) -> tuple[Surrogate, ...]:
        return (copy.deepcopy(clean_knowledge().surrogates[0]).train(),)

    with pytest.raises(ValueError, match="surrogate 0 is in train mode"):
        refused(knowledge=replace(clean_knowledge(), retrain=train_mode), steps=4, retrains=1)


def test_triggers_are_white_squares_in_the_corner() -> None:
    goals = triggers().goals
    assert len(goals) == 5
    assert all(isinstance(goal, Trigger) and goal.place == (6, 6) and goal.patch.shape == (1, 2, 2) for goal in goals)
