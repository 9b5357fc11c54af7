"""Filters on real poisons of the digits: ten trials of Bullseye Polytope, heads on a frozen extractor.

10 of 300 images are poisons; without a defense 8 of 10 targets are reached, and clean accuracy is 0.97.
"""

from functools import cache

import pytest
import torch

from certidote.defenses.activation_clustering import ActivationClustering
from certidote.defenses.deep_knn import DeepKnn
from certidote.defenses.epic import Epic, epic_trainer
from certidote.defenses.filtered import FilteredTrainer
from certidote.defenses.removals import kept_by, removal
from certidote.defenses.spectral import SpectralSignatures
from certidote.streams import Key
from certidote.training.head import HeadTrainer
from certidote.types import Filter, Lineage, Trainer, View
from fixtures_transfer import NUM_POISONS, bullseye_poisons, transfer_fixture, trial_keys

FRACTION = NUM_POISONS / 300


@cache
def views() -> list[View]:
    fixture = transfer_fixture()
    sets = [poison.apply(fixture.train) for poison in bullseye_poisons()]
    return [View(data.pixels(), data.labels, 5, Lineage()) for data in sets]


def reached(given: list[View]) -> int:
    """Targets that heads on these views give their adversarial labels."""
    fixture, names = transfer_fixture(), [key / "victim" for key in trial_keys()]
    stack = HeadTrainer(fixture.extractor).fit(given, names, Key(0))
    answers = stack(torch.stack([goal.image for goal in fixture.goals]).float() / 255).argmax(2)
    return sum(int(answers[trial, trial]) == goal.adversarial_label for trial, goal in enumerate(fixture.goals))


def filtered(trainer: Trainer, trials: int = 10) -> tuple[list[View], float, float]:
    """What is kept of each trial, and the shares of poisons and of clean images that are removed."""
    kept = kept_by(trainer, views()[:trials], [key / "victim" for key in trial_keys()[:trials]], Key(0))
    left = [View(view.images[rows], view.labels[rows], 5, view.lineage) for view, rows in zip(views(), kept, strict=False)]
    counts = [removal(rows, 300, poison.indices) for rows, poison in zip(kept, bullseye_poisons(), strict=False)]
    poisons, clean = (sum(getattr(count, name) for count in counts) for name in ("removed_poisons", "removed_clean"))
    return left, poisons / (10 * trials), clean / (290 * trials)


def test_without_a_filter_targets_are_reached() -> None:
    assert reached(views()) >= 7


@pytest.mark.parametrize(
    ("keep", "most_reached", "least_removed", "most_clean"),
    [  # seen: (1, 0.82, 0.05), (0, 0.95, 0.08), (2, 0.82, 0.23), (4, 0.60, 0.06), (4, 0.50, 0)
        (DeepKnn(poison_fraction=FRACTION), 3, 0.75, 0.08),
        (DeepKnn(poison_fraction=FRACTION, rule="majority"), 1, 0.9, 0.11),
        (SpectralSignatures(FRACTION), 4, 0.75, 0.25),
        (ActivationClustering("silhouette", "pca"), 6, 0.45, 0.09),
        (ActivationClustering("distance", "pca"), 6, 0.4, 0.01),
    ],
    ids=["deep k-NN", "deep k-NN, majority", "spectral signatures", "clusters apart", "clusters misplaced"],
)
def test_filters_find_poisons_that_collide_in_feature_space(
    keep: Filter, most_reached: int, least_removed: float, most_clean: float
) -> None:
    left, removed, clean = filtered(FilteredTrainer(HeadTrainer(transfer_fixture().extractor), keep))
    assert reached(left) <= most_reached
    assert removed >= least_removed
    assert clean <= most_clean


def test_uncentered_spectral_signatures_miss_them() -> None:
    """Seen: 7 of 100 poisons, though a quarter of the clean images goes."""
    _, removed, clean = filtered(
        FilteredTrainer(HeadTrainer(transfer_fixture().extractor), SpectralSignatures(FRACTION, center=False))
    )
    assert removed < 0.2
    assert clean > 0.2


def test_epic_drops_poisons_but_far_more_clean_images() -> None:
    """Judged in every epoch. Seen in ten trials: 0.92 of the poisons, 0.43 of the clean images."""
    trainer = epic_trainer(HeadTrainer(transfer_fixture().extractor), Epic(0.2, start=1, every=1))
    _, removed, clean = filtered(trainer, trials=3)
    assert removed > 0.75
    assert 0.2 < clean < 0.6
