"""The published form of certificates: what is printed in docs is what is checked, and every record has it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certidote import verbs
from certidote.engine.evidence import Evidence
from certidote.results.audit import audit
from certidote.results.record import THREATS, k_max_table
from certidote.results.schema import CertificateForm, check_form, json_schema
from certidote.types import Certificate

ROOT = Path(__file__).parents[2]
KEPT = sorted(ROOT.glob("results/**/certificate.json"))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("schema") / "run"
    made = verbs.certify("digits", out=out, sigma=0.3, models=12, n0=2, denoiser="none", seed=1, workers=0, dtype="float32")
    assert isinstance(made, verbs.Certified)
    return json.loads((out / "certificate.json").read_text())


def test_the_published_schema_is_the_one_in_use() -> None:
    published = json.loads((ROOT / "docs/certificate.schema.json").read_text())
    assert published == json_schema(), "print it again: python -m certidote.results.schema > docs/certificate.schema.json"


def test_a_fresh_record_has_the_form_and_says_what_it_must(record: dict[str, Any]) -> None:
    assert check_form(record) is None
    assert record["sigma"] == 0.3
    assert record["sigma_symmetric"] == 0.6
    assert (record["n0"], record["n"], record["alpha"]) == (2, 12, 0.001)
    assert "no change of training pixels" in record["claim"]
    assert record["bound"] == "clopper-pearson"
    assert "Clopper-Pearson" in record["claim"]
    assert "Frobenius" in record["unit"]
    assert {item["verdict"] for item in record["assumptions"]} == {"enforced", "assumed", "reported"}
    for name in ("data", "test", "denoiser"):
        assert len(record[name]["digest"]) == 64
    assert len(record["code"]["certidote"]) == 64


def test_every_kept_certificate_has_the_form_and_follows_from_its_ledger() -> None:
    for path in KEPT:
        kept = json.loads(path.read_text())
        assert check_form(kept) is None, path
        with Evidence(path.parent) as ledger:
            assert [each.text for each in audit(kept, ledger) if each.verdict == "wrong"] == [], path


@pytest.mark.slow
@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_members_of_kept_runs_vote_again_as_recorded(path: Path) -> None:
    record = json.loads(path.read_text())
    if record["data"]["name"] != "digits":
        pytest.skip("its images and denoiser are not kept; docs/tutorial.md makes them")
    if "runs/" in record["denoiser"]["name"]:
        pytest.skip("its denoiser is not kept; benchmarks/tiny_ddpm.py makes it")
    result = verbs.verify(path, path.parent, rerun=3)
    assert [each.text for each in result.findings if each.verdict == "wrong"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 0.6}, "alpha: input should be less than 0.5"),
        ({"sigma": 0.0}, "sigma: input should be greater than 0"),
        ({"root_source": "a dice"}, "root_source: input should be 'operating system' or 'given'"),
        ({"votes_digest": "12"}, "votes_digest: string should match"),
        ({"version": 2}, "version: input should be 1"),
        ({"n": "12"}, "n: input should be a valid integer"),
        ({"alpha_each": None}, "alpha_each: null, although the record says that something is proved"),
        ({"trusted_rows_digest": "12"}, "trusted_rows_digest: string should match"),
    ],
)
def test_other_values_are_refused_by_name(record: dict[str, Any], change: dict[str, Any], words: str) -> None:
    problem = check_form(record | change)
    assert problem is not None
    assert problem.startswith(words)


def test_missing_fields_and_columns_of_other_lengths_are_refused(record: dict[str, Any]) -> None:
    for name in (name for name, field in CertificateForm.model_fields.items() if field.is_required()):
        problem = check_form({key: value for key, value in record.items() if key != name})
        assert problem == f"{name}: field required"
    short = record["per_image"] | {"radius": record["per_image"]["radius"][1:]}
    assert check_form(record | {"per_image": short}) == "per_image: 400 test images, but columns of [399, 400] entries"


def test_an_unproved_record_says_nothing_about_a_failure_probability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "made to be unproved"
    monkeypatch.setattr("certidote.defenses.smoothing.objections", lambda *given, **options: (reason,))
    made = verbs.certify(
        "digits", out=tmp_path / "run", sigma=0.3, models=40, n0=2, denoiser="none", workers=0, dtype="float32", simultaneous=True
    )
    assert isinstance(made, verbs.Certified)
    assert made.record["reasons"] == [reason]
    assert [made.record[name] for name in ("statement", "alpha", "alpha_each")] == [None, None, None]
    assert made.record["n"] == 40
    assert check_form(json.loads((tmp_path / "run" / "certificate.json").read_text())) is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert reason in page
    assert "probability" not in page
    assert verbs.verify(tmp_path / "run" / "certificate.json", tmp_path / "run").ok


def test_k_max_is_the_most_images_that_stay_strictly_inside() -> None:
    radii = np.array([0.0, 0.05, 0.5, 1.2])
    nothing = np.zeros(4, dtype=np.int64)
    certificate = Certificate(
        labels=nothing, radii=radii, lower_bounds=np.zeros(4), top_counts=nothing, sigma=0.5, n0=1, n=10, failed=0, alpha=0.1,
        alpha_each=0.1, statement="per test image", claim="", assumptions=(), bound="clopper-pearson", cap=1.2,
    )  # fmt: skip
    table = k_max_table(certificate, {"image_shape": [1, 8, 8], "images": 500})
    assert list(table) == ["k_max_linf_1/255", "k_max_linf_4/255", "k_max_linf_16/255", "k_max_l2_0.1", "k_max_l2_0.5"]
    for (norm, epsilon), column in zip(THREATS, table.values(), strict=True):
        each = epsilon * 8 if norm == "linf" else epsilon
        brute = [max((k for k in range(501) if k**0.5 * each < radius), default=-1) for radius in radii]
        assert column == brute
