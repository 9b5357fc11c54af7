from itertools import combinations

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certidote.attacks.simplex import NEGLIGIBLE, TOLERANCE, gram, nearest_in_hull, project_onto_simplex


def supports(p: int) -> list[list[int]]:
    return [list(chosen) for size in range(1, p + 1) for chosen in combinations(range(p), size)]


def exact_projection(values: np.ndarray) -> np.ndarray:
    """The best of the projections onto the planes of all faces that lie in the simplex."""
    best = None
    for face in supports(len(values)):
        point = np.zeros(len(values))
        point[face] = values[face] + (1 - values[face].sum()) / len(face)
        if point.min() >= -1e-12 and (best is None or np.sum((point - values) ** 2) < np.sum((best - values) ** 2)):
            best = point
    assert best is not None
    return best


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.01, 1.0, 100.0]))
def test_projection_is_the_nearest_point_of_the_simplex(seed: int, p: int, scale: float) -> None:
    values = np.random.default_rng(seed).normal(size=(3, p)) * scale
    found = project_onto_simplex(torch.from_numpy(values)).numpy()
    for row, value in zip(found, values, strict=True):
        np.testing.assert_allclose(row, exact_projection(value), atol=1e-9 * max(1, scale))


def reference(points: np.ndarray, target: np.ndarray) -> float:
    """Half the squared distance to the hull, by an active-set method that knows nothing of simplices."""
    heavy = 1e3 * np.linalg.norm(points, axis=1).max()  # the weight of "their sum is 1"
    coefficients, _ = scipy.optimize.nnls(np.vstack([points.T, np.full(len(points), heavy)]), np.append(target, heavy))
    coefficients /= coefficients.sum()
    return float(np.sum((points.T @ coefficients - target) ** 2) / 2)


def problem(seed: int, p: int = 100, d: int = 512, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features as they are after a ReLU, at least for the target."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.normal(size=(batch, p, d)) + 0.5), torch.from_numpy(np.abs(generator.normal(size=(batch, d))))


def test_solver_is_certified_and_as_good_as_an_active_set_method() -> None:
    """The gap of equal coefficients is seen to be large."""
    points, target = problem(0)
    grams = gram(points, target)
    found = nearest_in_hull(grams)
    uniform = torch.full_like(found.coefficients, 1 / 100)
    assert bool((nearest_in_hull(grams, uniform, max_steps=0).gap > 0.03 * found.objective).all())
    assert float(found.coefficients.min()) >= 0
    torch.testing.assert_close(found.coefficients.sum(1), torch.ones(3).double(), rtol=0, atol=1e-12)
    assert bool((found.gap <= 1e-3 * found.objective).all())
    for i in range(3):
        distance = (found.coefficients[i] @ points[i] - target[i]).square().sum() / 2
        best = reference(points[i].numpy(), target[i].numpy())
        assert float(found.objective[i]) == pytest.approx(float(distance), rel=1e-9)
        assert float(found.objective[i]) == pytest.approx(best, rel=1e-4)
        slope = points[i] @ (found.coefficients[i] @ points[i] - target[i])
        assert float(found.gap[i]) == pytest.approx(float(found.coefficients[i] @ slope - slope.min()), abs=1e-6)
        equal = (uniform[i] @ points[i] - target[i]).square().sum() / 2
        assert float(found.objective[i]) < 0.97 * float(equal)


def test_small_problems_are_solved_as_by_trying_every_face() -> None:
    generator = np.random.default_rng(1)
    for p, d in ((1, 3), (3, 2), (4, 3), (5, 8)):
        points, target = generator.normal(size=(p, d)), generator.normal(size=d)
        best = np.inf
        for face in supports(p):
            corner = points[face[0]]
            weights = np.linalg.lstsq((points[face[1:]] - corner).T, target - corner, rcond=None)[0]
            inside = np.append(1 - weights.sum(), weights)
            if inside.min() >= -1e-12:
                best = min(best, float(np.sum((inside @ points[face] - target) ** 2) / 2))
        found = nearest_in_hull(gram(torch.from_numpy(points), torch.from_numpy(target)))
        scale = float(((points - target) ** 2).sum(1).max())
        assert best - 1e-12 <= float(found.objective) <= best * (1 + 2 * TOLERANCE) + NEGLIGIBLE * scale + 1e-12


def test_a_target_inside_the_hull_is_reached() -> None:
    points, _ = problem(2, p=20, d=5, batch=2)
    inside = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(20), size=2)).unsqueeze(1) @ points
    found = nearest_in_hull(gram(points, inside.squeeze(1)))
    assert float(found.objective.max()) < 1e-6 * float(points.square().sum(2).max())


def test_a_problem_does_not_depend_on_its_neighbors() -> None:
    points, target = problem(3, p=30, d=40, batch=4)
    points[1], target[1] = points[1] * 1e-3, target[1] * 10  # needs other steps, and more or fewer of them
    together = nearest_in_hull(gram(points, target))
    for i in range(4):
        alone = nearest_in_hull(gram(points[i : i + 1], target[i : i + 1]))
        torch.testing.assert_close(together.coefficients[i], alone.coefficients[0], rtol=0, atol=1e-9)


def test_a_warm_start_that_is_good_enough_is_kept_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    grams = gram(*problem(4, p=20, d=30))
    found = nearest_in_hull(grams)
    with monkeypatch.context() as patched:
        patched.setattr(torch.linalg, "eigvalsh", lambda _: pytest.fail("eigenvalues of a problem that is solved"))
        assert torch.equal(nearest_in_hull(grams, found.coefficients).coefficients, found.coefficients)
    assert bool((nearest_in_hull(grams, max_steps=1).gap > found.gap).all())
