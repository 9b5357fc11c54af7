"""The contract of every denoiser, and what is known about one."""

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from certidote.types.values import Images, Json


@dataclass(frozen=True)
class DenoiserCard:
    """What a denoiser is and what it was made from.

    Attributes:
        name: as given by the user, or in the catalogue.
        kind: "network", "diffusers", "linear-mmse", "kernel", "multistep" (several calls of one of these) or "none".
        digest: SHA-256 of configuration and weights.
        image_shape: (c, h, w) it accepts; None for any.
        trained_on: digest of the data set it was fitted to; "" if unknown or none.
        training_images: short hashes (`types.short_hashes`, 52 bits) of its training images, to report overlaps; None where they are unknown.
        details: anything else worth printing, JSON values only.
    """

    name: str
    kind: str
    digest: str
    image_shape: tuple[int, int, int] | None = None
    trained_on: str = ""
    training_images: frozenset[int] | None = None
    details: Json = field(default_factory=dict, compare=False, hash=False)

    @property
    def identity(self) -> Json:
        """What a run's configuration says of it: where its folder lies does not matter, so that several machines can share a run."""
        each_call = self.details.get("each_call")  # of a ledger that anybody may have written
        kind = each_call.get("kind") if self.kind == "multistep" and isinstance(each_call, dict) else self.kind
        name = PurePath(self.name).name if kind in ("network", "diffusers") else self.name
        return {"name": name, "kind": self.kind, "digest": self.digest}


@runtime_checkable
class Denoiser(Protocol):
    """An estimate of the clean image from a noised one: [0, 1] units, any noise level in its range."""

    sigma_min: float
    sigma_max: float
    card: DenoiserCard

    def __call__(self, noisy: Images, sigma: Float[Tensor, "n"]) -> Images: ...

    def conditioning(self, sigma: float) -> str:
        """What the network is told about the noise, for reports (a timestep, say)."""
        ...
