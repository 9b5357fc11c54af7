"""What a replay says in words, beside its numbers."""

import io
from pathlib import Path

import pytest
import torch

from certidote import verbs
from certidote.attacks.pack import make_pack
from certidote.attacks.pack_files import write_pack
from certidote.data.digits import load_some_digits
from certidote.progress import Lines
from certidote.results.replay import replay_lines
from certidote.types import Budget, Json, Poison, Target


def record(kind: str) -> Json:
    """Of one trial, of a pack whose scenario is of this kind."""
    arm = {"successes": 0, "trials": 1, "low": 0.0, "high": 0.8, "reached": 0.0, "lost": 0.0, "clean_accuracy": 0.95}
    return {"goal": "target", "recipe": {"scenario": {"kind": kind}}, "results": {"poisoned": arm, "control": arm}}


@pytest.mark.parametrize("chosen", [False, True])
def test_victims_of_an_unknown_kind_are_told_with_what_is_left_to_do(chosen: bool) -> None:
    (said,) = (line for line in replay_lines(record("unknown"), recipe_chosen=chosen) if "does not say which victims" in line)
    assert said.endswith("of a pack in the same setting." if chosen else "of a pack in the same setting, or choose --recipe.")
    assert ("from scratch by the --recipe given, so that" in said) == chosen
    assert not any("does not say which victims" in line for line in replay_lines(record("scratch"), recipe_chosen=chosen))


def test_one_of_anything_is_no_plural() -> None:
    stream = io.StringIO()
    progress = Lines(stream)
    for total in (1, 2):
        progress.start("poisons", total, unit="trials")
    assert stream.getvalue() == "poisons: 1 trial\npoisons: 2 trials\n"


def test_a_replay_knows_whether_its_user_chose_the_recipe(tmp_path: Path) -> None:
    train, test = (load_some_digits(range(5, 10), split) for split in ("train", "test"))
    row = int((train.labels == 2).nonzero()[0])
    poison = Poison(torch.tensor([row]), train.images[[row]], Target(test.images[6], 0, 2, 6), Budget(1, "linf", 0.1))
    recipe = {"attack": "somebody's", "scenario": {"kind": "unknown"}}
    write_pack(make_pack([poison], train, "digits-5-9", recipe), tmp_path / "pack")
    found = verbs.replay(tmp_path / "pack", "digits-5-9", out=tmp_path / "run", recipe="mlp", workers=0, dtype="float32", seed=1)
    assert any("from scratch by the --recipe given, so that" in line for line in found.lines)
