"""Adam without `torch.optim`, whose first use imports a compiler: seconds of start-up for five lines of arithmetic."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba, 2015, algorithm 1) on tensors that it updates in place.

    Element by element, so that independent problems stacked in one tensor stay independent.
    """

    def __init__(self, parameters: Sequence[Tensor], *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.parameters = list(parameters)
        self.betas = betas
        self.eps = eps
        self.steps = 0
        self.average = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.square = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """One step of size `rate` against these gradients, given in the order of the parameters."""
        first, second = self.betas
        self.steps += 1
        state = zip(self.parameters, gradients, self.average, self.square, strict=True)
        for parameter, gradient, average, square in state:
            average.mul_(first).add_(gradient, alpha=1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            scale = (square / (1 - second**self.steps)).sqrt_().add_(self.eps)
            parameter.addcdiv_(average, scale, value=-rate / (1 - first**self.steps))
