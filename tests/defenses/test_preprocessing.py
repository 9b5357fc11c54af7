"""Plain preprocessing against the libraries that do the same, and what holds for all of it."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from certidote.data.digits import load_digits
from certidote.data.tiny import tiny
from certidote.defenses.preprocessing import PREPROCESSING, blur, fewer_bits, jpeg, preprocessed, total_variation
from certidote.streams import Key
from certidote.types import Untrusted

COLOR = tiny(4, 3, (3, 16, 12), Key(0)).pixels()


def energy(images: np.ndarray, given: np.ndarray, weight: float) -> float:
    """What total variation makes small, by loops over the pixels of one channel."""
    height, width = images.shape
    total = 0.0
    for y in range(height):
        for x in range(width):
            down = images[y + 1, x] - images[y, x] if y + 1 < height else 0.0
            right = images[y, x + 1] - images[y, x] if x + 1 < width else 0.0
            total += weight * float(np.hypot(down, right)) + 0.5 * float(images[y, x] - given[y, x]) ** 2
    return total


@pytest.mark.parametrize("images", [COLOR, load_digits("test").pixels()[:5]], ids=["color", "gray"])
def test_jpeg_is_pillows(images: torch.Tensor) -> None:
    found = jpeg(images, 40)
    for before, after in zip(images, found, strict=True):
        levels = (before * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=40)
        expected = np.asarray(Image.open(file)).reshape(levels.shape)
        assert np.array_equal((after * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(), expected)
    finer = jpeg(images, 95)
    assert float((finer - images).square().mean()) < float((found - images).square().mean())
    with pytest.raises(ValueError, match="quality=0; give a JPEG quality from 1 to 95"):
        jpeg(images, 0)
    with pytest.raises(ValueError, match="images of 2 channels; JPEG takes grayscale or RGB"):
        jpeg(COLOR[:, :2])


@pytest.mark.parametrize("std", [0.5, 1.0, 5.0])
def test_blur_is_scipys(std: float) -> None:
    expected = gaussian_filter(COLOR.numpy(), (0, 0, std, std))
    torch.testing.assert_close(blur(COLOR, std), torch.from_numpy(expected), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="std=0; give a width above 0"):
        blur(COLOR, 0.0)


def test_fewer_bits_are_the_nearest_levels() -> None:
    levels = torch.arange(8) / 7
    nearest = (COLOR.unsqueeze(-1) - levels).abs().argmin(-1)
    torch.testing.assert_close(fewer_bits(COLOR, 3), levels[nearest])
    assert torch.equal(fewer_bits(COLOR, 1), (COLOR > 0.5).float())
    for bits in (0, 8):
        with pytest.raises(ValueError, match=f"bits={bits}; give 1 to 7 bits"):
            fewer_bits(COLOR, bits)


def test_total_variation_of_two_halves_has_a_closed_form() -> None:
    """Levels 0.2 and 0.8, h rows of w pixels: either half moves by weight / (w / 2) towards the other; a mean is kept."""
    image = torch.full((1, 1, 6, 10), 0.2)
    image[..., 5:] = 0.8
    expected = image + torch.where(image < 0.5, 1.0, -1.0) * 0.25 / 5
    torch.testing.assert_close(total_variation(image, 0.25, 4_000), expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(total_variation(image, 20.0, 4_000), torch.full_like(image, 0.5), rtol=0, atol=1e-3)


def test_total_variation_cannot_be_improved_on() -> None:
    given = COLOR[:1, :1].double()
    found = total_variation(given, 0.1, 3_000)[0, 0].numpy()
    least, generator = energy(found, given[0, 0].numpy(), 0.1), Key(1).numpy()
    assert least < 0.9 * energy(given[0, 0].numpy(), given[0, 0].numpy(), 0.1)
    for _ in range(40):
        other = found + 0.01 * generator.normal(size=found.shape)
        assert energy(other, given[0, 0].numpy(), 0.1) > least - 1e-6
    with pytest.raises(ValueError, match="weight=0, steps=100; give a weight above 0"):
        total_variation(COLOR, 0.0)


@pytest.mark.parametrize("name", PREPROCESSING)
def test_all_of_it_treats_images_one_by_one_and_test_images_alike(name: str) -> None:
    data, scheme = load_digits("test"), preprocessed(name)
    digest, untrusted = data.digest(), Untrusted(data.subset(range(1_100)) if len(data) > 1_100 else data)
    view = scheme.view(untrusted, 0, Key(0))
    assert data.digest() == digest
    pixels = data.pixels()[: len(untrusted)]
    assert view.images.shape == pixels.shape
    assert not torch.equal(view.images, pixels)
    torch.testing.assert_close(scheme.inputs(pixels[7:9], range(2), Key(5)), view.images[7:9], rtol=0, atol=1e-6)
    assert untrusted.reads.unsealed
    assert float(view.images.min()) >= -1e-6
    assert float(view.images.max()) <= 1 + 1e-6
    again = pickle.loads(pickle.dumps(scheme))
    assert torch.equal(again.view(untrusted, 1, Key(3)).images, view.images)
    assert scheme.describe() == {"scheme": name, "members": 1, **PREPROCESSING[name][1]}


def test_options_replace_the_usual_ones() -> None:
    scheme = preprocessed("jpeg", 3, quality=90)
    assert scheme.describe() == {"scheme": "jpeg", "members": 3, "quality": 90}
    assert torch.equal(scheme.inputs(COLOR, range(12), Key(0)), jpeg(COLOR, 90))
