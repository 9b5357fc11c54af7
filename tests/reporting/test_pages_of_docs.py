"""Pages of docs that quote the program say what it says."""

import json
import re
from pathlib import Path

import pytest

from certidote import verbs
from certidote.cli import _say_certified
from certidote.reporting.frameworks import FRAMEWORKS, frameworks_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_page_of_frameworks_is_printed_from_the_catalogues() -> None:
    page = (DOCS / "frameworks.md").read_text(encoding="utf-8")
    assert page == frameworks_page(), "print it again: python -m certidote.reporting.frameworks > docs/frameworks.md"


def test_no_page_claims_an_identifier_that_is_in_no_catalogue() -> None:
    known = {entry.id for _, entries in FRAMEWORKS for entry in entries}
    found = set()
    for path in [ROOT / "README.md", *DOCS.glob("*.md")]:
        found |= set(re.findall(r"\bAML\.[TM]\d+|\bv1\.0-C[\d.]*\d", path.read_text(encoding="utf-8")))
    assert found == known


def test_the_tutorial_shows_what_certify_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines are compared with the kept certificate; "..." stands for anything that is left out, also at the end of a line."""
    record = json.loads((ROOT / "results" / "tutorial" / "certificate.json").read_text(encoding="utf-8"))
    _say_certified(verbs.Certified(record, {}, Path("photos/run"), True, None))  # type: ignore[arg-type]
    printed = " ".join(capsys.readouterr().out.split())
    (block,) = re.findall(r"```text\n(334 of 400 .*?)```", (DOCS / "tutorial.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    for passage in re.split(r"\s*\.\.\.\s*", block):
        assert " ".join(passage.split()) in printed


def test_the_share_of_the_denoiser_in_the_tutorial() -> None:
    record = json.loads((ROOT / "results" / "tutorial" / "certificate.json").read_text(encoding="utf-8"))
    text = " ".join((DOCS / "tutorial.md").read_text(encoding="utf-8").split())
    share = 360 / (360 + record["seconds"])
    assert f"took six minutes of one core (you choose how many), about {share:.0%} of the processor time" in text
    assert f"took {record['seconds']:,.0f} worker seconds" in text
