"""What members see of a test image: the image itself, a denoised one, or one that was noised and denoised.

Against changes of the training set alone, all three are valid. A certificate that also covers changes of the test image (a backdoor's
trigger) needs noise on it: one draw for each member, from the member's own stream, and the image enters in no other way.
"""

from typing import Literal, get_args

import torch

from certidote.defenses.sanitize import check_sigma
from certidote.streams import ROW_BLOCK, Key
from certidote.types import Denoiser, Images, SealedInputs

TestInput = Literal["clean", "denoised", "noised-denoised"]
TEST_INPUTS: tuple[TestInput, ...] = get_args(TestInput)


def test_input_named(name: str) -> TestInput:
    """The name, if it is one of `TEST_INPUTS`.

    Raises: ValueError otherwise.
    """
    for known in TEST_INPUTS:
        if name == known:
            return known
    raise ValueError(f"unknown test input {name!r}; choose one of: {', '.join(TEST_INPUTS)}")


def check(test_input: TestInput, sigma_x: float, denoiser: Denoiser) -> None:
    """Raises ValueError unless the choices make sense together."""
    if test_input == "noised-denoised":
        if not sigma_x > 0:
            raise ValueError(f"sigma_x={sigma_x} adds no noise to test images; give sigma_x > 0, or test input clean or denoised")
        check_sigma(sigma_x, denoiser, "sigma_x")
    elif sigma_x != 0:
        raise ValueError(
            f"sigma_x={sigma_x:g} with test input {test_input}: noise on test images needs test input noised-denoised; a certificate "
            "about the training set alone needs none (sigma_x 0)"
        )
    if test_input == "denoised" and denoiser.card.kind == "none":
        raise ValueError("test input denoised with denoiser none changes nothing; choose test input clean, or a denoiser")


def prepared(
    images: Images | SealedInputs,
    rows: range,
    denoiser: Denoiser,
    test_input: TestInput,
    sigma: float,
    sigma_x: float,
    key: Key,
    device: str,
) -> Images:
    """Test images as one member sees them.

    Args:
        images: (n, c, h, w) clean test images, `rows` of the test set; sealed where noise is added.
        rows: from a multiple of `ROW_BLOCK`.
        sigma: what the denoiser is told where no noise is added: that of the training images, so that members see test images
            smoothed as those were.
        sigma_x: noise std where noise is added.
        key: the member's stream for test noise; not used without noise.
        device: where noise is drawn and added and the denoiser runs.
    Raises: TypeError if images are sealed and no noise is added, or the other way round.
    """
    if isinstance(images, SealedInputs) != (test_input == "noised-denoised"):
        raise TypeError(f"test input {test_input} needs {'sealed' if test_input == 'noised-denoised' else 'open'} test images")
    if isinstance(images, SealedInputs):
        blocks = []
        for start in range(rows.start, rows.stop, ROW_BLOCK):
            block = range(start, min(start + ROW_BLOCK, rows.stop))
            noisy = images.noised(sigma_x, key, block, device)
            blocks.append(denoiser(noisy, torch.full((len(block),), sigma_x, dtype=torch.float32)))
        return torch.cat(blocks)
    if test_input == "clean":
        return images
    return denoiser(images.to(device), torch.full((len(images),), sigma, dtype=torch.float32))
