"""The suspicion list: robust scores within classes, and that it finds real poisons."""

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from certidote.defenses.sanitize import as_levels, sanitized
from certidote.diffusion.denoiser import load
from certidote.results.movement import ranking, write_suspicious, z_scores
from certidote.scenarios.transfer import craft, make_scenario
from certidote.streams import Key
from certidote.types import Movement, Untrusted


def test_scores_are_median_and_mad_of_each_class() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 90.0, 10.0, 10.0, 10.0])
    classes = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    expected = (values[:5] - 3) / 1.4826  # median 3, absolute deviations 2, 1, 0, 1, 87
    assert z_scores(values, classes) == pytest.approx([*expected, 0, 0, 0])


def test_for_normal_values_the_score_is_the_usual_one() -> None:
    values = Key(1).numpy().normal(5, 2, 100_000)
    scores = z_scores(values, np.zeros(100_000, np.int64))
    assert scores == pytest.approx((values - 5) / 2, abs=0.08)  # the MAD's relative error is 1.17 / sqrt(n): 20 of them at z = 4.5


def test_ranks_are_written_most_suspicious_first(tmp_path: Path) -> None:
    moved = Movement(np.array([0.1, 0.2, 0.9, 0.3]), np.array([0.5, 0.6, 0.7, 0.8]))
    classes = np.zeros(4, np.int64)
    write_suspicious(tmp_path / "s.csv", lambda row: f"a/{row}", lambda row: f"=a/{row}", lambda row: "@a", moved, classes)
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [(row["rank"], row["file"]) for row in rows] == [("1", "a/2"), ("2", "a/3"), ("3", "a/1"), ("4", "a/0")]
    assert {(row["source"], row["class"]) for row in rows} == {(f"'=a/{row}", "'@a") for row in range(4)}, "no formulas"
    assert [float(row["movement_linf"]) for row in rows] == [0.7, 0.8, 0.6, 0.5]
    assert ranking(moved, classes)[0].tolist() == [2, 3, 1, 0]


def test_bullseye_polytope_poisons_rank_above_clean_images() -> None:
    """If poisons moved like clean images, a rank-sum test would pass this with probability 1e-6 (measured: AUC 0.99)."""
    key = Key(1) / "demo"
    scenario = make_scenario(key / "scenario", num_targets=1)
    poison = craft(scenario, key)[0]
    data = poison.apply(scenario.train)
    untrusted = Untrusted(data)
    made = as_levels(sanitized(untrusted, load("digits"), 0.1, key / "noise").images)
    scores = z_scores(untrusted.movement(made, range(len(data))).l2, data.labels.numpy())
    poisoned = np.isin(np.arange(len(data)), poison.indices.numpy())
    test = scipy.stats.mannwhitneyu(scores[poisoned], scores[~poisoned], alternative="greater")
    assert test.pvalue < 1e-6, f"AUC {test.statistic / (poisoned.sum() * (~poisoned).sum()):.3f}"
