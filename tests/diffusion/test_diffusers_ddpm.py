import json
import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from certidote.diffusion.denoiser import load
from certidote.diffusion.diffusers_ddpm import DDPMDenoiser, load_diffusers, read_schedule
from certidote.diffusion.schedule import alpha_bar_of, linear, squaredcos_cap_v2
from certidote.streams import Key, torch_seeded
from certidote.types import DenoiserCard

CARD = DenoiserCard("test", "diffusers", "0" * 64, (3, 8, 8))
PREDICTIONS = ("epsilon", "sample", "v_prediction")
MU, S = 0.5, 0.05
"""Mean and std of the Gaussian prior of every clean pixel, [0, 1] units."""


class GaussianOracle(nn.Module):
    """The exact posterior mean under pixels N(MU, S^2), said the way a DDPM says it, from its input and step alone.

    It knows alpha_bar only at whole steps, so it is exact where the true alpha_bar is that of a step.
    """

    def __init__(self, alpha_bar, prediction, outputs=3):
        super().__init__()
        self.alpha_bar, self.prediction, self.outputs = alpha_bar, prediction, outputs

    def forward(self, images, steps, return_dict):
        a = torch.from_numpy(self.alpha_bar[steps.numpy()]).view(-1, 1, 1, 1)
        x, mu, variance = images.double(), 2 * MU - 1, (2 * S) ** 2
        clean = mu + a.sqrt() * variance / (a * variance + 1 - a) * (x - a.sqrt() * mu)
        eps = (x - a.sqrt() * clean) / (1 - a).sqrt()
        said = {"epsilon": eps, "sample": clean, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * clean}[self.prediction]
        garbage = torch.full_like(said, math.inf)[:, : self.outputs - said.shape[1]]
        return (torch.cat([said, garbage], 1).to(images.dtype),)


def noised(sigma, n=200):
    generator = Key(1).numpy()
    clean = MU + S * generator.standard_normal((n, 3, 8, 8))
    return clean, torch.from_numpy((clean + sigma * generator.standard_normal(clean.shape)).astype(np.float32))


@pytest.mark.parametrize("outputs", [3, 6])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("make", [linear, squaredcos_cap_v2])
def test_gaussian_prior_gives_the_posterior_mean(make, prediction, outputs):
    """mu + s^2 / (s^2 + sigma^2) (y - mu) to rounding; with 6 output channels the last 3, here infinite, are not looked at."""
    schedule = make()
    denoiser = DDPMDenoiser(GaussianOracle(schedule.alpha_bar, prediction, outputs), schedule, prediction, CARD)
    for step in (20, 150, 400):
        sigma = schedule.sigma(np.array([float(step)]))[0]
        _, noisy = noised(sigma)
        denoised = denoiser(noisy, torch.full((len(noisy),), sigma, dtype=torch.float32))
        expected = MU + S**2 / (S**2 + sigma**2) * (noisy.double() - MU)
        assert 0 < expected.min() < expected.max() < 1
        torch.testing.assert_close(denoised.double(), expected, atol=5e-7 * (1 + 2 * sigma), rtol=0)


def test_gaussian_prior_reaches_the_formula_for_its_error():
    schedule = linear()
    sigma = schedule.sigma(np.array([73.0]))[0]
    clean, noisy = noised(sigma, 500)
    denoiser = DDPMDenoiser(GaussianOracle(schedule.alpha_bar, "epsilon"), schedule, "epsilon", CARD)
    denoised = denoiser(noisy, torch.full((500,), sigma, dtype=torch.float32))
    error = float(np.square(denoised.numpy() - clean).mean())
    # 96,000 squared Gaussian errors have a relative standard error of sqrt(2 / 96,000) = 0.46 %: five of them.
    assert error == pytest.approx(S**2 * sigma**2 / (S**2 + sigma**2), rel=0.023)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_between_steps_the_exact_alpha_bar_is_used(prediction):
    """The network is told the nearest step; scale and solving use sigma itself, so a network that says the truth is exact."""
    schedule, seen = linear(), {}
    clean = torch.from_numpy(Key(2).numpy().random((7, 3, 8, 8), dtype=np.float32))
    sigma = torch.tensor([0.05, 0.1, 0.123, 0.25, 0.3, 0.5, 1.0])
    noise = torch.from_numpy(Key(3).numpy().standard_normal(clean.shape, dtype=np.float32))

    class Truth(nn.Module):
        def forward(self, images, steps, return_dict):
            seen["images"], seen["steps"] = images[:7], steps[:7]
            a = torch.from_numpy(alpha_bar_of(sigma.double().numpy())).view(-1, 1, 1, 1)
            x, z = 2 * clean.double() - 1, noise.double()
            said = {"epsilon": z, "sample": x, "v_prediction": a.sqrt() * z - (1 - a).sqrt() * x}[prediction]
            return (torch.cat([said.float(), images[7:]]),)

    noisy = clean + sigma.view(-1, 1, 1, 1) * noise
    denoised = DDPMDenoiser(Truth(), schedule, prediction, CARD)(noisy, sigma)
    torch.testing.assert_close(denoised, clean, atol=2e-6, rtol=0)
    log_ratio = np.log(schedule.alpha_bar / (1 - schedule.alpha_bar))
    nearest = [int(np.abs(log_ratio + 2 * math.log(2 * s)).argmin()) for s in sigma.double().tolist()]
    assert seen["steps"].tolist() == nearest
    assert (nearest[1], nearest[5]) == (57, 258)  # the published search rounds 57.3 and 258.0 up, to 58 and 259
    scale = torch.from_numpy(np.sqrt(alpha_bar_of(sigma.double().numpy()))).view(-1, 1, 1, 1)
    torch.testing.assert_close(seen["images"].double(), scale * (2 * noisy.double() - 1), atol=1e-6, rtol=0)


def test_garbage_in_the_channels_that_count_does_count():
    schedule = linear()

    class Garbage(GaussianOracle):
        def forward(self, images, steps, return_dict):
            return (-super().forward(images, steps, return_dict)[0],)

    _, noisy = noised(0.25, 4)
    right, wrong = (
        DDPMDenoiser(kind(schedule.alpha_bar, "epsilon"), schedule, "epsilon", CARD) for kind in (GaussianOracle, Garbage)
    )
    assert (right(noisy, torch.full((4,), 0.25)) - wrong(noisy, torch.full((4,), 0.25))).abs().mean() > 0.1


# ------------------------------------------------------------------------------------------------------------------ folders


@pytest.fixture(scope="module")
def model():
    from diffusers import UNet2DModel

    with torch_seeded(Key(0)):
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            dropout=0.5,
        )


@pytest.fixture(scope="module")
def scheduler():
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")


@pytest.fixture
def flat(model, scheduler, tmp_path):
    directory = tmp_path / "flat"
    model.save_pretrained(directory)
    scheduler.save_config(directory)
    return directory


@pytest.fixture
def pipeline(model, scheduler, tmp_path):
    directory = tmp_path / "pipeline"
    model.save_pretrained(directory / "unet")
    scheduler.save_config(directory / "scheduler")
    (directory / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}))
    return directory


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def some_noise(n=5, sigma=0.25):
    return torch.from_numpy(Key(4).numpy().standard_normal((n, 1, 8, 8), dtype=np.float32)), torch.full((n,), sigma)


def test_both_layouts_give_what_the_network_says(model, flat, pipeline):
    """By hand with diffusers' own scheduler: the pred_original_sample of one step, where sigma is that of the step."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(flat)
    schedule = squaredcos_cap_v2()
    sigma = float(schedule.sigma(np.array([149.0]))[0])
    noisy, sigmas = some_noise(sigma=sigma)
    with torch.no_grad():
        seen = math.sqrt(schedule.alpha_bar[149]) * (2 * noisy - 1)
        said = model.eval()(seen, torch.full((5,), 149)).sample
        expected = scheduler.step(said, 149, seen, generator=torch.Generator()).pred_original_sample
    first, second = load(flat), load(pipeline)
    torch.testing.assert_close(first(noisy, sigmas), ((expected + 1) / 2).clamp(0, 1), atol=2e-6, rtol=0)
    assert torch.equal(first(noisy, sigmas), second(noisy, sigmas))
    assert first.card.image_shape == (1, 8, 8)
    assert first.card.kind == "diffusers"
    assert (first.sigma_min, first.sigma_max) == (schedule.sigma_min, schedule.sigma_max)
    assert first.conditioning(0.25) == "t = 289 of 1000 (exact 288.63), sigma 0.25 unit = 0.5 symmetric, network in float32"


def test_one_call_is_deterministic_and_ignores_the_rest_of_the_batch(flat):
    """Dropout is off, and 1 image gives the bits that 37 images with other noise levels give."""
    denoiser = load_diffusers(flat)
    noisy, sigma = some_noise(300)
    sigma[100:] = 0.5
    denoised = denoiser(noisy, sigma)
    rows = torch.tensor([299, 0, 99])
    assert torch.equal(denoiser(noisy[rows], sigma[rows]), denoised[rows])
    assert torch.equal(pickle.loads(pickle.dumps(denoiser))(noisy, sigma), denoised)
    assert not denoised.requires_grad
    assert not denoised.is_inference()


def test_bfloat16_is_close_and_shares_the_digest(flat):
    exact, fast = load(flat), load(flat, "bfloat16")
    noisy, sigma = some_noise(20)
    difference = (exact(noisy, sigma) - fast(noisy, sigma)).abs()
    assert 0 < difference.max() < 0.1
    assert exact.card.digest == fast.card.digest
    assert "bfloat16" in fast.conditioning(0.25)


def test_digest_follows_weights_and_schedule(flat, tmp_path):
    digest = load(flat).card.digest
    shutil.copytree(flat, tmp_path / "other")
    edit(tmp_path / "other" / "scheduler_config.json", prediction_type="epsilon")
    assert load(tmp_path / "other").card.digest != digest


def test_learned_variance_folder(scheduler, tmp_path):
    from diffusers import UNet2DModel

    with torch_seeded(Key(1)):
        model = UNet2DModel(
            sample_size=(8, 8), in_channels=3, out_channels=6, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        )  # fmt: skip
    model.save_pretrained(tmp_path)
    scheduler.save_config(tmp_path)
    denoiser = load(tmp_path)
    noisy = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = denoiser(noisy, torch.full((2,), 0.2))
    with torch.no_grad():
        denoiser.network.conv_out.bias[3:] += 100.0
    assert torch.equal(denoiser(noisy, torch.full((2,), 0.2)), before)


def test_older_attention_names_are_understood(flat, model):
    """google/ddpm-cifar10-32 was saved when attention weights were called query, key, value and proj_attn."""
    path = flat / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    noisy, sigma = some_noise()
    expected = load(flat)(noisy, sigma)
    tensors = load_file(path)
    renamed = {}
    for name, value in tensors.items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        renamed[name] = value
    assert renamed.keys() != tensors.keys()
    save_file(renamed, path)
    assert torch.equal(load(flat)(noisy, sigma), expected)


REFUSALS = [
    ("config.json", {"class_embed_type": "timestep"}, "is conditioned on class labels; use an unconditional checkpoint"),
    ("config.json", {"num_class_embeds": 10}, "is conditioned on class labels"),
    ("config.json", {"_class_name": "UNet2DConditionModel"}, "describes a UNet2DConditionModel; this adapter loads unconditional"),
    ("config.json", {"out_channels": 3}, "3 output channels for 1 input channels; expected as many, or twice as many"),
    ("config.json", {"sample_size": None}, "names no sample_size; add the image size"),
    ("config.json", {"time_embedding_type": "fourier"}, r"is no DDPM on \[-1, 1\] pixels"),
    ("config.json", {"block_out_channels": [8, 32]}, r"(does not fit config.json|cannot be read)"),
    (
        "config.json",
        {"layers_per_block": 2},
        r"cannot be read \(RuntimeError: Error\(s\) in loading state_dict for UNet2DModel:\); download",
    ),
    ("scheduler_config.json", {"_class_name": "ScoreSdeVeScheduler"}, "describes a ScoreSdeVeScheduler; a one-shot denoiser needs"),
    (
        "scheduler_config.json",
        {"prediction_type": "flow"},
        "unknown prediction_type 'flow'; choose one of: epsilon, sample, v_prediction",
    ),
    (
        "scheduler_config.json",
        {"beta_schedule": "sigmoid"},
        "unknown beta_schedule 'sigmoid'; choose one of: linear, scaled_linear",
    ),
    ("scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescales its betas to zero terminal SNR"),
    ("scheduler_config.json", {"trained_betas": [0.1, 1.0]}, r"alpha_bar falls strictly inside \(0, 1\)"),
]


@pytest.mark.parametrize(("file", "changes", "message"), REFUSALS)
def test_refuses_models_it_cannot_read(flat, file, changes, message):
    edit(flat / file, **changes)
    with pytest.raises(ValueError, match=message):
        load(flat)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_refuses_weights_that_are_not_those_of_the_network(flat, change):
    """diffusers would fill a missing tensor with random numbers and go on."""
    path = flat / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    value = tensors.pop("conv_out.bias")
    if change == "unexpected":
        tensors |= {"conv_out.bias": value, "extra.bias": value.clone()}
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"does not fit config.json \(1 tensors, first '(conv_out|extra).bias'\); download"):
        load(flat)


def test_refuses_pickles_and_says_how_to_convert(flat):
    (flat / "diffusion_pytorch_model.safetensors").rename(flat / "diffusion_pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"diffusion_pytorch_model.bin is a pickle, which can run any code .* use_safetensors=False"
    ):
        load(flat)


@pytest.mark.parametrize("file", ["config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"])
def test_refuses_missing_and_damaged_files(flat, file):
    whole = (flat / file).read_bytes()
    (flat / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{file} (is damaged|cannot be read) \(.*download the model again"):
        load(flat)
    (flat / file).unlink()
    with pytest.raises(ValueError, match=rf"{file} is missing"):
        load(flat)


def test_refuses_noise_and_shapes_outside(flat):
    denoiser = load(flat)
    noisy, sigma = some_noise(2)
    with pytest.raises(ValueError, match=r"sigma=0\.001 is below this denoiser's sigma_min=0\.0032"):
        denoiser(noisy, sigma * 0 + 0.001)
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\), but this denoiser takes \(1, 8, 8\)"):
        denoiser(noisy.expand(-1, 3, -1, -1), sigma)


def test_trained_betas_and_defaults_are_read(tmp_path):
    schedule, prediction = read_schedule({"trained_betas": [0.1, 0.2], "beta_schedule": "linear"}, tmp_path)
    np.testing.assert_allclose(schedule.alpha_bar, [0.9, 0.72])
    assert prediction == "epsilon"
    schedule, _ = read_schedule(
        {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "num_train_timesteps": 10}, tmp_path
    )
    assert len(schedule) == 10
    assert schedule.alpha_bar[0] == pytest.approx(1 - 1e-4)
