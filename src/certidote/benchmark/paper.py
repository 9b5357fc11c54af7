"""The paper's numbers: `paper.csv`, one cell of its tables 1 to 5 a row, percentages as printed.

`doubt` says what is wrong with a cell; of those without a number nothing is known.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class PaperCell:
    """Clean accuracy and attack success in percent, None where the paper has none."""

    accuracy: float | None
    success: float | None
    doubt: str

    def __str__(self) -> str:
        """As the paper prints it: "(93.3) 0.0"."""
        if self.accuracy is None or self.success is None:
            return self.doubt or "-"
        return f"({self.accuracy:.1f}) {self.success:.1f}"


PaperKey = tuple[str, str, str, str, int, str, str, float | None]
"""Table, attack, scenario, knowledge, ensemble, defense, start, sigma."""


@cache
def paper_cells() -> dict[PaperKey, PaperCell]:
    """All of them."""
    text = (files("certidote.benchmark") / "paper.csv").read_text(encoding="utf-8")
    return {
        _key(row): PaperCell(_number(row["accuracy"]), _number(row["success"]), row["doubt"])
        for row in csv.DictReader(text.splitlines())
    }


def paper_cell(
    table: str, attack: str, scenario: str, knowledge: str, ensemble: int, defense: str, start: str, sigma: float | None
) -> PaperCell | None:
    """One of them, None if the paper has no such cell."""
    return paper_cells().get((table, attack, scenario, knowledge, ensemble, defense, start, sigma))


def _key(row: dict[str, str]) -> PaperKey:
    return (
        row["table"], row["attack"], row["scenario"], row["knowledge"], int(row["ensemble"]), row["defense"], row["start"],
        _number(row["sigma"]),
    )  # fmt: skip


def _number(text: str) -> float | None:
    return float(text) if text else None
