"""From certificates to rows of a kept record, and on to tables in the docs: what benchmarks share that print accuracies."""

from pathlib import Path

from certidote.benchmark.pages import filled
from certidote.results.files import write_text
from certidote.types import Json

RESULTS = ("vote_accuracy", "member_accuracy", "average_radius", "abstained", "cap", "certified_accuracy")
ORIGIN = (
    "claim", "trusted", "n0", "n", "alpha", "sigma", "sigma_x", "test_input", "root", "root_source", "votes_digest", "config_digest", "code",
    "seconds",
)  # fmt: skip


def row_of(label: str, record: Json) -> Json:
    """What figures and tables need of a certificate, and what finds or repeats its run."""
    return {"label": label, **{name: record["results"][name] for name in RESULTS}, **{name: record[name] for name in ORIGIN}}


def share_at(curve: list[list[float]], radius: float) -> float:
    """CA(radius): the value of the last step at or before it."""
    return [share for start, share in curve if start <= radius][-1]


def fill_table(page: Path, name: str, table: str) -> None:
    """Put a table between `<!-- NAME table -->` and `<!-- end of NAME table -->`; the rest of the page is left alone.

    Raises: ValueError if the page lacks these comments.
    """
    write_text(page, filled(page.read_text(encoding="utf-8"), name, table, str(page)))
