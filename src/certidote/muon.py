"""Muon: momentum whose steps, for the filters of a convolution, are made orthogonal: every direction moves equally far.

Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks", with its Newton-Schulz coefficients. Differs
from it: float32 throughout, because the matrices here are small and bits must be repeatable.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that pulls singular values into about 0.7 to 1.2."""


def orthogonalized(matrix: Float[Tensor, "m n"], iterations: int) -> Float[Tensor, "m n"]:
    """About U V^T of a matrix U S V^T: its singular values, divided by their root of sum of squares, pulled towards 1.

    Args:
        iterations: Newton-Schulz steps, >= 1; singular values of about 0.004 of the largest need 5 to reach 0.7, of 0.05 need 3.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon:
    """Steps of spectral size about `rate` on filters, which it changes in place; Nesterov's momentum.

    Args:
        filters: (outputs, inputs, ...), each seen as a matrix (outputs, all else).
        momentum: in [0, 1).
        iterations: of `orthogonalized`.
        fixed_norm: keep every filter bank at the norm of a matrix with orthonormal rows: for layers whose output is normalized, so
            that the size of filters does not matter, only the ratio of a step to it.
    """

    def __init__(self, filters: Sequence[Tensor], momentum: float, iterations: int, fixed_norm: bool) -> None:
        self.filters = list(filters)
        self.momentum, self.iterations, self.fixed_norm = momentum, iterations, fixed_norm
        self.velocity = [torch.zeros_like(each) for each in self.filters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """One step against these gradients, given in the order of the filters; overwrites the gradients."""
        for weight, gradient, velocity in zip(self.filters, gradients, self.velocity, strict=True):
            velocity.mul_(self.momentum).add_(gradient)
            matrix = gradient.add_(velocity, alpha=self.momentum).flatten(1)
            scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            if self.fixed_norm:
                weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.add_(orthogonalized(matrix, self.iterations).view(weight.shape), alpha=-rate * scale)
