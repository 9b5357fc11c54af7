"""Muon: momentum whose steps, for the filters of a convolution, are made orthogonal: every direction moves equally far.

Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks", with its Newton-Schulz coefficients. Differs
from it: float32 throughout, because the matrices here are small and bits must be repeatable; of a matrix X with long rows, the factors are
worked out from X X^T, whose polynomials commute, and multiplied with X once: half the arithmetic.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from certidote.steps import move

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that pulls singular values into about 0.7 to 1.2."""

LONG = 2
"""Rows so many times longer than columns are long enough for that."""


def orthogonalized(matrix: Float[Tensor, "m n"], iterations: int) -> Float[Tensor, "m n"]:
    """About U V^T of a matrix U S V^T: its singular values, divided by their root of sum of squares, pulled towards 1.

    Args:
        iterations: Newton-Schulz steps, >= 1; singular values of about 0.004 of the largest need 5 to reach 0.7, of 0.05 need 3.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    if x.shape[1] < LONG * x.shape[0]:
        for _ in range(iterations):
            x = _factor(x @ x.T) @ x
        return x.T if tall else x
    gram = x @ x.T
    factor = whole = _factor(gram)
    for _ in range(iterations - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        whole = factor @ whole
    x = whole @ x
    return x.T if tall else x


def _factor(gram: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """What one step multiplies X with: a I + b G + c G^2, for G = X X^T."""
    a, b, c = COEFFICIENTS
    found = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    found.diagonal().add_(a)
    return found


class Muon:
    """Steps of spectral size about `rate` on filters, which it changes in place; Nesterov's momentum.

    A bank with more outputs than other values gets steps larger by the root of their ratio, as in the source.

    Args:
        filters: (outputs, inputs, ...), each seen as a matrix (outputs, all else); for transposed convolutions inputs come first.
        momentum: in [0, 1).
        iterations: of `orthogonalized`.
        fixed_norm: before each step, bring every filter bank to the norm of a matrix with orthonormal rows: for layers whose output is normalized, so
            that the size of filters does not matter, only the ratio of a step to it.
    """

    def __init__(self, filters: Sequence[Tensor], momentum: float, iterations: int, fixed_norm: bool) -> None:
        self.filters = list(filters)
        self.momentum, self.iterations, self.fixed_norm = momentum, iterations, fixed_norm
        self.velocity = [torch.zeros_like(each) for each in self.filters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float | Tensor) -> None:
        """One step against these gradients, given in the order of the filters; overwrites the gradients. `rate` as in `steps.move`."""
        for weight, gradient, velocity in zip(self.filters, gradients, self.velocity, strict=True):
            velocity.mul_(self.momentum).add_(gradient)
            matrix = gradient.add_(velocity, alpha=self.momentum).flatten(1)
            scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            if self.fixed_norm:
                weight.mul_(len(weight) ** 0.5 / weight.norm().clamp_min(1e-7))
            move(weight, orthogonalized(matrix, self.iterations).view(weight.shape), rate, -scale)
