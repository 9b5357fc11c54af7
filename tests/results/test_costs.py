"""Measured costs of defenses, from records of replays."""

import json
from pathlib import Path

import pytest

from certidote import verbs
from certidote.defenses.catalogue import DEFENSES, VARIANTS
from certidote.results.costs import measured_costs, packaged_costs


def record(defense: str, seconds: float, models: int = 1, data: str = "d", finished: int = 4) -> dict[str, object]:
    return {
        "format": "certidote replay", "defense_name": defense, "seconds_of_workers": seconds, "models": models,
        "recipe": {"attack": "a"}, "data": {"digest": data}, "finished": finished,
    }  # fmt: skip


def test_costs_are_relative_to_one_plain_model_on_the_same_poisons(tmp_path: Path) -> None:
    kept = [
        record("none", 6.0, models=3),
        record("dpa", 5.0, models=50),
        record("none", 1.0, data="e"),
        record("dpa", 3.5, models=50, data="e"),
        record("rab", 40.0, data="f"),
        record("bagging", 5.0, finished=5),
        {"format": "something else"},
    ]
    for number, each in enumerate(kept):
        (tmp_path / f"{number}.json").write_text(json.dumps(each))
    assert measured_costs(tmp_path) == {"none": 1.0, "dpa": 3.0, "bagging": 2.0}, "trial by trial, however many there are"
    assert measured_costs(tmp_path / "nowhere") == {}


def test_records_of_bench_are_paired_by_their_poisons(tmp_path: Path) -> None:
    """White and black box have one pack and two kinds of victims; victims with another start are another thing."""
    for number, (cell, seconds) in enumerate(
        (("white/none", 1.0), ("black/none", 10.0), ("white/dpa", 3.0), ("black/dpa", 50.0), ("white/dpa-start-in-domain", 900.0))
    ):
        kept = {
            **record(cell.split("/")[1].split("-")[0], seconds),
            "bench": {"cell": cell},
            "recipe": {"attack": "a", "command": cell},
        }
        folder = tmp_path / "deeper" / str(number)
        folder.mkdir(parents=True)
        (folder / "replay.json").write_text(json.dumps(kept))
    assert measured_costs(tmp_path) == {"none": 1.0, "dpa": 4.0}


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="x.json' is no JSON"):
        measured_costs(tmp_path)


def test_an_installed_package_knows_what_defenses_cost(tmp_path: Path) -> None:
    """Whatever the working directory: records of the user's own replays come first."""
    costs = packaged_costs()
    assert set(DEFENSES) <= set(costs) <= set(DEFENSES) | set(VARIANTS)
    assert costs["none"].told(False).endswith("times one plain model (digits, one core)")
    assert 0.8 < costs["none"].times < 1.25
    assert costs["adversarial-training"].times > 6 * costs["none"].times
    assert " for 20 models (digits" in costs["bagging"].told(False)
    told = {row["name"]: row["measured_cost"] for row in verbs.defense_list()}
    with pytest.raises(ValueError, match="nowhere' is no folder; name the one where replays were kept"):
        verbs.defense_list(tmp_path / "nowhere")
    assert told["friends"] == costs["friends"].told(False)
    assert told["certidote certify"].endswith("times one plain model for each model (digits, one core)")
    assert told["certidote certify --model M --pretrained-trusted"] == "not measured"
    for number, each in enumerate((record("none", 2.0), record("friends", 5.0))):
        (tmp_path / f"{number}.json").write_text(json.dumps(each))
    told = {row["name"]: row["measured_cost"] for row in verbs.defense_list(tmp_path)}
    assert told["friends"] == "2.5 times one plain model (kept replays)"
    assert told["mixup"] == costs["mixup"].told(False)
