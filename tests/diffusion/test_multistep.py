import dataclasses

import numpy as np
import pytest
import torch

from certidote.diffusion.closed_form import Identity
from certidote.diffusion.multistep import MultistepDenoiser
from certidote.streams import Key


class Shrink:
    """The posterior mean of Gaussian pixels around 1/2 with std 1/5, whose paths have a closed form."""

    std = 0.2
    sigma_min, sigma_max = 0.01, 2.0
    card = dataclasses.replace(Identity().card, name="shrink", digest="shrink")

    def __call__(self, noisy, sigma):
        gain = self.std**2 / (self.std**2 + sigma.view(-1, 1, 1, 1) ** 2)
        return 0.5 + gain * (noisy - 0.5)

    def conditioning(self, sigma):
        return ""


def noisy(n=4):
    return 0.5 + 0.3 * torch.from_numpy(Key(0).numpy().standard_normal((n, 1, 4, 4))).float()


def test_one_step_is_the_denoiser():
    x, sigma = noisy(), torch.full((4,), 0.5)
    for key in (None, Key(3)):
        assert torch.equal(MultistepDenoiser(Shrink(), 1, key)(x, sigma), Shrink()(x, sigma))


def test_many_deterministic_steps_follow_the_probability_flow():
    """Of Gaussian data: deviations shrink by sqrt((std^2 + low^2) / (std^2 + sigma^2)), and the last call multiplies once more."""
    x, sigma = noisy(), torch.full((4,), 0.5)
    many = MultistepDenoiser(Shrink(), 400)(x, sigma)
    flow = ((0.2**2 + 0.01**2) / (0.2**2 + 0.5**2)) ** 0.5 * 0.2**2 / (0.2**2 + 0.01**2)
    torch.testing.assert_close(many - 0.5, flow * (x - 0.5), rtol=0.01, atol=1e-6)


def test_ancestral_steps_have_the_spread_of_the_data():
    """Data of std 1/5 plus noise, purified, is of std 1/5 again; one call shrinks it to 0.2 * 0.2 / sqrt(0.2^2 + 0.5^2)."""
    generator = Key(1).numpy()
    clean = 0.5 + 0.2 * generator.standard_normal((150, 1, 8, 8))
    x = torch.from_numpy(clean + 0.5 * generator.standard_normal(clean.shape)).float()
    purified = MultistepDenoiser(Shrink(), 150, Key(2))(x, torch.full((150,), 0.5))
    assert float(purified.std()) == pytest.approx(0.2, rel=0.03)
    assert float(Shrink()(x, torch.full((150,), 0.5)).std()) == pytest.approx(0.2 * 0.2 / np.hypot(0.2, 0.5), rel=0.04)


def test_an_images_coins_do_not_depend_on_its_company():
    x = noisy(6)
    denoiser = MultistepDenoiser(Shrink(), 4, Key(2))
    whole = denoiser(x, torch.full((6,), 0.5))
    assert torch.equal(denoiser(x[3:5], torch.full((2,), 0.5)), whole[3:5])
    assert not torch.equal(MultistepDenoiser(Shrink(), 4, Key(5))(x, torch.full((6,), 0.5)), whole)
    twins = denoiser(torch.cat([x[:1], x[:1] + 1e-3]), torch.full((2,), 0.5))
    assert float((twins[0] - twins[1]).abs().max()) > 0.01


def test_it_has_a_card_of_its_own_and_refusals():
    cards = {MultistepDenoiser(Shrink(), steps, key).card.digest for steps in (2, 3) for key in (None, Key(0), Key(1))}
    assert len(cards) == 6
    assert "shrink" not in cards
    assert MultistepDenoiser(Shrink(), 3).conditioning(0.5) == "3 steps, sigma 0.5000, 0.0707, 0.0100"
    with pytest.raises(ValueError, match="steps=0; give at least 1 call"):
        MultistepDenoiser(Shrink(), 0)
    with pytest.raises(ValueError, match="one noise level at a time"):
        MultistepDenoiser(Shrink(), 2)(noisy(), torch.tensor([0.5, 0.5, 0.4, 0.5]))
    with pytest.raises(ValueError, match="sigma"):
        MultistepDenoiser(Shrink(), 2)(noisy(), torch.full((4,), 3.0))
