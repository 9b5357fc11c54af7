"""Extractors that transfer learning starts from: pre-trained on images that no attacker touched, and kept with a pack as safetensors.

In a white-box trial the victims' extractor is the attacker's own, weights included, so it travels with the poisons.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from certidote.numerics import DType
from certidote.scenarios.shelf import State
from certidote.streams import Key
from certidote.training.extractor import ConvExtractor, pretrain, weights_digest
from certidote.training.model_dir import filled, state_of
from certidote.training.models import ARCHITECTURES
from certidote.training.pooled import PooledTrainer, trainer_for
from certidote.training.recipe import Recipe
from certidote.training.warm import WarmStart
from certidote.types import FeatureExtractor, ImageDataset, Images, Json, Lineage, View

CONV = "conv-16-32-32"
"""`ConvExtractor`, for images of few pixels; other extractors are architectures of recipes."""


class TrainedExtractor(nn.Module):
    """A classifier of the catalogue, trained and frozen, with a name for its weights."""

    def __init__(self, model: nn.Module, architecture: str) -> None:
        super().__init__()
        self.model, self.architecture = model, architecture
        self.eval().requires_grad_(False)

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        features = self.model.penultimate  # of every `Classifier`
        assert callable(features)
        return features(images)

    def forward(self, images: Images) -> Float[Tensor, "n classes"]:
        return self.model(images)

    def digest(self) -> str:
        """SHA-256 over all weights, 64 hex digits."""
        return weights_digest(self.model)


Extractor = ConvExtractor | TrainedExtractor


class Headed(nn.Module):
    """A frozen extractor with a head for other classes than its own: what an attacker of transfer learning takes for the victim."""

    def __init__(self, extractor: Extractor, weight: Float[Tensor, "classes d"], bias: Float[Tensor, "classes"]) -> None:
        super().__init__()
        self.extractor = extractor
        self.head = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        self.head.load_state_dict({"weight": weight, "bias": bias}, assign=True)
        self.eval().requires_grad_(False)

    def penultimate(self, images: Images) -> Float[Tensor, "n d"]:
        return self.extractor.penultimate(images)

    def forward(self, images: Images) -> Float[Tensor, "n classes"]:
        return self.head(self.penultimate(images))


class ExtractorCard(BaseModel):
    """What a kept extractor is: enough to build it before its weights are read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    architecture: str
    image_shape: tuple[int, int, int] = Field(strict=False)
    num_classes: int = Field(ge=2, le=1_000)
    digest: str


def pretrained(
    data: ImageDataset,
    key: Key,
    recipe: Recipe | None = None,
    device: str = "cpu",
    dtype: DType = "float32",
    shelved: Callable[[Callable[[], State]], State] = lambda train: train(),
) -> Extractor:
    """An extractor fitted to trusted images, on the CPU.

    Args:
        data: no attacker must have touched them.
        key: decides initial weights and order.
        recipe: of an architecture in the catalogue; None for the small one for images of few pixels.
        device: where it is trained.
        dtype: of training by a recipe; features are float32 in any case, as the small extractor's training is.
        shelved: what trains it -> its weights, which may have been there already; the small extractor's never are.
    Raises: ValueError if training diverges, or the images do not fit the architecture.
    """
    if recipe is None:
        return pretrain(data, key)
    if recipe.architecture not in ARCHITECTURES:
        raise ValueError(f"extractors have an architecture of the catalogue, not {recipe.architecture!r}; choose another recipe")

    def trained() -> State:
        view = View(data.pixels().to(device), data.labels.to(device), data.num_classes, Lineage(start="trusted"))
        stack = trainer_for(recipe, dtype).fit([view], [key], key / "common")
        if bool(stack.failed[0]):
            raise ValueError(
                "pre-training diverged (weights are not finite); lower the learning rate in a recipe file and try again"
            )
        model = stack.member(0)
        assert isinstance(model, nn.Module)
        return state_of(model)

    # As it will be read again: how weights lie in memory decides how convolutions round.
    again = load(save(shelved(trained)))
    return TrainedExtractor(filled(recipe.architecture, data.image_shape, data.num_classes, again), recipe.architecture)


def card_of(extractor: Extractor, image_shape: tuple[int, int, int]) -> Json:
    """What `kept` needs beside the weights."""
    head = extractor.head if isinstance(extractor, ConvExtractor) else extractor.model.head
    assert isinstance(head, nn.Linear)
    architecture = CONV if isinstance(extractor, ConvExtractor) else extractor.architecture
    card = ExtractorCard(
        architecture=architecture, image_shape=image_shape, num_classes=head.out_features, digest=extractor.digest()
    )
    return card.model_dump(mode="json")


def weights_of(extractor: Extractor) -> bytes:
    """The weights as a safetensors archive."""
    return save(state_of(extractor if isinstance(extractor, ConvExtractor) else extractor.model))


def kept(card: Any, content: bytes, where: str) -> Extractor:
    """The extractor that was kept, in eval mode.

    Args:
        card: from `card_of`, as it was read.
        content: from `weights_of`.
        where: what messages call the place.
    Raises: ValueError, in one line, if card or weights are damaged or do not belong together.
    """
    try:
        given = ExtractorCard.model_validate(card)
        state = load(content)
        if given.architecture == CONV:
            extractor: Extractor = _filled_conv(given, state)
        elif given.architecture in ARCHITECTURES:
            model = filled(given.architecture, given.image_shape, given.num_classes, state)
            extractor = TrainedExtractor(model, given.architecture)
        else:
            raise ValueError(f"architecture {given.architecture!r} is none of the catalogue")
        if extractor.digest() != given.digest:
            raise ValueError("its weights have another digest than is on record")
    except (ValidationError, SafetensorError, ValueError, RuntimeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise ValueError(f"the extractor of {where} is damaged: {reason}") from None
    return extractor


def _filled_conv(card: ExtractorCard, state: dict[str, Tensor]) -> ConvExtractor:
    with torch.device("meta"):
        model = ConvExtractor(card.image_shape, card.num_classes, 0.0, 1.0)
    expected = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    if {name: (tuple(value.shape), value.dtype) for name, value in state.items()} != expected:
        raise ValueError(f"its weights are not those of {CONV!r} for images of {card.image_shape} and {card.num_classes} classes")
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def end_to_end(extractor: Extractor, recipe: Recipe, dtype: DType = "float32") -> PooledTrainer:
    """Victims that start from an extractor and learn with all their weights. A head for as many classes is kept, another is fresh.

    Args:
        recipe: of the extractor's architecture; mostly with a smaller step than it was trained with.
    Raises: ValueError if the architecture is another, or the small extractor's, which no recipe has.
    """
    has = CONV if isinstance(extractor, ConvExtractor) else extractor.architecture
    if isinstance(extractor, ConvExtractor) or has != recipe.architecture:
        raise ValueError(
            f"victims that start from an extractor have its architecture, {has!r}, and the recipe has {recipe.architecture!r}; give a "
            "recipe of that one, or poisons crafted on an extractor of a recipe"
        )
    return PooledTrainer(recipe, dtype, warm=WarmStart(state_of(extractor.model), "trusted"))


def check_features(extractor: FeatureExtractor, image: Images) -> None:
    """Raises: ValueError if the extractor cannot take images of this shape; `image` is one of them, (1, c, h, w)."""
    try:
        with torch.no_grad():
            extractor.penultimate(image)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"the extractor does not take images of shape {tuple(image.shape[1:])} ({reason}); pre-train it on images of that shape"
        ) from None
