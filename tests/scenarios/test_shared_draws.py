"""Trials that share noise: the same images as without sharing, clean ones denoised once for each draw, and no certificate."""

import pickle
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from certidote.attacks.pack import PoisonPack, make_pack
from certidote.data.tiny import tiny
from certidote.defenses.one_shot import OneShot
from certidote.defenses.plain import PlainTraining
from certidote.diffusion.closed_form import Identity
from certidote.diffusion.denoiser import load
from certidote.diffusion.multistep import MultistepDenoiser
from certidote.engine.jobs import Job, Payload, work
from certidote.scenarios.shared_draws import SHARED, shared_draw
from certidote.scenarios.trials import PairedTrainer, Trials
from certidote.scenarios.warm_start import RawThenSanitized
from certidote.streams import ROW_BLOCK, Key
from certidote.training.pooled import trainer_for
from certidote.training.recipe import Recipe
from certidote.types import Budget, Denoiser, Images, Poison, Target, Untrusted

TRAIN, TEST = tiny(400, 3, (1, 8, 8), Key(0) / "train"), tiny(4, 3, (1, 8, 8), Key(0) / "test")
SIGMA = 0.25
POISONS = 5


class Counting:
    """A denoiser that counts the images that it is given."""

    def __init__(self, of: Denoiser) -> None:
        self.of, self.images = of, 0
        self.card, self.sigma_min, self.sigma_max = of.card, of.sigma_min, of.sigma_max

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        self.images += len(noisy)
        return self.of(noisy, sigma)

    def conditioning(self, sigma: float) -> str:
        return self.of.conditioning(sigma)


def packed(trials: int) -> PoisonPack:
    """Poisons on both sides of the border between two blocks of rows."""
    assert len(TRAIN) > ROW_BLOCK
    poisons = []
    for trial in range(trials):
        wanted = int(TRAIN.labels[-1])
        rows = (TRAIN.labels == wanted).nonzero().squeeze(1)
        chosen = torch.cat([rows[trial : trial + 2], rows[len(rows) - 3 :]])
        true = (wanted + 1) % 3
        row = int((TEST.labels == true).nonzero()[0])
        poisons.append(
            Poison(chosen, 255 - TRAIN.images[chosen], Target(TEST.images[row], true, wanted, row), Budget(POISONS, "linf", 1.0))
        )
    return make_pack(poisons, TRAIN, "tiny", {"attack": "test"})


def members(trials: Trials) -> dict[int, Images]:
    data, found = Untrusted(TRAIN), {}
    for member in range(trials.members):
        key = Key(3) / "members" / member
        found[member] = trials.view(data.watched(key), member, key).images
    return found


@pytest.mark.parametrize("steps", [1, 2])
def test_images_are_those_of_the_defense_with_the_same_noise(steps: int) -> None:
    """Bit for bit, poisons and all, whoever they are denoised with."""
    ours = OneShot(MultistepDenoiser(load("digits"), steps, Key(5)), SIGMA)
    trials = Trials(packed(3), ours, draws=2)
    made = members(trials)
    for member, images in made.items():
        place = trials.place(member)
        poison = trials.pack.poisons[place.trial]
        data = Untrusted(poison.apply(TRAIN) if place.poisoned else TRAIN)
        draw = shared_draw(Key(3) / "members" / member, place.trial % 2, 0)
        assert torch.equal(images, ours.view(data, 0, draw).images)
    assert torch.equal(made[0], made[4])  # controls of trials 0 and 2, which have one draw
    assert not torch.equal(made[0], made[2])
    changed = (made[0] != made[1]).flatten(1).any(1).nonzero().squeeze(1)
    assert changed.tolist() == sorted(trials.pack.poisons[0].indices.tolist())


def test_models_that_vote_have_draws_of_their_own() -> None:
    made = members(Trials(packed(2), OneShot(Identity(), SIGMA, members=2), draws=1))
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[4])


def test_clean_images_are_denoised_once_for_each_draw() -> None:
    counting = Counting(Identity())
    trials = Trials(packed(4), OneShot(counting, SIGMA), draws=2)
    members(trials)
    assert counting.images == 2 * len(TRAIN) + 4 * POISONS
    before = counting.images
    again = pickle.loads(pickle.dumps(trials))  # as a worker gets it: without copies
    members(again)
    assert again.defense.denoiser.images == 2 * before
    counting.images = 0
    members(Trials(packed(4), OneShot(counting, SIGMA)))
    assert counting.images == 8 * len(TRAIN)


def test_what_is_shared_is_on_record_and_the_record_does_not_depend_on_who_came_first() -> None:
    trials = Trials(packed(2), OneShot(Identity(), SIGMA), draws=1)
    trainer = PairedTrainer(trainer_for(Recipe(architecture="mlp-128", epochs=1, learning_rate=0.1)), 1)
    payload = Payload(trials, trainer, Untrusted(TRAIN), TEST.images, Key(3))
    together = work(payload, Job(0, 4))
    assert SHARED in together.lineage.unsealed
    assert (together.lineage.sigma, together.lineage.draws, together.lineage.own_noise) == (SIGMA, 1, False)
    assert together.lineage.denoiser == Identity().card.digest
    assert len(set(together.noise_ids.tolist())) == 1
    fresh = replace(payload, scheme=Trials(trials.pack, trials.defense, draws=1))
    alone = work(fresh, Job(3, 4))
    assert alone.lineage == together.lineage
    assert (alone.votes[0] == together.votes[3]).all()


def test_shared_draws_are_part_of_the_configuration() -> None:
    ours = OneShot(Identity(), SIGMA)
    assert Trials(packed(1), ours, draws=2).describe()["draws"] == 2
    assert "draws" not in Trials(packed(1), ours).describe()


def test_draws_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="draws=0; give at least 1"):
        Trials(packed(1), OneShot(Identity(), SIGMA), draws=0)
    for scheme in (PlainTraining(), RawThenSanitized(OneShot(Identity(), SIGMA))):
        with pytest.raises(ValueError, match="draws=2, but only defenses that add noise once"):
            Trials(packed(1), scheme, draws=2)
