import math
import pickle

import numpy as np
import pytest
import torch

from certidote.data.digits import load_digits
from certidote.diffusion import closed_form
from certidote.diffusion.closed_form import Identity, KernelPosteriorMean, LinearMMSE, Wiener
from certidote.diffusion.contract import check_call, image_hashes
from certidote.diffusion.fit import mean_squared_errors
from certidote.streams import Key
from certidote.types import ImageDataset


def random_images(n=40, shape=(2, 3, 3)):
    levels = Key(3).numpy().integers(0, 256, (n, *shape), dtype=np.uint8)
    return ImageDataset(torch.from_numpy(levels), torch.arange(n) % 2, ("a", "b"))


def noised(data, sigmas, key=0):
    noise = torch.from_numpy(Key(key).numpy().standard_normal(data.images.shape, dtype=np.float32))
    sigma = torch.tensor(sigmas).repeat(math.ceil(len(data) / len(sigmas)))[: len(data)]
    return data.pixels() + sigma.view(-1, 1, 1, 1) * noise, sigma


@pytest.mark.parametrize("at_a_time", [1, 7 * 18, closed_form.VALUES_PER_BLOCK])
def test_linear_mmse_is_the_posterior_mean_of_a_gaussian(at_a_time, monkeypatch):
    """By brute force in float64: precision-weighted solve for every image, instead of one eigen-decomposition of blocks."""
    monkeypatch.setattr(closed_form, "VALUES_PER_BLOCK", at_a_time)
    data = random_images()
    x = data.images.numpy().reshape(40, -1).astype(np.float64) / 255
    mean, cov = x.mean(0), np.cov(x.T, bias=True)
    noisy, sigma = noised(data, [0.05, 0.3, 1.0])
    denoised = LinearMMSE(data)(noisy, sigma)
    for y, s, ours in zip(noisy.double().numpy().reshape(40, -1), sigma.double().numpy(), denoised.flatten(1), strict=True):
        posterior = np.linalg.solve(np.linalg.inv(cov) + np.eye(18) / s**2, np.linalg.inv(cov) @ mean + y / s**2)
        np.testing.assert_allclose(ours, posterior.clip(0, 1), atol=3e-6)


def test_linear_mmse_reaches_the_formula_for_its_error():
    """Pixels N(mu, s^2), independent: the error is s^2 sigma^2 / (s^2 + sigma^2), and nothing linear does better."""
    n, s, sigma = 4_000, 0.1, 0.2
    levels = (0.5 + s * Key(5).numpy().standard_normal((n, 1, 2, 2))).clip(0, 1) * 255
    data = ImageDataset(torch.from_numpy(np.rint(levels).astype(np.uint8)), torch.arange(n) % 2, ("a", "b"))
    noisy, sigmas = noised(data, [sigma])
    error = float((LinearMMSE(data)(noisy, sigmas) - data.pixels()).square().mean())
    # 16,000 squared errors have a relative standard error of sqrt(2 / 16,000) = 1.1 %; the spread of the prior adds as much.
    assert error == pytest.approx(s**2 * sigma**2 / (s**2 + sigma**2), rel=0.06)


def test_wiener_is_linear_mmse_where_no_place_is_special():
    """A set that holds every circular shift of its images has a covariance that depends on offsets alone, also between channels."""
    some = random_images(3, (2, 4, 5)).images
    shifted = [some.roll((down, right), (2, 3)) for down in range(4) for right in range(5)]
    data = ImageDataset(torch.cat(shifted), torch.arange(60) % 2, ("a", "b"))
    noisy, sigma = noised(data, [0.0, 0.05, 0.3, 1.0])
    torch.testing.assert_close(Wiener(data)(noisy, sigma), LinearMMSE(data)(noisy, sigma), atol=3e-6, rtol=0)


def test_wiener_is_between_noise_and_linear_mmse():
    """On digits, each with its place, it removes noise and less of it than what knows every pair of pixels."""
    trusted, clean = load_digits("trusted"), load_digits("test")
    ours, best, none = (
        mean_squared_errors(each, clean, [0.1, 0.5], Key(1)) for each in (Wiener(trusted), LinearMMSE(trusted), Identity())
    )
    assert all(b < o < n for b, o, n in zip(best, ours, none, strict=True))


def test_linear_mmse_without_noise_returns_trusted_images():
    data = random_images()
    torch.testing.assert_close(LinearMMSE(data)(data.pixels(), torch.zeros(40)), data.pixels(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bandwidth", [0.0, 0.1])
def test_kernel_is_the_posterior_mean_by_double_loop(bandwidth):
    data = random_images(12)
    noisy, sigma = noised(data, [0.1, 0.5, 1.0])
    denoised = KernelPosteriorMean(data, bandwidth)(noisy, sigma)
    trusted = (data.images.double() / 255).flatten(1).tolist()
    for y, s, ours in zip(noisy.flatten(1).double().tolist(), sigma.double().tolist(), denoised.flatten(1), strict=True):
        total, answer = 0.0, [0.0] * len(y)
        for x in trusted:
            weight = math.exp(-sum((a - b) ** 2 for a, b in zip(y, x, strict=True)) / (2 * (s**2 + bandwidth**2)))
            total += weight
            for d in range(len(y)):
                answer[d] += weight * (s**2 * x[d] + bandwidth**2 * y[d]) / (s**2 + bandwidth**2)
        np.testing.assert_allclose(ours, np.clip(np.array(answer) / total, 0, 1), atol=1e-6)


def test_kernel_is_stable_at_tiny_sigma():
    data = load_digits("trusted")
    some = data.pixels()[:5]
    torch.testing.assert_close(KernelPosteriorMean(data)(some + 1e-4, torch.full((5,), 1e-3)), some)


def test_kernel_refuses_a_negative_bandwidth():
    with pytest.raises(ValueError, match=r"bandwidth=-0\.1; give a number of at least 0"):
        KernelPosteriorMean(random_images(), -0.1)


def test_identity_changes_nothing():
    data = random_images()
    noisy, sigma = noised(data, [0.0, 3.0])
    assert torch.equal(Identity()(noisy, sigma), noisy)
    assert float(noisy.min()) < 0
    assert Identity().conditioning(0.5) == "none"


@pytest.mark.parametrize("make", [LinearMMSE, KernelPosteriorMean, lambda data: Identity()], ids=["linear", "kernel", "none"])
def test_contract(make):
    """Pickles, does not depend on the rest of the batch bit for bit, keeps its input, returns float32 in [0, 1]."""
    data = load_digits("trusted")
    denoiser = make(data)
    noisy, sigma = noised(data.subset(range(300)), [0.1, 0.5])
    before = noisy.clone()
    denoised = denoiser(noisy, sigma)
    assert torch.equal(noisy, before)
    assert denoised.dtype == torch.float32
    assert denoised.shape == noisy.shape
    rows = torch.tensor([299, 3, 150])
    assert torch.equal(denoiser(noisy[rows], sigma[rows]), denoised[rows])
    assert torch.equal(pickle.loads(pickle.dumps(denoiser))(noisy, sigma), denoised)
    assert len(denoiser(noisy[:0], sigma[:0])) == 0
    if denoiser.card.kind != "none":
        assert 0 <= float(denoised.min()) <= float(denoised.max()) <= 1
        assert denoiser.card.trained_on == data.digest()
        assert denoiser.card.training_images == image_hashes(data)


def test_digests_name_kind_and_data():
    data, other = random_images(40), random_images(41)
    made = [LinearMMSE(data), LinearMMSE(other), KernelPosteriorMean(data), KernelPosteriorMean(data, 0.1), Identity()]
    assert len({denoiser.card.digest for denoiser in made}) == 5
    assert LinearMMSE(data, "b").card.digest == LinearMMSE(data, "a").card.digest


def test_refusals():
    denoiser = LinearMMSE(random_images())
    one = torch.ones(1)
    with pytest.raises(
        ValueError, match=r"images of shape \(1, 3, 3\), but this denoiser takes \(2, 3, 3\) \(channels, height, width\)"
    ):
        denoiser(torch.zeros(1, 1, 3, 3), one)
    with pytest.raises(ValueError, match=r"sigma=-1 is below this denoiser's sigma_min=0 \(\[0, 1\] pixel units\)"):
        denoiser(torch.zeros(1, 2, 3, 3), -one)
    with pytest.raises(ValueError, match=r"sigma=nan is no noise level; give a finite number"):
        denoiser(torch.zeros(1, 2, 3, 3), one * math.nan)
    with pytest.raises(ValueError, match="2 images but 1 noise levels; give one sigma per image"):
        check_call(torch.zeros(2, 2, 3, 3), one, None, 0.0, 1.0)
