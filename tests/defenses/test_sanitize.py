import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from certidote.data.tiny import tiny
from certidote.defenses.sanitize import sanitized, sanitized_block, stages
from certidote.streams import ROW_BLOCK, Key, normal_block, row_blocks
from certidote.types import Images, Lineage, Untrusted
from fixtures_transfer import KernelDenoiser
from oracles import IdentityDenoiser


def test_every_image_is_noised_once_and_denoised_once() -> None:
    """More than one block of rows: with a denoiser that does nothing, exactly the keyed noise remains."""
    data = tiny(ROW_BLOCK // 2 + 10, 2, (1, 8, 8), Key(0))
    made = sanitized(Untrusted(data), IdentityDenoiser(), 0.3, Key(1))
    noise = torch.cat([normal_block(Key(1), rows, data.image_shape) for rows in row_blocks(len(data))])
    torch.testing.assert_close(made.images, data.pixels() + 0.3 * noise, rtol=0, atol=1e-6)
    assert len(made.images) > ROW_BLOCK
    assert made.lineage == Lineage(sigma=0.3, draws=1, denoiser=IdentityDenoiser().card.digest)


def test_the_denoiser_is_told_the_noise_and_gets_the_noised_images() -> None:
    known = tiny(5, 3, (1, 8, 8), Key(3))
    data = tiny(4, 3, (1, 8, 8), Key(0))
    made = sanitized(Untrusted(data), KernelDenoiser(known), 0.25, Key(1))
    noisy = data.pixels() + 0.25 * normal_block(Key(1), range(len(data)), data.image_shape)
    torch.testing.assert_close(made.images, KernelDenoiser(known)(noisy, torch.full((len(data),), 0.25)), rtol=0, atol=1e-5)
    assert made.lineage.denoiser == KernelDenoiser(known).card.digest


def test_sigma_outside_the_denoiser_s_range_is_refused() -> None:
    data = tiny(4, 3, (1, 8, 8), Key(0))
    with pytest.raises(
        ValueError, match=r"sigma=3.0 is outside this denoiser's range, 0.05 to 2.0 .*change sigma or use a denoiser"
    ):
        sanitized(Untrusted(data), KernelDenoiser(data), 3.0, Key(1))


def test_pictures_cost_no_more_than_the_images_shown() -> None:
    """A gallery of a large set must not denoise blocks of it once more; what it shows is what was made."""
    data, denoised = tiny(40, 3, (1, 8, 8), Key(0)), []

    class Counting(KernelDenoiser):
        def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images:
            denoised.append(len(noisy))
            return super().__call__(noisy, sigma)

    untrusted, rows, shown = Untrusted(data, (7, 9)), range(len(data)), [30, 9, 2]
    noisy, made = stages(untrusted, rows, shown, Counting(data), 0.3, Key(1))
    assert sum(denoised) == 2, "the trusted one carries no noise"
    whole = sanitized_block(untrusted, rows, KernelDenoiser(data), 0.3, Key(1))
    torch.testing.assert_close(made, whole.images[shown], rtol=0, atol=1e-5)
    assert torch.equal(noisy, untrusted.noised(0.3, Key(1), rows).images[shown])
