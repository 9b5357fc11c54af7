import numpy as np
import pytest
import torch
from jaxtyping import config

from certidote.attacks.shifts import Shifts, shifts_for
from certidote.streams import Key
from certidote.types import ImageDataset


def some(count: int, side: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((count, channels, side, side)))


def still(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.bool)


def rolled(image: torch.Tensor, down: int, right: int, fill: float) -> torch.Tensor:
    """The image on a canvas of the fill color, moved by whole pixels."""
    size = image.shape[-1]
    canvas = torch.full((image.shape[0], 3 * size, 3 * size), fill, dtype=image.dtype)
    canvas[:, size + down : 2 * size + down, size + right : 2 * size + right] = image
    return canvas[:, size : 2 * size, size : 2 * size]


def test_no_shift_is_the_identity() -> None:
    images = some(4)
    for border in ("fill", "reflection"):
        shifts = Shifts(reach=0.0, flip=False, border=border, fill=(0.5,))
        torch.testing.assert_close(shifts(images, Key(0)), images, rtol=0, atol=1e-12)


def test_whole_pixels_are_a_roll_that_uncovers_the_fill_color() -> None:
    image = some(1)
    for down, right in ((0, 0), (1, 0), (0, -2), (3, 2), (-4, 4)):
        offsets = torch.tensor([[down / 8, right / 8]], dtype=torch.float64)
        for fill in (0.0, 0.5):
            moved = Shifts(fill=(fill,)).moved(image, offsets, still(1))[0]
            torch.testing.assert_close(moved, rolled(image[0], down, right, fill), rtol=0, atol=1e-12)


def test_half_a_pixel_is_the_mean_of_two() -> None:
    image = some(1)
    moved = Shifts(fill=(0.0,)).moved(image, torch.tensor([[0.0, 0.5 / 8]], dtype=torch.float64), still(1))[0]
    expected = (rolled(image[0], 0, 0, 0.0) + rolled(image[0], 0, 1, 0.0)) / 2
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_each_channel_has_its_fill_color() -> None:
    moved = Shifts(fill=(0.1, 0.2, 0.3)).moved(some(1), torch.tensor([[0.5, 0.0]]), still(1))[0]
    torch.testing.assert_close(moved[:, :4].mean((1, 2)), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))


def test_reflection_is_that_of_training() -> None:
    """As numpy pads in its mode "reflect": the border is not repeated."""
    image = some(1)
    padded = np.pad(image[0].numpy(), ((0, 0), (3, 3), (3, 3)), mode="reflect")
    for down, right in ((0, 0), (2, -3), (-1, 1)):
        moved = Shifts(border="reflection").moved(image, torch.tensor([[down / 8, right / 8]], dtype=torch.float64), still(1))
        expected = padded[:, 3 - down : 11 - down, 3 - right : 11 - right]
        torch.testing.assert_close(moved[0], torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_mirrored_images_are_flipped_and_then_shifted() -> None:
    images = some(2)
    offsets = torch.tensor([[0.25, 0.125], [0.25, 0.125]], dtype=torch.float64)
    moved = Shifts(fill=(0.0,)).moved(images, offsets, torch.tensor([True, False]))
    torch.testing.assert_close(moved[0], rolled(images[0].flip(2), 2, 1, 0.0), rtol=0, atol=1e-12)
    torch.testing.assert_close(moved[1], rolled(images[1], 2, 1, 0.0), rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    images = some(2, side=5, channels=2).requires_grad_()
    for border in ("fill", "reflection"):
        assert torch.autograd.gradcheck(lambda x, b=border: Shifts(border=b, fill=(0.5,))(x, Key(3)), [images])


def test_shifts_reach_four_pixels_of_32_and_are_uniform() -> None:
    """Measured on images, by where a bright bar's center of mass goes: +-4 pixels, of 32. Twice that is the original's parameter 8."""
    count = 2_000
    bar = torch.zeros(count, 1, 32, 32, dtype=torch.float64)
    bar[:, :, 15:17, 15:17] = 1
    moved = Shifts(flip=False, fill=(0.0,))(bar, Key(0)).squeeze(1)
    places = torch.arange(32, dtype=torch.float64)
    for axis in (1, 2):
        center = (moved.sum(axis) * places).sum(1) / moved.sum((1, 2)) - 15.5
        assert 3.95 < float(center.max()) <= 4 + 1e-6
        assert -4 - 1e-6 <= float(center.min()) < -3.95
        ranks = (center / 8 + 0.5).sort().values
        uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        assert float((ranks - uniform).abs().max()) < (0.5 * np.log(2 / 1e-6) / count) ** 0.5 + 0.001  # false alarms 1e-6 (DKW)


def test_the_key_decides_and_half_of_the_images_are_mirrored() -> None:
    shifts = Shifts(fill=(0.5,))
    images = some(3)
    assert torch.equal(shifts(images, Key(0)), shifts(images, Key(0)))
    assert not torch.equal(shifts(images, Key(0)), shifts(images, Key(1)))
    assert 4_750 < int(shifts.drawn(10_000, Key(0))[1].sum()) < 5_250  # 5 standard deviations
    assert not Shifts(flip=False).drawn(100, Key(0))[1].any()


def test_attacks_fill_with_the_mean_color_of_their_training_set() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[0, 0], images[:, 1] = 255, 51
    data = ImageDataset(images, torch.tensor([0, 1]), ("a", "b"))
    shifts = shifts_for(data, 0.25, False, "fill")
    assert shifts is not None
    assert (shifts.reach, shifts.flip, shifts.border) == (0.25, False, "fill")
    assert shifts.fill == pytest.approx((0.5, 0.2, 0.0))
    assert shifts_for(data, 0.0, False, "reflection") is None
    assert shifts_for(data, 0.0, True, "reflection") is not None


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reach=4.0 is the largest shift as a fraction of the image's side; give one from 0 to 1"):
        Shifts(reach=4.0)
    with pytest.raises(ValueError, match="2 fill colors for images of 3 channels; give one, or one for each channel"):
        Shifts(fill=(0.1, 0.2))(some(1), Key(0))


def test_unknown_borders_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # whoever uses the library has no checks of types
    with pytest.raises(ValueError, match=r"^unknown border 'reflect'; choose one of: fill, reflection$"):
        Shifts(border="reflect")
