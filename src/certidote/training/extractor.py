"""A small convolutional network whose penultimate features transfer, and its pre-training on trusted images.

Normalization is inside the model, so that every distance outside it (epsilon, sigma, radii) is in [0, 1] pixel units.
"""

import hashlib
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from certidote.adam import Adam
from certidote.streams import Key, torch_seeded
from certidote.types import FeatureExtractor, ImageDataset, Images


@runtime_checkable
class FrozenExtractor(FeatureExtractor, Protocol):
    """A feature extractor with a name for its weights, so that what was built on it can say what it was built on."""

    def digest(self) -> str: ...


class ConvExtractor(nn.Module):
    """Three 3x3 convolutions (16, 32 at stride 2, 32) with BatchNorm and ReLU, then a linear head on their flattened output.

    For (1, 8, 8) images the penultimate features have 512 entries. No ReLU works in place: attacks differentiate through it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, mean: float, std: float) -> None:
        """
        Args:
            image_shape: (c, h, w).
            num_classes: outputs of the head.
            mean, std: of the training pixels; constants of the model from here on.
        """
        super().__init__()
        channels, height, width = image_shape
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((channels, 16, 1), (16, 32, 2), (32, 32, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(32 * ((height + 1) // 2) * ((width + 1) // 2), num_classes)

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        """What the last linear layer sees: flattened, after ReLU. Takes [0, 1] pixels."""
        return self.body((images - self.mean) / self.std)

    def forward(self, images: Images) -> Float[Tensor, "n classes"]:
        return self.head(self.penultimate(images))

    def digest(self) -> str:
        return weights_digest(self)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all parameters and buffers, 64 hex digits."""
    h = hashlib.sha256()
    for name, value in model.state_dict().items():
        h.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        h.update(value.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


def pretrain(data: ImageDataset, key: Key, *, epochs: int = 12, batch_size: int = 64, learning_rate: float = 2e-3) -> ConvExtractor:
    """A `ConvExtractor` fitted to `data` by Adam under cross-entropy, in eval mode.

    The same key gives the same bits on a CPU with a fixed number of threads. The last, short batch of an epoch is left out: the
    statistics of a BatchNorm batch of one or two images are noise. An epoch has a new order, so no image is left out for good.

    Args:
        data: trusted images; the attacker must not have touched them, or "trusted" weights are not.
        key: decides initial weights and order of the images.
        epochs, batch_size, learning_rate: of Adam, which decays to a tenth for the last third of the epochs.
    Raises: ValueError if all pixels are equal.
    """
    pixels = data.pixels()
    mean, std = float(pixels.mean()), float(pixels.std())
    if not std > 0:
        raise ValueError("all pixels of the pre-training images are equal; there is nothing to learn features from")
    with torch_seeded(key / "init"):
        model = ConvExtractor(data.image_shape, data.num_classes, mean, std)
    parameters = list(model.parameters())
    optimizer = Adam(parameters)
    batch_size = min(batch_size, len(data))
    for epoch in range(epochs):
        rate = learning_rate * (0.1 if epoch >= 2 * epochs / 3 else 1.0)
        order = torch.from_numpy((key / "order" / epoch).numpy().permutation(len(data)))
        for rows in torch.split(order[: len(data) - len(data) % batch_size], batch_size):
            loss = nn.functional.cross_entropy(model(pixels[rows]), data.labels[rows])
            optimizer.step(torch.autograd.grad(loss, parameters), rate)
    return model.eval().requires_grad_(False)
