"""Training of our denoising network on trusted images: a recipe, a key and the images decide the weights.

The network sees images with Gaussian noise of a random sigma and learns the clean image; every step draws images, their
augmentation, sigma and noise from one keyed stream. A moving average of the weights is what is kept.
"""

import dataclasses
import difflib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from certidote.adam import Adam
from certidote.data.toml import read_toml
from certidote.diffusion.augment import AUGMENTATION_FIELDS, Augmentation
from certidote.diffusion.closed_form import KernelPosteriorMean, LinearMMSE, Wiener
from certidote.diffusion.contract import image_hashes
from certidote.diffusion.network import Architecture, NetworkDenoiser, ResidualUNet, Scaling, architecture_for, weights_digest
from certidote.diffusion.unfinished import SECONDS_BETWEEN, Unfinished
from certidote.muon import Muon
from certidote.numerics import DType, sent, torch_dtype
from certidote.streams import Key, normals, torch_seeded
from certidote.types import Denoiser, DenoiserCard, ImageDataset, Images, Json, Progress, Silent

VALIDATION_SIGMAS = (0.1, 0.25, 0.5, 1.0)
"""Noise levels, [0, 1] units, at which a trained denoiser is measured; those outside its range are left out."""

CLOSED_FORM_VALUES, KERNEL_IMAGES = 4_096, 5_000
"""Values of one image up to which closed forms over whole images are measured too, and training images that the kernel one gets."""

WARM_UP = 100
"""Steps over which the learning rate rises to its peak, from which it falls along a half cosine to zero."""

TOLD = 10
"""Steps after which progress is told."""

MUON_MOMENTUM, MUON_ITERATIONS = 0.95, 4

FEW_STEPS, LEAST_BATCH, TRIED_STEPS = 1_000, 32, 2
"""Of `within_minutes`: steps below which batches are made smaller, to how many images at least, and how many steps are timed."""


@dataclass(frozen=True)
class DenoiserRecipe:
    """Everything that decides a denoiser's weights, besides images and key.

    Attributes:
        steps, batch: optimizer steps, and images in each.
        learning_rate, weight_decay: of AdamW; the rate is the peak.
        muon: peak rate of Muon on all filters but the first and the last, with the same schedule; 0 leaves them to AdamW.
        averaging: share of the training over which weights are averaged (exponentially, warming up with the steps done).
        sigma_min, sigma_max: noise range, [0, 1] pixel units; sigma is drawn log-uniformly from it.
        augmentation: changes to the images.
        architecture: of the network; None for the one that suits the image size.
        validation_share: fraction of the trusted images held out to measure on, if no validation images are given.
        storage: "float32", or "float16": the format the final weights are rounded to, so that what is saved is what was measured.
    Raises: ValueError if a number is out of range.
    """

    steps: int = 3_000
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    muon: float = 0.0
    averaging: float = 0.05
    sigma_min: float = 0.04
    sigma_max: float = 1.25
    augmentation: Augmentation = field(default_factory=Augmentation)
    architecture: Architecture | None = None
    validation_share: float = 0.1
    storage: str = "float32"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps={self.steps}, batch={self.batch}; both must be at least 1")
        if not (self.learning_rate > 0 and min(self.weight_decay, self.muon) >= 0 and 0 < self.averaging <= 1):
            raise ValueError(
                f"learning_rate={self.learning_rate}, weight_decay={self.weight_decay}, muon={self.muon}, averaging={self.averaging}; "
                "the rate must be positive, the decay at least 0, and averaging in (0, 1]"
            )
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            given = f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
            raise ValueError(f"{given}; give 0 < sigma_min < sigma_max ([0, 1] pixel units)")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share}; give a fraction between 0 and 1")
        if self.storage not in ("float32", "float16"):
            raise ValueError(f"unknown storage {self.storage!r}; choose one of: float16, float32")

    def to_json(self) -> Json:
        architecture = self.architecture.to_json() if self.architecture else None
        return {**asdict(self), "augmentation": self.augmentation.to_json(), "architecture": architecture}

    @staticmethod
    def from_json(value: Json) -> "DenoiserRecipe":
        """The recipe with these values; names left out take their defaults.

        Raises: ValueError for a name that no recipe has, with the nearest one that it may have meant.
        """
        _refuse_unknown(value, [item.name for item in fields(DenoiserRecipe)])
        _refuse_unknown(value.get("augmentation", {}), list(AUGMENTATION_FIELDS))
        architecture = value.get("architecture")
        parts: Json = {
            "augmentation": Augmentation(**value.get("augmentation", {})),
            "architecture": Architecture.from_json(architecture) if architecture else None,
        }
        return DenoiserRecipe(**{**value, **parts})


def load_recipe(name_or_path: str) -> DenoiserRecipe:
    """The default recipe for "auto", or one read from a TOML file.

    Raises: ValueError if it is neither, or the file does not hold a recipe.
    """
    if name_or_path == "auto":
        return DenoiserRecipe(muon=0.02)
    path = Path(name_or_path)
    if path.suffix != ".toml" or not path.is_file():
        raise ValueError(f"unknown denoiser recipe {name_or_path!r}; give auto, or the path of a .toml file")
    value = read_toml(path, "denoiser recipe")
    try:
        return DenoiserRecipe.from_json(value)
    except TypeError as error:
        raise ValueError(f"denoiser recipe {name_or_path!r} cannot be read: {error}") from None


def within_minutes(
    trusted: ImageDataset, recipe: DenoiserRecipe, minutes: int | float, dtype: DType, device: str
) -> DenoiserRecipe:
    """The recipe with as many steps as fit into this time, at most its own number: a few steps are tried and timed.

    Where fewer than `FEW_STEPS` fit, batches are made smaller, down to `LEAST_BATCH` images: a hundred steps teach a network little,
    however many images each has. The numbers found are part of the recipe that the model card records; training by that recipe gives
    the same weights again.

    Raises: ValueError if not even 20 steps fit.
    """
    if not minutes > 0:
        raise ValueError(f"minutes={minutes}; give a time above 0")
    steps = _steps_within(60 * minutes, trusted, recipe, dtype, device)
    wanted, batch = min(FEW_STEPS, recipe.steps), recipe.batch
    while steps * recipe.batch < wanted * batch and batch // 2 >= LEAST_BATCH:
        batch //= 2
    if batch < recipe.batch:
        recipe = dataclasses.replace(recipe, batch=batch)
        steps = _steps_within(60 * minutes, trusted, recipe, dtype, device)
    if steps < 20:
        raise ValueError(
            f"minutes={minutes:g} is enough for {steps} training steps of {recipe.batch} images here; give more time, or a recipe "
            "with a smaller batch or network"
        )
    return dataclasses.replace(recipe, steps=min(recipe.steps, steps))


def _steps_within(seconds: int | float, trusted: ImageDataset, recipe: DenoiserRecipe, dtype: DType, device: str) -> int:
    clean, key = trusted.pixels(), Key(0) / "timing"
    scaling = Scaling(float(clean.mean()), float(clean.std()) or 1.0)
    with torch_seeded(key / "init"):
        network = ResidualUNet(recipe.architecture or architecture_for(trusted.image_shape)).to(device)
    tried = dataclasses.replace(recipe, steps=TRIED_STEPS)
    _train(network, clean, scaling, tried, key, Silent(), dtype)  # the first steps also warm caches up
    begin = time.perf_counter()
    _train(network, clean, scaling, tried, key, Silent(), dtype)
    return int(seconds / ((time.perf_counter() - begin) / tried.steps))


def train_network(
    trusted: ImageDataset,
    validation: ImageDataset | None,
    recipe: DenoiserRecipe,
    key: Key,
    progress: Progress | None = None,
    *,
    name: str = "network",
    dtype: DType = "float32",
    device: str = "cpu",
    unfinished: Path | None = None,
) -> NetworkDenoiser:
    """A denoiser trained on trusted images, and its errors on images it has not seen.

    The same arguments give the same weights on one machine with one number of threads. `card.details` holds the recipe, the key's
    root, and mean squared errors and PSNR of the network and of the closed-form baselines.

    Args:
        trusted: images that the attacker cannot have touched.
        validation: images to measure on, of the same shape; None holds out a share of the trusted ones, chosen by the key.
        recipe: everything else that decides the weights.
        key: initial weights, batches, noise and validation draw from it.
        progress: told about every step.
        name: for the card.
        dtype: number format of the training's convolutions, and of the denoiser returned. Weights are kept in float32.
        device: where to train; the denoiser is returned on the CPU.
        unfinished: a file in which the state is kept once a minute and from which an interrupted training goes on; whoever calls
            removes it when the denoiser is saved.
    Raises: ValueError if shapes disagree, there are too few images, the training diverges, or `unfinished` is of another training.
    """
    fitted, held_out = (trusted, validation) if validation is not None else _split(trusted, recipe.validation_share, key)
    if held_out.image_shape != trusted.image_shape:
        given = f"validation images of shape {held_out.image_shape}, trusted ones of {trusted.image_shape}"
        raise ValueError(f"{given}; they must agree: resize one of them")
    clean = fitted.pixels()
    scaling = Scaling(float(clean.mean()), float(clean.std()))
    if scaling.std == 0:
        raise ValueError("all trusted pixels are equal; a denoiser has nothing to learn from them")
    with torch_seeded(key / "init"):
        network = ResidualUNet(recipe.architecture or architecture_for(trusted.image_shape))
    progress = progress or Silent()
    state = None if unfinished is None else Unfinished(unfinished, training_of(trusted, recipe, key, dtype))
    _train(network.to(device), clean, scaling, recipe, key / "batches", progress, dtype, state)
    network.cpu()
    if recipe.storage == "float16":
        network.half().float()

    card = DenoiserCard(
        name,
        "network",
        weights_digest(network, scaling, recipe.sigma_min, recipe.sigma_max, trusted.image_shape),
        trusted.image_shape,
        trusted.digest(),
        image_hashes(trusted),
        {"recipe": recipe.to_json(), "key": [str(key.root), *key.path], "images": len(fitted), "trained_in": dtype},
    )
    denoiser = NetworkDenoiser(network, scaling, recipe.sigma_min, recipe.sigma_max, card, dtype)
    progress.finish()
    card.details["validation"] = _validate(denoiser, fitted, held_out, key / "validation", progress, device)
    denoiser.network.cpu()
    progress.finish("PSNR " + ", ".join(f"{psnr:.1f} dB" for psnr in card.details["validation"]["psnr"]["network"]))
    return denoiser


def training_of(trusted: ImageDataset, recipe: DenoiserRecipe, key: Key, dtype: DType) -> Json:
    """What a training is of, as an unfinished one keeps it."""
    key_json = [str(key.root), *key.path]
    return {"images": trusted.digest(), "recipe": recipe.to_json(), "key": key_json, "dtype": dtype}


def _split(trusted: ImageDataset, share: float, key: Key) -> tuple[ImageDataset, ImageDataset]:
    order = (key / "split").numpy().permutation(len(trusted))
    count = max(1, round(share * len(trusted)))
    if count >= len(trusted):
        raise ValueError(f"{len(trusted)} trusted images are too few to hold out {count}; give more, or validation images")
    return trusted.subset(order[count:].tolist()), trusted.subset(order[:count].tolist())


class _Training:
    """The state of a training: weights, their average, and what the optimizers remember."""

    def __init__(self, network: ResidualUNet, recipe: DenoiserRecipe) -> None:
        self.recipe, self.weights = recipe, list(network.parameters())
        inner = {id(weight) for weight in network.inner_filters()} if recipe.muon else set()
        self.filters = [i for i, weight in enumerate(self.weights) if id(weight) in inner]
        self.others = [i for i, weight in enumerate(self.weights) if id(weight) not in inner]
        self.muon = Muon([self.weights[i] for i in self.filters], MUON_MOMENTUM, MUON_ITERATIONS, fixed_norm=False)
        self.adam = Adam([self.weights[i] for i in self.others], betas=(0.9, 0.99))
        self.averaged = [weight.detach().clone() for weight in self.weights]

    def tensors(self) -> dict[str, Tensor]:
        groups: dict[str, list[Tensor]] = {
            "weights": [*self.weights],
            "averaged": self.averaged,
            "velocity": self.muon.velocity,
            "average": self.adam.average,
            "square": self.adam.square,
        }
        return {f"{name}.{i}": tensor for name, group in groups.items() for i, tensor in enumerate(group)}

    @torch.no_grad()
    def restore(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Raises: ValueError if these are not the tensors of this training."""
        mine = self.tensors()
        if {name: value.shape for name, value in mine.items()} != {name: value.shape for name, value in tensors.items()}:
            raise ValueError("the unfinished training's state does not fit its network; delete it to train from the start")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self.adam.steps = step

    @torch.no_grad()
    def step(self, loss: Tensor, step: int) -> None:
        gradients = list(torch.autograd.grad(loss, self.weights))
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (1.0 / (norm + 1e-6)).clamp(max=1.0))
        rate = _rate(step, self.recipe.steps)
        for i in self.others:
            self.weights[i].mul_(1 - self.recipe.learning_rate * rate * self.recipe.weight_decay)
        self.adam.step([gradients[i] for i in self.others], self.recipe.learning_rate * rate)
        self.muon.step([gradients[i] for i in self.filters], self.recipe.muon * rate)
        horizon = 1 + self.recipe.averaging * step
        torch._foreach_lerp_(self.averaged, [weight.detach() for weight in self.weights], 1 / horizon)


def _train(
    network: ResidualUNet,
    clean: Images,
    scaling: Scaling,
    recipe: DenoiserRecipe,
    key: Key,
    progress: Progress,
    dtype: DType,
    unfinished: Unfinished | None = None,
) -> None:
    """Train in place; at the end the network holds the averaged weights. Step i draws from `key / i`, so it can begin anywhere."""
    device = network.head.weight.device
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    clean = clean.to(device)
    training, first = _Training(network, recipe), 0
    if unfinished is not None and (kept := unfinished.read()) is not None:
        first = kept[0]
        training.restore(*kept)
    progress.start("denoiser", recipe.steps, done=first, unit="steps")
    written = time.monotonic()
    behind = 0
    for step in range(first, recipe.steps):
        images, noisy, sigma = _batch(clean, recipe, key / step)
        scaled, level = scaling.enter(noisy, sigma)
        with torch.autocast(device.type, torch_dtype(dtype), enabled=dtype != "float32"):
            output = network(scaled, level)
        loss = (output.to(torch.float32) - scaling.wanted(images, noisy, sigma)).square().mean()
        training.step(loss, step)
        behind += 1
        if behind == TOLD or step == recipe.steps - 1:
            if not math.isfinite(loss.item()):
                raise ValueError(f"the denoiser's training diverged by step {step + 1}; lower learning_rate={recipe.learning_rate}")
            progress.advance(behind, f"loss {loss.item():.3f}")
            behind = 0
            if unfinished is not None and time.monotonic() - written > SECONDS_BETWEEN:
                unfinished.write(step + 1, training.tensors())
                written = time.monotonic()
    with torch.no_grad():
        for weight, average in zip(training.weights, training.averaged, strict=True):
            weight.copy_(average)


def _batch(clean: Images, recipe: DenoiserRecipe, key: Key) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images, the same with noise, and the noise's (n,) std: one draw of everything that is random in a step, where `clean` is.

    A GPU draws the noise itself; other numbers than a CPU does, of which a batch has millions.
    """
    generator, device = key.numpy(), clean.device
    rows = torch.from_numpy(generator.integers(0, len(clean), recipe.batch))
    images = recipe.augmentation(clean[sent(rows, device)], generator)
    span = math.log(recipe.sigma_min), math.log(recipe.sigma_max)
    sigma = sent(torch.from_numpy(np.exp(generator.uniform(*span, recipe.batch)).astype(np.float32)), device)
    if device.type == "cpu":
        noise = torch.from_numpy(generator.standard_normal(images.shape, dtype=np.float32))
    else:
        noise = normals(key / "noise", tuple(images.shape), device)
    return images, noise.mul_(sigma.view(-1, 1, 1, 1)).add_(images), sigma


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


def _refuse_unknown(value: Json, known: list[str]) -> None:
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0)[0]
            raise ValueError(f"a denoiser recipe has no {name!r}; did you mean {near!r}? Known: {', '.join(known)}")


# ---------------------------------------------------------------------------------------------------------------- measuring


def mean_squared_errors(
    denoiser: Denoiser, clean: ImageDataset, sigmas: Sequence[float], key: Key, device: str = "cpu"
) -> list[float]:
    """Mean squared error per pixel, [0, 1] units, at each sigma; the same key gives every denoiser the same noise, wherever it computes.

    Images are repeated with fresh noise until there are about 1,000.
    """
    images = clean.pixels().repeat(max(1, 1_000 // len(clean)), 1, 1, 1)
    noise = torch.from_numpy(key.numpy().standard_normal(images.shape, dtype=np.float32)).to(device)
    images = images.to(device)
    errors = []
    for sigma in sigmas:
        denoised = denoiser(images + sigma * noise, torch.full((len(images),), sigma))
        errors.append(float((denoised - images).to(torch.float64).square().mean()))
    return errors


def _validate(
    denoiser: NetworkDenoiser, fitted: ImageDataset, held_out: ImageDataset, key: Key, progress: Progress, device: str
) -> Json:
    """Errors on held-out images, of the network and of what needs no training. Whoever calls finishes the progress."""
    sigmas = [sigma for sigma in VALIDATION_SIGMAS if denoiser.sigma_min <= sigma <= denoiser.sigma_max]
    made: dict[str, Callable[[], Denoiser]] = {"network": lambda: denoiser}
    omitted: dict[str, str] = {}
    values = math.prod(fitted.image_shape)
    if values <= CLOSED_FORM_VALUES:
        made["linear-mmse"] = lambda: LinearMMSE(fitted)
        made["kernel"] = lambda: KernelPosteriorMean(fitted.subset(range(min(len(fitted), KERNEL_IMAGES))))
    else:
        made["wiener"] = lambda: Wiener(fitted)
        shape = "x".join(map(str, fitted.image_shape))
        why = f"an image of {shape} has {values:,} values, and beyond {CLOSED_FORM_VALUES:,}"
        omitted["linear-mmse"] = f"{why} a covariance matrix takes minutes and gigabytes"
        omitted["kernel"] = f"{why} the distances to {KERNEL_IMAGES:,} training images take minutes and gigabytes"
    held_out = held_out.subset(range(min(len(held_out), 1_000)))
    progress.start("measuring on held-out images", len(made), unit="denoisers")
    errors = {}
    for name, make in made.items():
        errors[name] = mean_squared_errors(make(), held_out, sigmas, key, device)
        progress.advance(1, name)
    psnr = {name: [-10 * math.log10(max(error, 1e-12)) for error in values] for name, values in errors.items()}
    return {"images": len(held_out), "sigmas": sigmas, "mse": errors, "psnr": psnr, "omitted": omitted}
