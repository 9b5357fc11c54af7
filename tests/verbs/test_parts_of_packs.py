"""A pack may hold a part of the trials that several packs share: `poison --skip`. Parts are what the whole would be, and so are their replays."""

import json
from pathlib import Path
from typing import Any

import pytest

from certidote import verbs
from certidote.attacks.pack_files import read_pack
from commands import run

TRIALS, SKIPPED = 9, 2  # in groups of three: a part's begin elsewhere


def crafted(out: Path, attack: str, **options: Any) -> Path:
    return verbs.poison(
        attack, "digits-5-9", out=out, targets=TRIALS, num_poisons=5, epsilon="0.4347", seed=3, gallery=False, **options
    ).out


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("bullseye-polytope", {"option": ["steps=5", "step_size=0.03"]}),
        ("hidden-trigger", {"option": ["steps=5"], "trigger": "color-noise", "trigger_side": 3}),
    ],
)
def test_parts_are_what_the_whole_would_be(attack: str, options: dict[str, Any], tmp_path: Path) -> None:
    whole = read_pack(crafted(tmp_path / "whole", attack, **options))
    part = read_pack(crafted(tmp_path / "part", attack, skip=SKIPPED, **options))
    assert (whole.first_trial, part.first_trial, len(whole), len(part)) == (0, SKIPPED, TRIALS, TRIALS - SKIPPED)
    assert "first_trial" not in whole.recipe
    for one, other in zip(whole.poisons[SKIPPED:], part.poisons, strict=True):
        assert (one.indices == other.indices).all()
        assert (one.images == other.images).all()
        assert (one.goal.adversarial_label, one.goal.true_label) == (other.goal.adversarial_label, other.goal.true_label)
    replays = {
        name: verbs.replay(
            tmp_path / name, "digits-5-9", out=tmp_path / f"{name}-run", defense="denoise", sigma=0.25, draws=3, seed=4, workers=0, dtype="float32"
        ).record
        for name in ("whole", "part")
    }  # fmt: skip
    rows = {name: [_without_accuracy(row) for row in record["trials"]] for name, record in replays.items()}
    assert rows["whole"][SKIPPED:] == rows["part"]
    assert [row["trial"] for row in rows["part"]] == list(range(SKIPPED, TRIALS))


def _without_accuracy(row: dict[str, Any]) -> dict[str, Any]:
    """Of targets' own part only: clean accuracy leaves out the targets of all trials of a pack."""
    return {
        name: {key: each for key, each in value.items() if key != "clean_accuracy"} if isinstance(value, dict) else value
        for name, value in row.items()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--skip 4 --seed 1", "--skip 4; of 4 in all it can leave out 0 to 3 trials (--targets says how many there are)"),
        ("--skip -1 --seed 1", "--skip -1; of 4 in all"),
        ("--skip 1", "--skip 1 leaves trials to another pack, and all of them are of one seed; give its --seed"),
    ],
)
def test_bad_parts_are_one_line(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pack"
    assert (
        run(monkeypatch, "poison", "bullseye-polytope", "digits-5-9", "--targets", "4", *arguments.split(), "--out", str(out)) == 2
    )
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [-1, "2", True, 1.0, None, 10**9])
def test_a_first_trial_that_is_none_is_refused(first: object, tmp_path: Path) -> None:
    crafted(tmp_path / "pack", "poison-frogs", option=["steps=1"])
    described = json.loads((tmp_path / "pack" / "pack.json").read_text())
    described["recipe"]["first_trial"] = first
    (tmp_path / "pack" / "pack.json").write_text(json.dumps(described))
    with pytest.raises(
        ValueError, match=r"is damaged: the recipe of a poison pack says that its first trial is .*; it must be a whole number, 0"
    ):
        read_pack(tmp_path / "pack")
