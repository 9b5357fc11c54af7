"""How a member learns, as one value: architecture, length of training and the numbers of its optimizer.

A `Recipe` goes into the configuration digest of a run. It must not be chosen by results on the data under attack; the catalogue
was chosen on the digits, their test images included (so accuracies measured there are slightly optimistic).
"""

import difflib
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from certidote.data.toml import read_toml
from certidote.training.models import ARCHITECTURES
from certidote.training.own import is_own
from certidote.types import Json


class Recipe(BaseModel):
    """Training by momentum SGD (and Muon) under cross-entropy, with a linear warm-up and a linear decay to 0, or drops by ten. Hashable.

    Attributes:
        architecture: a name in `models.ARCHITECTURES`, or "package.module:factory" (see `own`), which nothing here imports.
        epochs: passes over the training images, >= 1.
        batch_size: most images of one step, >= 1; smaller data sets are one batch.
        learning_rate: the peak, > 0.
        muon: peak rate of Muon on the filters of convolutions, >= 0, with the schedule and momentum of the others; 0 leaves them to SGD.
            For architectures that normalize after every convolution: it keeps the norm of filters.
        momentum: in [0, 1).
        nesterov: step ahead of the momentum; needs momentum > 0. Muon always does.
        weight_decay: L2 penalty on all parameters that SGD trains, in [0, 1).
        warm_up: fraction of the steps in which the learning rate rises, in [0, 1).
        drops: epochs from which on the learning rate is a tenth of what it was, ascending, each in 1..epochs - 1; between them it
            stays. None given: it decays linearly.
        label_smoothing: share of the label spread evenly over all classes, in [0, 1).
        crop: pixels by which an image may be shifted in each epoch, down or up and sideways, 0 to 32; must be below its side.
        subpixel: shift by any fraction of a pixel too, interpolated bilinearly, and not by whole pixels only; needs crop > 0.
        flip: mirror images left to right, each with chance 1/2 in each epoch.
    Raises: ValueError (pydantic's) for an unknown field or a number out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    architecture: str
    epochs: int
    batch_size: int = 100
    learning_rate: float
    muon: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    warm_up: float = 0.1
    drops: tuple[int, ...] = Field(default=(), strict=False)
    label_smoothing: float = 0.0
    crop: int = 0
    subpixel: bool = False
    flip: bool = False

    @property
    def augments(self) -> bool:
        """Whether images change from epoch to epoch."""
        return self.crop > 0 or self.flip

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else ():
            if name not in cls.model_fields:
                nearest = difflib.get_close_matches(str(name), cls.model_fields, n=1, cutoff=0.0)[0]
                raise ValueError(f"unknown recipe key {name!r}; did you mean {nearest!r}? Keys are: {', '.join(cls.model_fields)}")
        return value

    @model_validator(mode="after")
    def _ranges(self) -> "Recipe":
        if self.architecture not in ARCHITECTURES and not is_own(self.architecture):
            raise ValueError(f"unknown architecture {self.architecture!r}; choose one of: {', '.join(sorted(ARCHITECTURES))}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give a whole number of at least 1")
        if not self.muon >= 0:
            raise ValueError(f"muon={self.muon}; give a rate of at least 0; 0 trains all weights by SGD")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}; give a number above 0")
        for name in ("momentum", "weight_decay", "warm_up", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; give a number of at least 0 and below 1")
        if not 0 <= self.crop <= 32:
            raise ValueError(f"crop={self.crop}; give a whole number of pixels from 0 to 32")
        if self.subpixel and self.crop == 0:
            raise ValueError(
                "subpixel=True shifts by fractions of a pixel, up to crop, but crop=0; raise crop or leave subpixel out"
            )
        if list(self.drops) != sorted({epoch for epoch in self.drops if 0 < epoch < self.epochs}):
            raise ValueError(f"drops={list(self.drops)}; give ascending epochs between 1 and {self.epochs - 1}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True steps ahead of the momentum, but momentum=0; raise momentum or set nesterov=False")
        return self

    def to_json(self) -> Json:
        return self.model_dump(mode="json")

    @staticmethod
    def from_json(value: Json) -> "Recipe":
        """Raises: ValueError, in one line, naming the first key that is wrong."""
        try:
            return Recipe.model_validate(value)
        except ValidationError as error:
            raise ValueError(_first_line(error)) from None


def check_fits(recipe: Recipe, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Whether images of this shape can be trained on, without training: an architecture of ours is built without memory.

    Args:
        image_shape: (c, h, w).
    Raises: ValueError, in one line, if the crop or the architecture needs larger images.
    """
    height, width = image_shape[1:]
    if recipe.crop >= min(height, width):
        raise ValueError(
            f"crop={recipe.crop} pixels on images of {height}x{width}; give a recipe whose crop is below the image's side, or larger "
            "images with --size"
        )
    if is_own(recipe.architecture):  # `own.check_model` builds and runs it
        return
    try:
        with torch.device("meta"), torch.no_grad():
            ARCHITECTURES[recipe.architecture](image_shape, num_classes)(torch.empty(2, *image_shape))
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"architecture {recipe.architecture!r} does not fit: {reason}") from error


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    if "error" in first.get("ctx", {}):
        return str(first["ctx"]["error"])
    name = ".".join(str(part) for part in first["loc"]) or "recipe"
    if first["type"] == "missing":
        return f"recipe key {name!r} is missing"
    return f"{name}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


RECIPES: dict[str, Recipe] = {
    "mlp": Recipe(architecture="mlp-128", epochs=16, learning_rate=0.3),
    "cnn": Recipe(architecture="cnn-32-64", epochs=16, learning_rate=0.1),
    "compact": Recipe(
        architecture="compact", epochs=8, batch_size=125, learning_rate=0.1, muon=0.05, momentum=0.85, weight_decay=1e-4,
        label_smoothing=0.1, crop=2, flip=True,
    ),
    "compact-wide": Recipe(
        architecture="compact-wide", epochs=8, batch_size=125, learning_rate=0.1, muon=0.05, momentum=0.85, weight_decay=1e-4,
        label_smoothing=0.1, crop=2, flip=True,
    ),
    "airbench": Recipe(
        architecture="airbench", epochs=8, batch_size=2000, learning_rate=0.67, muon=0.24, momentum=0.6, weight_decay=1e-4, warm_up=0.0,
        label_smoothing=0.2, crop=2, flip=True,
    ),
    "conservative": Recipe(
        architecture="resnet-18", epochs=40, batch_size=128, learning_rate=0.1, weight_decay=5e-4, warm_up=0.0, drops=(14, 24, 35),
        crop=4, subpixel=True, flip=True,
    ),
    "benchmark": Recipe(
        architecture="resnet-18", epochs=200, batch_size=128, learning_rate=0.1, nesterov=False, weight_decay=2e-4, warm_up=0.0,
        drops=(100, 150), crop=4, flip=True,
    ),
}  # fmt: skip
"""The first two are tuned for a few hundred to some thousands of small images, "compact" and "compact-wide" on photographs of 32x32 pixels
with two processor cores (on training images held out), "airbench" has the numbers of its source and wants a GPU. "conservative" is how victims of Witches' Brew are trained
(Geiping et al. 2021), shifts by fractions of a pixel included, "benchmark" how those of the poisoning benchmark are from scratch (Schwarzschild et al. 2021): photographs of
32x32 pixels, on a GPU. Differs from these: shifted images are filled by reflection, not with one color."""


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe of the catalogue, or one read from a TOML file.

    Args:
        name_or_path: a key of `RECIPES`, or a path that ends in .toml to a file with the fields of `Recipe` as top-level keys.
    Raises: ValueError if it is neither, or the file cannot be read or does not hold a recipe.
    """
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".toml":
        names = ", ".join(sorted(RECIPES))
        raise ValueError(f"unknown recipe {name_or_path!r}; choose one of: {names}, or give a path to a .toml file")
    value = read_toml(path, "recipe")
    try:
        return Recipe.from_json(value)
    except ValueError as error:
        raise ValueError(f"recipe {name_or_path!r}: {error}") from None
