"""What names stand for that depend on the images."""

import pytest
import torch

from certidote.types import ImageDataset
from certidote.verbs.choices import recipe_named


def of_shape(*shape: int) -> ImageDataset:
    return ImageDataset(torch.zeros(2, *shape, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))


@pytest.mark.parametrize(
    ("shape", "model", "architecture"),
    [
        ((1, 8, 8), "", "mlp-128"),
        ((1, 28, 28), "", "cnn-32-64"),  # letters and digits must not be mirrored
        ((3, 9, 9), "", "mlp-128"),
        ((3, 15, 40), "", "cnn-32-64"),
        ((3, 16, 16), "", "compact"),
        ((3, 32, 32), "", "compact"),
        ((3, 32, 32), "ownmodels:small", "ownmodels:small"),
    ],
)
def test_the_automatic_recipe_goes_by_the_images(shape: tuple[int, ...], model: str, architecture: str) -> None:
    recipe = recipe_named("auto", of_shape(*shape), model)
    assert recipe.architecture == architecture
    assert recipe.flip == (architecture == "compact")  # an architecture of the user's own gets the plain training
    assert recipe_named("cnn", of_shape(*shape)).architecture == "cnn-32-64"
