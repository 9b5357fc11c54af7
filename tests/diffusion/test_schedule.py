import math

import numpy as np
import pytest

from certidote.diffusion.schedule import (
    Schedule,
    alpha_bar_of,
    convert_sigma,
    from_betas,
    linear,
    scaled_linear,
    sigma_of,
    squaredcos_cap_v2,
)
from certidote.streams import Key

SCHEDULES = {
    "linear": linear(),
    "scaled linear": scaled_linear(),
    "cosine": squaredcos_cap_v2(),
    "cosine, 4000 steps": squaredcos_cap_v2(4_000),
    "own betas": from_betas([0.1, 0.01, 0.3, 0.2]),
}

REFERENCE_STEPS = {  # smallest t >= 1 whose noise reaches the target on [-1, 1] pixels, from the published search
    "cosine, 4000 steps": (225, 475, 597, 1_158, 1_984, 2_809),
    "linear": (27, 58, 73, 145, 259, 396),
    "cosine": (56, 118, 149, 289, 496, 702),
}
REFERENCE_TARGETS = (0.1, 0.2, 0.25, 0.5, 1.0, 2.0)


@pytest.mark.parametrize("name", REFERENCE_STEPS)
def test_reference_timesteps(name):
    schedule = SCHEDULES[name]
    times = schedule.time(np.array([convert_sigma(target, "symmetric", "unit") for target in REFERENCE_TARGETS]))
    assert tuple(math.ceil(time) for time in times) == REFERENCE_STEPS[name]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_sigma_to_time_and_back(schedule):
    sigmas = np.geomspace(schedule.sigma_min, schedule.sigma_max, 1_001)
    times = schedule.time(sigmas)
    np.testing.assert_allclose(schedule.sigma(times), sigmas, rtol=1e-9)
    assert times[0] == pytest.approx(0, abs=1e-9)
    assert times[-1] == pytest.approx(len(schedule) - 1)
    assert np.all(np.diff(times) > 0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_times_of_whole_steps_are_whole(schedule):
    steps = np.arange(len(schedule))[:-1] if len(schedule) > 10 else np.arange(len(schedule))
    sigmas = sigma_of(schedule.alpha_bar[steps])
    np.testing.assert_allclose(schedule.time(sigmas), steps, atol=1e-6)
    assert np.array_equal(schedule.nearest_step(sigmas), steps)


def test_nearest_step_by_double_loop():
    schedule = linear()
    sigmas = np.geomspace(schedule.sigma_min, schedule.sigma_max, 300)
    log_ratios = [math.log(a / (1 - a)) for a in schedule.alpha_bar]
    for sigma, step in zip(sigmas, schedule.nearest_step(sigmas), strict=True):
        wanted = -2 * math.log(2 * sigma)
        assert abs(log_ratios[step] - wanted) <= min(abs(ratio - wanted) for ratio in log_ratios) + 1e-12


def test_alpha_bar_is_exact_and_doubles_sigma():
    sigma = np.array([0.05, 0.25, 0.5, 1.0])
    alpha_bar = alpha_bar_of(sigma)
    np.testing.assert_allclose((1 - alpha_bar) / alpha_bar, (2 * sigma) ** 2, rtol=1e-13)
    np.testing.assert_allclose(sigma_of(alpha_bar), sigma, rtol=1e-13)
    np.testing.assert_allclose(np.sqrt(alpha_bar)[1:], [0.894, 0.707, 0.447], atol=1e-3)


def test_forward_noised_variance_of_a_constant_image():
    """What the network is handed has variance 1 - alpha_bar around sqrt(alpha_bar) x'; catches a missing factor 2 or scale."""
    draws, sigma = 200_000, np.array([0.3])
    noisy = 0.7 + sigma * Key(1).numpy().standard_normal(draws)
    alpha_bar = alpha_bar_of(sigma)
    seen = np.sqrt(alpha_bar) * (2 * noisy - 1)
    # A sample variance of Gaussians has standard error sqrt(2 / draws); 5 of them are exceeded with probability 6e-7.
    assert seen.var() == pytest.approx(float(1 - alpha_bar[0]), rel=5 * math.sqrt(2 / draws))
    assert seen.mean() == pytest.approx(float(np.sqrt(alpha_bar[0])) * 0.4, abs=5 * math.sqrt((1 - alpha_bar[0]) / draws))


def test_symmetric_sigmas_are_twice_unit_sigmas():
    assert convert_sigma(0.25, "unit", "symmetric") == 0.5
    assert convert_sigma(0.5, "symmetric", "unit") == 0.25
    assert convert_sigma(0.3, "unit", "unit") == 0.3
    with pytest.raises(ValueError, match=r"unknown sigma space 'pixels'; choose one of: symmetric \(\[-1, 1\] pixels\), unit"):
        convert_sigma(0.3, "pixels", "unit")


def test_schedules_agree_with_diffusers():
    from diffusers import DDPMScheduler

    for name, ours in (
        ("linear", linear()),
        ("squaredcos_cap_v2", squaredcos_cap_v2()),
        ("scaled_linear", scaled_linear(1_000, 1e-4, 0.02)),
    ):
        theirs = DDPMScheduler(beta_schedule=name).alphas_cumprod.numpy()
        np.testing.assert_allclose(ours.alpha_bar, theirs, rtol=2e-4)  # theirs is a float32 product of 1,000 factors


@pytest.mark.parametrize("sigma", [0.001, 90.0, math.nan])
def test_refuses_sigma_outside(sigma):
    with pytest.raises(ValueError, match=r"is outside this schedule, which covers 0\.00500025 to 78\.\d+ \(\[0, 1\] pixel units\)"):
        linear().time(np.array([0.25, sigma]))


def test_refuses_time_outside():
    with pytest.raises(ValueError, match=r"t=1000\.0 is outside this schedule; its steps are 0 to 999"):
        linear().sigma(np.array([1_000.0]))


@pytest.mark.parametrize("betas", [[0.1, 1.0], [0.1, 0.0], [0.1, -0.1], [0.1], [0.1, math.nan]])
def test_refuses_impossible_betas(betas):
    with pytest.raises(ValueError, match=r"alpha_bar falls strictly inside \(0, 1\); check its betas"):
        from_betas(betas)


def test_schedule_is_float64():
    assert linear().alpha_bar.dtype == np.float64
    assert isinstance(linear(), Schedule)
