"""What names stand for that depend on the images."""

from pathlib import Path

import pytest
import torch

from certidote.data.tiny import tiny
from certidote.data.write import write_folder
from certidote.streams import Key
from certidote.types import ImageDataset
from certidote.verbs.choices import denoiser_named, recipe_named


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


def test_trusted_images_whose_folder_ends_as_steps_do_are_these_images(tmp_path: Path) -> None:
    """The one assumption of a certificate is about them: no other folder is taken for theirs without a word."""
    data, folders = of_shape(1, 8, 8), (tmp_path / "photos", tmp_path / "photos@2")
    for seed, folder in enumerate(folders):
        write_folder(tiny(5, 2, (1, 8, 8), Key(seed)), folder)
    plain, other = (denoiser_named(f"linear-mmse:{folder}", data, "float32").card for folder in folders)
    several, of_other = (denoiser_named(f"linear-mmse:{folder}@3", data, "float32").card for folder in folders)
    assert (plain.kind, other.kind, several.kind, of_other.kind) == ("linear-mmse", "linear-mmse", "multistep", "multistep")
    assert plain.digest != other.digest
    assert (several.details["of"], of_other.details["of"]) == (plain.digest, other.digest)
    with pytest.raises(ValueError, match="'tiny-imagenet-32@3' is for 3x32x32 images, but the data has 1x8x8"):
        denoiser_named("tiny-imagenet-32@3", data, "float32")
