"""The optimizer that a recipe asks for."""

from collections.abc import Sequence

from torch import Tensor

from certidote.muon import Muon
from certidote.training.momentum import Momentum
from certidote.training.recipe import Recipe

ITERATIONS = 3
"""Of Muon's Newton-Schulz, as in the short trainings it comes from."""


class Optimizer:
    """Muon for the filters of convolutions if the recipe gives it a rate, SGD with momentum for everything else."""

    def __init__(self, parameters: Sequence[Tensor], recipe: Recipe) -> None:
        self._filters = [i for i, parameter in enumerate(parameters) if recipe.muon > 0 and parameter.ndim == 4]
        self._others = sorted(set(range(len(parameters))) - set(self._filters))
        self._muon = Muon([parameters[i] for i in self._filters], recipe.momentum, ITERATIONS, fixed_norm=True)
        others = [parameters[i] for i in self._others]
        self._momentum = Momentum(others, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov)
        self._ratio = recipe.muon / recipe.learning_rate

    def begin(self) -> None:
        """Forget all momentum, as before the first step."""
        for velocity in (*self._muon.velocity, *self._momentum.velocity):
            velocity.zero_()

    def step(self, gradients: Sequence[Tensor], rate: float | Tensor) -> None:
        """One step of size `rate`, Muon's in proportion, against gradients in the order of the parameters; overwrites them."""
        self._muon.step([gradients[i] for i in self._filters], rate * self._ratio)
        self._momentum.step([gradients[i] for i in self._others], rate)
