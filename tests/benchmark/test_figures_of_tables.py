"""Closed forms behind the tables: the paired test, the rule for void rows, and what is written of figures."""

from pathlib import Path

import pytest
import scipy.stats

from certidote.benchmark.outcomes import VOID_RULE, Rate, difference, is_void, rate
from certidote.benchmark.records import Kept
from certidote.benchmark.wording import p_in_words, rate_in_words, table
from certidote.results.summary import mcnemar, wilson

DOCS = Path(__file__).parents[2] / "docs"


def kept(poisoned: list[bool], control: list[bool] | None = None) -> Kept:
    control = control or [False] * len(poisoned)
    rows = tuple(
        {"true_class": "a", "adversarial_class": "b", "test_image": str(i), "poisoned_success": str(p), "control_success": str(c)}
        for i, (p, c) in enumerate(zip(poisoned, control, strict=True))
    )
    return Kept({}, rows, Path("x"))


def some(successes: int, trials: int) -> list[bool]:
    return [i < successes for i in range(trials)]


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == mcnemar(0, 5) == 2 / 2**5
    assert mcnemar(1, 3) == 2 * (1 + 4) / 2**4
    for b in range(12):
        for c in range(12):
            if b + c:
                assert mcnemar(b, c) == pytest.approx(scipy.stats.binomtest(b, b + c).pvalue, rel=1e-12)


@pytest.mark.parametrize("counts", [(-1, 0), (0, -1)])
def test_mcnemar_refuses_negative_counts(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="counts are at least 0"):
        mcnemar(*counts)


def test_a_difference_is_paired_by_trial() -> None:
    first, second = kept([True] * 6 + [False] * 4), kept([False] * 5 + [True, True, False, False, False])
    assert difference(first, second) == mcnemar(5, 1)
    assert difference(first, first) == 1.0
    other = Kept({}, tuple({**row, "test_image": "77"} for row in second.trials), Path("y"))
    with pytest.raises(ValueError, match="about other goals"):
        difference(first, other)


@pytest.mark.parametrize(
    ("undefended", "control", "trials", "void"),
    [
        (100, 0, 100, False),
        (0, 0, 100, True),
        (6, 0, 100, True),
        (12, 0, 100, False),
        (5, 0, 5, False),
        (2, 0, 2, True),
        (60, 55, 100, True),
    ],
)
def test_a_row_is_void_if_the_attack_does_not_work(undefended: int, control: int, trials: int, void: bool) -> None:
    found = kept(some(undefended, trials), some(control, trials))
    assert is_void(found) is void
    assert is_void(found) is (wilson(undefended, trials)[0] <= wilson(control, trials)[1])


def test_the_page_states_the_rule() -> None:
    page = " ".join((DOCS / "results.md").read_text(encoding="utf-8").replace("**", "").split())
    assert VOID_RULE in page


def test_rates_and_probabilities_in_words() -> None:
    found = rate(kept(some(80, 100)))
    assert found == Rate(80, 100, *wilson(80, 100))
    assert rate_in_words(found) == "80/100 (71-87 %)"
    assert rate_in_words(found, "a/b.json") == "[80/100](a/b.json) (71-87 %)"
    assert [p_in_words(p) for p in (0.0004, 0.0123, 0.094, 0.5, 1.0)] == ["< 0.001", "0.012", "0.094", "0.50", "1.00"]
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n"
    with pytest.raises(ValueError, match="a row of 1 cells"):
        table(["a", "b"], [["1"]])
