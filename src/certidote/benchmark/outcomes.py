"""What records say: rates with intervals, whether an attack works at all, and whether two defenses differ on the same trials."""

import math
import statistics
from dataclasses import dataclass

from scipy.stats import t

from certidote.benchmark.records import Kept
from certidote.results.summary import mcnemar, wilson
from certidote.types import Json

LEVEL = 0.95

VOID_RULE = (
    "A row is void if the attack does not work undefended: the lower end of the 95 % interval of its success without a defense is not above the "
    "upper end of that of its control. What a defense does in such a row says nothing about the defense."
)


@dataclass(frozen=True)
class Rate:
    """Successes among trials, with the 95 % Wilson interval."""

    successes: int
    trials: int
    low: float
    high: float


def rate(kept: Kept, arm: str = "poisoned") -> Rate:
    """How often the trials of an arm reached their goal."""
    reached = kept.successes(arm)
    return Rate(sum(reached), len(reached), *wilson(sum(reached), len(reached), LEVEL))


def clean_accuracy(kept: Kept, arm: str = "poisoned") -> float:
    return float(kept.record["results"][arm]["clean_accuracy"])


def is_void(undefended: Kept) -> bool:
    """Whether the attack does not work without a defense; see `VOID_RULE`."""
    return rate(undefended).low <= rate(undefended, "control").high


def difference(first: Kept, second: Kept) -> float:
    """P-value of the paired test that two defenses let the same attack succeed equally often, on the trials that both records have.

    Raises: ValueError if their trials are about other goals, so that nothing is paired.
    """
    _check_paired(first, second)
    pairs = zip(first.trials, second.trials, strict=False)
    reached = [(one["poisoned_success"] == "True", other["poisoned_success"] == "True") for one, other in pairs]
    return mcnemar(sum(a and not b for a, b in reached), sum(b and not a for a, b in reached))


def accuracy_gain(first: Kept, second: Kept) -> tuple[float, float]:
    """Mean of the clean accuracy of the first's victims minus that of the second's, on the trials that both have, and half its 95 % interval.

    Raises: ValueError as `difference`.
    """
    _check_paired(first, second)
    name = "poisoned_clean_accuracy"
    gains = [float(one[name]) - float(other[name]) for one, other in zip(first.trials, second.trials, strict=False)]
    if len(gains) == 1:
        return gains[0], math.inf
    return statistics.mean(gains), float(t.ppf(0.5 + LEVEL / 2, len(gains) - 1)) * statistics.stdev(gains) / math.sqrt(len(gains))


def _check_paired(first: Kept, second: Kept) -> None:
    same = ("true_class", "adversarial_class", "test_image")
    if any(one[name] != other[name] for one, other in zip(first.trials, second.trials, strict=False) for name in same):
        raise ValueError(
            f"the records in {str(first.folder)!r} and {str(second.folder)!r} are about other goals; run their cells again"
        )


def removals(kept: Kept) -> Json | None:
    """What the defense's filter removed, over all trials; None if it has none."""
    return kept.record.get("filter")
