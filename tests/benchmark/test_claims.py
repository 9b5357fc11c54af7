"""Verdicts on the paper's claims follow from records by their rules: made-up records, one verdict each."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from certidote.benchmark import claims, outcomes, pages
from certidote.benchmark.cells import Cell, Poisoning, StartName
from certidote.benchmark.claims import Verdict
from certidote.benchmark.records import Kept
from certidote.benchmark.scales import SCALES
from certidote.benchmark.source import Source
from certidote.benchmark.tables import started, strongest, transfer_rows
from fixtures_records import put

ROOT = Path(__file__).parents[2]
DIGITS = SCALES["digits"]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "kept", tmp_path / "docs", DIGITS)


def row(
    source: Source,
    poisoning: Poisoning,
    none: int,
    halved: int,
    printed: int,
    accuracies: tuple[float, float, float] = (0.9, 0.9, 0.9),
) -> None:
    for (defense, sigma), successes, accuracy in zip(
        (("none", None), ("denoise", 0.05), ("denoise", 0.1)), (none, halved, printed), accuracies, strict=True
    ):
        put(source, Cell(poisoning, defense, sigma), successes, accuracy)


def transfer(source: Source, found: Mapping[str, tuple[int, int, int]], **options: Any) -> None:
    """All rows of transfer learning; those that are not named are void."""
    for poisoning in claims.in_transfer(source):
        row(source, poisoning, *found.get(poisoning.attack, (0, 50, 50)), **options)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"bullseye-polytope": (90, 10, 10)}, "confirmed"),
        ({"bullseye-polytope": (90, 16, 16)}, "confirmed"),
        ({"bullseye-polytope": (90, 17, 2)}, "not confirmed"),
        ({"bullseye-polytope": (90, 60, 10)}, "not confirmed"),
        ({"bullseye-polytope": (90, 60, 50)}, "contradicted"),
        ({"bullseye-polytope": (90, 5, 5), "poison-frogs": (90, 60, 50)}, "contradicted"),
        ({}, "not testable here"),
    ],
)
def test_success_is_held_to_a_share(found: dict[str, tuple[int, int, int]], status: str, source: Source) -> None:
    judge = claims.at_most(0.16, claims.in_transfer)
    assert judge(source) == Verdict("not measured yet", "records of 5 of 5 attacks are missing")
    transfer(source, found)
    verdict = judge(source)
    assert verdict.status == status
    if found:
        worst = max(found, key=lambda name: found[name][2])
        linked = f"[{found[worst][2]}/100](../kept/digits/{worst}-transfer-white-box/denoise-0.1/replay.json)"
        assert f"highest at sigma 0.1 for {worst}, white-box: {linked}" in verdict.why
        assert [text.split(",")[0] for text in verdict.details] == [name for name in found if name != worst]


@pytest.mark.parametrize(
    ("counts", "status", "why"),
    [
        ((90, 60, 50), "contradicted", "highest at sigma 0.1 for bullseye-polytope"),
        (
            (90, 5, 5),
            "not measured yet",
            "records of 4 of 5 attacks are missing; so far highest at sigma 0.1 for bullseye-polytope",
        ),
        ((0, 5, 5), "not measured yet", "records of 4 of 5 attacks are missing"),
    ],
)
def test_one_attack_can_contradict_but_not_confirm(counts: tuple[int, int, int], status: str, why: str, source: Source) -> None:
    poisoning = next(each for each in claims.in_transfer(source) if each.attack == "bullseye-polytope")
    row(source, poisoning, *counts, accuracies=(0.9, 0.9, 0.8))
    verdict = claims.at_most(0.16, claims.in_transfer)(source)
    assert verdict.status == status
    assert verdict.why.startswith(why)
    drop = claims.small_drop(source)
    assert drop.status == "not measured yet", "though every drop so far is above one point"
    assert drop.why.endswith("so far clean accuracy changes by -10.0 to +0.0 points" if counts[0] else "attacks are missing")


@pytest.mark.parametrize(
    ("accuracies", "status"),
    [((0.9, 0.898, 0.895), "confirmed"), ((0.9, 0.898, 0.891), "not confirmed"), ((0.9, 0.88, 0.87), "contradicted")],
)
def test_a_drop_of_accuracy(accuracies: tuple[float, float, float], status: str, source: Source) -> None:
    transfer(source, {"poison-frogs": (90, 0, 0)}, accuracies=accuracies)
    assert claims.small_drop(source).status == status


def test_chance_does_not_contradict_that_success_falls_to_nothing(source: Source) -> None:
    """One success among 100 is above 0, but not above a control of 0."""
    judge = claims.at_most(0.0, claims.in_transfer)
    for successes, status in ((0, "confirmed"), (1, "not confirmed"), (12, "contradicted")):
        transfer(source, {"bullseye-polytope": (90, successes, successes)})
        assert judge(source).status == status


@pytest.mark.parametrize(("successes", "status"), [(13, "confirmed"), (14, "not confirmed"), (40, "contradicted")])
def test_claims_about_some_attacks_look_at_these_alone(successes: int, status: str, source: Source) -> None:
    """Of the others there is no record; one of these is void, whatever is known of it behind the defense."""
    void, *others = claims.in_black_box(source)
    assert {each.attack for each in (void, *others)} == {"poison-frogs", "convex-polytope", "bullseye-polytope"}
    put(source, Cell(void), 0)
    for poisoning in others:
        assert claims.at_most(0.13, claims.in_black_box)(source).status in ("not measured yet", status)
        row(source, poisoning, 80, successes, successes)
    assert claims.at_most(0.13, claims.in_black_box)(source).status == status
    for poisoning in claims.sleepers(source):
        assert claims.at_most(0.13, claims.sleepers)(source).status in ("not measured yet", status)
        row(source, poisoning, 80, successes, successes)
    assert claims.at_most(0.13, claims.sleepers)(source).status == status


@pytest.mark.parametrize(
    ("accuracies", "status"), [((0.8, 0.85), "confirmed"), ((0.8, 0.95), "not confirmed"), ((0.91, 0.95), "contradicted")]
)
def test_accuracy_against_a_rival(accuracies: tuple[float, float], status: str, source: Source) -> None:
    """Of victims from scratch: those of transfer learning have no such cell. One reading of ours has 0.9, one 0.89."""
    judge = claims.more_accurate_than("dp-sgd")
    for number, poisoning in enumerate(strongest(DIGITS)[1:]):
        verdict = judge(source)
        assert verdict.status == "not measured yet"
        assert verdict.why.startswith(f"records of {2 - number} of 2 attacks are missing")
        row(source, poisoning, 80, 20, 20, accuracies=(0.95, 0.9, 0.89))
        put(source, Cell(poisoning, "dp-sgd"), 3, accuracies[number])
    assert judge(source).status == status
    smallest = (0.89 - accuracies[1]) * 100
    assert (
        judge(source).details[1]
        == f"sleeper-agent, white-box, K = 4: {smallest + 1:+.1f} ± 0.0, {smallest:+.1f} ± 0.0 points at sigma 0.05, 0.1"
    )


@pytest.mark.parametrize(
    ("successes", "status"), [((3, 6, 2, 2), "confirmed"), ((3, 8, 0, 0), "not confirmed"), ((3, 3, 3, 70), "contradicted")]
)
def test_backdoors_of_transfer_learning(successes: tuple[int, ...], status: str, source: Source) -> None:
    rows = [row for row in transfer_rows() if row.attack in ("label-consistent", "hidden-trigger")]
    for number, (poisoning, count) in enumerate(zip(rows, successes, strict=True)):
        verdict = claims.weak_backdoors(source)
        assert verdict.status == "not measured yet"
        assert verdict.why.startswith(f"records of {4 - number} of 4 attacks are missing")
        put(source, Cell(poisoning), count)
    verdict = claims.weak_backdoors(source)
    assert verdict.status == status
    assert verdict.why == f"undefended they reach {min(successes)}% to {max(successes)}%"
    assert len(verdict.details) == 4


def test_one_backdoor_that_works_contradicts(source: Source) -> None:
    put(source, Cell(next(row for row in transfer_rows() if row.attack == "hidden-trigger")), 70)
    assert claims.weak_backdoors(source).status == "contradicted"


@pytest.mark.parametrize(("successes", "status"), [(30, "confirmed"), (50, "not confirmed"), (80, "contradicted")])
def test_a_weak_backdoor_from_scratch(successes: int, status: str, source: Source) -> None:
    assert claims.weak_sleeper(source).status == "not measured yet"
    put(source, Cell(Poisoning("sleeper-agent", "scratch", "white-box", 4)), successes)
    assert claims.weak_sleeper(source).status == status


@pytest.mark.parametrize(("removed", "status"), [((10, 20), "confirmed"), ((40, 60), "not confirmed"), ((70, 90), "contradicted")])
def test_what_neighbors_remove(removed: tuple[int, int], status: str, source: Source) -> None:
    for poisoning in strongest(DIGITS)[:2]:
        assert claims.blind_neighbors(source).status == "not measured yet"
        for name, count in zip(("deep-knn", "deep-knn-majority"), removed, strict=True):
            put(source, Cell(poisoning, name), 0, removed=(count, 9))
    verdict = claims.blind_neighbors(source)
    assert verdict.status == status
    assert "1.0% to 1.0% of clean images" in verdict.why


@pytest.mark.parametrize(
    ("rival", "accuracy", "status"),
    [
        (40, 0.9, "confirmed"),
        (0, 0.9, "contradicted"),
        (0, 0.7, "confirmed"),
        (0, 0.885, "not confirmed"),  # less accurate than one reading of ours, and not than the other
        (40, 0.885, "confirmed"),
        (18, 0.9, "not confirmed"),
    ],
)
def test_rivals(rival: int, accuracy: float, status: str, source: Source) -> None:
    for poisoning in strongest(DIGITS):
        row(source, poisoning, 80, 20, 20, accuracies=(0.93, 0.9, 0.88))
        assert claims.ahead_of_rivals(source).status == "not measured yet"
        for name in ("deep-knn", "deep-knn-majority", *claims.RIVALS):
            put(source, Cell(poisoning, name), 40)
    put(source, Cell(strongest(DIGITS)[1], "friends"), rival, accuracy)
    verdict = claims.ahead_of_rivals(source)
    assert verdict.status == status
    assert [text.split(" (")[0] for text in verdict.details] == ["friends against witches-brew, white-box, K = 4"] * (
        status != "confirmed"
    )


def test_rivals_with_fewer_trials_are_compared_on_common_ones(source: Source) -> None:
    """40 of 50 are fewer than 60 of 100, of which 50 are among the first 50, and more than 10 of 100."""
    poisoning = strongest(DIGITS)[1]
    put(source, Cell(poisoning, "friends"), 40, trials=50)
    put(source, Cell(poisoning, "denoise", 0.1), 10)
    rival, ours = source.read(Cell(poisoning, "friends")), source.read(Cell(poisoning, "denoise", 0.1))
    assert rival is not None
    assert ours is not None
    assert claims._significantly_fewer([ours], [rival])
    put(source, Cell(poisoning, "denoise", 0.1), 60)
    ours = source.read(Cell(poisoning, "denoise", 0.1))
    assert ours is not None
    assert claims._significantly_fewer([rival], [ours])
    assert not claims._significantly_fewer([ours], [rival])


@pytest.mark.parametrize(
    ("largest", "status"), [((0.8, 0.8), "confirmed"), ((0.8, 0.95), "not confirmed"), ((0.95, 0.95), "contradicted")]
)
def test_noise_and_accuracy(largest: tuple[float, float], status: str, source: Source) -> None:
    for number, poisoning in enumerate(claims.every_row(source)):
        assert claims.noise_costs(source).status == "not measured yet"
        put(source, Cell(poisoning, "denoise", 0.05), 0, 0.9)
        put(source, Cell(poisoning, "denoise", 1.0), 0, largest[number % 2])
    assert claims.noise_costs(source).status == status


@pytest.mark.parametrize(
    ("warm", "accuracy", "status"),
    [
        (10, (0.95, 0.95), "confirmed"),
        (10, (0.95, 0.85), "not confirmed"),
        (10, (0.85, 0.85), "contradicted"),
        (60, (0.95, 0.95), "contradicted"),
        (12, (0.95, 0.95), "confirmed"),
    ],
)
@pytest.mark.parametrize(("start", "judge"), [("in-domain", claims.warm_start_helps), ("both", claims.both_starts_help)])
def test_first_epochs_on_the_poisoned_set(
    start: StartName, judge: Callable[[Source], Verdict], warm: int, accuracy: tuple[float, float], status: str, source: Source
) -> None:
    """Accuracy at sigma 0.25 and 0.5, and at sigma 1, where the attack comes back if it does: against the claim about the in-domain start, beside the other."""
    back = warm == 60
    for number, poisoning in enumerate(strongest(DIGITS)):
        verdict = judge(source)
        assert verdict.status == ("contradicted" if back and number and start == "in-domain" else "not measured yet")
        assert len(verdict.details) == back * number
        crafted, own = started(poisoning, start)
        put(source, Cell(crafted), 80)
        put(source, Cell(crafted, start="out-of-domain"), 80)
        alone, alone_start = started(poisoning, "out-of-domain" if start == "both" else "")
        for sigma in (0.25, 0.5, 1.0):
            put(source, Cell(poisoning, "denoise", sigma), 10, 0.9)
            put(source, Cell(alone, "denoise", sigma, alone_start), 10, 0.9)
            put(source, Cell(crafted, "denoise", sigma, own), warm if sigma == 1.0 else 10, accuracy[sigma == 1.0])
    assert judge(source).status == ("confirmed" if back and start == "both" else status)


@pytest.mark.parametrize(("adaptive", "status"), [(5, "not confirmed"), (12, "not confirmed"), (60, "contradicted")])
def test_attackers_who_know(adaptive: int, status: str, source: Source) -> None:
    for number, poisoning in enumerate(row for row in claims.every_row(source) if row.ensemble == 1):
        verdict = claims.unaware_only(source)
        assert verdict.status == ("contradicted" if number and status == "contradicted" else "not measured yet")
        assert len(verdict.details) == number * (status == "contradicted")
        put(source, Cell(poisoning, "denoise", 0.1), 10)
        knowing = Poisoning(poisoning.attack, poisoning.scenario, poisoning.knowledge, 1, 0.1)
        put(source, Cell(knowing, "denoise", 0.1), adaptive)
    assert claims.unaware_only(source).status == status


def test_attackers_who_know_at_other_sigmas_are_told_beside_the_verdict(source: Source) -> None:
    rows = [row for row in claims.every_row(source) if row.ensemble == 1]
    for poisoning in rows:
        for sigma, adaptive in ((0.1, 10), (0.25, 60 if poisoning == rows[0] else 10), (0.5, 10)):
            put(source, Cell(poisoning, "denoise", sigma), 10)
            if poisoning != rows[1] or sigma != 0.5:
                put(
                    source,
                    Cell(Poisoning(poisoning.attack, poisoning.scenario, poisoning.knowledge, 1, sigma), "denoise", sigma),
                    adaptive,
                )
    found = claims.unaware_only(source)
    assert found.status == "not confirmed"
    assert [text.split(": ")[0] for text in found.details] == [f"sigma 0.25, {rows[0].attack}, white-box"]


def test_the_page_is_what_the_records_say() -> None:
    docs = ROOT / "docs"
    text = (docs / "claims.md").read_text(encoding="utf-8")
    assert pages.claims_page(text, ROOT / "results" / "bench", docs) == text, "make it again: certidote bench render"
    for argued in claims.ARGUED:
        page, _, section = argued.page.partition("#")
        assert f"## {section.capitalize()}\n" in (docs / page).read_text(encoding="utf-8") or not section
    assert f"p-value below {claims.SIGNIFICANT}" in text


def test_the_attack_of_the_paper_is_outside_every_ball() -> None:
    """The two numbers of the page: how far 500 images move, and the cap of 1,000 models in sigmas."""
    moved = (500 * 3_072) ** 0.5 * 16 / 255
    assert round(moved) == 78
    record = json.loads((ROOT / "results" / "ablation" / "none-1" / "certificate.json").read_text())
    assert round(record["results"]["cap"], 2) == 2.46
    assert record["n"] == 1_000
    image = 3_072**0.5 * 2 / 255
    assert round(image, 2) == 0.43
    assert 0.1 * record["results"]["cap"] < image
    assert int((record["results"]["cap"] / image) ** 2) == 32
    assert round(0.25 * record["results"]["cap"], 1) == 0.6


def test_the_interval_of_a_gain_in_accuracy() -> None:
    """As scipy has it for paired samples; one trial tells nothing of how far it may be off."""

    def of(*accuracies: float) -> Kept:
        rows = [
            {"true_class": "a", "adversarial_class": "b", "test_image": str(number), "poisoned_clean_accuracy": str(value)}
            for number, value in enumerate(accuracies)
        ]
        return Kept({}, tuple(rows), Path())

    ones, others = [0.91, 0.93, 0.9, 0.95, 0.92], [0.9, 0.9, 0.91, 0.9, 0.93, 0.1]
    gain, width = outcomes.accuracy_gain(of(*ones), of(*others))
    expected = scipy.stats.ttest_rel(ones, others[:5]).confidence_interval(0.95)
    assert (gain - width, gain + width) == pytest.approx((expected.low, expected.high))
    assert outcomes.accuracy_gain(of(0.9), of(0.8))[1] == float("inf")
