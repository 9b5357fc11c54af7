"""Tables of the documentation are those of the records that are kept for them."""

import json
from types import ModuleType

import pytest

from certidote.defenses.catalogue import DEFENSES
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


def test_the_tuning_of_defenses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every defense is in the record; none could learn better as it is, and rivals reach what they have to."""
    tuning = benchmark("tuning", monkeypatch)
    record = json.loads((ROOT / "results" / "tuning" / "digits.json").read_text())
    assert tuning.table(record) in (ROOT / "docs" / "tuning.md").read_text()
    assert tuning.choices(record["rows"]) == record["chosen"]
    assert set(record["chosen"]) == {*DEFENSES, *tuning.VARIANTS}
    assert [name for name, found in record["chosen"].items() if not found["as_good_as_the_best"]] == []
    assert {row["defense"]: row["reached"] for row in record["sanity"]} == {"adversarial-training": True, "friends": True}
    wanted = {(name, tuning.spelled(tried), seed) for name, tried, seed in tuning.rows_wanted()}
    assert {(row["defense"], row["setting"], row["seed"]) for row in record["rows"]} == wanted


def test_the_catalogue_is_what_was_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defense's own row is that of the setting that was chosen for it, to the last vote."""
    tuning = benchmark("tuning", monkeypatch)
    rows = json.loads((ROOT / "results" / "tuning" / "digits.json").read_text())["rows"]
    shares = {(row["defense"], row["setting"], row["seed"]): row["accuracy"] for row in rows}
    chosen = {
        "dpa": {"batch": 10}, "bagging": {"batch": 10}, "finite-aggregation": {"batch": 10}, "dpa-star-run-off": {"batch": 10},
        "adversarial-training": {"epochs": 2, **tuning_grid(monkeypatch).ADVERSARIAL},
        "friends": {"epochs": 2, **tuning_grid(monkeypatch).FRIENDLY}, "mixup": {"epochs": 2}, "cutmix": {"epochs": 2}, "epic": {"epochs": 2, "subset": 0.2},
        "blur": {"epochs": 4}, "total-variation": {"epochs": 2}, "deep-knn": {"epochs": 2, "poison_fraction": 0.02},
        "spectral": {"epochs": 2, "poison_fraction": 0.02}, "activation-clustering": {"epochs": 4, "method": "silhouette", "reduction": "pca"},
    }  # fmt: skip
    for name, setting in chosen.items():
        for seed in range(tuning.SEEDS):
            assert shares[name, json.dumps(setting, sort_keys=True), seed] == shares[name, "", seed]


def tuning_grid(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark("tuning_grid", monkeypatch)


def test_choices_of_a_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A better way to learn is found, unless the difference is small; spread between seeds excuses nothing, a weaker setting or another network does
    not count, nor what is rejected with a reason."""
    tuning = benchmark("tuning", monkeypatch)

    def rows(setting: str, kind: str, accuracy: tuple[float, ...]) -> list[dict[str, object]]:
        made = {"defense": "d", "setting": setting, "kind": kind, "seconds": 6.0, "seconds_plain": 2.0, "members": 4}
        return [made | {"seed": seed, "accuracy": share} for seed, share in enumerate(accuracy)]

    own = rows("", "catalogue", (0.90, 0.91, 0.92))
    weaker = rows("weak", "strength", (0.99, 0.99, 0.99))
    for others, good in (
        ((0.95, 0.96, 0.97), False),
        ((0.904, 0.914, 0.924), True),
        ((0.90, 0.99, 0.92), False),
        ((0.8, 0.8, 0.8), True),
    ):
        other = rows("mlp", "recipe", (0.99, 0.99, 0.99))
        found = tuning.choices([*own, *weaker, *other, *rows("way", "learning", others)])["d"]
        assert found["as_good_as_the_best"] == good
        assert found["times"] == 3.0
        assert found["best_setting"] == ("" if max(others) < 0.9 else "way")
