"""What records say: rates with intervals, whether an attack works at all, and whether two defenses differ on the same trials."""

from dataclasses import dataclass

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
    pairs = list(zip(first.trials, second.trials, strict=False))
    same = ("true_class", "adversarial_class", "test_image")
    if any(one[name] != other[name] for one, other in pairs for name in same):
        raise ValueError(
            f"the records in {str(first.folder)!r} and {str(second.folder)!r} are about other goals; run their cells again"
        )
    reached = [(one["poisoned_success"] == "True", other["poisoned_success"] == "True") for one, other in pairs]
    return mcnemar(sum(a and not b for a, b in reached), sum(b and not a for a, b in reached))


def removals(kept: Kept) -> Json | None:
    """What the defense's filter removed, over all trials; None if it has none."""
    return kept.record.get("filter")
