"""Trials that are crafted already: whose they are, who may write, and what is left behind."""

from pathlib import Path

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.scenarios.unfinished import Unfinished
from certidote.streams import Key
from certidote.types import Budget, Poison, Target

TRAIN = tiny(5, 3, (1, 8, 8), Key(0))
GOAL = Target(255 - TRAIN.images[0], 0, 1, 0)
BUDGET = Budget(2, "linf", 0.2)
ASKED = {"attack": "a", "options": {"steps": 1}}


def poison() -> Poison:
    rows = torch.tensor([1, 4])
    return Poison(rows, TRAIN.images[rows] // 2 + 64, GOAL, BUDGET)


def interrupted(folder: Path) -> Unfinished:
    kept = Unfinished(folder, ASKED, None, False)
    with pytest.raises(KeyboardInterrupt), kept.working():
        kept.keep(3, poison())
        raise KeyboardInterrupt
    return kept


def test_what_was_finished_is_read_under_the_same_root(tmp_path: Path) -> None:
    first = interrupted(tmp_path / "work")
    again = Unfinished(tmp_path / "work", ASKED, None, False)
    assert (again.root, again.root_source) == (first.root, "operating system")
    with again.working():
        found = again.read(3, GOAL, BUDGET, TRAIN)
        assert found is not None
        assert torch.equal(found.images, poison().images)
        assert torch.equal(found.indices, poison().indices)
        assert again.read(2, GOAL, BUDGET, TRAIN) is None
        assert again.read(3, GOAL, Budget(2, "linf", 0.1), TRAIN) is None  # beyond this budget
        assert again.read(3, GOAL, Budget(3, "linf", 0.2), TRAIN) is None
        with pytest.raises(ValueError, match="another process is crafting"), again.working():
            raise AssertionError("two may not work here")
    assert not (tmp_path / "work").exists()
    assert Unfinished(tmp_path / "work", ASKED, None, False).root != first.root


def test_force_takes_nothing_from_a_process_that_is_at_work(tmp_path: Path) -> None:
    working = Unfinished(tmp_path / "work", ASKED, None, False)
    with working.working():
        working.keep(3, poison())
        other = Unfinished(tmp_path / "work", ASKED, 5, True)
        with pytest.raises(ValueError, match="another process is crafting"), other.working():
            raise AssertionError("two may not work here")
        assert working.read(3, GOAL, BUDGET, TRAIN) is not None
        working.keep(4, poison())


def test_other_work_is_refused_or_replaced(tmp_path: Path) -> None:
    first = interrupted(tmp_path / "work")
    for asked, seed in (({**ASKED, "attack": "b"}, None), (ASKED, 5)):
        with pytest.raises(ValueError, match="unfinished work of another command; repeat that command"):
            Unfinished(tmp_path / "work", asked, seed, False)
    other = Unfinished(tmp_path / "work", ASKED, 5, True)
    assert (other.root, other.root_source) == (5, "given")
    assert list((tmp_path / "work").glob("trial-*")), "nothing is removed before the work begins"
    with other.working():
        assert other.read(3, GOAL, BUDGET, TRAIN) is None
    assert first.root != 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is in the way and holds no unfinished work"):
        Unfinished(tmp_path / "mine", ASKED, None, True)


def test_models_are_trained_once_and_again_if_damaged(tmp_path: Path) -> None:
    state, trained = {"weight": torch.rand(3, 2, generator=torch.Generator().manual_seed(0))}, []

    def train() -> dict[str, torch.Tensor]:
        trained.append(1)
        return state

    def get() -> bool:
        kept = Unfinished(tmp_path / "work", ASKED, None, False)
        with pytest.raises(KeyboardInterrupt), kept.working():
            found = kept.model("surrogate-0", train)
            raise KeyboardInterrupt
        return found.keys() == state.keys() and torch.equal(found["weight"], state["weight"])

    assert get()
    assert get()
    assert len(trained) == 1
    (file,) = (tmp_path / "work").glob("model-*")
    content = file.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b"", content[64:]):
        trained.clear()
        file.write_bytes(damaged)
        assert get()
        assert len(trained) == 1
        assert file.read_bytes() == content


def test_what_is_refused_leaves_no_models_behind(tmp_path: Path) -> None:
    """The next attempt will be another command, of which they are no part."""
    kept = Unfinished(tmp_path / "work", ASKED, None, False)
    with pytest.raises(ValueError, match="no"), kept.working():
        kept.model("extractor-0", lambda: {"weight": torch.zeros(2)})
        raise ValueError("no")
    assert not list(tmp_path.iterdir())


def test_a_failure_before_the_first_trial_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), Unfinished(tmp_path / "work", ASKED, None, False).working():
        raise ValueError("no")
    assert not list(tmp_path.iterdir())
