"""Whether attackers do better who craft through our defense: each set of poisons beside that of an attacker who does not know of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from certidote.benchmark.cells import Cell, Poisoning
from certidote.benchmark.outcomes import difference, rate
from certidote.benchmark.records import Kept
from certidote.benchmark.scales import Scale
from certidote.benchmark.source import Source
from certidote.benchmark.tables import scratch_rows, through, transfer_rows
from certidote.benchmark.wording import MISSING, p_in_words, poisoning_in_words, rate_in_words, table

SIGNIFICANT = 0.01
"""A difference counts below this p-value of the paired test; pages show dozens of them."""

FAMILY = 0.05
"""Chance that any of the differences at one sigma counts by Holm's correction though there is none."""


@dataclass(frozen=True)
class Knowing:
    """One attack at one sigma.

    Attributes:
        poisoning: of the attacker who does not know of the defense.
        adaptive, unaware: both behind it.
        p: of the paired test, on the trials that both records have.
    """

    poisoning: Poisoning
    adaptive: Kept
    unaware: Kept
    p: float

    @property
    def gain(self) -> int:
        """How many more of these trials succeed."""
        return sum(one - other for one, other in zip(self.adaptive.successes(), self.unaware.successes(), strict=False))


def asked(source: Source) -> list[Poisoning]:
    """The attacks that are crafted through the defense too: white boxes with the fewest surrogates."""
    rows = transfer_rows(["white-box"]) + scratch_rows(source.scale, ["white-box"])
    return [row for row in rows if row.ensemble == source.scale.ensembles[0]]


def sigmas_of(scale: Scale) -> list[float]:
    """Of our defense with one call of the denoiser, at which anything is measured."""
    return sorted({*scale.readings(), *(sigma for name, sigma in scale.between if name == "denoise")})


def known(source: Source, sigma: float) -> list[Knowing]:
    """Those that have both records at this sigma."""
    found = []
    for poisoning in asked(source):
        adaptive = source.read(Cell(through(poisoning, sigma), "denoise", sigma))
        unaware = source.read(Cell(poisoning, "denoise", sigma))
        if adaptive is not None and unaware is not None:
            found.append(Knowing(poisoning, adaptive, unaware, difference(adaptive, unaware)))
    return found


def gaining(found: Sequence[Knowing]) -> list[Knowing]:
    """Those that do significantly better, each by itself."""
    return [each for each in found if each.gain > 0 and each.p < SIGNIFICANT]


def gaining_together(found: Sequence[Knowing]) -> list[Knowing]:
    """Those that do better by Holm's correction for all that were tried: with a chance of at most `FAMILY` any of those at one sigma does not.

    Source: Holm (1979): in the order of their p-values, the k-th of m counts if it and all before it are at most `FAMILY` / (m - k + 1).
    """
    counted = []
    for number, each in enumerate(sorted(found, key=lambda one: one.p)):
        if each.p > FAMILY / (len(found) - number):
            break
        counted.append(each)
    return [each for each in found if each in counted and each.gain > 0]


def in_words(source: Source, each: Knowing) -> str:
    """ "sleeper-agent, white-box, K = 1: 45/100 (36-55 %) instead of 15/100 (9-23 %)"."""
    adaptive, unaware = (rate_in_words(rate(kept), source.link(kept)) for kept in (each.adaptive, each.unaware))
    return f"{poisoning_in_words(each.poisoning)}: {adaptive} instead of {unaware}"


def knowing_table(source: Source) -> str:
    """One line for each sigma at which any attack was crafted through the defense."""
    rows, attacks = [], len(asked(source))
    for sigma in sigmas_of(source.scale):
        if found := known(source, sigma):
            most = max(found, key=lambda each: each.gain)
            rows.append(
                [f"{sigma:g}", f"{len(found)} of {attacks}", str(len(gaining(found))), str(len(gaining_together(found))),
                 f"{in_words(source, most)} (p {p_in_words(most.p)})"]
            )  # fmt: skip
    header = ["sigma", "attacks that were crafted through it", f"better, p below {SIGNIFICANT:g}", "better by Holm", "largest gain"]
    return table(header, rows) if rows else MISSING
