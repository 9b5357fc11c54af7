"""Noise schedules of diffusion models: from sigma in [0, 1] pixel units to signal fraction `alpha_bar` and time `t`, in float64.

A DDPM works on images x' = 2x - 1 and sees `sqrt(alpha_bar) x' + sqrt(1 - alpha_bar) z`. Noise of std sigma on [0, 1] pixels has
std 2 sigma there, hence `alpha_bar = 1 / (1 + (2 sigma)^2)`, exactly. The time t only tells the network how noisy its input is:
the noise itself is never rounded to a step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


def convert_sigma(sigma: float, given: str, wanted: str) -> float:
    """The same noise on the other pixel range: symmetric sigmas (and radii) are twice the unit ones.

    Args:
        sigma: noise std in the units of `given`.
        given, wanted: "unit" for pixels in [0, 1] (ours, and Carlini et al. 2022), "symmetric" for pixels in [-1, 1].

    Raises: ValueError for an unknown space.
    """
    per_unit = {"unit": 1.0, "symmetric": 2.0}
    for space in (given, wanted):
        if space not in per_unit:
            raise ValueError(f"unknown sigma space {space!r}; choose one of: symmetric ([-1, 1] pixels), unit ([0, 1] pixels)")
    return sigma * per_unit[wanted] / per_unit[given]


def alpha_bar_of(sigma: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """(n,) signal fractions at which a DDPM's noise is std `sigma` on [0, 1] pixels."""
    return 1 / (1 + (2 * sigma) ** 2)


def sigma_of(alpha_bar: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """(n,) noise std, [0, 1] pixel units, at signal fraction `alpha_bar`."""
    return np.sqrt((1 - alpha_bar) / alpha_bar) / 2


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete schedule; step t = 0 is the least noisy. Times between steps interpolate the log signal-to-noise ratio.

    Attributes:
        alpha_bar: (steps,) signal fraction after each step, strictly falling inside (0, 1).
    Raises: ValueError if `alpha_bar` is anything else.
    """

    alpha_bar: Float64[np.ndarray, "steps"]

    def __post_init__(self) -> None:
        bad = len(self.alpha_bar) < 2 or not np.isfinite(self.alpha_bar).all() or np.any(np.diff(self.alpha_bar) >= 0)
        if bad or self.alpha_bar[0] >= 1 or self.alpha_bar[-1] <= 0:
            raise ValueError(
                "a noise schedule needs at least 2 steps whose alpha_bar falls strictly inside (0, 1); "
                "check its betas: each must lie in (0, 1), and a schedule rescaled to zero terminal SNR cannot be used"
            )

    def __len__(self) -> int:
        return len(self.alpha_bar)

    @property
    def sigma_min(self) -> float:
        """Noise std of the first step, [0, 1] pixel units."""
        return float(sigma_of(self.alpha_bar[:1])[0])

    @property
    def sigma_max(self) -> float:
        """Noise std of the last step, [0, 1] pixel units."""
        return float(sigma_of(self.alpha_bar[-1:])[0])

    def time(self, sigma: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """(n,) real times in [0, steps - 1] at which the schedule's noise is `sigma`, [0, 1] pixel units.

        Raises: ValueError if a sigma is outside the schedule.
        """
        low, high = self.sigma_min, self.sigma_max
        inside = (low * (1 - 1e-6) <= sigma) & (sigma <= high * (1 + 1e-6))
        if not inside.all():
            raise ValueError(
                f"sigma={sigma[~inside][0]:.6g} is outside this schedule, which covers {low:.6g} to {high:.6g} "
                "([0, 1] pixel units); choose a sigma inside or another denoiser"
            )
        return np.interp(2 * np.log(2 * sigma), self._log_noise(), np.arange(len(self), dtype=np.float64))

    def nearest_step(self, sigma: Float64[np.ndarray, "n"]) -> np.ndarray:
        """(n,) int64 steps whose log signal-to-noise ratio is nearest to that of `sigma`."""
        return np.rint(self.time(sigma)).astype(np.int64)

    def sigma(self, time: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """(n,) noise std, [0, 1] pixel units, at real times in [0, steps - 1]: the inverse of `time`.

        Raises: ValueError if a time is outside.
        """
        inside = (time >= 0) & (time <= len(self) - 1)
        if not inside.all():
            raise ValueError(f"t={time[~inside][0]} is outside this schedule; its steps are 0 to {len(self) - 1}")
        return np.exp(np.interp(time, np.arange(len(self), dtype=np.float64), self._log_noise()) / 2) / 2

    def _log_noise(self) -> Float64[np.ndarray, "steps"]:
        """log((1 - alpha_bar) / alpha_bar), minus the log signal-to-noise ratio: rises strictly with t."""
        return np.log1p(-self.alpha_bar) - np.log(self.alpha_bar)


# ------------------------------------------------------------------------------------------------------- the known schedules


def from_betas(betas: Sequence[float] | Float64[np.ndarray, "steps"]) -> Schedule:
    """The schedule of arbitrary betas, each in (0, 1): alpha_bar is the running product of 1 - beta."""
    return Schedule(np.cumprod(1 - np.asarray(betas, dtype=np.float64)))


def linear(steps: int = 1_000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Betas on a line. Source: Ho, Jain and Abbeel (2020), section 4."""
    return from_betas(np.linspace(beta_start, beta_end, steps, dtype=np.float64))


def scaled_linear(steps: int = 1_000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Square roots of the betas on a line, as latent diffusion has them."""
    return from_betas(np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), steps, dtype=np.float64) ** 2)


def squaredcos_cap_v2(steps: int = 1_000) -> Schedule:
    """The cosine schedule, betas capped at 0.999. Source: Nichol and Dhariwal (2021), section 3.2."""
    edges = np.cos((np.arange(steps + 1, dtype=np.float64) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return from_betas(np.minimum(1 - edges[1:] / edges[:-1], 0.999))
