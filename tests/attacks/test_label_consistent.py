import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module

import pytest
import torch
from jaxtyping import config
from torch.nn.functional import cross_entropy

from certidote.attacks.label_consistent import harder, label_consistent, own_loss
from certidote.attacks.triggers import label_consistent_corner
from certidote.data.digits import load_digits
from certidote.diffusion.through import ThroughDenoiser
from certidote.streams import Key
from certidote.types import Budget, DifferentiableDefense, ImageDataset, Knowledge, Poison, Target, Task, Trigger, as_pixels
from fixtures_attacks import Unchanged
from fixtures_backdoors import SHAPE, Scratch, accuracy, attack_success_rate, predicted, scratch_fixture, victims
from fixtures_transfer import KernelDenoiser, transfer_fixture

EPSILON = 0.3
LABELS = range(10)
"""Adversarial labels of the ten trials."""


def goal_of(label: int) -> Trigger:
    return label_consistent_corner(SHAPE, None, label, Key(0))


def task_of(label: int, epsilon: float = EPSILON, visible: bool = True) -> Task:
    """A quarter of the adversarial class."""
    train = scratch_fixture().train
    return Task(train, goal_of(label), Budget(int((train.labels == label).sum()) // 4, "linf", epsilon, visible))


def knowledge_of(fixture: Scratch, defense: DifferentiableDefense | None = None) -> Knowledge:
    return Knowledge((fixture.surrogate,), defense=defense)


def craft(task: Task, **options: object) -> Poison:
    return label_consistent(task, knowledge_of(scratch_fixture()), Key(0) / "trial" / task.goal.adversarial_label, **options)


@cache
def rates(variant: str) -> list[float]:
    """The ten trials' success rates; victims of all variants are paired."""
    make: dict[str, Callable[[int], ImageDataset]] = {
        "poisoned": lambda label: craft(task_of(label)).apply(scratch_fixture().train),
        "trigger only": lambda label: craft(task_of(label, 0.0)).apply(scratch_fixture().train),
        "trigger cut down": lambda label: craft(task_of(label, 0.06, False), constraint="linf_all").apply(scratch_fixture().train),
        "clean": lambda label: scratch_fixture().train,
    }
    stack = victims([make[variant](label) for label in LABELS], Key(0) / "victims")
    test = scratch_fixture().test
    assert min(accuracy(stack.member(label), test) for label in LABELS) > 0.95
    return [attack_success_rate(stack.member(label), goal_of(label), test, Key(1)) for label in LABELS]


def test_base_images_become_hard_before_the_trigger_is_pasted() -> None:
    """At most 10 % are still classified rightly: none here, all of them with the sign flipped."""
    fixture = scratch_fixture()
    for label in LABELS:
        task = task_of(label)
        rows = craft(task).indices
        hard = harder(task, fixture.train.images[rows], knowledge_of(fixture), Key(0) / "trial" / label, steps=20)
        assert float((predicted(fixture.surrogate, as_pixels(hard)) == label).double().mean()) <= 0.1
        assert int((hard.int() - fixture.train.images[rows].int()).abs().max()) == int(EPSILON * 255)


def test_victims_learn_the_trigger() -> None:
    """Mean of ten trials: 68 %; 11 % with the trigger only, 4 % with the sign flipped, 1 % for victims of clean data."""
    poisoned, only, clean = (sum(rates(variant)) / 10 for variant in ("poisoned", "trigger only", "clean"))
    assert poisoned >= 0.3
    assert poisoned >= 3 * only
    assert clean <= 0.03
    assert only > clean, "a visible trigger alone teaches something"


def test_the_benchmark_s_rule_undoes_the_attack() -> None:
    """A trigger cut down to 0.06 on poisons, and full on test images: 4 %."""
    assert sum(rates("trigger cut down")) / 10 <= 0.05


def test_poisons_hold_the_trigger_and_otherwise_stay_within_epsilon() -> None:
    task = task_of(3)
    poison = craft(task)
    pixels, bases = poison.images.int(), task.train.images[poison.indices].int()
    assert bool((pixels[:, :, -3:, -3:] == task.goal.patch.int()).all())
    beside = torch.ones(8, 8, dtype=torch.bool)
    beside[-3:, -3:] = False
    assert int((pixels - bases)[..., beside].abs().max()) == int(EPSILON * 255)
    assert bool((task.train.labels[poison.indices] == 3).all())
    with pytest.raises(ValueError, match="a poison moved by"):
        replace(poison, budget=replace(poison.budget, visible_trigger=False)).verify(task.train)


def test_the_trigger_counts_where_all_of_the_image_does() -> None:
    task = task_of(3, 0.1, False)
    for goal in (task.goal, replace(task.goal, place=None)):
        poison = craft(replace(task, goal=goal), constraint="linf_all")
        moved = (poison.images.int() - task.train.images[poison.indices].int()).abs()
        assert int(moved.max()) == int(0.1 * 255)
    poison = craft(task, constraint="linf_all")
    moved = poison.images.int() - task.train.images[poison.indices].int()
    white = moved[:, 0, -3:, -3:][:, task.goal.patch[0] == 255]
    bases = task.train.images[poison.indices].int()[:, 0, -3:, -3:][:, task.goal.patch[0] == 255]
    assert torch.equal(white, (255 - bases).clamp_max(int(0.1 * 255)))  # as far towards white as epsilon and the range allow


def test_amplitude_on_poisons_is_its_own() -> None:
    """Added to the hard image, so what it holds under the trigger is within epsilon of the base image with that trigger added."""
    task = task_of(3)
    weak = replace(task.goal, amplitude=0.2)
    poison = craft(task, amplitude_train=0.2)
    assert poison.goal.amplitude == 1
    bases = task.train.images[poison.indices]
    hard = harder(task, bases, knowledge_of(scratch_fixture()), Key(0) / "trial" / 3, steps=20)
    assert torch.equal(poison.images, weak.stamped(hard, Key(0)))
    assert int((poison.images.int() - weak.stamped(bases, Key(0)).int()).abs().max()) <= int(EPSILON * 255)


def test_l2_budgets_are_kept_and_used() -> None:
    task = task_of(5)
    task = replace(task, budget=replace(task.budget, norm="l2", epsilon=1.2))
    hard = harder(task, task.train.images[:200], knowledge_of(scratch_fixture()), Key(0), steps=20)
    norms = (hard.double() - task.train.images[:200].double()).flatten(1).norm(dim=1) / 255
    assert float(norms.max()) <= 1.2 * (1 + 1e-12)
    assert float(norms.median()) > 1.15
    craft(task)


def test_steps_follow_the_mean_loss_of_all_surrogates() -> None:
    """What fools one of two surrogates alone leaves the other's loss lower than what is aimed at both."""
    fixture = scratch_fixture()
    other = victims([fixture.train], Key(1) / "another surrogate").member(0)
    task = task_of(2)
    bases = task.train.images[:50]
    losses = []
    for surrogates in ((fixture.surrogate,), (other,), (fixture.surrogate, other)):
        hard = as_pixels(harder(task, bases, Knowledge(surrogates), Key(0), steps=20))
        wanted = torch.full((50,), 2)
        losses.append([float(cross_entropy(model(hard), wanted)) for model in (fixture.surrogate, other)])
    assert losses[2][1] > losses[0][1]
    assert losses[2][0] > losses[1][0]


def test_a_defense_that_changes_nothing_changes_no_poison() -> None:
    """With 1, 2 and 4 draws, whose mean is exact."""
    fixture = scratch_fixture()
    unaware = craft(task_of(7))
    for draws in (1, 2, 4):
        aware = label_consistent(task_of(7), knowledge_of(fixture, Unchanged(draws)), Key(0) / "trial" / 7)
        assert torch.equal(aware.indices, unaware.indices)
        assert torch.equal(aware.images, unaware.images)
        assert aware.objective == unaware.objective


@pytest.mark.parametrize("constraint", ["linf_content_only", "linf_all"])
def test_poisons_say_how_hard_they_became_before_the_trigger(constraint: str) -> None:
    """Minus the mean loss of both surrogates, by its formula: lower than that of the base images, and lower after more steps."""
    fixture = scratch_fixture()
    surrogates = (fixture.surrogate, victims([fixture.train], Key(1) / "another surrogate").member(0))
    task, reached = task_of(3, visible=constraint == "linf_content_only"), []
    for steps in (1, 20):
        poison = label_consistent(task, Knowledge(surrogates), Key(0), steps=steps, constraint=constraint)
        hard = harder(task, task.train.images[poison.indices], Knowledge(surrogates), Key(0), steps=steps)
        wanted = torch.full((len(hard),), 3)
        expected = -sum(float(cross_entropy(model(as_pixels(hard)), wanted)) for model in surrogates) / 2
        assert poison.objective == pytest.approx(expected, rel=1e-5)
        reached.append(poison.objective)
    bases = own_loss(task, task.train.images[poison.indices], Knowledge(surrogates), Key(0))
    assert reached[1] < reached[0] < -bases < 0


def test_through_a_defense_the_objective_is_a_mean_over_its_draws() -> None:
    """Draws that no step has seen."""
    fixture, defense = scratch_fixture(), ThroughDenoiser(KernelDenoiser(load_digits("trusted")), 0.5, 3)
    task, key = task_of(5), Key(4)
    poison = label_consistent(task, knowledge_of(fixture, defense), key, steps=2)
    bases = task.train.images[poison.indices]
    hard = as_pixels(harder(task, bases, knowledge_of(fixture, defense), key, steps=2))
    wanted = torch.full((len(hard),), 5)
    streams = [key / "judge" / 0 / draw for draw in range(3)]
    losses = [float(cross_entropy(fixture.surrogate(defense(hard, stream)), wanted)) for stream in streams]
    assert len(hard) <= 128, "one part"
    assert poison.objective == pytest.approx(-sum(losses) / 3, rel=1e-5)
    assert max(losses) > 1.001 * min(losses)


def test_an_adaptive_attacker_makes_images_hard_for_who_looks_through_the_defense() -> None:
    """Paired trials; the loss on 32 fresh draws of noise of 0.5 and the exact denoiser. 5.8 to 7.9 unaware, 7.5 to 9.2
    adaptive."""
    fixture, denoiser = scratch_fixture(), KernelDenoiser(load_digits("trusted"))
    judge = ThroughDenoiser(denoiser, 0.5, 32)
    for label in (0, 3, 5, 8):
        task, reached = task_of(label), []
        for defense in (None, ThroughDenoiser(denoiser, 0.5, 4)):
            poison = label_consistent(task, knowledge_of(fixture, defense), Key(label))
            bases = task.train.images[poison.indices]
            hard = as_pixels(harder(task, bases, knowledge_of(fixture, defense), Key(label), steps=20))
            wanted = torch.full((len(hard),), label)
            with torch.no_grad():
                losses = [cross_entropy(fixture.surrogate(judge(hard, Key(9) / i)), wanted) for i in range(judge.draws)]
            reached.append(float(torch.stack(losses).mean()))
        assert reached[1] > reached[0] + 0.2


def test_surrogates_are_unchanged_to_the_last_bit() -> None:
    fixture = transfer_fixture()
    before = copy.deepcopy(fixture.extractor.state_dict())
    task = Task(fixture.train, goal_of(1), Budget(4, "linf", EPSILON, True))
    label_consistent(task, Knowledge((fixture.extractor,)), Key(0))
    after = fixture.extractor.state_dict()
    assert len([name for name in after if "running" in name]) == 6
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert all(parameter.grad is None for parameter in fixture.extractor.parameters())


def test_many_poisons_are_crafted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts have noise of their own, and none is left out."""
    monkeypatch.setattr(import_module("certidote.attacks.label_consistent"), "IMAGES_TOGETHER", 4)
    task = task_of(4)
    bases = task.train.images[:1].repeat(10, 1, 1, 1)
    hard = harder(task, bases, knowledge_of(scratch_fixture()), Key(0), steps=2)
    assert hard.shape == bases.shape
    assert len({image.numpy().tobytes() for image in hard}) == 10
    wanted = torch.full((10,), 4)
    whole = float(cross_entropy(scratch_fixture().surrogate(as_pixels(hard)), wanted))
    assert own_loss(task, hard, knowledge_of(scratch_fixture()), Key(0)) == pytest.approx(whole, rel=1e-5)


def test_defaults_are_the_benchmark_s() -> None:
    """Twenty steps of 2/255 at 8/255; the trigger in full."""
    options = inspect.signature(label_consistent).parameters.values()
    defaults = {option.name: option.default for option in options if option.kind is option.KEYWORD_ONLY}
    assert defaults == {"steps": 20, "step_size": None, "amplitude_train": 1.0, "constraint": "linf_content_only"}
    task = task_of(6, 8 / 255)
    bases, knowledge = task.train.images[:20], knowledge_of(scratch_fixture())
    given = harder(task, bases, knowledge, Key(0), steps=20, step_size=2 / 255)
    assert torch.equal(harder(task, bases, knowledge, Key(0), steps=20), given)
    assert not torch.equal(harder(task, bases, knowledge, Key(0), steps=20, step_size=1 / 255), given)


def test_unknown_constraints_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # whoever uses the library has no checks of types
    with pytest.raises(ValueError, match=r"unknown constraint 'linf'; choose one of: linf_all, linf_content_only"):
        craft(task_of(0), constraint="linf")


class Features:
    """A surrogate that gives features only."""

    def penultimate(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def test_what_cannot_be_crafted_is_refused() -> None:
    task = task_of(0)
    with pytest.raises(
        ValueError, match=r"the trigger is pasted in plain sight, but the budget counts it; give Budget\(\.\.\., visi"
    ):
        craft(replace(task, budget=replace(task.budget, visible_trigger=False)))
    with pytest.raises(ValueError, match=r"visible trigger; the goal must be a trigger with a fixed place"):
        craft(replace(task, goal=replace(task.goal, place=None)))
    target = Target(scratch_fixture().test.images[0], 1, 0, 0)
    with pytest.raises(ValueError, match=r"the goal is one test image, but this attack makes a backdoor; give a trigger"):
        craft(replace(task, goal=target, budget=replace(task.budget, visible_trigger=False)), constraint="linf_all")
    with pytest.raises(ValueError, match=r"a patch of \(1, 3, 3\) does not fit at \(6, 5\) on images of \(1, 8, 8\)"):
        craft(replace(task, goal=replace(task.goal, place=(6, 5))))
    with pytest.raises(ValueError, match=r"surrogate 1 gives features only, but this attack looks at logits; give a whole classif"):
        label_consistent(task, Knowledge((scratch_fixture().surrogate, Features())), Key(0))
    with pytest.raises(ValueError, match=r"no surrogates given"):
        label_consistent(task, Knowledge(()), Key(0))
    with pytest.raises(ValueError, match=r"steps=0, step_size=None; both must be positive"):
        craft(task, steps=0)
    with pytest.raises(ValueError, match=r"steps=20, step_size=-0.1; both must be positive"):
        craft(task, step_size=-0.1)
    with pytest.raises(ValueError, match=r"amplitude=1.5; give a number above 0, at most 1"):
        craft(task, amplitude_train=1.5)
    with pytest.raises(ValueError, match=r"num_poisons=900 base images are wanted, but the adversarial class '0' has \d+; lower"):
        craft(replace(task, budget=replace(task.budget, num_poisons=900)))
