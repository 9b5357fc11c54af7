"""Any unconditional DDPM saved by diffusers, as a one-shot denoiser: one network call, no reverse chain, no network access.

Two folder layouts are read: config.json, diffusion_pytorch_model.safetensors and scheduler_config.json side by side, as in
google/ddpm-cifar10-32; and a pipeline with the folders unet/ and scheduler/. Only safetensors are loaded: the older .bin files
are pickles, which can run any code.

Source: Carlini et al., "(Certified!!) Adversarial Robustness for Free!" (2022), section 4.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from certidote.diffusion.contract import check_call, check_sigma, chunk_size, in_chunks
from certidote.diffusion.schedule import Schedule, alpha_bar_of, from_betas, linear, scaled_linear, squaredcos_cap_v2
from certidote.numerics import DType, torch_dtype
from certidote.types import DenoiserCard, Images, Json, digest_of

PredictionType = Literal["epsilon", "sample", "v_prediction"]
"""What the network outputs: the noise z; the clean image x'; or v = sqrt(alpha_bar) z - sqrt(1 - alpha_bar) x'."""

SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
"""Schedulers whose betas say how the network's training images were noised."""

WEIGHTS = "diffusion_pytorch_model.safetensors"


class DDPMDenoiser:
    """The clean image that a DDPM network implies for a noised one, in a single call.

    The network sees sqrt(alpha_bar) (2 y - 1) with the exact alpha_bar = 1 / (1 + (2 sigma)^2) and the step whose noise is
    nearest; the same exact alpha_bar turns its output into the estimate, which is clamped.

    Args:
        network: called as network(images, steps, return_dict=False)[0] on (n, c, h, w) and (n,) int64. Of twice as many output
            channels as inputs, the first half is used: the second is a learned variance.
        schedule: the noise it was trained with.
        prediction_type: what it outputs.
        card: what it is. An `image_shape` of None accepts any size.
        dtype: number format of the network's arithmetic. Scaling and solving are float32 always.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, prediction_type: PredictionType, card: DenoiserCard, dtype: DType = "float32"
    ) -> None:
        self.network = network.requires_grad_(False).eval()  # eval: these networks have dropout
        nn.Module.to(network, torch_dtype(dtype))  # the `to` of diffusers models warns of layers that unconditional ones lack
        self.schedule, self.prediction_type, self.card, self.dtype = schedule, prediction_type, card, dtype
        self.sigma_min, self.sigma_max = schedule.sigma_min, schedule.sigma_max

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
        """(n, c, h, w) estimates of the clean images, float32 in [0, 1]. Errors as `contract.check_call`."""
        check_call(noisy, sigma, self.card.image_shape, self.sigma_min, self.sigma_max)
        self.network.to(noisy.device)
        return in_chunks(noisy, sigma, chunk_size(*noisy.shape[2:]), self._denoise)

    def _denoise(self, noisy: Images, sigma: Float[Tensor, "m"]) -> Images:
        exact = sigma.cpu().to(torch.float64).numpy()
        alpha_bar = alpha_bar_of(exact)
        signal, noise, ratio = (
            torch.from_numpy(x).to(noisy.device, torch.float32).view(-1, 1, 1, 1)
            for x in (np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), 2 * exact)
        )
        steps = torch.from_numpy(self.schedule.nearest_step(exact)).to(noisy.device)
        symmetric = 2 * noisy - 1
        seen = signal * symmetric
        output = self.network(seen.to(torch_dtype(self.dtype)), steps, return_dict=False)[0].to(torch.float32)
        output = output[:, : noisy.shape[1]]
        if self.prediction_type == "epsilon":
            clean = symmetric - ratio * output
        elif self.prediction_type == "v_prediction":
            clean = signal * seen - noise * output
        else:
            clean = output
        return ((clean + 1) / 2).clamp(0, 1)

    def conditioning(self, sigma: float) -> str:
        check_sigma(sigma, self.sigma_min, self.sigma_max)
        time = self.schedule.time(np.array([sigma]))[0]
        step = self.schedule.nearest_step(np.array([sigma]))[0]
        units = f"sigma {sigma:g} unit = {2 * sigma:g} symmetric"
        return f"t = {step} of {len(self.schedule)} (exact {time:.2f}), {units}, network in {self.dtype}"


# ------------------------------------------------------------------------------------------------------------ reading folders


def is_diffusers_folder(directory: Path) -> bool:
    """Whether this looks like a model that diffusers saved, readable or not."""
    return any((directory / name).is_file() for name in ("model_index.json", "unet/config.json", "scheduler_config.json")) or (
        (directory / "config.json").is_file() and any(directory.glob("diffusion_pytorch_model.*"))
    )


def load_diffusers(directory: Path, name: str = "", dtype: DType = "float32") -> DDPMDenoiser:
    """The denoiser in a folder that diffusers saved.

    Args:
        directory: flat or pipeline layout.
        name: for the card; the folder's own name if empty.
        dtype: number format of the network's arithmetic.
    Raises: ValueError if a file is missing or damaged, if the weights are a pickle, or if the model is not an unconditional
        UNet2DModel with a schedule we know.
    """
    unet, scheduler = directory, directory
    if (directory / "unet").is_dir():
        unet, scheduler = directory / "unet", directory / "scheduler"
    config, schedule_config = _read_json(unet / "config.json"), _read_json(scheduler / "scheduler_config.json")
    _check_network(config, unet)
    schedule, prediction = read_schedule(schedule_config, scheduler / "scheduler_config.json")
    network = _read_network(unet)
    size = config.get("sample_size")
    if not size:
        raise ValueError(f"{unet / 'config.json'} names no sample_size; add the image size that the model was trained on")
    height, width = (size, size) if isinstance(size, int) else size
    shape = (int(config["in_channels"]), int(height), int(width))
    with open(unet / WEIGHTS, "rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    digest = digest_of({"kind": "diffusers", "config": config, "scheduler": schedule_config, "weights": weights})
    details: Json = {"prediction_type": prediction, "steps": len(schedule), "dtype": dtype, "weights_sha256": weights}
    card = DenoiserCard(name or directory.name, "diffusers", digest, shape, details=details)
    return DDPMDenoiser(network, schedule, prediction, card, dtype)


def read_schedule(config: Json, path: Path) -> tuple[Schedule, PredictionType]:
    """Schedule and prediction type of a diffusers scheduler configuration; `path` is for messages.

    Raises: ValueError for a scheduler, a beta schedule or a prediction type that we do not know.
    """
    kind = config.get("_class_name", "DDPMScheduler")
    if kind not in SCHEDULERS:
        raise ValueError(f"{path} describes a {kind}; a one-shot denoiser needs the betas of one of: {', '.join(SCHEDULERS)}")
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(f"{path} rescales its betas to zero terminal SNR, which this adapter cannot read; use another checkpoint")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "sample", "v_prediction"):
        raise ValueError(f"{path}: unknown prediction_type {prediction!r}; choose one of: epsilon, sample, v_prediction")
    if config.get("trained_betas") is not None:
        return from_betas(config["trained_betas"]), prediction
    steps, name = int(config.get("num_train_timesteps", 1_000)), config.get("beta_schedule", "linear")
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if name == "linear":
        return linear(steps, first, last), prediction
    if name == "scaled_linear":
        return scaled_linear(steps, first, last), prediction
    if name == "squaredcos_cap_v2":
        return squaredcos_cap_v2(steps), prediction
    known = "linear, scaled_linear, squaredcos_cap_v2, or explicit trained_betas"
    raise ValueError(f"{path}: unknown beta_schedule {name!r}; choose one of: {known}")


def _check_network(config: Json, unet: Path) -> None:
    path = unet / "config.json"
    kind = config.get("_class_name")
    if kind != "UNet2DModel":
        raise ValueError(f"{path} describes a {kind}; this adapter loads unconditional pixel-space models of class UNet2DModel")
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise ValueError(f"{path} is conditioned on class labels; use an unconditional checkpoint: a denoiser must not see labels")
    embedding = config.get("time_embedding_type", "positional")
    if embedding not in ("positional", "learned") or config.get("center_input_sample"):
        raise ValueError(
            f"{path} is no DDPM on [-1, 1] pixels (time_embedding_type {embedding!r}, "
            f"center_input_sample {bool(config.get('center_input_sample'))}); use a checkpoint trained as a DDPM"
        )
    channels, outputs = config.get("in_channels"), config.get("out_channels")
    if not isinstance(channels, int) or outputs not in (channels, 2 * channels):
        raise ValueError(f"{path}: {outputs} output channels for {channels} input channels; expected as many, or twice as many")
    if not (unet / WEIGHTS).is_file():
        pickles = sorted(file.name for file in unet.glob("*.bin"))
        if pickles:
            raise ValueError(
                f"{unet / pickles[0]} is a pickle, which can run any code when loaded; convert it on a machine you can lose: "
                f"UNet2DModel.from_pretrained({str(unet)!r}, use_safetensors=False).save_pretrained(...) writes {WEIGHTS}"
            )
        raise ValueError(f"{unet / WEIGHTS} is missing; download the complete model")


def _read_network(unet: Path) -> nn.Module:
    from diffusers import UNet2DModel
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        network, info = UNet2DModel.from_pretrained(  # type: ignore[no-untyped-call]
            str(unet), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # diffusers and safetensors have no common error for a damaged file
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{unet / WEIGHTS} cannot be read ({problem}); download the model again") from error
    finally:
        logging.set_verbosity(verbosity)
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])]
    if wrong:
        count = f"{len(wrong)} tensors, first {wrong[0]!r}"
        raise ValueError(f"{unet / WEIGHTS} does not fit config.json ({count}); download the model again")
    return network


def _read_json(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; a diffusers DDPM folder needs it: download the complete model") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; download the model again")
    return value
