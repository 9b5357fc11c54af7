from pathlib import Path

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.defenses.smoothing import DenoisedSmoothing
from certidote.diffusion.closed_form import Identity
from certidote.streams import Key
from certidote.training.models import build
from certidote.training.pooled import PooledTrainer
from certidote.training.recipe import Recipe
from certidote.training.warm import WarmStart
from certidote.types import Certificate, Lineage, Start, Unproved, View
from running import ballots_of

SHAPE = (3, 12, 12)
RECIPE = Recipe(architecture="compact", epochs=1, batch_size=10, learning_rate=1e-12)


def view(classes: int) -> View:
    data = tiny(10, classes, SHAPE, Key(0))
    return View(data.pixels(), data.labels, classes, Lineage())


def test_members_start_from_the_weights_and_keep_a_fresh_head_for_other_classes():
    learned = build("compact", SHAPE, 3, Key(7))
    with torch.no_grad():
        for norm in learned.groups[0].norms:
            norm.running_mean.fill_(3.0)
    trainer = PooledTrainer(RECIPE, warm=WarmStart(learned.state_dict(), "trusted"))
    assert trainer.start == "trusted"
    same, other = (trainer.fit([view(classes)], [Key(1)], Key(2)).member(0) for classes in (3, 4))
    for model in (same, other):
        torch.testing.assert_close(model.groups[0].first.weight, learned.groups[0].first.weight)
        assert float((model.groups[0].norms[0].running_mean - 0.9**10 * 3).abs().max()) < 2.5  # ten steps of a tenth, from 3
        assert float(model.groups[0].norms[0].running_mean.mean()) > 0.5
    torch.testing.assert_close(same.head.weight, learned.head.weight)
    fresh = build("compact", SHAPE, 4, Key(1))
    torch.testing.assert_close(other.head.weight, fresh.head.weight)


def test_the_weights_are_part_of_the_description():
    one, two = build("compact", SHAPE, 3, Key(7)).state_dict(), build("compact", SHAPE, 3, Key(8)).state_dict()
    described = [PooledTrainer(RECIPE, warm=WarmStart(weights, "untrusted")).describe() for weights in (one, two)]
    assert described[0]["start"] == "untrusted"
    assert described[0]["initial_weights"] != described[1]["initial_weights"]
    assert "initial_weights" not in PooledTrainer(RECIPE).describe()


def test_weights_of_another_architecture_are_refused():
    with pytest.raises(ValueError, match="the weights to start from are of another architecture; give those of a model with"):
        WarmStart(build("cnn-32-64", SHAPE, 3, Key(7)).state_dict(), "trusted").into(build("compact", SHAPE, 3, Key(1)))
    with pytest.raises(ValueError, match="of another architecture"):
        WarmStart(build("compact-wide", (3, 32, 32), 3, Key(7)).state_dict(), "trusted").into(build("compact", SHAPE, 3, Key(1)))


def certified(start: Start, folder: Path) -> Certificate | Unproved:
    weights = build("compact", SHAPE, 2, Key(7)).state_dict()
    trainer = PooledTrainer(RECIPE, warm=WarmStart(weights, start))
    scheme = DenoisedSmoothing(Identity(), sigma=0.25, n0=1, n=10)
    data = tiny(10, 2, SHAPE, Key(0))
    return scheme.certify(ballots_of(scheme, trainer, data, data, folder / start))


def test_weights_that_saw_the_untrusted_set_void_the_certificate_and_trusted_ones_are_an_assumption(tmp_path: Path):
    refused, proved = certified("untrusted", tmp_path), certified("trusted", tmp_path)
    assert isinstance(refused, Unproved)
    assert any("started from weights trained on the untrusted data" in reason for reason in refused.reasons)
    assert isinstance(proved, Certificate)
    assert any(
        "weights members start from come from data" in item.text and item.verdict == "assumed" for item in proved.assumptions
    )
