"""FrieNDs: noise made for each image, as large as the model does not mind, and fresh random noise on top of it."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from certidote.streams import Key, row_blocks
from certidote.training.learner import Learner
from certidote.types import Images, Json

RandomNoise = Literal["bernoulli", "uniform", "gaussian", "none"]
RANDOM_NOISES: tuple[RandomNoise, ...] = get_args(RandomNoise)

BATCH = 128
"""The original's batches, over which it takes means: part of the size of its steps, so it belongs to the learning rate."""

START = 5 / 40
"""When the noise is made, as a share of a training."""

INITIAL = 1 / 2
"""Half the width of the uniform noise that the search starts from, as a share of `zeta`: 8/255 of 16/255 in the original."""


@dataclass(frozen=True)
class Friends:
    """Friendly noise, found once for each image, and random noise, drawn anew in every step: a `Disturbing`.

    Stage 1, before one epoch: for each image, un-augmented, and the model as it is, in eval mode, descend on
    KL(p(x) || p(x + e)) - mu mean(e^2) over e in [-zeta, zeta], the perturbed image in [0, 1]. Stage 2: from then on the training sees
    the images with that noise. Random noise is added in every epoch, from the first, to images before augmentation, and is not clipped.

    Threat model: clean-label poisons, whose perturbations are small and precise. Certificate: none. Cost: 1 plain training and
    gradients by the images of `steps` epochs, about 1.75 to 2 for 40 epochs; one array as large as the images for each member.

    Attributes:
        zeta: largest friendly noise in a pixel, [0, 1] units, in (0, 1].
        mu: weight of its magnitude, at least 0.
        steps: of the descent, at least 1.
        learning_rate: of the descent by SGD with Nesterov momentum 0.9, for means over 128 images as in the original; images do not
            depend on those that are searched together with them.
        start: the epoch, from 0, before which noise is made; None: an eighth of the training, rounded.
        random: the kind of random noise.
        amplitude: of that noise, [0, 1] units: both values of bernoulli noise, the bounds of uniform noise, the std of gaussian noise.
    Raises: ValueError for numbers out of range.
    Source: Liu, Yang and Mirzasoleiman (2022), "Friendly noise against adversarial noise", and their code: zeta and amplitude 16/255,
        from epoch 5 of 40.
    Differs from the code: an image that lies outside of [0, 1] already (noised, not denoised) is not clipped further than it lies.
    """

    zeta: float = 16 / 255
    mu: float = 1.0
    steps: int = 30
    learning_rate: float = 100.0
    start: int | None = None
    random: RandomNoise = "bernoulli"
    amplitude: float = 16 / 255

    def __post_init__(self) -> None:
        if not 0 < self.zeta <= 1 or not 0 <= self.amplitude <= 1:
            raise ValueError(
                f"zeta={self.zeta:g}, amplitude={self.amplitude:g} must lie in [0, 1] pixel units, zeta above 0; for 16 of 255 levels "
                "give 16/255"
            )
        if self.steps < 1 or not self.learning_rate > 0 or not self.mu >= 0 or (self.start is not None and self.start < 0):
            raise ValueError(
                f"steps={self.steps}, learning_rate={self.learning_rate:g}, mu={self.mu:g}, start={self.start}; give at least 1 step, a "
                "rate above 0, and a weight and an epoch of at least 0"
            )
        if self.random not in RANDOM_NOISES:
            raise ValueError(f"unknown random noise {self.random!r}; choose one of: {', '.join(RANDOM_NOISES)}")

    def due(self, epoch: int, epochs: int) -> bool:
        return epoch == (round(START * epochs) if self.start is None else min(self.start, epochs - 1))

    def moved(self, learner: Learner, images: Images, key: Key) -> Images:
        """All images with friendly noise. In a model that has diverged they stay as they are: nothing of it will be used."""
        learner.model.eval()
        blocks = []
        for number, rows in enumerate(row_blocks(len(images))):
            drawn = (key / number).numpy().uniform(-INITIAL * self.zeta, INITIAL * self.zeta, size=(len(rows), *images.shape[1:]))
            start = torch.from_numpy(drawn.astype(np.float32)).to(images.device)
            parts = zip(torch.split(images[rows.start : rows.stop], BATCH), torch.split(start, BATCH), strict=True)
            blocks += [_with_noise(part, self.friendly(learner, part, first)) for part, first in parts]
        learner.model.train()
        return torch.cat(blocks).contiguous(memory_format=_memory_format(images))

    def friendly(self, learner: Learner, images: Images, start: Images) -> Images:
        """Noise within [-zeta, zeta] for these images, by a model in eval mode, from this start."""
        with torch.no_grad():
            wanted = learner.logits(images).log_softmax(1)
        noise, velocity = start, torch.zeros_like(start)
        for _ in range(self.steps):
            leaf = noise.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.objective(learner, images, leaf, wanted), [leaf])
            velocity = 0.9 * velocity + gradient
            noise = noise - self.learning_rate * (gradient + 0.9 * velocity)
        found = noise.detach().clamp(-self.zeta, self.zeta)
        return torch.where(found.isfinite(), found, 0)

    def objective(self, learner: Learner, images: Images, noise: Images, wanted: Float[Tensor, "b classes"]) -> Float[Tensor, ""]:
        """What friendly noise makes small, summed over images and divided by 128.

        Args:
            noise: of any size; what exceeds zeta does not count, and has no gradient.
            wanted: logarithms of what the model says about the images as they are.
        """
        inside = noise.clamp(-self.zeta, self.zeta)
        found = learner.logits(_with_noise(images, inside)).log_softmax(1)
        divergence = (wanted.exp() * (wanted - found)).sum()
        return (divergence - self.mu * inside.square().flatten(1).mean(1).sum()) / BATCH

    def with_fresh_noise(self, images: Images, key: Key) -> Images:
        """Images plus random noise of the kind and amplitude that were asked for, not clipped."""
        shape, generator = tuple(images.shape), key.numpy()
        if self.random == "none" or self.amplitude == 0:
            return images
        if self.random == "bernoulli":
            drawn = 2.0 * generator.integers(0, 2, size=shape, dtype=np.int8) - 1
        elif self.random == "uniform":
            drawn = generator.uniform(-1, 1, size=shape)
        else:
            drawn = generator.standard_normal(shape)
        return images + self.amplitude * torch.from_numpy(drawn.astype(np.float32)).to(images.device)

    def describe(self) -> Json:
        return {
            "friends": {
                "zeta": self.zeta,
                "mu": self.mu,
                "steps": self.steps,
                "learning_rate": self.learning_rate,
                "start": self.start,
                "random": self.random,
                "amplitude": self.amplitude,
            }
        }


def _with_noise(images: Images, noise: Images) -> Images:
    """Their sum, clipped to [0, 1], or where an image lies outside already, no farther outside."""
    inside = images.clamp(0, 1)
    return (inside + noise).clamp(0, 1) + (images - inside)


def _memory_format(images: Images) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
