"""Victims that begin on the poisoned set as it is, or on weights from elsewhere."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from certidote import verbs
from certidote.data.digits import load_digits, load_some_digits
from certidote.defenses.catalogue import DEFENSES, Setting
from certidote.defenses.epic import Epic, epic_trainer
from certidote.defenses.one_shot import OneShot
from certidote.defenses.plain import PlainTraining
from certidote.defenses.preprocessing import preprocessed
from certidote.defenses.several_draws import SeveralDraws
from certidote.diffusion.closed_form import Identity
from certidote.diffusion.denoiser import load as denoiser_loaded
from certidote.scenarios.warm_start import FirstHalf, RawThenSanitized, raw_first, started_from
from certidote.streams import Key
from certidote.training.extractor import pretrain
from certidote.training.head import HeadTrainer
from certidote.training.pooled import PooledTrainer, trainer_for
from certidote.training.recipe import RECIPES
from certidote.types import Ballots, Lineage, Provenance, Unproved, Untrusted, View

KEY = Key(0) / "warm start"
DATA = load_digits("train").subset(range(120))
DENOISED = OneShot(denoiser_loaded("digits-linear-mmse"), 0.5)
MLP = RECIPES["mlp"].model_copy(update={"epochs": 4})


def doubled(first: View, second: View) -> View:
    images, labels = torch.cat([first.images, second.images]), torch.cat([first.labels, second.labels])
    return View(images, labels, first.num_classes, Lineage(unsealed=("test",)))


def plain(seed: int = 0) -> View:
    images = DATA.pixels() if not seed else torch.rand(DATA.pixels().shape, generator=torch.Generator().manual_seed(seed))
    return View(images, DATA.labels, DATA.num_classes, Lineage(unsealed=("test",)))


def test_members_see_the_set_as_it_is_and_as_it_is_sanitized() -> None:
    view = RawThenSanitized(DENOISED).view(Untrusted(DATA), 0, KEY / "members" / 0)
    alone = DENOISED.view(Untrusted(DATA), 0, KEY / "members" / 0)
    assert torch.equal(view.images[:120], DATA.pixels())
    assert torch.equal(view.images[120:], alone.images)
    assert torch.equal(view.labels, DATA.labels.repeat(2))
    assert view.lineage.unsealed  # which no certificate accepts
    assert not alone.lineage.unsealed


def test_nothing_is_certified() -> None:
    none = np.zeros(1, dtype=np.int64)
    ballots = Ballots(np.zeros((1, 2), dtype=np.int64), none > 0, 10, (Lineage(),), none, Provenance("", "given", None))
    found = RawThenSanitized(DENOISED).certify(ballots)
    assert isinstance(found, Unproved)
    assert "no certificate applies" in found.reasons[0]


def test_each_half_is_learned_from_once() -> None:
    halves, errors, labels = FirstHalf(3), torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64)
    assert [epoch for epoch in range(10) if halves.due(epoch, 10)] == [0, 3]
    first = halves.kept(errors, labels, torch.ones(8, dtype=torch.bool))
    assert first.tolist() == [True] * 4 + [False] * 4
    assert halves.kept(errors, labels, first).tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("kind", ["heads", "networks"])
def test_what_is_learned_first_and_what_after(kind: str) -> None:
    """With all epochs but the last on the first half, the second half hardly matters, and the other way round."""
    base = (
        HeadTrainer(pretrain(load_some_digits(range(5), "trusted"), KEY / "extractor", epochs=1), epochs=6)
        if kind == "heads"
        else trainer_for(MLP)
    )
    if kind == "heads":
        base = HeadTrainer(base.extractor, epochs=6, decay_epochs=())  # type: ignore[attr-defined]
    test = load_digits("test")
    epochs = 6 if kind == "heads" else 4

    def accuracy(on_raw: int, view: View) -> float:
        _, trainer = raw_first(PlainTraining(1), base, on_raw)
        answers = trainer.fit([view], [KEY / "members" / 0], KEY / "common")(test.pixels())[0].argmax(1)
        return float((answers == test.labels).double().mean())

    noise = plain(3)
    good_then_noise, noise_then_good = doubled(plain(), noise), doubled(noise, plain())
    assert accuracy(1, noise_then_good) > accuracy(epochs - 1, noise_then_good) + 0.1
    assert accuracy(epochs - 1, good_then_noise) > accuracy(1, good_then_noise) + 0.1


def test_other_trainers_stay_as_they_are() -> None:
    trainer = HeadTrainer(pretrain(load_some_digits(range(5), "trusted"), KEY / "extractor", epochs=1))
    _, twin = raw_first(DENOISED, trainer, 5)
    assert trainer.dropping is None
    assert twin.describe() == {**trainer.describe(), "epochs_on_raw_images": 5}


def test_what_goes_with_no_start_on_raw_images() -> None:
    mlp = trainer_for(MLP)
    for epochs in (0, 4, -1):
        with pytest.raises(ValueError, match=f"{epochs} epochs on raw images of 4 in all; give 1 to 3"):
            raw_first(DENOISED, mlp, epochs)
    with pytest.raises(ValueError, match="only change training images"):
        raw_first(DENOISED, epic_trainer(mlp, Epic(0.2)), 1)
    with pytest.raises(ValueError, match="only change training images"):
        raw_first(preprocessed("jpeg", 1, "cpu"), mlp, 1)
    several = SeveralDraws(OneShot(Identity(), 0.1))
    for scheme, named in (
        (several, "not with several draws, "),
        (preprocessed("jpeg", 1, "cpu"), "preprocessing (of test images too)"),
    ):
        with pytest.raises(ValueError, match=re.escape(named)):
            raw_first(scheme, mlp, 1)
        assert named in " ".join((Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8").split())
    setting = Setting(lambda name: Identity(), None, 2, "cpu", 0.01, len(DATA), image_shape=DATA.image_shape)
    goes = {"none", "denoise", "noise", "purification", "purification-deterministic"}  # views of all images, plain trainers
    goes |= {
        "adversarial-training",
        "poison-adversarial-training",
        "gradient-shaping",
        "friends",
        "mixup",
        "cutmix",
        "dp-instahide",
    }
    private = {name for name in DEFENSES if name.startswith("dp-sgd") and find_spec("opacus") is None}
    for name in DEFENSES.keys() - private:
        scheme, trainer = DEFENSES[name](mlp, setting)
        if name in goes:
            raw_first(scheme, trainer, 1)
        else:  # parts, bags, filters, private trainings
            with pytest.raises(ValueError, match="only change training images"):
                raw_first(scheme, trainer, 1)


def test_weights_from_other_images() -> None:
    others = load_some_digits(range(5), "trusted")
    first, again, other = (started_from(trainer_for(MLP), others, KEY / name) for name in ("a", "a", "b"))
    assert isinstance(first, PooledTrainer)
    assert first.describe() == again.describe()
    assert first.describe()["initial_weights"] != other.describe()["initial_weights"]
    assert (first.start, first.recipe) == ("trusted", MLP)
    heads = HeadTrainer(pretrain(others, KEY / "extractor", epochs=1))
    with pytest.raises(ValueError, match="but these are heads on frozen features.* or leave out --start-from"):
        started_from(heads, others, KEY)


def test_replays_of_such_victims(tmp_path: Path) -> None:
    verbs.poison(
        "witches-brew", "digits", out=tmp_path / "pack", targets=1, num_poisons=5, epsilon="0.3", scenario="scratch", recipe="mlp",
        option=["steps=2", "restarts=1"], seed=1, gallery=False,
    )  # fmt: skip

    def replayed(name: str, **options: object) -> dict[str, object]:
        found = verbs.replay(
            tmp_path / "pack", "digits", out=tmp_path / name, defense="denoise", sigma=0.5, denoiser="digits-linear-mmse", workers=0,
            seed=1, dtype="float32", **options,  # type: ignore[arg-type]
        )  # fmt: skip
        assert found.record["results"]["control"]["clean_accuracy"] > 0.8
        return found.record

    raw, started = replayed("raw", raw_epochs=3), replayed("started", start_from="digits-0-4:trusted")
    assert raw["defense"]["scheme"] == "raw images first"  # type: ignore[index]
    assert raw["victims"]["epochs_on_raw_images"] == 3  # type: ignore[index]
    assert started["victims"]["start"] == "trusted"  # type: ignore[index]
    assert "filter" not in raw  # nothing was filtered: each half of what members saw had its turn
    both = replayed("both", raw_epochs=3, start_from="digits-0-4:trusted")
    assert len({record["config_digest"] for record in (raw, started, both)}) == 3
    with pytest.raises(ValueError, match="no data set is called 'nothing'"):
        replayed("never", start_from="nothing")
    assert not (tmp_path / "never").exists()
