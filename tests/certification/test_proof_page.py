"""docs/proof.md names the code that computes each number and the test that checks it; here: that they exist, and what it says of mixtures."""

import ast
import importlib
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from certidote.certification.binomial import lower_confidence_bound
from certidote.certification.bounds import Bound, level, probability_bounds

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")


def test_every_function_named_exists() -> None:
    named = re.findall(r"`([a-z_.]+):([A-Za-z_.]+)`", PAGE)
    assert len(named) >= 40
    for module, path in named:
        value = importlib.import_module(f"certidote.{module}")
        for name in path.split("."):
            value = getattr(value, name)


def test_every_section_names_tests_and_they_exist() -> None:
    without = {"Setting", "Sources"}
    for section in PAGE.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        found = re.findall(r"`([a-z_/]+\.py)`|`(test_\w+)`", text)
        assert any(test for _, test in found) != (title in without), title
        file = ""
        for named, test in found:
            file = named or file
            if test:
                tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
                assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, test)


# --------------------------------------------------------------------------------------------------------- mixtures of machines

N = 24
ALPHA = 0.05
GRID = (0.0, 0.02, 0.1, 0.3, 0.45, 0.5, 0.6, 0.9, 1.0)


def count_law(first: int, p: float, q: float) -> np.ndarray:
    """The law of the votes for a class among N members, `first` of which vote for it with chance p and the others with q."""
    return np.convolve(
        scipy.stats.binom.pmf(np.arange(first + 1), first, p), scipy.stats.binom.pmf(np.arange(N - first + 1), N - first, q)
    )


def worst_failure(fails: Callable[[float], np.ndarray]) -> float:
    """The largest chance of a failing count, over mixtures of two machines; `fails` tells them, (N + 1,), from the mean chance."""
    found = 0.0
    for first, p, q in product((1, 3, 12), GRID, GRID):
        mean = (first * p + (N - first) * q) / N
        found = max(found, float(count_law(first, p, q)[fails(mean)].sum()))
    return found


@pytest.mark.parametrize("bound", ["clopper-pearson", "multi-class"])
def test_claims_about_a_mixture_fail_no_more_often_than_alpha(bound: Bound) -> None:
    # Two classes, and an answer that other models chose: a claim can be false only where its bound exceeds the answer's mean chance.
    counts = np.stack([np.arange(N + 1), N - np.arange(N + 1)], axis=1)
    lower, upper = probability_bounds(bound, counts, np.zeros(N + 1, dtype=np.int64), N, level(bound, ALPHA, 2, True))
    claimed = lower > upper
    assert 0.5 * ALPHA / 2 < worst_failure(lambda mean: claimed & (lower > mean + 1e-12)) <= ALPHA


def test_a_bound_that_proves_nothing_may_fail_more_often() -> None:
    # One vote among N: its bound covers a binomial count, but not one member that votes so and N - 1 that never do. No claim rests on it.
    bound = lower_confidence_bound(np.array([1]), N, ALPHA)[0]
    mean = bound * (1 - 1e-9)
    assert scipy.stats.binom.sf(0, N, mean) <= ALPHA < 1 - count_law(1, N * mean, 0.0)[0]
    assert bound < 0.5
