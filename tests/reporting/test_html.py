import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from certidote.reporting.html import render
from certidote.reporting.words import claim_in_one_sentence
from certidote.verbs.reports import report
from reporting import example

HOSTILE = "<script>alert(1)</script>\"' onload=x {{ 7 * 7 }} </style>"


class Page(HTMLParser):
    """What a browser would find: elements with attributes, and all text outside style and pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("style", "svg"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def row(html: str, name: str) -> list[str]:
    """The cells of the table row headed `name`."""
    found = re.search(rf'<tr><th scope="row">{re.escape(name)}</th>(.*?)</tr>', html)
    assert found is not None, f"no row {name!r}"
    return re.findall(r"<td>(.*?)</td>", found.group(1))


DEMO = render("Digits", example.four(), example.attack())
ALONE = render("Digits", [example.certificate()])


def test_one_file_without_scripts_or_network() -> None:
    page = Page(DEMO)
    assert DEMO.startswith("<!doctype html>")
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, attributes)
    assert not re.search(r"@import|url\((?!#)", DEMO)
    policies = [
        attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_ids_are_unique_in_the_whole_page() -> None:
    ids = [attributes["id"] for _, attributes in Page(DEMO).elements if "id" in attributes]
    assert len(ids) > 100
    assert len(ids) == len(set(ids))


def test_everything_foreign_is_escaped() -> None:
    data = example.data("digits:train", 500, "1f") | {"name": HOSTILE, "classes": [HOSTILE, "b"]}
    certificate = example.certificate(label=HOSTILE, claim=HOSTILE, data=data, test=data, command=HOSTILE, conditioning=HOSTILE)
    certificate["denoiser"] |= {"name": HOSTILE, "details": {HOSTILE: {HOSTILE: [HOSTILE]}}}
    certificate["results"]["sentences"] = [HOSTILE]
    certificate["assumptions"] = [{"text": HOSTILE, "verdict": "assumed", "evidence": HOSTILE}]
    certificate["recipe"] = {HOSTILE: HOSTILE}
    certificate["examples"] = [
        each | {"true": HOSTILE, "label": HOSTILE, "name": HOSTILE, "top": [[HOSTILE, 3]]} for each in example.examples()
    ]
    certificate["gallery"][0] |= {"title": HOSTILE, "captions": [HOSTILE]}
    attack = example.attack(attack=HOSTILE, scenario=HOSTILE, statement=HOSTILE)
    attack["rows"][0]["label"] = HOSTILE
    attack["pictures"] = [{"title": HOSTILE, "rows": [{"label": HOSTILE, "images": [[[0, 1]]]}]}]
    unproved = example.unproved(label=HOSTILE)
    unproved["reasons"] = [HOSTILE]
    hostile = render(HOSTILE, [certificate, unproved], attack)
    page = Page(hostile)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert hostile.count("</style>") == 1 + hostile.count("<svg")  # the page's own, and one in each figure
    assert page.text.count("<script>alert(1)</script>") >= 25
    assert "{{ 7 * 7 }}" in page.text


def test_claim_numbers_and_full_digests_are_there() -> None:
    certificate = example.certificate()
    html, text = ALONE, Page(ALONE).text
    sentence = claim_in_one_sentence(certificate)
    assert f'<p class="claim">{sentence.replace(chr(39), "&#39;")}</p>' in html
    assert text.index(sentence) < text.index("94.5%") < text.index("The claim in full") < text.index(certificate["claim"])
    for value in (
        "1f" * 32,
        "2e" * 32,
        "ab" * 32,
        "c3" * 32,
        "d4" * 16,
        certificate["command"],
        "operating system",
        "torch 2.13.0",
    ):
        assert value in text
    assert "The statement about any one test image is wrong with probability at most 0.001." in text
    assert "Empirical only" not in text
    assert "A demonstrated attack" not in text
    assert "in full" not in Page(render("t", [example.unproved()])).text
    assert "per_image" not in html


def test_noise_only_stands_beside_denoised() -> None:
    labels = re.findall(r'<th scope="col">([^<]*sigma [^<]*)</th>', DEMO)
    assert labels == ["denoised, sigma 0.5", "noise only, sigma 0.5", "denoised, sigma 1.0", "noise only, sigma 1.0"]
    accuracies = [f"{100 * each['results']['vote_accuracy']:.1f}%" for each in example.four()]
    assert row(DEMO, "mean accuracy of one model") == ["92.1%", "77.4%", "92.1%", "77.4%"]
    assert [cell[:2] for cell in row(DEMO, "accuracy of the vote")] == [accuracy[:2] for accuracy in accuracies]
    assert row(DEMO, "cap") == ["1.231", "1.231", "2.463", "2.463"]


def test_certified_accuracy_is_read_off_the_recorded_curve() -> None:
    certificate = example.certificate()
    certificate["results"] |= {"certified_accuracy": [[0.0, 0.9], [0.25, 0.6], [0.4, 0.3]], "cap": 1.0}
    html = render("t", [certificate])
    shown = {radius: row(html, f"certified accuracy at radius {radius}") for radius in ("0", "0.25", "0.5", "0.75")}
    assert shown == {"0": ["90.0%"], "0.25": ["60.0%"], "0.5": ["30.0%"], "0.75": ["30.0%"]}
    assert "certified accuracy at radius 1<" not in html


def test_beyond_its_cap_a_run_certifies_nothing() -> None:
    assert row(DEMO, "certified accuracy at radius 2")[:2] == ["0%", "0%"]
    flat, other = example.certificate(0.5), example.certificate(1.0)
    flat["results"]["certified_accuracy"] = [[0.0, 0.5]]
    html = render("t", [flat, other])
    assert row(html, "certified accuracy at radius 1")[0] == "50.0%"
    assert row(html, "certified accuracy at radius 1.5")[0] == "0%"


def test_unproved_runs_show_their_reasons_and_no_radius() -> None:
    html = render("t", [example.unproved()])
    text = Page(html).text
    assert "the denoiser was trained on the untrusted images" in text
    assert text.index("Empirical only") < text.index("94.5%")
    assert "Certified" not in text
    assert "median certified radius" not in text
    assert "alpha" not in text
    assert "failure probability" not in text
    assert "unit of radii" not in text
    assert row(html, "median radius") == row(html, "cap") == ["not proved"]
    assert "<svg" not in html
    assert "What the proof rests on" not in text


def certifying_nothing() -> example.Json:
    nothing = example.certificate()
    nothing["results"] |= {"abstained": 400, "certified_accuracy": [[0.0, 0.0]], "average_radius": 0.0, "median_radius": 0.0}
    for threat in nothing["results"]["threats"]:
        threat |= {"median_k": 0, "max_k": 0, "certified_accuracy_at_k": [[k, 0.0] for k in example.KS]}
    return nothing


def test_a_proved_record_that_certifies_nothing_says_so() -> None:
    text = Page(render("t", [certifying_nothing()])).text
    assert "Certidote report Nothing certified" in text
    assert "0% certified with their correct answer" in text
    assert "keep their correct answer" not in text
    assert "nothing bounds what altered images can do" in text
    assert "AML.T0018" not in text
    assert "Certidote report Certified Digits" in Page(ALONE).text


def test_a_run_without_denoiser_is_not_said_to_denoise() -> None:
    page = render("t", [example.certificate(denoised=False)])
    assert "noised images only; sigma is listed below" in page
    assert "no denoiser takes it away again" in page
    assert "noised minus original" in page
    for text in (
        "noised and denoised",
        "denoiser makes",
        "denoised minus",
        "noise, denoiser",
        "denoiser and configuration",
        "purification",
    ):
        assert text not in page
        assert text in ALONE


def test_trusted_images_are_named_in_facts_and_evidence() -> None:
    text = Page(render("t", [example.certificate(trusted=12, trusted_rows_digest="9a" * 32)])).text
    assert "noised and denoised images only, apart from the trusted ones" in text
    assert "9a" * 32 in text
    assert "Trusted images are used as they are" in text


def test_commands_that_stopped_before_are_listed() -> None:
    earlier = [{"command": "certidote certify --until 60", "versions": {"torch": "2.12.0"}, "workers": 1, "members": 60}]
    text = Page(render("t", [example.certificate(earlier=earlier)])).text
    assert "begun by, until 60 models had voted certidote certify --until 60 (torch 2.12.0)" in text


def test_numbers_of_an_unproved_run_never_look_certified() -> None:
    leftover = example.certificate(0.5, proved=False, reasons=["votes were pooled"], label="pooled")
    html = render("t", [example.certificate(1.0), leftover])
    for name in ("certified accuracy at radius 0", "certified accuracy at radius 0.5", "average radius", "median radius", "cap"):
        cells = row(html, name)
        assert cells[0] != "not proved"
        assert cells[1] == "not proved"
    assert "Empirical only: pooled" in Page(html).text


def test_threats_name_change_and_images() -> None:
    threats = {(each["norm"], each["epsilon_255"]): each for each in example.certificate()["results"]["threats"]}
    cells = row(ALONE, "every pixel by up to 4/255")
    first = threats["linf", 4]
    assert cells[:2] == [str(first["median_k"]), str(first["max_k"])]
    assert len(cells) == 7
    assert row(ALONE, "l2 norm up to 0.25")[0] == str(threats["l2", None]["median_k"])
    assert "every pixel by up to 4/255 (at most 0.126 in l2 norm for one image)" in Page(DEMO).text.replace(" <", "<")


def test_the_attack_comes_with_control_count_and_interval() -> None:
    assert row(DEMO, "plain training, unpoisoned (control)") == ["", "0 of 25", "0%", "0% to 13.8%", "0", "97.2%"]
    assert row(DEMO, "sanitized, one denoised copy") == ["0.5", "2 of 25", "8.0%", "0.9% to 26.1%", "2", "94.1%"]
    text = Page(DEMO).text
    assert example.attack()["statement"] in text
    assert "median 10.23, smallest 9.118" in text
    assert "10 of 253 training images (4.0%)" in text
    assert "0xa1b2" in text


def test_assumptions_are_merged_and_say_where_they_hold() -> None:
    text = Page(DEMO).text
    for item in example.assumptions(True):
        assert text.count(item["text"]) == 1
        assert item["evidence"] in text
    assert "The denoiser never saw the untrusted images (denoised, sigma 0.5; denoised, sigma 1.0)" in text
    badges = re.findall(r'class="verdict (\w+)">(\w+)<', DEMO.split("What the proof rests on")[1])
    assert badges == [("enforced", "pass")] * 2 + [("reported", "reported")] + [("assumed", "assumed")] * 2


def test_what_fails_stands_first_among_what_was_checked() -> None:
    html = render("t", [example.certificate(), example.unproved(label="other")])
    badges = re.findall(r'class="verdict (\w+)">(\w+)<', html.split("What the proof rests on")[1])
    assert badges[:2] == [("failed", "fail"), ("enforced", "pass")]
    assert "the denoiser was trained on the untrusted images (other)" in Page(html).text


def test_examples_show_answer_radius_and_votes() -> None:
    text = Page(ALONE).text
    assert "certified Test image 4 true class 8, answer 8, radius 0.0400 8 561 (56.1%) 3 402 (40.2%) 9 37 (3.7%)" in text
    assert "abstained Test image 230 true class 5, no answer 5 498 (49.8%)" in text
    assert "wrong Test image 101 true class 1, answer 7, radius 0.200" in text
    assert "right Test image 17 true class 3, answer 3 3 1,000 (100%)" in Page(render("t", [example.unproved()])).text


def test_pictures_are_recorded_ones_and_can_be_left_out() -> None:
    certificate = example.certificate()
    recorded = [each["png"] for each in certificate["examples"]]
    recorded += [png for row in certificate["gallery"][0]["rows"] for png in row["pngs"]]
    assert len(recorded) == 4 + 12
    assert all(f"data:image/png;base64,{png}" in ALONE for png in recorded)
    private = render("t", [certificate], example.attack(), pictures=False)
    assert "data:image" not in private
    assert "<img" not in private
    assert "Test image 230" in private
    assert "What happens to the training images" not in private
    assert "One trial" not in private


def test_test_images_have_the_names_of_their_files_unless_pictures_are_left_out() -> None:
    certificate = example.certificate()
    certificate["examples"][1]["name"] = "test/eight/IMG_0004.png"
    certificate["examples"][2]["name"] = None
    text = Page(render("t", [certificate])).text
    assert "certified Test image 4, test/eight/IMG_0004.png true class 8" in text
    assert "abstained Test image 230 true class 5" in text
    private = render("t", [certificate], pictures=False)
    assert "IMG_0004" not in private
    assert "certified Test image 4 true class 8" in Page(private).text


def test_records_without_pictures_are_still_reported() -> None:
    certificate = example.certificate()
    del certificate["examples"], certificate["gallery"]
    text = Page(render("t", [certificate])).text
    assert "Votes of some test images" not in text
    assert "What happens to the training images" not in text


def test_evidence_is_offered_and_compliance_is_not_claimed() -> None:
    proved, unproved = Page(ALONE).text, Page(render("t", [example.unproved()])).text
    for identifier in ("AML.T0020", "AML.M0007", "AML.M0025", "v1.0-C1.3.5", "v1.0-C1.1.3", "v1.0-C12.5.1"):
        assert identifier in proved
        assert identifier in unproved
    assert "AML.T0018" in proved
    assert "AML.T0018" not in unproved
    assert "with a proof" not in unproved
    assert "complies" not in proved
    assert "is not compliance" in proved
    assert "Check the identifiers against the current edition" in proved


def test_shared_facts_are_listed_once() -> None:
    text = Page(DEMO).text
    assert text.count("1f" * 32) == 1
    assert text.count("c3" * 32) == text.count("c4" * 32) == 2
    assert all(each["claim"] in text for each in example.four())


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one certificate"):
        render("t", [])
    with pytest.raises(ValueError, match="version 2 cannot be reported; give 'certidote certificate' version 1"):
        render("t", [example.certificate(version=2)])


KEPT_MAP = Path(__file__).parents[2] / "results" / "threat_map"


def test_a_threat_map_goes_into_the_report_of_a_run_on_the_same_images(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    kept = KEPT_MAP / "denoised-smoothing" / "certificate.json"
    (run / "certificate.json").write_bytes(kept.read_bytes())
    without = report(run).out.read_text(encoding="utf-8")
    html = report(run, threat_map=KEPT_MAP).out.read_text(encoding="utf-8")
    assert "What each defense proves about the same attackers" in Page(html).text
    assert "What each defense proves about the same attackers" not in Page(without).text
    record = json.loads((KEPT_MAP / "threat_map.json").read_text(encoding="utf-8"))
    methods = list(dict.fromkeys(curve["method"] for curve in record["curves"]))
    assert all(f'<th scope="col">{method}</th>' in html for method in methods)
    with pytest.raises(ValueError, match=r"holds no threat map; give a directory that 'certidote threat-map' wrote"):
        report(run, threat_map=tmp_path)
    other = {**record, "data_digest": "ab" * 32}
    (tmp_path / "threat_map.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(ValueError, match=r"is of other training images than this run; make one of digits"):
        report(run, threat_map=tmp_path)
    assert (run / "report.html").read_text(encoding="utf-8") == html, "a refusal changes nothing"
