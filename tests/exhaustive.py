"""Every attack on a vote of few models, by trying all of them: slow, obvious, and the definition of what certificates bound.

A state is what all models say. An attacker who owns some models may make them say anything, so the states he can reach from one are
those that differ from it in his models only. `exact_radii` goes through all states at once.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np


def plurality(ballot: Sequence[int], classes: int) -> int:
    """Most votes, the lowest index on ties; -1 is a vote for nobody."""
    counts = [list(ballot).count(c) for c in range(classes)]
    return counts.index(max(counts))


def run_off(ballot: Sequence[Sequence[int]], classes: int) -> int:
    """Both rounds as the rules say; each ballot is an order of classes, best first, or empty for a failed model."""
    counts = [sum(1 for order in ballot if order and order[0] == c) for c in range(classes)]
    first, second = sorted(range(classes), key=lambda c: (-counts[c], c))[:2]
    a, b = min(first, second), max(first, second)
    for_a = sum(1 for order in ballot if order and order.index(a) < order.index(b))
    for_b = sum(1 for order in ballot if order and order.index(b) < order.index(a))
    return a if for_a >= for_b else b


def exact_radii(answers: np.ndarray, owned: Sequence[Sequence[int]]) -> np.ndarray:
    """For every state, how many units an attacker may spend without any reachable state having another answer.

    Args:
        answers: one axis for each model, over what it may say; the answer of the vote.
        owned: the models that each unit of the budget buys.
    Returns: the exact radius of every state, at most len(owned); len(owned) where no attack exists at all.
    """
    bits = 1 << answers.astype(np.int64)
    radii = np.full(answers.shape, len(owned))
    for budget in range(len(owned), 0, -1):
        reach = np.zeros_like(bits)
        for units in itertools.combinations(owned, budget):
            axes = tuple(sorted({model for unit in units for model in unit}))
            reach |= np.bitwise_or.reduce(bits, axis=axes, keepdims=True)
        radii[reach != bits] = budget - 1
    return radii


def can_change(
    ballot: Sequence[object],
    owned: Sequence[Sequence[int]],
    budget: int,
    sayings: Sequence[object],
    answer: Callable[[Sequence[object]], int],
) -> bool:
    """Whether so many units change the answer of one ballot: for more models than `exact_radii` can go through."""
    honest = answer(ballot)
    for units in itertools.combinations(owned, budget):
        models = sorted({model for unit in units for model in unit})
        for said in itertools.product(sayings, repeat=len(models)):
            attacked = list(ballot)
            for model, saying in zip(models, said, strict=True):
                attacked[model] = saying
            if answer(attacked) != honest:
                return True
    return False


def all_states(sayings: Sequence[object], models: int, answer: Callable[[Sequence[object]], int]) -> np.ndarray:
    """The answer of every state."""
    found = [answer(state) for state in itertools.product(sayings, repeat=models)]
    return np.array(found).reshape((len(sayings),) * models)


def votes_of_states(sayings: Sequence[int], models: int) -> np.ndarray:
    """(models, states) votes, in the order of `all_states` flattened."""
    return np.array(list(itertools.product(sayings, repeat=models))).T


def orders_of(classes: int) -> list[tuple[int, ...]]:
    """All rankings, and last the one of a failed model."""
    return [*itertools.permutations(range(classes)), ()]


def ranks_of_states(classes: int, models: int) -> np.ndarray:
    """(models, states, classes) places, in the order of `all_states` over `orders_of`; all equal for a failed model."""
    table = np.array(
        [[order.index(c) if order else classes for c in range(classes)] for order in orders_of(classes)], dtype=np.uint8
    )
    index = votes_of_states(range(len(table)), models)
    return table[index]


def single(models: int) -> list[tuple[int]]:
    """Each unit buys one model."""
    return [(model,) for model in range(models)]


def spread(models: int, shifts: Sequence[int]) -> list[tuple[int, ...]]:
    """Each unit buys one bucket of Finite Aggregation, and the models that it reaches."""
    return [tuple((bucket + shift) % models for shift in shifts) for bucket in range(models)]
