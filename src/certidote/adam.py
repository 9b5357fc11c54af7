"""Adam without `torch.optim`, whose first use imports a compiler: seconds of start-up for five lines of arithmetic."""

from collections.abc import Sequence

import torch
from torch import Tensor


def three_drops(step: int, steps: int) -> float:
    """What to multiply the size of a step with, counted from 0: a tenth after 3/8, 5/8 and 7/8 of all steps each.

    Source: Witches' Brew (Geiping et al., 2021), whose shares, rounded as there, decide where exactly.
    """
    return 0.1 ** sum(step >= int(steps / share) for share in (2.667, 1.6, 1.142))


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
    def step(self, gradients: Sequence[Tensor], rate: float | Sequence[float]) -> None:
        """One step of size `rate` against these gradients, given in the order of the parameters.

        Args:
            rate: for everything; or for each entry of the parameters' second dimension, the channels of images, as many as it has.
        """
        first, second = self.betas
        self.steps += 1
        state = zip(self.parameters, gradients, self.average, self.square, strict=True)
        for parameter, gradient, average, square in state:
            average.mul_(first).add_(gradient, alpha=1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            scale = (square / (1 - second**self.steps)).sqrt_().add_(self.eps)
            if isinstance(rate, Sequence):
                parts = zip(parameter.unbind(1), average.unbind(1), scale.unbind(1), rate, strict=True)
            else:
                parts = zip([parameter], [average], [scale], [rate], strict=True)
            for moved, along, by, size in parts:
                moved.addcdiv_(along, by, value=-size / (1 - first**self.steps))
