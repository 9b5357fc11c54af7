"""How figures are written in tables."""

from collections.abc import Sequence

from certidote.benchmark.cells import Poisoning
from certidote.benchmark.outcomes import Rate

MISSING = "Not measured yet.\n"
"""What stands where a table would."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Raises: ValueError if a row is longer or shorter than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells under a header of {len(header)}")
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def poisoning_in_words(poisoning: Poisoning) -> str:
    """ "witches-brew, white-box, K = 1"."""
    ensemble = f", K = {poisoning.ensemble}" if poisoning.scenario == "scratch" else ""
    return f"{poisoning.attack}, {poisoning.knowledge}{ensemble}"


def rate_in_words(rate: Rate, link: str = "") -> str:
    """ "80/100 (71-87 %)", the counts linked to their record."""
    counts = f"{rate.successes}/{rate.trials}"
    return f"{f'[{counts}]({link})' if link else counts} ({100 * rate.low:.0f}-{100 * rate.high:.0f} %)"


def p_in_words(p: float) -> str:
    """ "0.34", "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.2f}" if p >= 0.095 else f"{p:.3f}"
