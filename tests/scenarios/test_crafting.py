"""Trials of a pack in groups: the same groups on any machine, and the same poisons as one by one."""

from dataclasses import replace
from itertools import chain

import pytest
import torch

from certidote.attacks import ATTACKS, TOGETHER
from certidote.engine.local import Pool
from certidote.scenarios.crafting import Crafting, augmentation_for, checked_options, craft_group, options_of
from certidote.streams import Key
from certidote.training.recipe import RECIPES
from certidote.types import Knowledge
from fixtures_attacks import Double
from fixtures_transfer import EPSILON, OPTIONS, fixture_tasks, transfer_fixture


def crafting(name: str, trials: int, num_poisons: int | None = None, steps: int = 5) -> Crafting:
    tasks = fixture_tasks()
    budget = tasks[0].budget if num_poisons is None else replace(tasks[0].budget, num_poisons=num_poisons)
    goals = [tasks[trial % len(tasks)].goal for trial in range(trials)]
    knowledge = Knowledge((Double(transfer_fixture().extractor),))
    options = {**OPTIONS[name], "steps": steps}
    return Crafting(ATTACKS[name], options, tasks[0].train, goals, budget, knowledge, Key(3), None, TOGETHER.get(ATTACKS[name]))


@pytest.mark.parametrize(
    ("trials", "num_poisons", "sizes"),
    [
        (1, 10, [1]),
        (4, 10, [1, 1, 1, 1]),
        (10, 10, [3, 3, 3, 1]),
        (100, 10, [12] * 8 + [4]),
        (10, 200, [1] * 10),
        (9, 64, [2, 2, 2, 2, 1]),
    ],
)
def test_as_many_trials_as_pay_off_in_at_least_four_groups(trials: int, num_poisons: int, sizes: list[int]) -> None:
    groups = crafting("bullseye-polytope", trials, num_poisons).groups()
    assert [len(group) for group in groups] == sizes
    assert [trial for group in groups for trial in group] == list(range(trials))


def test_an_attack_without_that_form_is_crafted_trial_by_trial() -> None:
    alone = replace(crafting("bullseye-polytope", 100), together=None)
    assert [len(group) for group in alone.groups()] == [1] * 100


@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_group_has_the_poisons_of_its_trials_alone(name: str) -> None:
    """In float64 to the last level."""
    work = crafting(name, 10)
    together, apart = craft_group(work, range(3, 6)), replace(work, together=None)
    for (trial, poison), expected in zip(together, range(3, 6), strict=True):
        assert trial == expected
        ((_, alone),) = craft_group(apart, range(trial, trial + 1))
        assert poison.goal is work.goals[trial]
        assert torch.equal(poison.indices, alone.indices)
        assert torch.equal(poison.images, alone.images)


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack in TOGETHER])
def test_an_attack_on_several_tasks_takes_the_options_of_that_on_one(name: str) -> None:
    """And has the same defaults; views of targets differ from trial to trial."""
    one, several = options_of(ATTACKS[name]), options_of(TOGETHER[ATTACKS[name]])
    assert {**one, "views": None} == {**several, "views": None}


def test_groups_are_not_of_the_number_of_processes() -> None:
    work = crafting("bullseye-polytope", 9, steps=3)
    with Pool(2) as two:
        shared = dict(chain.from_iterable(group for answers in two.each(craft_group, work, work.groups()) for group in answers))
    with Pool(0) as none:
        single = dict(chain.from_iterable(group for answers in none.each(craft_group, work, work.groups()) for group in answers))
    assert sorted(shared) == sorted(single) == list(range(9))
    assert all(torch.equal(shared[trial].images, single[trial].images) for trial in range(9))
    assert all(
        int((poison.images.int() - work.train.images[poison.indices].int()).abs().max()) <= 255 * EPSILON
        for poison in shared.values()
    )


@pytest.mark.parametrize(
    ("recipe", "side", "expected"),
    [
        ("compact", 32, (2 / 32, True)),
        ("conservative", 32, (4 / 32, True)),
        ("mlp", 8, (0.0, False)),
        (None, 8, (0.0, False)),
    ],
)
def test_attackers_augment_as_their_surrogates_do(recipe: str | None, side: int, expected: tuple[float, bool]) -> None:
    used = None if recipe is None else RECIPES[recipe]
    for name, attack in ATTACKS.items():
        found = augmentation_for(attack, used, (3, side, side))
        if name in ("witches-brew", "sleeper-agent"):
            assert (found["shift"], found["flip"], found["border"]) == (*expected, "reflection")
            assert checked_options(name, attack, found) == found
        else:
            assert found == {}
