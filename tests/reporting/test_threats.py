"""The table of altered images in the terminal says what the record and the report say."""

import re
from pathlib import Path

import pytest

from certidote import verbs
from certidote.cli import _say_certified
from certidote.reporting import words
from certidote.reporting.html import render
from certidote.reporting.threats import threat_lines
from reporting import example


def test_every_threat_has_a_line_with_the_recorded_numbers() -> None:
    record = example.certificate()
    title, heading, *lines = threat_lines(record)
    assert title.startswith("Altered training images that the median and the best answer survive")
    numbers = [int(each.replace(",", "")) for each in re.findall(r"([\d,]+) images?", heading)]
    assert len(numbers) == 5
    assert len(lines) == len(record["results"]["threats"]) == 4
    assert len({len(line) for line in (heading, *lines)}) == 1, "columns stand below each other"
    for line, threat in zip(lines, record["results"]["threats"], strict=True):
        shares = dict(map(tuple, threat["certified_accuracy_at_k"]))
        cells = [f"{threat['median_k']:,}", f"{threat['max_k']:,}", *(words.percent(shares[k], down=True) for k in numbers)]
        assert line.split() == [*words.change(threat).split(), *cells]
    page = re.sub(r"\s*<[^>]*>\s*", " ", render("t", [record]))
    assert all(" ".join(line.split()) in " ".join(page.split()) for line in lines), "as in the report"


def test_certify_prints_it_and_says_nothing_where_nothing_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    record = example.certificate(trusted=3)
    _say_certified(verbs.Certified(record, {}, Path("run"), True, None))  # type: ignore[arg-type]
    assert "Altered untrusted training images that" in capsys.readouterr().out
    record["results"]["certified_accuracy"] = [[0.0, 0.0]]
    assert threat_lines(record) == threat_lines(example.unproved()) == []
