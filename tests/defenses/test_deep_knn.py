"""Deep k-NN against a double loop, and on planted poisons that it must find and must not find."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from certidote.defenses.deep_knn import DeepKnn, Rule
from certidote.defenses.removals import removal
from certidote.streams import ROW_BLOCK, Key
from fixtures_filters import blobs, moved, unchecked


def slow_kept(features: np.ndarray, labels: np.ndarray, k: int, rule: Rule, include_self: bool) -> list[int]:
    """By double loop."""
    kept = []
    for row, own in enumerate(labels):
        others = [other for other in range(len(labels)) if include_self or other != row]
        near = sorted(others, key=lambda other: float(((features[row] - features[other]) ** 2).sum()))[:k]
        votes = [sum(labels[other] == label for other in near) for label in range(labels.max() + 1)]
        if (votes.index(max(votes)) == own) if rule == "plurality" else (votes[own] >= k / 2):
            kept.append(row)
    return kept


@pytest.mark.parametrize("rule", ["plurality", "majority"])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 9, 39])
def test_both_rules_are_those_of_a_double_loop(rule: Rule, include_self: bool, k: int) -> None:
    features, labels = blobs((16, 14, 10), 1.5, Key(k))
    kept = DeepKnn(k, rule=rule, include_self=include_self)(features, labels, Key(0))
    assert kept.tolist() == slow_kept(features.double().numpy(), labels.numpy(), k, rule, include_self)
    assert k in (1, 2, 39) or 0 < len(kept) < 40


def test_rows_beyond_one_block_are_their_own_neighbors_too() -> None:
    features, labels = blobs((ROW_BLOCK, 76), 2.0, Key(0), width=3)
    some = np.r_[0:5, ROW_BLOCK - 3 : ROW_BLOCK + 76]
    for include_self in (True, False):
        kept = DeepKnn(3, include_self=include_self)(features, labels, Key(0)).numpy()
        apart = torch.cdist(features.double(), features.double())
        if not include_self:
            apart.fill_diagonal_(torch.inf)
        near = labels[apart.argsort(dim=1)[:, :3]]
        expected = (near.sum(1) >= 2) == labels.bool()
        assert np.array_equal(np.isin(some, kept), expected.numpy()[some])


def test_a_block_of_rows_is_asked_about_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], NearestNeighbors.kneighbors

    def counted(index: NearestNeighbors, rows: np.ndarray, **options: Any) -> np.ndarray:
        asked.append(len(rows))
        return real(index, rows, **options)

    monkeypatch.setattr(NearestNeighbors, "kneighbors", counted)
    features, labels = blobs((ROW_BLOCK, 76), 2.0, Key(0), width=3)
    DeepKnn(3)(features, labels, Key(0))
    assert asked == [ROW_BLOCK, 76]


def test_an_image_alone_with_itself_always_stays() -> None:
    features, labels = blobs((20, 20), 0.0, Key(0))
    assert DeepKnn(1)(features, labels, Key(0)).tolist() == list(range(40))
    assert len(DeepKnn(1, include_self=False)(features, labels, Key(0))) < 35


@pytest.mark.parametrize("apart", [0.0, 1e-8])
def test_an_image_is_its_own_nearest_neighbor_beside_a_copy_with_another_label(apart: float) -> None:
    """Collisions are what poisons are made for: which of two equal rows a search lists first must not decide."""
    features, labels = blobs((100, 100), 0.5, Key(0))
    features, labels = torch.cat([features, features + apart]), torch.cat([labels, 1 - labels])
    assert DeepKnn(1)(features, labels, Key(0)).tolist() == list(range(400))
    assert len(DeepKnn(1, include_self=False)(features, labels, Key(0))) < 10


def test_ties_of_votes_go_to_the_lower_label() -> None:
    features = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    assert DeepKnn(2)(features, torch.tensor([0, 1, 1, 2]), Key(0)).tolist() == [0, 2]


def test_copies_of_an_image_do_not_hide_it_from_itself() -> None:
    """Six equal images of class 0 and one other: without itself, each has the others as neighbors, whichever come first."""
    features = torch.tensor([[1.0]] * 6 + [[2.0]])
    labels = torch.tensor([0] * 6 + [1])
    for k in (1, 3, 5):
        assert DeepKnn(k, rule="majority")(features, labels, Key(0)).tolist() == list(range(6))


def test_copies_of_another_label_count_as_neighbors() -> None:
    features, labels = torch.tensor([[1.0], [1.0], [8.0], [9.0]]), torch.tensor([0, 1, 2, 2])
    assert DeepKnn(1, rule="majority")(features, labels, Key(0)).tolist() == [2, 3]


@pytest.mark.parametrize("rule", ["plurality", "majority"])
def test_collisions_are_removed_and_little_else(rule: Rule) -> None:
    features, labels = blobs((60, 60, 60), 8.0, Key(1))
    poisoned, rows = moved(features, labels, 9, label=1, to=2)
    found = removal(DeepKnn(poison_fraction=9 / 180, rule=rule)(poisoned, labels, Key(0)), 180, rows)
    assert found.recall == 1
    assert found.removed_clean <= 2
    assert len(DeepKnn(poison_fraction=9 / 180, rule=rule)(features, labels, Key(0))) >= 178


def test_poisons_that_outnumber_the_neighbors_stay() -> None:
    """With k as small as the number of poisons they vouch for each other; more than twice as many see through it."""
    features, labels = blobs((60, 60, 60), 8.0, Key(1))
    poisoned, rows = moved(features, labels, 9, label=1, to=2)
    poisoned[rows] = poisoned[rows[0]] + 0.01 * features[rows]  # a tight clump
    assert removal(DeepKnn(9)(poisoned, labels, Key(0)), 180, rows).recall == 0
    assert removal(DeepKnn(19)(poisoned, labels, Key(0)), 180, rows).recall == 1


def test_numbers_of_neighbors_follow_from_the_poisons() -> None:
    labels = np.repeat([0, 1], 500)
    assert DeepKnn(poison_fraction=0.01).count(labels) == 21
    assert DeepKnn(poison_fraction=0.01, rule="majority").count(labels) == 20
    assert DeepKnn(poison_fraction=1e-9, rule="majority").count(labels) == 1
    assert (
        DeepKnn(poison_fraction=55 / 300).count(np.zeros(300, dtype=np.int64)) == 111
    )  # 2 (55 / 300) 300 is rounded to just below 110
    assert DeepKnn(7, poison_fraction=0.5).count(labels) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": 0}, r"^neighbors=0; give at least 1$"),
        ({"poison_fraction": 1.0}, r"^poison_fraction=1; give a share of the training set, above 0 and below 1$"),
        ({"rule": "median"}, r"^unknown rule 'median'; choose one of: plurality, majority$"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unchecked(DeepKnn, **options)


def test_more_neighbors_than_images_are_refused() -> None:
    features, labels = blobs((5, 5), 3.0, Key(0))
    with pytest.raises(
        ValueError, match=r"^11 nearest neighbors .* 10 images have at most 10 \(each counts as its own\); give fewer"
    ):
        DeepKnn(11)(features, labels, Key(0))
    with pytest.raises(ValueError, match=r"^10 nearest neighbors .* 10 images have at most 9 others; give fewer"):
        DeepKnn(10, rule="majority")(features, labels, Key(0))
