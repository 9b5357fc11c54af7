"""Group privacy by induction and on a learner whose privacy is known exactly; epsilon against closed forms."""

import math

import numpy as np
import pytest

from certidote.certification import privacy
from certidote.certification.privacy import group_delta, least_cost, privacy_statement, private_radius, spent_epsilon


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-3), (0.3, 1e-4), (2.0, 1e-6), (1.0, 0.0)])
def test_groups_are_single_changes_one_after_the_other(epsilon: float, delta: float) -> None:
    expected = 0.0
    for changes in range(12):
        assert group_delta(epsilon, delta, changes) == pytest.approx(expected, rel=1e-9)
        expected = math.exp(epsilon) * expected + delta
    assert group_delta(5.0, 1e-5, 1_000) == math.inf


def test_the_cost_of_randomized_response_is_bounded_with_equality() -> None:
    """A learner that tells one label, true with chance e^eps / (1 + e^eps): flipping it changes chances by exactly e^eps."""
    for epsilon in (0.1, 1.0, 3.0):
        right = math.exp(epsilon) / (1 + math.exp(epsilon))
        assert least_cost(right, 1.0, epsilon, 0.0, 1) == pytest.approx(1 - right)
        assert least_cost(right, 1.0, epsilon, 0.01, 1) < 1 - right
        (radius,) = private_radius(np.array([right]), np.array([1 - right]), epsilon, 0.0, 5)
        assert radius == 0  # one flipped label does change the likelier answer


def test_no_change_leaves_the_cost_and_many_leave_nothing() -> None:
    for epsilon, delta in ((0.0, 1e-3), (0.5, 1e-3), (0.5, 0.0)):
        assert least_cost(0.4, 2.0, epsilon, delta, 0) == pytest.approx(0.4)
        costs = [least_cost(0.4, 2.0, epsilon, delta, changes) for changes in range(300)]
        assert costs == sorted(costs, reverse=True)
    assert least_cost(0.4, 2.0, 0.5, 1e-3, 50) == 0.0
    factor, epsilon = 10.0, 0.7
    needed = math.ceil(math.log(factor) / epsilon)
    assert least_cost(1.0, 1.0, epsilon, 0.0, needed) <= 1 / factor < least_cost(1.0, 1.0, epsilon, 0.0, needed - 1)


def test_radii_are_where_the_inequality_fails() -> None:
    generator = np.random.default_rng(0)
    lower = generator.uniform(0.3, 1, 200)
    upper = generator.uniform(0, 1, 200) * (1 - lower)
    for epsilon, delta in ((0.02, 0.0), (0.3, 0.0), (0.05, 1e-4), (0.0, 0.01)):
        found = private_radius(lower, upper, epsilon, delta, 40)
        for p_a, p_b, radius in zip(lower, upper, found, strict=True):
            holds = [
                math.exp(-k * epsilon) * (p_a - group_delta(epsilon, delta, k))
                > math.exp(k * epsilon) * p_b + group_delta(epsilon, delta, k)
                for k in range(41)
            ]
            assert holds == [k <= radius for k in range(41)]
            if delta == 0 and radius < 40:
                assert radius == max(math.ceil(math.log(p_a / p_b) / (2 * epsilon)) - 1, -1)
    assert private_radius(np.array([0.5]), np.array([0.5]), 0.1, 0.0, 9).tolist() == [-1]
    assert private_radius(np.array([0.9]), np.array([1e-3]), 800.0, 0.0, 9).tolist() == [0]


def test_epsilon_of_full_batches_has_a_closed_form() -> None:
    """Renyi divergence of order a between Gaussians is a / (2 z^2); converted to delta as Balle et al. (2020) do."""
    pytest.importorskip("opacus")
    from opacus.accountants import RDPAccountant

    for noise, steps in ((1.1, 1), (3.0, 20), (20.0, 100)):
        expected = min(
            steps * order / (2 * noise**2) - (math.log(1e-5) + math.log(order)) / (order - 1) + math.log((order - 1) / order)
            for order in RDPAccountant.DEFAULT_ALPHAS
        )
        assert spent_epsilon(noise, 1.0, steps, 1e-5) == pytest.approx(expected)


def renyi(noise: float, rate: float, order: int) -> float:
    """Of one step on a Poisson sample, for a whole order: a binomial sum (Mironov et al. 2019, section 3.3)."""
    terms = (
        math.comb(order, k) * (1 - rate) ** (order - k) * rate**k * math.exp((k * k - k) / (2 * noise**2)) for k in range(order + 1)
    )
    return math.log(sum(terms)) / (order - 1)


def test_epsilon_of_known_trainings() -> None:
    """40 epochs of CIFAR-10 in batches of 128: about 1.9 and 17 at noise 1.1 and 0.5 by the older conversion, less by the one in use."""
    pytest.importorskip("opacus")
    rate, steps = 128 / 50_000, 15_640
    for noise, known in ((1.1, 1.9), (0.5, 17)):
        orders = {order: steps * renyi(noise, rate, order) for order in range(2, 18)}
        assert min(spent + math.log(1e5) / (order - 1) for order, spent in orders.items()) == pytest.approx(known, rel=0.03)
        tighter = min(
            spent - (math.log(1e-5) + math.log(order)) / (order - 1) + math.log((order - 1) / order)
            for order, spent in orders.items()
        )
        found = spent_epsilon(noise, rate, steps, 1e-5)
        assert 0.97 * tighter < found <= tighter * (1 + 1e-9)  # it tries fractions of orders too
    assert spent_epsilon(0.05, rate, steps, 1e-5) > 1e6
    assert spent_epsilon(0.0, rate, steps, 1e-5) == math.inf
    assert spent_epsilon(1.1, rate / 2, steps, 1e-5) < 1


def test_what_is_said_about_it() -> None:
    assert "no guarantee" in privacy_statement(6e6, 1e-5)
    assert "no guarantee" in privacy_statement(math.inf, 1e-5)
    said = privacy_statement(1.9, 1e-5)
    assert said.startswith("epsilon 1.9 at delta 1e-05 for one inserted or removed image; a guarantee about the plurality of many")


def test_wrong_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for numbers in ((-1.0, 0.1, 1, 1e-5), (1.0, 0.0, 1, 1e-5), (1.0, 1.1, 1, 1e-5), (1.0, 0.1, 0, 1e-5), (1.0, 0.1, 1, 1.0)):
        with pytest.raises(ValueError, match=r"give noise of at least 0, a rate in \(0, 1\], at least 1 step and a delta"):
            spent_epsilon(*numbers)
    with pytest.raises(ValueError, match="epsilon=-1, delta=0; give an epsilon of at least 0"):
        group_delta(-1.0, 0.0, 1)
    with pytest.raises(ValueError, match="give an expected cost of at least 0 and at most the largest one"):
        least_cost(2.0, 1.0, 0.1, 0.0, 1)
    monkeypatch.setattr(privacy, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"opacus; install the extra: pip install 'certidote\[dp\]'"):
        spent_epsilon(1.1, 0.1, 10, 1e-5)
