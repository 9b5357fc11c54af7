"""What filters removed, counted, and asked of trainers again."""

import pytest
import torch

from certidote.defenses.deep_knn import DeepKnn
from certidote.defenses.epic import Epic, epic_trainer
from certidote.defenses.filtered import FilteredTrainer
from certidote.defenses.removals import Removal, filters, kept_by, removal
from certidote.training.pooled import PooledTrainer, trainer_for
from certidote.training.recipe import Recipe
from fixtures_filters import KeepAllBut
from fixtures_training import COMMON, digit_views, keys

MLP = Recipe(architecture="mlp-128", epochs=4, learning_rate=0.1, batch_size=50)


def test_removals_are_counted_with_poison_as_positive() -> None:
    found = removal(torch.tensor([0, 1, 2, 5, 9]), 10, torch.tensor([1, 3, 4]))
    assert found == Removal(removed_poisons=2, removed_clean=3, kept_poisons=1, kept_clean=4)
    assert (found.precision, found.recall) == (2 / 5, 2 / 3)
    everything = removal(torch.arange(4), 4, torch.tensor([], dtype=torch.int64))
    assert (everything.precision, everything.recall) == (None, None)
    assert everything.to_json()["kept_clean"] == 4
    with pytest.raises(ValueError, match=r"^poisoned rows 1 to 4, but 4 images have rows 0 to 3$"):
        removal(torch.arange(4), 4, torch.tensor([1, 4]))
    with pytest.raises(ValueError, match=r"^1 kept rows are given twice; give each row once$"):
        removal(torch.tensor([1, 2, 1]), 4, torch.tensor([1]))


def test_trainers_that_leave_images_out_can_be_asked_which() -> None:
    views, names, epic = digit_views(2, rows=120), keys(2), Epic(0.45, start=1, every=1, stop=4)
    chosen = kept_by(FilteredTrainer(trainer_for(MLP), KeepAllBut([4, 7])), views, names, COMMON)
    assert [len(rows) for rows in chosen if rows is not None] == [118, 118]
    dropped = kept_by(epic_trainer(trainer_for(MLP), epic), views, names, COMMON)
    assert all(rows is not None and 20 < len(rows) < 120 for rows in dropped)
    plain = PooledTrainer(MLP)
    assert [filters(each) for each in (plain, epic_trainer(plain, epic), FilteredTrainer(plain, DeepKnn()))] == [False, True, True]
    with pytest.raises(TypeError, match=r"^a PooledTrainer without a filter learns from all images"):
        kept_by(plain, views, names, COMMON)


def test_every_member_tells_what_it_dropped_itself_at_last() -> None:
    """The second decision removes more than the first; and members of one call do not mix."""
    views, names = digit_views(2, rows=120), keys(2)

    def counts(stop: int, which: slice) -> list[list[int]]:
        trainer = epic_trainer(PooledTrainer(MLP), Epic(0.45, start=1, every=1, stop=stop))
        return [rows.tolist() for rows in kept_by(trainer, views[which], names[which], COMMON) if rows is not None]

    once, twice, alone = counts(2, slice(2)), counts(3, slice(2)), counts(3, slice(1, 2))
    assert all(set(later) < set(earlier) for earlier, later in zip(once, twice, strict=True))
    assert alone[0] == twice[1] != twice[0]


def test_a_training_that_diverges_tells_nothing() -> None:
    wild = MLP.model_copy(update={"learning_rate": 1e30})
    views, names = digit_views(1, rows=60), keys(1)
    assert kept_by(PooledTrainer(wild, dropping=Epic(start=1, every=1)), views, names, COMMON) == [None]
    assert kept_by(FilteredTrainer(PooledTrainer(wild), KeepAllBut([])), views, names, COMMON) == [None]
