import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certidote import ascent
from certidote.attacks.budget import project, quantize
from certidote.types import Budget, BudgetExceeded, ImageDataset, Norm, Poison, Target

NORMS: tuple[Norm, ...] = ("linf", "l2")


def norm_of(step: torch.Tensor, norm: Norm) -> torch.Tensor:
    return step.flatten(1).abs().amax(1) if norm == "linf" else step.flatten(1).norm(dim=1)


def stored_pair(seed: int, n: int, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Base images in 8 bits, a third of their pixels at the box's edge, and candidates in and far outside the box."""
    generator = np.random.default_rng(seed)
    bases = generator.integers(0, 256, (n, 1, 1, pixels))
    bases[generator.random(bases.shape) < 1 / 6] = 0
    bases[generator.random(bases.shape) < 1 / 6] = 255
    moved = bases / 255 + generator.normal(size=bases.shape) * generator.choice([0.01, 0.3, 3.0], size=(n, 1, 1, 1))
    return torch.from_numpy(bases.astype("uint8")), torch.from_numpy(moved)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 10_000), epsilon=st.sampled_from([0.0, 0.03, 0.2, 0.5, 1.0]), norm=st.sampled_from(NORMS))
def test_projection_is_the_nearest_feasible_point(seed: int, epsilon: float, norm: Norm) -> None:
    """x is the projection of y exactly if x is feasible and (y - x) . (z - x) <= 0 for every feasible z (the set is convex)."""
    stored, images = stored_pair(seed, 4, 9)
    bases = stored.double() / 255
    nearest = project(images, bases, Budget(1, norm, epsilon))
    assert bool((norm_of(nearest - bases, norm) <= epsilon * (1 + 1e-12) + 1e-15).all())
    assert float(nearest.min()) >= 0
    assert float(nearest.max()) <= 1
    generator = np.random.default_rng(seed)
    for _ in range(50):
        step = torch.from_numpy(generator.normal(size=tuple(bases.shape)) * generator.choice([0.0, 1.0], size=tuple(bases.shape)))
        length = norm_of(step, norm).clamp_min(1e-9).view(-1, 1, 1, 1)
        feasible = (bases + step / length * epsilon).clamp(0, 1)  # clipping to the box can only bring it nearer to the base
        angle = ((images - nearest) * (feasible - nearest)).flatten(1).sum(1)
        assert float(angle.max()) <= 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_projection_agrees_with_brute_force_in_float64(norm: Norm) -> None:
    """Every point of a fine grid over the box of two pixels, in a loop."""
    grid = np.linspace(0, 1, 401)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    generator = np.random.default_rng(0)
    for _ in range(20):
        base, image = generator.choice([0.0, 0.2, 0.55, 1.0], size=2), generator.normal(0.5, 1.0, size=2)
        distance = np.abs(points - base).max(1) if norm == "linf" else np.sqrt(((points - base) ** 2).sum(1))
        best = np.sqrt(((points[distance <= 0.3] - image) ** 2).sum(1)).min()
        nearest = project(torch.from_numpy(image).view(1, 1, 1, 2), torch.from_numpy(base).view(1, 1, 1, 2), Budget(1, norm, 0.3))
        reached = float(np.sqrt(((nearest.numpy().ravel() - image) ** 2).sum()))
        assert reached <= best + 1e-12
        assert reached >= best - 0.0025 * 2**0.5  # no grid point is farther than that from a feasible one


def test_the_box_costs_only_images_that_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In l2 an image far from 0 and 1 is pulled straight towards its base; the others are as they are alone."""
    sorted_rows = []
    slow = ascent._l2_scale_at_box

    def counted(step: torch.Tensor, room: torch.Tensor, epsilon: float) -> torch.Tensor:
        sorted_rows.append(len(step))
        return slow(step, room, epsilon)

    monkeypatch.setattr(ascent, "_l2_scale_at_box", counted)
    bases = torch.tensor([[0.5, 0.5], [0.5, 0.95], [0.5, 0.5]], dtype=torch.float64).view(3, 1, 1, 2)
    moved = bases + torch.tensor([[0.3, 0.4], [0.3, 0.4], [0.03, 0.04]]).view(3, 1, 1, 2)
    nearest = project(moved, bases, Budget(1, "l2", 0.1))
    assert sorted_rows == [1]
    expected = torch.tensor([[0.56, 0.58], [0.5 + (0.01 - 0.05**2) ** 0.5, 1.0], [0.53, 0.54]], dtype=torch.float64)
    torch.testing.assert_close(nearest.view(3, 2), expected, rtol=0, atol=1e-7)
    for row in range(3):
        torch.testing.assert_close(project(moved[[row]], bases[[row]], Budget(1, "l2", 0.1)), nearest[[row]], rtol=0, atol=1e-15)


def test_projection_leaves_feasible_images_alone_and_keeps_their_dtype() -> None:
    stored, _ = stored_pair(0, 5, 9)
    bases = stored.float() / 255
    inside = (bases + 0.01).clamp(0, 1)
    for norm in NORMS:
        projected = project(inside, bases, Budget(1, norm, 0.25))
        assert projected.dtype == torch.float32
        torch.testing.assert_close(projected, inside, rtol=0, atol=1e-7)


def verified(bases: torch.Tensor, images: torch.Tensor, budget: Budget) -> None:
    labels = torch.zeros(len(bases), dtype=torch.int64)
    goal = Target(bases[0], 1, 0, 0)
    Poison(torch.arange(len(bases)), images, goal, budget).verify(ImageDataset(bases, labels, ("a", "b")))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    epsilon=st.one_of(st.integers(0, 60).map(lambda k: k / 255), st.floats(0, 1)),
    norm=st.sampled_from(NORMS),
)
def test_quantized_images_keep_the_budget(seed: int, epsilon: float, norm: Norm) -> None:
    bases, images = stored_pair(seed, 6, 16)
    budget = Budget(6, norm, epsilon)
    verified(bases, quantize(images, bases, budget), budget)


def test_every_whole_level_of_the_linf_budget_can_be_used() -> None:
    """An epsilon that rounding put just below 16/255 still allows 16 levels, as `Poison.verify` does, and never 17."""
    base = torch.full((1, 1, 1, 1), 100, dtype=torch.uint8)
    for levels in range(1, 101):
        for epsilon in (levels / 255, float(np.nextafter(levels / 255, 0)), (levels + 0.999) / 255):
            reached = quantize(torch.ones(1, 1, 1, 1), base, Budget(1, "linf", epsilon))
            assert int(reached) == 100 + levels
            verified(base, reached, Budget(1, "linf", epsilon))
    with pytest.raises(BudgetExceeded, match="moved by"):
        verified(base, base + 17, Budget(1, "linf", 16 / 255))


def test_linf_rounding_is_to_the_nearest_allowed_level() -> None:
    bases, images = stored_pair(3, 4, 16)
    epsilon = 0.1
    rounded = quantize(images, bases, Budget(4, "linf", epsilon)).double()
    for base, image, level in zip(bases.flatten().tolist(), images.flatten().tolist(), rounded.flatten().tolist(), strict=True):
        allowed = [k for k in range(256) if abs(k - base) / 255 <= epsilon]
        clipped = min(max(image, base / 255 - epsilon, 0.0), base / 255 + epsilon, 1.0)
        assert abs(level / 255 - clipped) == pytest.approx(min(abs(k / 255 - clipped) for k in allowed), abs=1e-9)


def test_l2_rounding_is_nearest_inside_the_ball_and_never_worse_than_truncation() -> None:
    bases, images = stored_pair(4, 40, 16)
    start = bases.double() / 255
    exact = project(images, start, Budget(40, "l2", 0.1))
    rounded = quantize(images, bases, Budget(40, "l2", 0.1)).double() / 255
    nearest = (exact * 255).round() / 255
    truncated = start + ((exact - start) * 255).abs().add(1e-9).floor() * (exact - start).sign() / 255
    inside = norm_of(nearest - start, "l2") <= 0.1
    assert 0 < int(inside.sum()) < 40
    torch.testing.assert_close(rounded[inside], nearest[inside], rtol=0, atol=1e-12)
    error, baseline = norm_of(rounded - exact, "l2"), norm_of(truncated - exact, "l2")
    assert bool((error <= baseline + 1e-12).all())
    assert float(error.mean()) < 0.8 * float(baseline.mean())
