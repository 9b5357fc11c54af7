"""What a plan promises is what certificates can do, and what it prices is what runs cost."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from certidote import verbs
from certidote.certification.binomial import lower_confidence_bound
from certidote.certification.bounds import BOUNDS, Bound, level, probability_bounds
from certidote.certification.partition import frobenius_radius
from certidote.certification.smoothing import radius_cap, two_sided_radius
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.verbs.planning import MOST_MODELS, _bound_reaches, _surely_enough, models_needed

SMALL: dict[str, Any] = {"denoiser": "none", "dtype": "float32", "workers": 2}


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 1e-6])
@pytest.mark.parametrize("in_sigmas", [0.5, 1.0, 2.0, 2.463])
def test_a_unanimous_vote_needs_exactly_so_many_models(in_sigmas: float, alpha: float) -> None:
    # All of n: the bound is alpha^(1/n), so n = log(alpha) / log(Phi(R / sigma)), rounded up.
    n = models_needed(0.5 * in_sigmas, 0.5, alpha, 1.0)
    assert n is not None
    assert n - 1 < np.log(alpha) / np.log(scipy.stats.norm.cdf(in_sigmas)) * (1 + 1e-7) <= n + 1e-3
    assert radius_cap(0.5, n, alpha) >= 0.5 * in_sigmas > radius_cap(0.5, n - 1, alpha)


def failing(radius: float, sigma: float, bound: Bound, each: float, share: Fraction, numbers: range) -> list[int]:
    """Those of these numbers of models at which floor(share * n) votes, all others for one rival, do not prove the radius."""
    found = []
    for n in numbers:
        votes = n * share.numerator // share.denominator
        counts = np.array([[votes, n - votes]], dtype=np.int64)
        bounds = probability_bounds(bound, counts, np.zeros(1, dtype=np.int64), n, each)
        if two_sided_radius(*bounds, sigma)[0] < radius:
            found.append(n)
    return found


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(
    ("in_sigmas", "alpha", "share"),
    [
        (1.0, 0.001, "0.95"),
        (1.0, 0.001, "0.9"),
        (1.0, 0.05, "0.99"),
        (0.2, 0.01, "0.7"),
        (0.5, 1e-6, "0.874561"),
        (1.8, 0.2, "0.999"),
    ],
)
def test_from_the_planned_number_on_every_number_proves_it(bound: Bound, in_sigmas: float, alpha: float, share: str) -> None:
    each = level(bound, alpha, 10, True)
    n = models_needed(0.5 * in_sigmas, 0.5, each, float(share), anytime=bound == "anytime")
    assert n is not None
    wrong = failing(0.5 * in_sigmas, 0.5, bound, each, Fraction(share), range(n - 1, 2 * n + 50))
    assert wrong == [n - 1]


def test_whole_votes_make_fewer_models_enough_now_and_then() -> None:
    # At 90 % for one sigma, 359 models do, and 381 do not: the first number that does is no answer.
    wrong = failing(0.5, 0.5, "clopper-pearson", 0.001, Fraction("0.9"), range(1, 500))
    assert 359 not in wrong
    assert wrong[-1] == 381
    assert models_needed(0.5, 0.5, 0.001, 0.9) == 382


@pytest.mark.parametrize("anytime", [False, True])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.999])
def test_where_the_search_ends_everything_larger_proves_it(share: float, anytime: bool) -> None:
    # The proof that the search may end is a condition which, once met, stays met, and whose numbers all prove the radius.
    wanted, each = 0.55, 0.001
    n = np.arange(1, 30_000)
    sure = np.array([_surely_enough(wanted, share, int(m), each, anytime) for m in n])
    first = int(sure.argmax())
    assert sure[first:].all()
    assert not sure[:first].any()
    exact = Fraction(str(share))
    assert _bound_reaches(wanted, n * exact.numerator // exact.denominator, n, each, anytime)[sure].all()


def test_a_split_vote_needs_more_or_cannot_do_it() -> None:
    # At 95 % of the vote the radius stays below sigma * Phi^-1(0.95) = 1.645 sigma whatever n is.
    assert models_needed(1.65, 1.0, 0.001, 0.95) is None
    counts = [models_needed(1.5, 1.0, 0.001, share) for share in (1.0, 0.999, 0.99, 0.95)]
    assert all(n is not None for n in counts)
    assert counts == sorted(counts, key=lambda n: n or 0)
    assert models_needed(1.644, 1.0, 0.001, 0.95) is None, "possible, but not up to the stated limit"
    many = models_needed(1.64, 1.0, 0.001, 0.95)
    assert many is not None
    assert 100_000 < many < MOST_MODELS
    assert [_proved(1.64, many + more) for more in (-1, 0, 1, 19, 20, 21)] == [False, True, True, True, True, True]


def _proved(radius: float, n: int) -> bool:
    bound = lower_confidence_bound(np.array([95 * n // 100]), n, 0.001)
    return bool(bound[0] >= scipy.stats.norm.cdf(radius / (1 - 1e-9)))


@pytest.mark.parametrize("share", [0.5, 1.01, 0.1234567])
def test_shares_that_cannot_be_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="give a number above 0.5, at most 1, with at most six decimals"):
        models_needed(0.5, 0.5, 0.001, share)


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
    ("given", "radius"),
    [
        ({"bound": "anytime"}, 0.8),
        ({"bound": "multi-class", "n0": 0}, 0.8),
        ({"bound": "multi-class", "n0": 5, "simultaneous": True}, 0.8),
        ({"test_input": "noised-denoised", "sigma_x": 0.3, "trusted": True}, 0.8),
        ({"parts": 4, "n0": 5, "trusted": True}, 0.9),
        ({"parts": 3, "n0": 0, "bound": "multi-class"}, 0.9),
    ],
)
def test_a_plan_takes_what_certify_takes_and_promises_the_same(given: dict[str, Any], radius: float, tmp_path: Path) -> None:
    given = dict(given)
    if given.pop("trusted", False):
        rows = tmp_path / "trusted.txt"
        rows.write_text("0\n7\n")
        given["trusted"] = rows
    planned = verbs.plan("digits", sigma=0.5, radius=radius, **given, **SMALL)
    dry = verbs.certify("digits", out=tmp_path / "run", sigma=0.5, models=planned.models, dry_run=True, **given, **SMALL)
    assert isinstance(dry, verbs.Plan)
    text = "\n".join(dry.lines)
    assert dry.lines[0].startswith(f"{planned.disk // 400} models (")
    assert f"{planned.radius:.4f} ({given.get('bound', 'clopper-pearson')} bound)" in text
    assert planned.radius >= radius
    fewer = verbs.plan("digits", sigma=0.5, models=planned.models - 1, **given, **SMALL)
    assert fewer.radius < radius or given.get("parts") == 4, "four agreeing parts fall two at a time, or three for the first class"
    spoken = "\n".join(planned.lines)
    assert ("2 of these images are trusted" in spoken) == ("trusted" in given)
    assert ("noise of std 0.3" in spoken) == ("sigma_x" in given)
    assert (f"of each part, all {given.get('parts')} parts agreeing" in spoken) == ("parts" in given)
    assert ("even if one rival has all other votes" in spoken) == (given.get("bound") == "multi-class")


def test_parts_are_planned_for_a_class_of_any_number(tmp_path: Path) -> None:
    # Of 4 parts that agree, 2 votes turned make the last class lose its tie; the first class wins that tie.
    planned = verbs.plan("digits", sigma=0.5, radius=0.9, parts=4, n0=5, **SMALL)
    of_a_part = radius_cap(0.5, planned.models, 0.001 / 4)
    votes, radii = np.full((1, 4), 9), np.full((1, 4), of_a_part)
    assert frobenius_radius(votes, radii, 10)[0] >= 0.9
    assert frobenius_radius(votes, np.full((1, 4), radius_cap(0.5, planned.models - 1, 0.001 / 4)), 10)[0] < 0.9


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
        ({"bound": "hoeffding"}, "unknown bound 'hoeffding'"),
        ({"test_input": "blurred"}, "unknown test input 'blurred'"),
        ({"sigma_x": 0.2}, "needs test input noised-denoised"),
        ({"parts": 0}, "give 1 to 500 parts"),
        ({"parts": 2, "bound": "anytime"}, "does not go with parts"),
    ],
)
def test_what_cannot_be_planned_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        verbs.plan("digits", **{"sigma": 0.5, **SMALL, **given})


@pytest.mark.parametrize(("recipe", "tried"), [("cnn", 1), ("mlp", 30)])
def test_no_more_models_are_tried_than_are_trained_at_a_time(recipe: str, tried: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs take minutes a model; a stack of small networks takes as long as one of them."""
    views: list[int] = []

    class Counting(DenoisedSmoothing):
        def view(self, *arguments: Any, **options: Any) -> Any:
            views.append(1)
            return super().view(*arguments, **options)

    monkeypatch.setattr("certidote.defenses.smoothing.DenoisedSmoothing", Counting)
    planned = verbs.plan("digits", sigma=0.5, models=20, n0=10, recipe=recipe, test="digits:test", **SMALL)
    assert len(views) == tried
    assert planned.seconds > 0
