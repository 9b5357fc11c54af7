"""Published numbers follow from kept ledgers: certificates, the threat map, and the tables that the docs print."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from certidote.data.digits import load_digits
from certidote.defenses.deep_partition import DeepPartition
from certidote.engine import provenance
from certidote.engine.evidence import COMPRESSED, Evidence
from certidote.results.audit import audit, outcome_of
from certidote.results.threat_map import Method, of_certificate, of_counts
from certidote.types import Certificate, CountCertificate
from scripts import ROOT, benchmark

KEPT = ROOT / "results"
CERTIFICATES = sorted(path for path in KEPT.glob("*/*/certificate.json"))
MAP = KEPT / "threat_map"


def printed_table(page: str, name: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text[text.index(f"<!-- {name} table -->\n") : text.index(f"<!-- end of {name} table -->")].split("\n", 1)[1]


def test_there_are_as_many_as_the_docs_speak_of() -> None:
    folders = [path.parent.parent.name for path in CERTIFICATES]
    assert [folders.count(name) for name in ("ablation", "threat_map", "test-input")] == [20, 3, 3]


@pytest.mark.parametrize("path", CERTIFICATES, ids=lambda path: f"{path.parent.parent.name}-{path.parent.name}")
def test_every_kept_certificate_is_what_its_ledger_proves(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["proved"]
    with Evidence(path.parent / COMPRESSED) as ledger:
        assert [each.text for each in audit(record, ledger) if each.verdict == "wrong"] == []


def of_ledger(folder: str, name: str) -> Method:
    train, labels = load_digits("train"), load_digits("test").labels.numpy()
    with Evidence(MAP / folder / COMPRESSED) as ledger:
        if not name.startswith("DPA"):
            outcome = outcome_of(ledger)
            assert isinstance(outcome, Certificate)
            return of_certificate(name, outcome, labels, train)
        ballots = ledger.ballots(len(labels), 10, provenance(ledger, None))
    counted = replace(DeepPartition(50, by_label=True), run_off="run-off" in name).certify(ballots)
    assert isinstance(counted, CountCertificate)
    return of_counts(name, counted, labels, 255)


def test_every_curve_of_the_threat_map_follows_from_its_ledger() -> None:
    kept = json.loads((MAP / "threat_map.json").read_text(encoding="utf-8"))["curves"]
    names = list(dict.fromkeys(curve["method"] for curve in kept))
    assert len(names) == 5
    for name in names:
        folder = "deep-partition" if name.startswith("DPA") else name.replace(",", "").replace(" ", "-")
        found = [
            {"method": c.method, "axis": c.axis.name, "sizes": list(c.sizes), "shares": list(c.shares), "note": c.note}
            for c in of_ledger(folder, name).curves()
        ]
        assert found == [curve for curve in kept if curve["method"] == name]


def test_tables_in_the_docs_are_those_of_the_kept_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    ablation = benchmark("ablation", monkeypatch)
    assert printed_table("ablation.md", "ablation") == ablation.table(ablation.kept_records())
    trusted, inputs = benchmark("trusted_fraction", monkeypatch), benchmark("test_input", monkeypatch)
    rows = json.loads(trusted.KEPT.read_text(encoding="utf-8"))["rows"]
    assert printed_table("the-claim.md", "trusted") == trusted.table(rows)
    assert printed_table("test-input.md", "test input") == inputs.table()
