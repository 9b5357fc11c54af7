"""What a plan promises is what certificates can do, and what it prices is what runs cost."""

import numpy as np
import pytest
import scipy.stats

from certidote import verbs
from certidote.certification.binomial import lower_confidence_bound
from certidote.certification.smoothing import radius_cap
from certidote.verbs.planning import models_needed

SMALL = {"denoiser": "none", "dtype": "float32", "workers": 2}


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 1e-6])
@pytest.mark.parametrize("in_sigmas", [0.5, 1.0, 2.0, 2.463])
def test_a_unanimous_vote_needs_exactly_so_many_models(in_sigmas: float, alpha: float) -> None:
    # All of n: the bound is alpha^(1/n), so n = log(alpha) / log(Phi(R / sigma)), rounded up.
    n = models_needed(0.5 * in_sigmas, 0.5, alpha, 1.0)
    assert n is not None
    assert n - 1 < np.log(alpha) / np.log(scipy.stats.norm.cdf(in_sigmas)) * (1 + 1e-7) <= n + 1e-3
    assert radius_cap(0.5, n, alpha) >= 0.5 * in_sigmas > radius_cap(0.5, n - 1, alpha)


def test_a_split_vote_needs_more_or_cannot_do_it() -> None:
    # At 95 % of the vote the radius stays below sigma * Phi^-1(0.95) = 1.645 sigma whatever n is.
    assert models_needed(1.65, 1.0, 0.001, 0.95) is None
    counts = [models_needed(1.5, 1.0, 0.001, share) for share in (1.0, 0.999, 0.99, 0.95)]
    assert all(n is not None for n in counts)
    assert counts == sorted(counts, key=lambda n: n or 0)
    n = counts[-1] or 0
    enough = lower_confidence_bound(np.array([np.ceil(0.95 * n)]).astype(np.int64), n, 0.001)
    assert enough[0] >= scipy.stats.norm.cdf(1.5)
    fewer = int(0.9 * n)
    assert lower_confidence_bound(np.array([np.ceil(0.95 * fewer)]).astype(np.int64), fewer, 0.001)[0] < scipy.stats.norm.cdf(1.5)


def test_a_plan_agrees_with_what_the_scheme_can_prove() -> None:
    planned = verbs.plan("digits", sigma=0.5, models=200, n0=10, simultaneous=True, **SMALL)
    assert planned.radius == radius_cap(0.5, 200, 0.001 / 400)
    assert planned.disk == 210 * 400
    assert planned.needed == {}
    assert planned.seconds > 0
    assert "200 models can prove, all agreeing" in planned.lines[1]
    wanted = verbs.plan("digits", sigma=0.5, radius=0.9, n0=10, **SMALL)
    assert wanted.models == models_needed(0.9, 0.5, 0.001, 1.0) == wanted.needed[1.0]
    assert wanted.radius >= 0.9
    assert wanted.needed[0.95] is None, "0.9 is more than 1.645 sigma"
    assert sum("no number of models is enough" in line for line in wanted.lines) == 2
    assert wanted.disk == (wanted.models + 10) * 400


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"models": 100, "radius": 0.5}, "give one of them"),
        ({"radius": 0.0}, "radius=0"),
        ({"radius": 9.0}, "needs more than 10,000,000 models"),
        ({"sigma": 0.0, "radius": 0.5}, "adds no noise"),
        ({"models": 9}, "at least 10 are needed"),
        ({"workers": 0}, "at least 1"),
        ({"alpha": 0.7}, "not a failure probability"),
    ],
)
def test_what_cannot_be_planned_is_refused(given: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        verbs.plan("digits", **{"sigma": 0.5, **SMALL, **given})
