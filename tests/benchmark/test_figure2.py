"""Figure 2: what is run, what is taken from kept runs, and what is drawn."""

import json
import re
import shutil
from pathlib import Path

import pytest

from certidote import verbs
from certidote.benchmark import figure2, pages
from certidote.benchmark.figure2 import METHODS, Curves
from certidote.benchmark.scales import SCALES
from certidote.engine.evidence import Evidence
from certidote.results.audit import audit

ROOT = Path(__file__).parents[2]
DIGITS = SCALES["digits"]
PAGE = "<!-- digits figure2 table -->\n<!-- end of digits figure2 table -->\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's algorithm with few models at one sigma, beside two kept runs and the threat map."""
    out = tmp_path_factory.mktemp("figure2")
    for name in ("linear-0.5", "none-0.5"):
        shutil.copytree(ROOT / "results" / "ablation" / name, out / "results" / "ablation" / name)
    shutil.copytree(ROOT / "results" / "threat_map", out / "results" / "threat_map")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure2, "MODELS", 12)
        patch.setattr(figure2, "SELECTING", 3)
        verbs.bench("figure2", cell="paper-0.5", out=out / "runs", records=out / "results" / "bench", workers=0)
    return out / "results" / "bench"


def test_the_papers_algorithm_is_run_as_it_is_written(kept: Path) -> None:
    folder = kept / "digits" / "figure2" / "paper-0.5"
    record = json.loads((folder / "certificate.json").read_text())
    assert (record["sigma"], record["test_input"], record["n0"], record["n"]) == (0.5, "noised-denoised", 3, 12)
    assert record["denoiser"]["name"] == "digits"
    assert record["command"] == "certidote bench figure2 --scale digits --cell paper-0.5 --seed 0"
    with Evidence(folder) as ledger:
        assert [each.text for each in audit(record, ledger) if each.verdict == "wrong"] == []
    assert str(kept.parent) not in (folder / "certificate.json").read_text()


def test_what_was_run_is_not_run_again(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "certify", None)
    for cell in ("paper-0.5", "ours-0.5", "noise-0.5"):
        verbs.bench("figure2", cell=cell, out=kept.parent / "runs", records=kept, workers=0)
    said = verbs.bench("figure2", out=kept.parent / "runs", records=kept, dry_run=True).lines
    assert "  ours-0.5: has its record" in said
    assert "  ours-0.1: to do" in said
    assert len(said) == 2 + 4 * len(METHODS)


def test_records_of_another_seed_and_damaged_ones_are_named(kept: Path, tmp_path: Path) -> None:
    where = {"out": kept.parent / "runs", "records": kept, "workers": 0}
    with pytest.raises(ValueError, match=r"figure2/paper-0.5' holds a record of another seed \(0\); repeat that one"):
        verbs.bench("figure2", cell="paper-0.5", seed=5, **where)
    shutil.copytree(kept, tmp_path / "bench")
    certificate = tmp_path / "bench" / "digits" / "figure2" / "paper-0.5" / "certificate.json"
    whole = certificate.read_text()
    for text in (
        "",
        "{}",
        "[]",
        whole[: len(whole) // 2],
        whole.replace('"cap"', '"cup"'),
        whole.replace('"sigma": 0.5', '"sigma": 0.1'),
    ):
        assert text != whole
        certificate.write_text(text)
        for call in (figure2.draw, lambda curves: figure2.left(curves, "paper-0.5", 0)):
            with pytest.raises(ValueError, match=r"^the record in '.*paper-0.5' is damaged; remove the folder"):
                call(Curves(tmp_path / "bench", DIGITS))
    certificate.write_text(whole)
    (tmp_path / "threat_map").mkdir()
    (tmp_path / "threat_map" / "threat_map.json").write_text('{"curves": 3}')
    with pytest.raises(ValueError, match=r"threat_map.json' is damaged; restore it"):
        figure2.draw(Curves(tmp_path / "bench", DIGITS))


def test_all_methods_are_drawn_on_one_axis(kept: Path) -> None:
    curves = Curves(kept, DIGITS)
    drawing = figure2.draw(curves)
    assert drawing == figure2.draw(curves)
    for label in (*(method.label for method in METHODS), *figure2.VOTES, "cap: the largest radius that so many models prove"):
        assert label in drawing
    text = pages.results_page(PAGE + "<!-- digits table2 table -->\n<!-- end of digits table2 table -->\n", kept, kept)
    assert text.startswith("<!-- digits figure2 table -->\n![Certified accuracy against the radius")
    (row,) = [line for line in text.splitlines() if line.startswith("| 0.5 | [noise only]")]
    record = json.loads((kept.parent / "ablation" / "none-0.5" / "certificate.json").read_text())
    assert f"| {record['results']['average_radius']:.3f} | {record['results']['cap']:.3f} |" in row
    for link in re.findall(r"\]\(([^)]*json)\)", text):
        assert (kept / link).is_file()


@pytest.mark.parametrize(("share", "radius"), [(0.95, 0.0), (0.9, 0.0), (0.7, 0.2), (0.5, 0.4), (0.1, 1.5)])
def test_reach_is_where_the_curve_falls_to_the_share(share: float, radius: float) -> None:
    """0.9 up to 0.2, 0.6 up to 0.4, 0.5 up to 0.7, then 0.2 up to the cap."""
    curve = [[0.0, 0.9], [0.2, 0.6], [0.4, 0.5], [0.7, 0.2]]
    assert figure2.reach({"results": {"certified_accuracy": curve, "cap": 1.5}}, share) == radius


def test_how_far_half_of_an_undefended_model_s_accuracy_is_kept() -> None:
    """From the kept records, each method at the sigma that carries it farthest."""
    curves = Curves(ROOT / "results" / "bench", DIGITS)
    accuracy = figure2.undefended(curves)
    assert accuracy is not None
    text, short = figure2.reaches(curves), figure2.in_short(curves)
    kept = json.loads((ROOT / "results" / "ablation" / "network-1" / "certificate.json").read_text())
    carried = next(start for start, share in kept["results"]["certified_accuracy"] if share <= accuracy / 2)
    assert short.endswith(
        f"covers a changed test image as well: with the same network, but test images as they are, it is {carried:.2f}."
    )
    for method in METHODS:
        by_sigma = {}
        for sigma in DIGITS.sigmas:
            record = curves.record(method, sigma)
            assert record is not None
            held = [start for start, share in record["results"]["certified_accuracy"] if share <= accuracy / 2]
            by_sigma[sigma] = held[0] if held else record["results"]["cap"]
            if record["results"]["certified_accuracy"][0][1] <= accuracy / 2:
                by_sigma[sigma] = 0.0
        best = max(by_sigma, key=by_sigma.__getitem__)
        assert f"{method.label} {by_sigma[best]:.2f} (sigma {best:g})" in text
        assert f" {by_sigma[best]:.2f} by " in short
    assert figure2.in_short(Curves(Path("nowhere"), DIGITS)) == ""


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "bench", DIGITS)
    assert (figure2.draw(curves), figure2.block(curves, tmp_path)) == ("", "")


def test_the_kept_picture_is_drawn_from_kept_records() -> None:
    curves, path = Curves(ROOT / "results" / "bench", DIGITS), ROOT / "docs" / figure2.picture(DIGITS)
    assert path.is_file() == figure2.is_run(curves)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        assert all(label in text for label in (*(method.label for method in METHODS), *figure2.VOTES))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"trials": 5}, "figure2 has no trials"), ({"cell": "paper-0.3"}, "unknown cell of figure2 'paper-0.3'; did you mean")],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        verbs.bench("figure2", out=tmp_path / "runs", records=tmp_path / "kept", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
