import re

import numpy as np
import pytest
import torch

from certidote.data.digits import load_digits
from certidote.data.tiny import tiny
from certidote.diffusion import contract
from certidote.diffusion.denoiser import CATALOGUE, load
from certidote.diffusion.multistep import MultistepDenoiser
from certidote.diffusion.network import NetworkDenoiser
from certidote.diffusion.through import ThroughDenoiser
from certidote.streams import Key
from certidote.types import DifferentiableDefense, Images

KEY = Key(5) / "draw"


def digits(count: int) -> Images:
    return load_digits("train").pixels()[:count]


@pytest.mark.parametrize(("name", "steps"), [*((name, 1) for name in CATALOGUE), ("digits", 8)])
def test_gradients_are_those_of_finite_differences(name: str, steps: int) -> None:
    """Along random directions, of a random weighting of the output; networks compute in float64, or their rounding would be a percent of it."""
    denoiser = load(name)
    if isinstance(denoiser, NetworkDenoiser):
        denoiser.network.double()
        denoiser.chunk = 4  # calls are filled up to this many images: hundreds in float64 would take half a minute
    asked = denoiser if steps == 1 else MultistepDenoiser(denoiser, steps)
    defense, images = ThroughDenoiser(asked, 0.25), digits(3)
    if denoiser.card.image_shape == (3, 32, 32):
        images = tiny(1, 2, (3, 32, 32), Key(0)).pixels()
    generator = np.random.default_rng(0)
    weighting = torch.from_numpy(generator.normal(size=images.shape))
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((defense(leaf, KEY).double() * weighting).sum(), [leaf])
    errors = []
    for _ in range(12):
        direction = torch.from_numpy(generator.normal(size=images.shape).astype("float32"))
        ahead, behind = (float((defense(images + s * direction, KEY).double() * weighting).sum()) for s in (1e-4, -1e-4))
        along = float((gradient.double() * direction).sum())
        errors.append(abs((ahead - behind) / 2e-4 - along) / float(gradient.norm()))
    assert np.median(errors) < 0.01  # float32, and now and then a clamp or a rectifier between the two points: at most 0.025 here
    assert max(errors) < 0.05


def test_it_is_noise_and_one_denoiser_call() -> None:
    denoiser, images = load("digits"), digits(4)
    noise = torch.from_numpy(KEY.numpy().standard_normal((4, 1, 8, 8), dtype=np.float32))
    expected = denoiser(images + 0.5 * noise, torch.full((4,), 0.5))
    assert torch.equal(ThroughDenoiser(denoiser, 0.5)(images, KEY), expected)


def test_the_key_decides_the_noise_and_gradients_change_no_number() -> None:
    defense, images = ThroughDenoiser(load("digits"), 0.25, draws=3), digits(4)
    assert isinstance(defense, DifferentiableDefense)
    assert defense.draws == 3
    first = defense(images, KEY)
    assert torch.equal(defense(images, KEY), first)
    assert not torch.equal(defense(images, KEY / 1), first)
    sizes: list[int] = []
    defense.denoiser.network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    recorded = defense(torch.cat([images, images[:1]]).requires_grad_(), KEY)
    assert torch.equal(defense(torch.cat([images, images[:1]]).requires_grad_(), KEY), recorded)
    torch.testing.assert_close(recorded, defense(torch.cat([images, images[:1]]), KEY), rtol=0, atol=1e-5)
    assert sizes == [8, 8, 256]  # five images with a graph do not pay for 256
    recorded.sum().backward()
    network = load("digits").network
    assert all(weight.grad is None and not weight.requires_grad for weight in network.parameters())


def test_graphs_of_many_images_are_made_again_and_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 images at 256 a chunk: three calls, and on the way back three more. The gradient is that of the whole graph."""
    defense, images = ThroughDenoiser(load("digits"), 0.25), torch.cat([digits(300)] * 2)
    calls: list[int] = []
    defense.denoiser.network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    found = []
    for together in (contract.GRAPHS_TOGETHER, 10**6):
        monkeypatch.setattr(contract, "GRAPHS_TOGETHER", together)
        leaf = images.clone().requires_grad_()
        shown = defense(leaf, KEY)
        found.append((shown.detach(), torch.autograd.grad(shown.square().sum(), [leaf])[0]))
        assert calls == [256] * (6 if together < 600 else 3)
        calls.clear()
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_without_noise_images_pass_as_they_are() -> None:
    images = digits(2)
    assert ThroughDenoiser(load("digits"), 0.0)(images, KEY) is images


def test_what_the_denoiser_cannot_do_is_refused() -> None:
    denoiser = load("digits")
    high = f"sigma=9 exceeds this denoiser's sigma_max={denoiser.sigma_max:g} ([0, 1] pixel units); lower sigma"
    with pytest.raises(ValueError, match=re.escape(high)):
        ThroughDenoiser(denoiser, 9.0)
    for sigma in (-0.25, 1e-6):
        with pytest.raises(ValueError, match=f"sigma={sigma:.6g} is below this denoiser's sigma_min"):
            ThroughDenoiser(denoiser, sigma)
    with pytest.raises(ValueError, match="sigma=nan is no noise level"):
        ThroughDenoiser(denoiser, float("nan"))
    with pytest.raises(ValueError, match="draws=0; an attacker looks at 1 draw of the defense at least"):
        ThroughDenoiser(denoiser, 0.25, draws=0)
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\), but this denoiser takes \(1, 8, 8\)"):
        ThroughDenoiser(denoiser, 0.25)(torch.zeros(1, 3, 8, 8), KEY)
