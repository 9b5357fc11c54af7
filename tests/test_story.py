"""The demo from end to end, small: what it tells is in the report that it leaves."""

import json
from pathlib import Path

from certidote.story import DENOISERS, SIGMAS, run_demo


def test_the_demo_ends_with_a_report_of_everything_it_did(tmp_path: Path) -> None:
    made = run_demo(tmp_path / "demo", models=12, targets=2, workers=0, dtype="float32", progress=None)
    rows = made.attack["rows"]
    assert [row["sigma"] for row in rows[::2]] == [None, *(sigma for sigma in SIGMAS for _ in DENOISERS)]
    assert [row["trials"] for row in rows] == [2] * 10
    page = (tmp_path / "demo" / "report.html").read_text()
    for label in [row["label"] for row in rows] + [each["label"] for each in made.certificates]:
        assert label in page
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["attack"]["statement"] in made.lines
