"""Denoisers without training, as one would try them first on photographs: each gets noisy images and the sigma.

(n, 3, h, w) float32 in, about [0, 1], the same shape out, in [0, 1]. Gaussian blur and the median filter are given the best of several widths for
each sigma, chosen on other images; wavelets and block matching set their thresholds from sigma.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, median_filter
from torch import Tensor

BLUR_WIDTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0)
MEDIAN_SIDES = (1, 3, 5, 7)

PATCH, STEP, SIMILAR, WINDOW = 4, 1, 16, 6
"""Of block matching: side of a block, distance of reference blocks, blocks in a group, and how far away they are looked for."""

THRESHOLD = 2.7
"""Of block matching: coefficients below so many sigma become zero."""

Denoise = Callable[[Tensor, float], Tensor]


def blurred(noisy: Tensor, width: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, width, width), mode="reflect")).clamp(0, 1)


def median(noisy: Tensor, side: int) -> Tensor:
    return torch.from_numpy(median_filter(noisy.numpy(), (1, 1, side, side), mode="reflect")).clamp(0, 1)


def wavelet(noisy: Tensor, sigma: float) -> Tensor:
    """BayesShrink (Chang, Yu and Vetterli, 2000) in luma and chroma, averaged over shifts of 0 and 1 pixel along both axes."""
    from skimage.restoration import denoise_wavelet

    def one(image: np.ndarray) -> np.ndarray:
        total = np.zeros_like(image)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            moved = np.roll(image, (down, right), (0, 1))
            clean = denoise_wavelet(moved, sigma=sigma, wavelet="db2", convert2ycbcr=False, channel_axis=-1, method="BayesShrink")
            total += np.roll(clean, (-down, -right), (0, 1)) / 4
        return total

    turned = noisy.permute(0, 2, 3, 1).double().numpy() @ OPPONENT.T.numpy()
    cleaned = np.stack([one(image) for image in turned]) @ OPPONENT.numpy()
    return torch.from_numpy(cleaned).float().permute(0, 3, 1, 2).clamp(0, 1)


def _opponent() -> Tensor:
    """Orthonormal brightness and color differences, so that noise stays white with the same sigma."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


OPPONENT = _opponent()


def _cosines(size: int) -> Tensor:
    place = torch.arange(size, dtype=torch.float64) + 0.5
    basis = torch.cos(math.pi * torch.arange(size, dtype=torch.float64)[:, None] * place / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def block_matching(noisy: Tensor, sigma: float) -> Tensor:
    """Groups of similar blocks, transformed together, thresholded and then filtered: after BM3D (Dabov et al., 2007), both stages.

    Differs from it: blocks of 4x4 pixels, since images have 32; groups of 16 always; cosines along the group; no Kaiser window.
    """
    images = torch.einsum("kc,nchw->nkhw", OPPONENT, noisy.double())
    basic = torch.cat([_stage(image[None], image[None], sigma, wiener=False) for image in images])
    final = torch.cat([_stage(image[None], guess[None], sigma, wiener=True) for image, guess in zip(images, basic, strict=True)])
    return torch.einsum("kc,nkhw->nchw", OPPONENT, final).float().clamp(0, 1)


def _stage(image: Tensor, guide: Tensor, sigma: float, wiener: bool) -> Tensor:
    """One stage for one (1, 3, h, w) image: `guide` says which blocks are alike, and, in the second stage, what their energy is."""
    height, width = image.shape[2:]
    blocks, guides = (torch.nn.functional.unfold(x, PATCH).squeeze(0).T for x in (image, guide))  # (places, 3 * PATCH^2)
    rows, columns = height - PATCH + 1, width - PATCH + 1
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).view(-1, 2)
    references = (place % STEP == 0).all(1).nonzero().squeeze(1)
    luma = guides[:, : PATCH**2]
    distance = torch.cdist(luma[references], luma).square()
    far = (place[references][:, None] - place[None]).abs().amax(2) > WINDOW
    groups = distance.masked_fill(far, torch.inf).topk(SIMILAR, largest=False).indices  # (references, SIMILAR)
    axis, along = _cosines(PATCH), _cosines(SIMILAR)

    def transformed(values: Tensor, back: bool = False) -> Tensor:
        shaped = values.view(len(groups), SIMILAR, 3, PATCH, PATCH)
        a, g = (axis.T, along.T) if back else (axis, along)
        return torch.einsum("sg,ky,lx,rgcyx->rsckl", g, a, a, shaped)

    spectrum = transformed(blocks[groups])
    if wiener:
        energy = transformed(guides[groups]).square()
        gain = energy / (energy + sigma**2)
        weight = 1 / gain.square().sum((1, 3, 4)).clamp_min(1e-3)
    else:
        gain = (spectrum.abs() > THRESHOLD * sigma).double()
        weight = 1 / gain.sum((1, 3, 4)).clamp_min(1)
    cleaned = transformed(spectrum * gain, back=True) * weight[:, None, :, None, None]
    counted = weight[:, None, :, None, None].expand_as(cleaned)
    total, norm = (torch.zeros_like(blocks) for _ in range(2))
    for values, into in ((cleaned, total), (counted, norm)):
        into.index_add_(0, groups.flatten(), values.reshape(-1, 3 * PATCH**2))
    folded = [torch.nn.functional.fold(x.T[None], (height, width), PATCH) for x in (total, norm)]
    return torch.where(folded[1] > 0, folded[0] / folded[1].clamp_min(1e-12), image)


def best_of(filter_: Callable[[Tensor, float], Tensor], settings: tuple[float, ...], clean: Tensor, noisy: Tensor) -> float:
    """The setting with the least squared error on these images."""
    errors = [float((filter_(noisy, setting) - clean).square().mean()) for setting in settings]
    return settings[int(np.argmin(errors))]
