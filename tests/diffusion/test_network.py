import math
import pickle

import numpy as np
import pytest
import torch

from certidote.diffusion.network import Architecture, NetworkDenoiser, ResidualUNet, Scaling, architecture_for, weights_digest
from certidote.streams import Key, torch_seeded
from certidote.types import DenoiserCard

SMALL = {"8x8": (1, 8, 8), "odd": (3, 13, 17), "32x32": (3, 32, 32)}


def random_denoiser(shape, dtype="float32", architecture=None, seed=0):
    """Weights of a size that makes the network's part count; a fresh network would be the identity plus zero."""
    with torch_seeded(Key(seed)):
        network = ResidualUNet(architecture or architecture_for(shape))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0, 0.03)
    return NetworkDenoiser(network, Scaling(0.4, 0.3), 0.05, 1.0, DenoiserCard("test", "network", "", shape), dtype)


def noisy_images(n, shape, key=0):
    generator = Key(key).numpy()
    images = torch.from_numpy(generator.standard_normal((n, *shape), dtype=np.float32) * 0.5 + 0.5)
    return images, torch.from_numpy(generator.uniform(0.05, 1.0, n).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
def test_an_image_does_not_depend_on_the_rest_of_the_call(shape, dtype):
    """Bit for bit: alone, in another order, in another chunk, beside other noise levels."""
    denoiser = random_denoiser(shape, dtype)
    n = denoiser.chunk + 3
    noisy, sigma = noisy_images(n, shape)
    denoised = denoiser(noisy, sigma)
    assert denoised.shape == noisy.shape
    assert 0 <= float(denoised.min()) < float(denoised.max()) <= 1
    for rows in ([n - 1], [0], [n - 1, 0, 2], list(range(n))[::-1]):
        assert torch.equal(denoiser(noisy[rows], sigma[rows]), denoised[rows])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pickles(dtype):
    denoiser = random_denoiser((1, 8, 8), dtype)
    noisy, sigma = noisy_images(5, (1, 8, 8))
    assert torch.equal(pickle.loads(pickle.dumps(denoiser))(noisy, sigma), denoiser(noisy, sigma))


def test_bfloat16_is_close_to_float32():
    noisy, sigma = noisy_images(64, (1, 8, 8))
    exact, fast = (random_denoiser((1, 8, 8), dtype)(noisy, sigma) for dtype in ("float32", "bfloat16"))
    assert 0 < float((exact - fast).abs().max()) < 0.03


def test_leave_undoes_wanted_and_both_have_unit_variance():
    """`leave(wanted)` is the clean image, whatever the noise; input and target have variance 1 where pixels have Scaling.std."""
    scaling = Scaling(0.4, 0.3)
    generator = Key(1).numpy()
    clean = torch.from_numpy((0.4 + 0.3 * generator.standard_normal((4_000, 1, 2, 2))).astype(np.float32))
    for level in (0.05, 0.3, 1.0):
        sigma = torch.full((4_000,), level)
        noisy = clean + level * torch.from_numpy(generator.standard_normal(clean.shape, dtype=np.float32))
        wanted = scaling.wanted(clean, noisy, sigma)
        torch.testing.assert_close(scaling.leave(wanted, noisy, sigma), clean, atol=1e-5, rtol=0)
        scaled, told = scaling.enter(noisy, sigma)
        # 16,000 values: a sample variance is off by 5 sqrt(2 / 16,000) = 0.056 with probability 6e-7.
        assert float(scaled.var()) == pytest.approx(1, abs=0.056)
        assert float(wanted.var()) == pytest.approx(1, abs=0.056)
        assert torch.allclose(told, torch.tensor(math.log(level) / 4))


def test_before_training_it_is_the_best_scalar_shrinkage():
    denoiser = NetworkDenoiser(
        ResidualUNet(architecture_for((1, 8, 8))), Scaling(0.4, 0.3), 0.05, 1.0, DenoiserCard("test", "network", "", (1, 8, 8))
    )
    noisy, sigma = noisy_images(5, (1, 8, 8))
    gain = (0.09 / (0.09 + sigma.square())).view(-1, 1, 1, 1)
    torch.testing.assert_close(denoiser(noisy, sigma), (0.4 + gain * (noisy - 0.4)).clamp(0, 1))


def test_gradients_for_attackers_who_differentiate_through_it():
    denoiser = random_denoiser((1, 8, 8))
    noisy, sigma = noisy_images(2, (1, 8, 8))
    noisy = (0.1 * noisy + 0.4).requires_grad_()
    denoised = denoiser(noisy, sigma)
    inside = (denoised > 0.01) & (denoised < 0.99)
    assert inside.float().mean() > 0.5
    direction = torch.from_numpy(Key(9).numpy().standard_normal(noisy.shape, dtype=np.float32))
    (denoised * inside).sum().backward()
    with torch.no_grad():
        ahead, behind = ((denoiser(noisy + step * direction, sigma) * inside).sum() for step in (1e-3, -1e-3))
    assert float((noisy.grad * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-3, rel=0.02)


def test_result_is_fit_to_train_on():
    denoiser = random_denoiser((1, 8, 8))
    denoised = denoiser(*noisy_images(3, (1, 8, 8)))
    weight = torch.ones(1, requires_grad=True)
    (denoised * weight).sum().backward()  # an inference tensor would raise here
    assert not denoised.requires_grad


@pytest.mark.parametrize(
    ("shape", "grid", "coarsest"),
    [((1, 8, 8), 4, 4), ((3, 32, 32), 16, 4), ((3, 64, 64), 32, 4), ((1, 28, 28), 14, 3.5), ((3, 224, 224), 28, 3.5)],
)
def test_depth_follows_image_size(shape, grid, coarsest):
    architecture = architecture_for(shape)
    assert shape[2] / architecture.patch == grid
    assert grid / 2 ** (len(architecture.widths) - 1) == coarsest


@pytest.mark.parametrize("shape", [(1, 7, 8), (3, 225, 100)])
def test_refuses_sizes_it_is_not_made_for(shape):
    with pytest.raises(ValueError, match=r"images of \d+x\d+ pixels; this network takes 8 to 224 pixels a side: resize the images"):
        architecture_for(shape)


def test_architecture_round_trip_and_refusals():
    architecture = architecture_for((3, 32, 32))
    assert Architecture.from_json(architecture.to_json()) == architecture
    with pytest.raises(ValueError, match="give one width and one number of blocks per level"):
        Architecture(1, 2, (64,), (1, 2))
    with pytest.raises(ValueError, match="has a number below 1"):
        Architecture(1, 0, (64,), (1,))


def test_digest_follows_everything_that_decides_the_result():
    denoiser = random_denoiser((1, 8, 8))
    digest = weights_digest(denoiser.network, denoiser.scaling, 0.05, 1.0, (1, 8, 8))
    other = random_denoiser((1, 8, 8), seed=1)
    assert weights_digest(random_denoiser((1, 8, 8)).network, denoiser.scaling, 0.05, 1.0, (1, 8, 8)) == digest
    assert len({digest, weights_digest(other.network, denoiser.scaling, 0.05, 1.0, (1, 8, 8))}) == 2
    assert weights_digest(denoiser.network, Scaling(0.4, 0.31), 0.05, 1.0, (1, 8, 8)) != digest
    assert weights_digest(denoiser.network, denoiser.scaling, 0.05, 1.1, (1, 8, 8)) != digest


def test_refusals():
    denoiser = random_denoiser((1, 8, 8))
    image, one = torch.zeros(1, 1, 8, 8), torch.ones(1)
    message = (
        r"sigma=1\.5 exceeds this denoiser's sigma_max=1 \(\[0, 1\] pixel units\); "
        "lower sigma or use a denoiser trained for more noise"
    )
    with pytest.raises(ValueError, match=message):
        denoiser(image, one * 1.5)
    with pytest.raises(ValueError, match=message):
        denoiser.conditioning(1.5)
    with pytest.raises(ValueError, match=r"sigma=0\.01 is below this denoiser's sigma_min=0\.05"):
        denoiser(torch.zeros(2, 1, 8, 8), torch.tensor([0.5, 0.01]))
    with pytest.raises(ValueError, match=r"images of shape \(1, 8, 9\), but this denoiser takes \(1, 8, 8\)"):
        denoiser(torch.zeros(1, 1, 8, 9), one)
    assert denoiser.conditioning(0.5) == "log(sigma)/4 = -0.1733, network in float32"
