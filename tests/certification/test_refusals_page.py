"""docs/refusals.md names, for each line of what voids a certificate, a test that commits the fault; here: that those tests exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "refusals.md"
SECTIONS = {
    "What voids": "tests/certification/test_refusals.py",
    "Recorded ballots": "tests/certification/test_vote_certificates.py",
}
OUTCOMES = ("refused", "shrunk", "labeled", "not expressible", "not visible", "runs again under the same keys", "certified")


def rows() -> list[tuple[str, list[str]]]:
    """The file that unnamed tests are in, and the cells, of each row of both tables."""
    found, where = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            where = next(file for title, file in SECTIONS.items() if title in line)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[-1] not in ("", "test"):
            found.append((where, cells))
    return found


def names_of_tests(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_names_a_test_that_exists() -> None:
    assert len(rows()) >= 45
    for where, cells in rows():
        named = re.fullmatch(r"(?:(tests/\S+\.py): )?`(test_\w+)`", cells[-1])
        assert named is not None, cells
        assert named[2] in names_of_tests(named[1] or where), cells
        if len(cells) == 3:
            assert cells[1].startswith(OUTCOMES), cells


def test_every_refusal_that_is_tested_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    not_about_a_fault = {"test_members_that_keep_to_themselves_pass_the_same_check"}
    assert {name for name in names_of_tests(SECTIONS["What voids"]) if name not in page} == not_about_a_fault
