"""Tables of the documentation are those of the records that are kept for them."""

import json

import pytest

from scripts import ROOT, benchmark


def test_the_suspicion_list(monkeypatch: pytest.MonkeyPatch) -> None:
    suspicion = benchmark("suspicion", monkeypatch)
    record = json.loads((ROOT / "results" / "benchmarks" / "suspicion.json").read_text())
    assert suspicion.table(record["auc"]) in (ROOT / "docs" / "sanitizing.md").read_text()
    assert (record["trials"], record["images"], record["poisons"]) == (25, 253, 10)


def test_the_first_trial_of_the_suspicion_list_comes_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine may round weights and poisons otherwise, which moves a rank or two of 10 x 243."""
    suspicion = benchmark("suspicion", monkeypatch)
    record = json.loads((ROOT / "results" / "benchmarks" / "suspicion.json").read_text())
    found = suspicion.measured(record["seed"], record["trials"], only=1)
    for name, of_sigma in found.items():
        for sigma, (auc,) in of_sigma.items():
            assert auc == pytest.approx(record["auc"][name][sigma][0], abs=0.02)


def test_three_ways_to_look_at_a_test_image(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = benchmark("test_input", monkeypatch)
    assert ways.table() in (ROOT / "docs" / "test-input.md").read_text()
