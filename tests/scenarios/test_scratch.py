"""From-scratch trials against victims that are trained and asked one at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from certidote.defenses.sanitize import sanitized
from certidote.scenarios.scratch import ScratchScenario, evaluate, evaluate_triggers, knowledge, learner
from certidote.streams import Key
from certidote.training.pooled import trainer_for
from certidote.training.recipe import Recipe
from certidote.training.stacked import StackedTrainer
from certidote.types import (
    BudgetExceeded,
    Lineage,
    Poison,
    Stack,
    Target,
    Traced,
    Trigger,
    Untrusted,
    View,
    as_pixels,
)
from fixtures_scratch import RECIPE, clean_knowledge, digits, targets, triggers
from fixtures_transfer import KernelDenoiser

HARDLY = Recipe(architecture="mlp-128", epochs=1, learning_rate=0.02)
"""Victims that learn so little that they are wrong in every way."""


def noisy_poisons(scenario: ScratchScenario[Target] | ScratchScenario[Trigger]) -> list[Poison]:
    """Poisons that keep the budget and do nothing clever: all that the plumbing needs."""
    poisons = []
    for trial, goal in enumerate(scenario.goals):
        rows = (scenario.train.labels == goal.adversarial_label).nonzero().squeeze(1)[: scenario.budget.num_poisons]
        moved = np.random.default_rng(trial).integers(-60, 61, (len(rows), 1, 8, 8))
        images = (scenario.train.images[rows].numpy().astype("int64") + moved).clip(0, 255).astype("uint8")
        poisons.append(Poison(rows, torch.from_numpy(images), goal, scenario.budget))
    return poisons


def with_targets() -> ScratchScenario[Target]:
    return replace(targets(), recipe=HARDLY)


def with_triggers() -> ScratchScenario[Trigger]:
    """Three of the pairs; places differ from image to image in the second, the third is for all classes."""
    first, second, third = triggers().goals[:3]
    goals = (first, replace(second, place=None), replace(third, true_label=None))
    return replace(triggers(), goals=goals, recipe=HARDLY)


def victim_of(scenario: ScratchScenario[Target] | ScratchScenario[Trigger], poison: Poison | None, trial: int, key: Key) -> Stack:
    train = scenario.train if poison is None else poison.apply(scenario.train)
    view = View(train.pixels(), train.labels, 10, Lineage())
    return trainer_for(scenario.recipe).fit([view], [key / "trial" / trial / "victim"], key / "common")


def test_outcomes_on_targets_are_what_victims_predict() -> None:
    scenario, key = with_targets(), Key(5)
    poisons = noisy_poisons(scenario)
    result = evaluate(scenario, poisons, key).plain
    left_out = {goal.test_index for goal in scenario.goals}
    others = [row for row in range(len(scenario.test)) if row not in left_out]
    assert result.poisoned.otherwise_wrong.any()
    for outcome, made in ((result.control, [None] * 8), (result.poisoned, poisons)):
        assert len(outcome) == 8
        for trial, goal in enumerate(scenario.goals):
            logits = victim_of(scenario, made[trial], trial, key)(scenario.test.pixels())[0]
            answer = logits[goal.test_index]
            assert int(outcome.predicted[trial]) == int(answer.argmax())
            assert bool(outcome.success[trial]) == (int(answer.argmax()) == goal.adversarial_label)
            assert bool(outcome.otherwise_wrong[trial]) == (int(answer.argmax()) not in (goal.adversarial_label, goal.true_label))
            assert outcome.margin[trial] == pytest.approx(float(answer[goal.adversarial_label] - answer[goal.true_label]), abs=1e-5)
            right = (logits.argmax(1) == scenario.test.labels)[others].double().mean()
            assert outcome.clean_accuracy[trial] == pytest.approx(float(right))


def test_outcomes_on_triggers_are_rates_over_all_images_of_the_class() -> None:
    scenario, key = with_triggers(), Key(6)
    poisons = noisy_poisons(scenario)
    result = evaluate_triggers(scenario, poisons, key).plain
    excluded = 0
    for outcome, made in ((result.control, [None] * 3), (result.poisoned, poisons)):
        assert len(outcome) == 3
        for trial, goal in enumerate(scenario.goals):
            rows = [
                row
                for row, label in enumerate(scenario.test.labels.tolist())
                if (label == goal.true_label if goal.true_label is not None else label != goal.adversarial_label)
            ]
            stamped = goal.stamped(scenario.test.images[rows], key / "trial" / trial / "places")
            victim = victim_of(scenario, made[trial], trial, key)
            after = victim(as_pixels(stamped))[0].argmax(1) == goal.adversarial_label
            plain = victim(scenario.test.pixels())[0].argmax(1)
            before = plain[rows] == goal.adversarial_label
            excluded += int(before.sum())
            assert outcome.success_rate[trial] == pytest.approx(float(after.double().mean()))
            assert outcome.switched_rate[trial] == pytest.approx(float(after[~before].double().mean()))
            assert outcome.clean_accuracy[trial] == pytest.approx(float((plain == scenario.test.labels).double().mean()))
    assert excluded > 0
    assert not np.allclose(result.control.success_rate, result.control.switched_rate)
    with pytest.raises(ValueError, match="no test image is of the class '0', which the trigger is for; give other images"):
        small = replace(scenario, test=scenario.test.subset((scenario.test.labels == 9).nonzero().squeeze(1)))
        evaluate_triggers(small, poisons, key)


def test_arms_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    """The victims of a trial have one key in all arms, and its sanitized sets one noise stream; trials differ."""
    scenario, key = replace(with_targets(), goals=with_targets().goals[:3]), Key(4)
    noises: list[Key] = []
    victims: list[Key] = []
    arms: list[int] = []

    def spy(data: Untrusted, key: Key) -> Traced:
        noises.append(key)
        return data.unsealed("spied on")

    fit = StackedTrainer.fit

    def watched(self: StackedTrainer, views: list[View], keys: list[Key], common: Key) -> Stack:
        victims.extend(keys)
        return fit(self, views, keys, common)

    monkeypatch.setattr(StackedTrainer, "fit", watched)
    result = evaluate(scenario, noisy_poisons(scenario), key, sanitizers={"spy": spy}, finished=lambda: arms.append(1))
    assert len(arms) == 2
    assert victims[:3] == victims[3:6] == victims[6:9] == victims[9:]
    assert len(set(victims)) == 3
    assert noises[:3] == noises[3:]
    assert len(set(noises)) == 3
    assert not set(noises) & set(victims)
    assert np.array_equal(result.sanitized["spy"].poisoned.margin, result.plain.poisoned.margin)  # this sanitizer changes nothing
    assert not np.array_equal(result.plain.poisoned.margin, result.plain.control.margin)


def test_victims_may_be_sanitized_or_of_another_architecture() -> None:
    scenario, key = replace(with_targets(), goals=with_targets().goals[:2]), Key(4)
    poisons = noisy_poisons(scenario)
    denoiser = KernelDenoiser(digits()[1])
    made = evaluate(scenario, poisons, key, sanitizers={"heavy": lambda data, noise: sanitized(data, denoiser, 1.0, noise)})
    heavy = made.sanitized["heavy"]
    assert not np.allclose(heavy.control.margin, made.plain.control.margin, atol=0.01)
    black_box = Recipe(architecture="cnn-32-64", epochs=1, learning_rate=0.02)
    other = evaluate(scenario, poisons, key, recipe=black_box).plain
    assert not np.allclose(other.control.margin, made.plain.control.margin, atol=0.01)


def test_attackers_train_one_surrogate_for_each_recipe() -> None:
    train = digits()[0]
    another = Recipe(architecture="cnn-32-64", epochs=1, learning_rate=0.02)
    learn = learner([HARDLY, another, HARDLY])
    known = knowledge(train, learn, Key(1))
    assert [type(model).__name__ for model in known.surrogates] == ["Mlp", "Cnn", "Mlp"]
    assert not any(layer.training for model in known.surrogates for layer in model.modules())
    assert not torch.equal(known.surrogates[0].hidden.weight, known.surrogates[2].hidden.weight)
    again, other = learn(train, Key(1) / "surrogates"), learn(train, Key(2))
    assert torch.equal(again[0].hidden.weight, known.surrogates[0].hidden.weight)
    assert not torch.equal(other[0].hidden.weight, known.surrogates[0].hidden.weight)
    assert known.retrain is learn
    assert known.defense is None


def test_surrogates_share_no_weights_with_victims() -> None:
    """The key that the fixtures evaluate with starts its victims from other weights than the attacker's."""
    train = digits()[0]
    surrogate = clean_knowledge().surrogates[0]
    victim = victim_of(replace(targets(), recipe=RECIPE), None, 0, Key(0) / "scratch fixture" / "evaluation").member(0)
    assert not torch.allclose(victim.hidden.weight, surrogate.hidden.weight, atol=0.01)
    assert float((surrogate(train.pixels()).argmax(1) == train.labels).double().mean()) > 0.98


def test_surrogates_may_learn_through_a_sanitizer() -> None:
    """Each with noise of its own."""
    noises: list[Key] = []

    def spy(data: Untrusted, key: Key) -> Traced:
        noises.append(key)
        return data.unsealed("spied on")

    learner([HARDLY, HARDLY], sanitize=spy)(digits()[0], Key(1))
    assert len(set(noises)) == 2


def test_surrogates_that_diverge_are_refused() -> None:
    wild = Recipe(architecture="mlp-128", epochs=2, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"surrogate 0 diverged; lower the learning rate of its recipe \(1e\+30\)"):
        learner([wild])(digits()[0], Key(1))


def test_poisons_of_other_trials_are_refused() -> None:
    scenario = with_targets()
    poisons = noisy_poisons(scenario)
    with pytest.raises(ValueError, match=r"7 poisons for 8 trials; give one for each goal of the scenario"):
        evaluate(scenario, poisons[1:], Key(0))
    with pytest.raises(ValueError, match=r"poison 0 is made for another goal than trial 0; keep poisons in the scenario's order"):
        evaluate(scenario, poisons[::-1], Key(0))
    backdoors = with_triggers()
    made = noisy_poisons(backdoors)
    with pytest.raises(ValueError, match=r"poison 0 is made for another goal than trial 0"):
        evaluate_triggers(backdoors, [replace(made[0], goal=replace(made[0].goal, place=(0, 0))), *made[1:]], Key(0))
    with pytest.raises(BudgetExceeded, match="but epsilon is"):
        evaluate(scenario, [replace(poisons[0], images=255 - poisons[0].images), *poisons[1:]], Key(0))
