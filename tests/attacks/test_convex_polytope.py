import inspect
from functools import cache

import pytest
import scipy.optimize
import torch

from certidote.attacks.bullseye_polytope import center_distances
from certidote.attacks.convex_polytope import convex_polytope, convex_polytope_batch, hull_objective, residual
from certidote.attacks.crafting import CIFAR10_STEP
from certidote.attacks.features import at_layers, maps_of
from certidote.attacks.selection import choose_bases
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor, pretrain
from certidote.types import Images, Knowledge, Poison, as_pixels
from fixtures_attacks import Double, Linear
from fixtures_transfer import BATCHES, OPTIONS, STEP_SIZE, every, fixture_tasks, transfer_fixture, trial_keys


def targets() -> Images:
    return as_pixels(torch.stack([goal.image for goal in transfer_fixture().goals]))


def bases(num_poisons: int, epsilon: float) -> Images:
    rows = [choose_bases(task, key / "bases") for task, key in zip(fixture_tasks(num_poisons, epsilon), trial_keys(), strict=True)]
    return as_pixels(torch.cat([transfer_fixture().train.images[each] for each in rows]))


def in_pixels(poisons: list[Poison]) -> Images:
    return as_pixels(torch.cat([poison.images for poison in poisons]))


@cache
def quick_learner() -> ConvExtractor:
    """The fixture's extractor but for Adam's step in its pre-training, 0.015 and not 0.002."""
    return pretrain(every(range(5)), Key(0) / "transfer fixture" / "extractor", learning_rate=0.015)


@pytest.mark.parametrize(("epsilon", "fall"), [(0.1, 0.20), (0.3, 0.50)])
def test_hull_comes_near_the_target_and_the_center_stays_away(epsilon: float, fall: float) -> None:
    """The distance to the hull falls by 23.6 % and 57.1 % in the median; Bullseye Polytope's center comes much nearer than ours.

    The thresholds were set where it falls by 24 % and 59 %, from 0.78 of the target's norm, 0.75 here. How large the steps of the
    extractor's pre-training are decides that: features of the fixture's own, which learns by small ones, start farther away (0.83) and
    follow pixels less (20.5 % and 51.6 %), however many and small the attack's steps are.
    """
    extractor = quick_learner()
    goals = [extractor.penultimate(targets())]
    start = bases(8, epsilon)

    def hull(images: Images) -> torch.Tensor:
        parts = zip(extractor.penultimate(images).split(8), goals[0], strict=True)
        return torch.tensor([(2 * reference_distance(points, goal)) ** 0.5 for points, goal in parts])

    ours, bullseye = (
        in_pixels(BATCHES[name](fixture_tasks(8, epsilon), Knowledge((extractor,)), trial_keys(), **OPTIONS[name]))
        for name in ("convex-polytope", "bullseye-polytope")
    )
    assert float((hull(ours) / hull(start)).median()) <= 1 - fall
    centers = [
        center_distances(images, goals, [extractor]) / center_distances(start, goals, [extractor]) for images in (ours, bullseye)
    ]
    assert float(centers[0].median()) > float(centers[1].median()) + 0.05
    assert bool((hull(ours) <= 1.01 * hull(bullseye)).all())
    assert float(hull(ours).median()) < float(hull(bullseye).median())


def reference_distance(points: torch.Tensor, target: torch.Tensor) -> float:
    """Squared distance to the hull relative to the target's square, halved; by an active-set method."""
    heavy = 1e3 * float(points.norm(dim=1).max())
    matrix = torch.cat([points.T, torch.full((1, len(points)), heavy)]).double().numpy()
    coefficients, _ = scipy.optimize.nnls(matrix, torch.cat([target, torch.tensor([heavy])]).double().numpy())
    combined = torch.from_numpy(coefficients / coefficients.sum()) @ points.double()
    return float((combined - target).square().sum() / target.double().square().sum() / 2)


def test_objective_is_the_sum_over_surrogates_and_layers_of_the_distance_to_each_hull() -> None:
    surrogates = [Linear(0, 64, 7), *at_layers(transfer_fixture().extractor, ["body.5", "penultimate"])]
    generator = torch.Generator().manual_seed(0)
    poisons, goals = torch.rand(8, 1, 8, 8, generator=generator), torch.rand(2, 1, 8, 8, generator=generator)
    found = hull_objective(maps_of(surrogates, goals))(maps_of(surrogates, poisons), 0)
    for trial in range(2):
        points = [maps[4 * trial : 4 * trial + 4].flatten(1) for maps in maps_of(surrogates, poisons)]
        ends = [maps[trial].flatten() for maps in maps_of(surrogates, goals)]
        expected = sum(reference_distance(each, end) for each, end in zip(points, ends, strict=True))
        assert float(found[trial]) == pytest.approx(expected, rel=2e-4)


def test_term_of_pooled_features_is_the_convex_combination() -> None:
    """By hand; the original's term for pooled features is sum_j ||target - point_j||^2 / (2 ||target||^2) = 0.25 + 0.5 instead."""
    points, target = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[1.0, 1.0]])
    found = residual(points, target, torch.tensor([[0.25, 0.75]]).double())
    assert float(found) == pytest.approx(((1 - 0.25) ** 2 + (1 - 1.5) ** 2) / (2 * 2))
    # the nearest point of the segment from (1, 0) to (0, 2) to (1, 1) is (0.6, 0.8): coefficients 0.6 and 0.4
    assert float(hull_objective([target])([points[0]], 0)) == pytest.approx((0.4**2 + 0.2**2) / 4, rel=1e-4)


def test_gradient_is_that_of_the_distance_to_the_hull() -> None:
    """Held coefficients give the gradient of the minimum (the envelope theorem): central differences in float64."""
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(1, 12, generator=generator, dtype=torch.float64)
    away = torch.eye(4, 12, dtype=torch.float64) + 0.1 * torch.rand(4, 12, generator=generator, dtype=torch.float64)
    points = (target + away).requires_grad_()
    (gradient,) = torch.autograd.grad(hull_objective([target])([points], 0).sum(), [points])
    assert float(gradient.abs().amax(1).min()) > 0.005  # all four are in use
    for j, k in ((0, 0), (1, 5), (2, 11), (3, 3)):
        step = torch.zeros_like(points)
        step[j, k] = 0.05
        ends = [float(hull_objective([target])([(points + sign * step).detach()], 0)) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 0.1 == pytest.approx(float(gradient[j, k]), rel=0.05, abs=1e-4)


def test_each_draw_keeps_its_own_coefficients() -> None:
    """Draws whose hulls differ do not start from each other's coefficients: in any order they give the same."""
    generator = torch.Generator().manual_seed(4)
    target = torch.rand(1, 12, generator=generator)
    draws = [torch.rand(6, 12, generator=generator) for _ in range(2)]
    objective = hull_objective([target])
    first = [float(objective([draws[i]], i)) for i in (0, 1)]
    again = [float(objective([draws[i]], i)) for i in (1, 0)]
    assert first == again[::-1]


def test_end_to_end_terms_are_all_lowered() -> None:
    surrogates = at_layers(transfer_fixture().extractor, ["body.5", "penultimate"])
    task = fixture_tasks()[0]
    poison = convex_polytope(task, Knowledge(surrogates), trial_keys()[0], steps=60, step_size=STEP_SIZE)
    for surrogate in surrogates:
        goal = maps_of([surrogate], as_pixels(task.goal.image.unsqueeze(0)))
        images = (as_pixels(task.train.images[poison.indices]), as_pixels(poison.images))
        before, after = (float(hull_objective(goal)(maps_of([surrogate], each), 0)) for each in images)
        assert after < 0.5 * before


def test_poisons_without_a_coefficient_do_not_move() -> None:
    """Coefficients are sparse: of 40 poisons some are never needed."""
    task = fixture_tasks(40)[0]
    surrogate = Double(transfer_fixture().extractor)
    poison = convex_polytope(task, Knowledge((surrogate,)), trial_keys()[0], steps=5, step_size=STEP_SIZE)
    moved = (poison.images != task.train.images[poison.indices]).flatten(1).any(1)
    assert 3 <= int(moved.sum()) < 40


def test_defaults_are_the_benchmark_s() -> None:
    for attack in (convex_polytope, convex_polytope_batch):
        options = inspect.signature(attack).parameters.values()
        defaults = {option.name: option.default for option in options if option.kind is option.KEYWORD_ONLY}
        assert defaults == {"steps": 1_200, "step_size": CIFAR10_STEP, "dropout_draws": 0}
