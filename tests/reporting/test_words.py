from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certidote.reporting import words
from reporting import example


@settings(deadline=None, derandomize=True)
@given(st.floats(1e-9, 1e6))
def test_lengths_round_down_by_less_than_one_percent(value: float) -> None:
    shown = Decimal(words.length(value))
    assert Decimal(value) * Decimal("0.99") < shown <= Decimal(value) + Decimal(value) * Decimal("1e-15")
    assert shown <= Decimal(words.length(value, up=True)) <= Decimal(value) * Decimal("1.01")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.6169999, "0.616"),
        (1.2319999, "1.231"),
        (10.2379, "10.23"),
        (123.99, "123.9"),
        (0.0039219, "0.00392"),
        (0.3, "0.300"),
    ],
)
def test_lengths_as_printed(value: float, shown: str) -> None:
    assert words.length(value) == shown


def test_the_claim_in_one_sentence_says_which_changes_and_how_sure() -> None:
    certificate = example.certificate()
    certificate["results"]["abstained"] = 66
    plain = words.claim_in_one_sentence(certificate)
    assert plain == (
        "For 334 of 400 test images, no change of training pixels whose l2 norm over the whole training set is below that image's "
        "certified radius can change the smoothed classifier's answer: for each test image, that is wrong with probability at most "
        "0.001, if the assumptions below hold."
    )
    together = words.claim_in_one_sentence(certificate | {"statement": "simultaneous", "trusted": 7})
    assert "of untrusted training images" in together
    assert "for all of them together, that is wrong" in together
    joint = words.claim_in_one_sentence(certificate | {"sigma": 0.25, "sigma_x": 0.3})
    assert (
        "no change of training pixels and of the test image whose l2 norm over the whole training set, the test image's part in it "
        in joint
    )
    assert "times 0.25/0.3, is below" in joint
    certificate["results"]["abstained"] = 400
    nothing, unproved = words.claim_in_one_sentence(certificate), words.claim_in_one_sentence(example.unproved())
    assert nothing.startswith("No test image carries a certificate")
    assert unproved == "Empirical only: no certificate follows from this run."
    for sentence in (plain, together, joint, nothing, unproved):
        assert sentence.count(". ") == 0
        assert sentence.endswith(".")


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_what_is_no_radius_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no radius or norm"):
        words.length(value)


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0%"),
        (1.0, "100%"),
        (0.9512, "95.1%"),
        (0.0004, "<0.1%"),
        (0.99996, ">99.9%"),
        (0.999, "99.9%"),
        (0.001, "0.1%"),
        (0.5, "50.0%"),
        (0.12399, "12.4%"),
    ],
)
def test_shares_are_zero_or_all_only_if_exactly_so(share: float, shown: str) -> None:
    assert words.percent(share) == shown


@settings(deadline=None, derandomize=True)
@given(st.floats(0.001, 0.999))
def test_shares_that_are_claimed_round_down(share: float) -> None:
    assert share - 0.0010001 < float(words.percent(share, down=True).rstrip("%")) / 100 <= share + 1e-12


@settings(deadline=None, derandomize=True)
@given(st.floats(0, 1), st.floats(0, 1))
def test_intervals_round_outward(first: float, second: float) -> None:
    low, high = min(first, second), max(first, second)
    shown_low, shown_high = (float(side.rstrip("%")) / 100 for side in words.interval(low, high).split(" to "))
    assert low - 0.0011 < shown_low <= low + 1e-12
    assert high - 1e-12 <= shown_high < high + 0.0011


def with_median(norm: str, median: float, survive_one: float = 0.9, certified: float = 0.9, **changes: object) -> example.Json:
    threat = {"norm": norm, "epsilon": 1 / 255 if norm == "linf" else 0.25, "epsilon_255": 1 if norm == "linf" else None}
    threat |= {"median_k": median, "certified_accuracy_at_k": [[1, survive_one], [2, 0.0]]}
    value = example.certificate(**changes)
    value["results"] |= {"threats": [threat], "certified_accuracy": [[0.0, certified]]}
    return value


KEEPS = "Half of the test images keep their correct answer whatever anyone does to"
LOST = "No test image is proved to keep its correct answer if anyone moves"


@pytest.mark.parametrize(
    ("norm", "median", "sentence"),
    [
        ("linf", 1400, f"{KEEPS} up to 1,400 training images, as long as no pixel of them moves by more than 1/255."),
        ("linf", 1.5, f"{KEEPS} one training image, as long as no pixel of it moves by more than 1/255."),
        ("l2", 2, f"{KEEPS} up to 2 training images, as long as the change of each has an l2 norm of at most 0.25."),
    ],
)
def test_radius_in_words(norm: str, median: float, sentence: str) -> None:
    assert words.radius_in_words(with_median(norm, median)) == [sentence]


@pytest.mark.parametrize(
    ("norm", "survive_one", "sentence"),
    [
        ("linf", 0.0, f"{LOST} every pixel of a single training image by 1/255."),
        ("l2", 0.0, f"{LOST} a single training image by an l2 norm of 0.25."),
        (
            "linf",
            0.12399,
            "12.3% of the test images keep their correct answer whatever anyone does to one training image, as long as no pixel of it "
            "moves by more than 1/255; for the others that is more than the proof covers.",
        ),
    ],
)
def test_where_half_of_the_images_survive_nothing_the_share_that_survives_one_is_named(
    norm: str, survive_one: float, sentence: str
) -> None:
    assert words.radius_in_words(with_median(norm, 0, survive_one)) == [sentence]
    few = words.radius_in_words(with_median(norm, 0, survive_one, certified=0.30019))
    assert few == ["Fewer than half of the test images, 30.0%, are certified with their correct answer.", sentence]


def test_a_record_that_certifies_nothing_never_says_that_answers_are_kept() -> None:
    nothing = with_median("linf", 0, 0.0, certified=0.0)
    nothing["results"]["abstained"] = 400
    wrong = with_median("linf", 0, 0.0, certified=0.0)
    wrong["results"]["abstained"] = 399
    assert words.radius_in_words(nothing) == [
        "No test image carries a certificate: no answer has enough of the votes to prove anything about it."
    ]
    assert words.radius_in_words(wrong) == [
        "No test image is certified with its correct answer: those that carry a certificate are answered wrongly."
    ]
    badges = [
        words.verdict(each)
        for each in (nothing, wrong, with_median("linf", 0, certified=0.49), with_median("linf", 0, certified=0.5))
    ]
    assert badges == ["Nothing certified", "No correct answer certified", "Certified in part", "Certified"]
    assert words.verdict(example.unproved()) == "Empirical only"


def test_trusted_images_are_nobody_s_to_alter() -> None:
    sentence = words.radius_in_words(with_median("linf", 3, trusted=10))[0]
    assert "up to 3 untrusted training images, as long as" in sentence


def test_nothing_proved_is_nothing_said() -> None:
    assert words.radius_in_words(with_median("linf", 12) | {"proved": False}) == []


def test_failure_probability_names_its_scope() -> None:
    one, joint = (words.failure_probability(example.certificate(statement=kind)) for kind in ("per test image", "simultaneous"))
    assert one == "The statement about any one test image is wrong with probability at most 0.001."
    assert joint == "Any of the statements about all test images is wrong with probability at most 0.001."


def test_an_attack_is_outside_only_beyond_every_proved_cap() -> None:
    small, large = example.certificate(0.5), example.certificate(1.0)
    between = example.attack(joint_norm_min=1.5)
    assert small["results"]["cap"] < 1.5 < large["results"]["cap"]
    assert words.attack_is_outside([small], between)
    assert not words.attack_is_outside([small, large], between)
    assert words.attack_is_outside([small, large | {"proved": False}], between)
