"""Greedy facility location against looking at everything, and against every choice of medoids on tiny sets."""

import itertools

import numpy as np
import pytest
import torch

from certidote.defenses import facility_location
from certidote.defenses.facility_location import greedy_medoids
from certidote.streams import Key


def slow_greedy(points: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """By looping over all candidates in every round."""
    apart = np.array([[np.sqrt(((a - b) ** 2).sum()) for a in points] for b in points])
    chosen: list[int] = []
    for _ in range(count):
        totals = [apart[:, [*chosen, j]].min(axis=1).sum() if j not in chosen else np.inf for j in range(len(points))]
        chosen.append(int(np.argmin(totals)))
    return chosen, apart[:, chosen].argmin(axis=1).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_lazy_is_greedy(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = (Key(seed) / "points").numpy()
    rows = int(generator.integers(2, 40))
    points = generator.normal(size=(rows, 3))
    points[::4] *= 5
    count = int(generator.integers(1, rows + 1))
    monkeypatch.setattr(facility_location, "LOOKED_AT", int(generator.integers(1, 6)))
    monkeypatch.setattr(facility_location, "BLOCK_NUMBERS", int(generator.integers(1, 100)))
    medoids, owner = greedy_medoids(torch.from_numpy(points), count)
    assert (medoids.tolist(), owner.tolist()) == slow_greedy(points, count)


def test_gains_are_not_looked_at_more_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lazy evaluation: of 300 points, 60 medoids; looking at all every time would compute 60 times 300 columns of distances."""
    columns = most = 0
    real = facility_location._apart

    def counted(points: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        nonlocal columns, most
        columns, found = columns + len(rows), real(points, rows)
        most = max(most, found.numel())
        return found

    monkeypatch.setattr(facility_location, "_apart", counted)
    monkeypatch.setattr(facility_location, "BLOCK_NUMBERS", 4_000)
    greedy_medoids(torch.from_numpy((Key(0) / "points").numpy().normal(size=(300, 2))), 60)
    assert columns < 0.35 * 60 * 300
    assert most <= 4_000  # all distances would be 90,000 numbers


@pytest.mark.parametrize("seed", range(10))
def test_greedy_is_within_its_bound_of_the_best_choice(seed: int) -> None:
    """Facility location of similarity c - distance, c the largest distance: at least 1 - 1/e of the exhaustive optimum."""
    points = (Key(seed) / "tiny").numpy().normal(size=(8, 2))
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    similar = apart.max() - apart
    best = max(similar[:, list(some)].max(axis=1).sum() for some in itertools.combinations(range(8), 3))
    medoids, _ = greedy_medoids(torch.from_numpy(points), 3)
    found = similar[:, medoids.numpy()].max(axis=1).sum()
    assert (1 - 1 / np.e) * best <= found <= best + 1e-12
    alone, _ = greedy_medoids(torch.from_numpy(points), 1)
    assert int(alone[0]) == int(similar.sum(axis=0).argmax())


def test_copies_need_no_medoid_of_their_own() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    medoids, owner = greedy_medoids(points, 5)
    assert medoids.tolist() == [1, 0]
    assert owner.tolist() == [1, 0, 1, 0, 0]


def test_points_between_two_medoids_belong_to_the_earlier_one() -> None:
    points = torch.tensor([[2.0]] * 4 + [[-2.0]] * 5 + [[0.0]])
    medoids, owner = greedy_medoids(points, 2)
    assert medoids.tolist() == [4, 0]
    assert owner.tolist() == [1] * 4 + [0] * 6


@pytest.mark.parametrize("count", [0, 4])
def test_counts_out_of_range_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"^{count} medoids of 3 points; give 1 to 3$"):
        greedy_medoids(torch.zeros(3, 2), count)
