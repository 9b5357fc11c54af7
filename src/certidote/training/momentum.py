"""SGD with momentum without `torch.optim`, whose first use imports a compiler: seconds of start-up for three lines."""

from collections.abc import Sequence

import torch
from torch import Tensor

from certidote.steps import move


class Momentum:
    """The update of `torch.optim.SGD` (no dampening) on tensors that it changes in place.

    Element by element, so that independent members laid out in one tensor stay independent.
    """

    def __init__(self, parameters: Sequence[Tensor], *, momentum: float, weight_decay: float, nesterov: bool) -> None:
        self.parameters = list(parameters)
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        self.velocity = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float | Tensor) -> None:
        """One step of size `rate` against these gradients, given in the order of the parameters; overwrites the gradients.

        Args:
            rate: as in `steps.move`.
        """
        momentum, decay = self.momentum, self.weight_decay
        for parameter, gradient, velocity in zip(self.parameters, gradients, self.velocity, strict=True):
            if decay:
                gradient.add_(parameter, alpha=decay)
            velocity.mul_(momentum).add_(gradient)
            if self.nesterov:
                move(parameter, gradient.add_(velocity, alpha=momentum), rate)
            else:
                move(parameter, velocity, rate)
