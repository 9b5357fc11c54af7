"""Starting from weights that were learned before, instead of fresh ones."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certidote.types import Start


@dataclass(frozen=True, eq=False)
class WarmStart:
    """Weights that every member of a run starts from.

    Attributes:
        weights: parameters and buffers of a model of the same architecture, by name.
        start: "trusted" if no attacker can have influenced them: out-of-domain images, say. "untrusted" if they saw the set under attack,
            denoised or not: then votes are not functions of the noised set alone, and there is no certificate.
    """

    weights: Mapping[str, Tensor]
    start: Start

    def digest(self) -> str:
        """SHA-256 over names, shapes and values, 64 hex digits."""
        found = hashlib.sha256()
        for name in sorted(self.weights):
            value = self.weights[name].detach().cpu().contiguous()
            found.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            found.update(value.numpy().tobytes())
        return found.hexdigest()

    @torch.no_grad()
    def into(self, model: nn.Module) -> None:
        """Give a fresh model these weights. Those of another shape, of a head for other classes, stay fresh.

        Raises: ValueError if no weight fits: another architecture.
        """
        own = model.state_dict()
        fitting = {name: value for name, value in self.weights.items() if name in own and own[name].shape == value.shape}
        if set(self.weights) != set(own) or not any(value.ndim > 1 for value in fitting.values()):
            raise ValueError(
                "the weights to start from are of another architecture; give those of a model with the architecture of the recipe"
            )
        model.load_state_dict(fitting, strict=False)
