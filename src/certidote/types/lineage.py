"""What members get of untrusted data, and the record of what it was made from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from certidote.numerics import sent
from certidote.types.denoisers import Denoiser
from certidote.types.values import Images, Json

Start = Literal["fresh", "trusted", "untrusted"]
"""How a model starts: random weights, weights the attacker cannot have influenced, weights that saw the untrusted data."""


@dataclass(frozen=True)
class Lineage:
    """What one member's training view was made from. `certification.lineage` reads this and nothing else.

    Attributes:
        sigma: std of the Gaussian noise that was added to every untrusted pixel, [0, 1] units; 0 if none was.
        draws: independent noise draws of one image that the member saw (1 in every certifiable scheme).
        unsealed: why untrusted pixels were read without noise; empty if they never were.
        denoiser: digest of the denoiser that processed the noised images; "" for none.
        start: how the member's weights start.
        trusted: images that the attacker cannot have touched, which were used as they are.
        own_noise: whether all of its noise came from streams below the member's own key.
        open_rows: `rows_digest` of the rows read without noise: of each member of a block in order, or once if all of them read the
            same. None if none were, and in ledgers of releases that kept no record of it.
        test_sigma: std of the Gaussian noise on every test image that the member was asked about, [0, 1] units; 0 if it saw one as it
            is. None in ledgers of releases that kept no record of it.
        test_draws: independent noise draws of one test image that the member saw.
        test_own_noise: whether noise on test images came from streams below the member's own key, other than that on training images.
        unanswered: whether a member whose weights are finite gave a logit that is not; it counts as failed for all test images.
    """

    sigma: float = 0.0
    draws: int = 0
    unsealed: tuple[str, ...] = ()
    denoiser: str = ""
    start: Start = "fresh"
    trusted: int = 0
    own_noise: bool = True
    open_rows: tuple[tuple[int, int], ...] | None = None
    test_sigma: float | None = None
    test_draws: int = 0
    test_own_noise: bool = True
    unanswered: bool = False

    def to_json(self) -> Json:
        return {**asdict(self), "unsealed": list(self.unsealed)}

    @staticmethod
    def from_json(value: Json) -> "Lineage":
        rows = value.get("open_rows")
        open_rows = None if rows is None else tuple((int(count), int(total)) for count, total in rows)
        return Lineage(**{**value, "unsealed": tuple(value["unsealed"]), "open_rows": open_rows})


def rows_digest(rows: Int64[np.ndarray, "n"]) -> tuple[int, int]:
    """How many distinct rows, and the sum of their 64-bit hashes: digests of disjoint sets of rows add up to that of their union."""
    mixed = np.unique(rows).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)  # SplitMix64
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return len(mixed), int((mixed ^ (mixed >> np.uint64(31))).sum(dtype=np.uint64))


def joined(lineages: Sequence[Lineage]) -> Lineage:
    """The one lineage of members that were made alike: only the rows they read without noise, and answers, are their own.

    Raises: RuntimeError if they differ in anything else.
    """
    alike = {replace(lineage, open_rows=None, unanswered=False) for lineage in lineages}
    if len(alike) != 1:
        raise RuntimeError(f"members of one block have different lineages: {sorted(map(str, alike))}")
    rows = tuple(digest for lineage in lineages for digest in lineage.open_rows or ())
    return replace(
        alike.pop(),
        open_rows=(rows[:1] if len(set(rows)) == 1 else rows) or None,
        unanswered=any(lineage.unanswered for lineage in lineages),
    )


@dataclass(frozen=True, eq=False)
class Traced:
    """Pixels made from untrusted data, with what they were made from.

    `exempt` are the places of trusted images among them, which carry no noise and are not denoised.
    """

    images: Images
    lineage: Lineage
    exempt: tuple[int, ...] = ()

    def denoised(self, denoiser: "Denoiser") -> "Traced":
        """One denoiser call on the noised images at the noise they carry. Post-processing: the proof is not touched."""
        lineage = replace(self.lineage, denoiser=denoiser.card.digest)
        if not self.exempt:
            return Traced(denoiser(self.images, self._sigmas(len(self.images))), lineage)
        noised = torch.ones(len(self.images), dtype=torch.bool)
        noised[list(self.exempt)] = False
        images = self.images.clone()
        if noised.any():
            places = sent(noised.nonzero()[:, 0], images.device)
            images[places] = denoiser(self.images[places], self._sigmas(len(places)))
        return Traced(images, lineage, self.exempt)

    def _sigmas(self, count: int) -> Float[Tensor, "n"]:
        return torch.full((count,), self.lineage.sigma, dtype=torch.float32)

    def to(self, device: str) -> "Traced":
        """The same pixels on another device; what follows runs there. `Untrusted.noised` can make them there at once."""
        return Traced(self.images.to(device), self.lineage, self.exempt)


@dataclass
class Reads:
    """What was read of untrusted pixels, written by `Untrusted` itself: schemes cannot forget to mention it."""

    unsealed: list[str] = field(default_factory=list)
    open_rows: list[Int64[np.ndarray, "n"]] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    noise_ids: list[int] = field(default_factory=list)
    draws: Counter[int] = field(default_factory=Counter)
    used: dict[tuple[int, int], tuple[float, bytes]] = field(default_factory=dict)
    own_noise: bool = True
    trusted: int = 0

    def amend(self, lineage: Lineage) -> Lineage:
        """The lineage that a scheme states, corrected by what was really read."""
        return replace(
            lineage,
            sigma=min(self.sigmas, default=0.0),
            draws=max(self.draws.values(), default=0),
            unsealed=tuple(dict.fromkeys([*lineage.unsealed, *self.unsealed])),
            own_noise=self.own_noise,
            trusted=self.trusted,
            open_rows=(rows_digest(np.concatenate(self.open_rows)),) if self.open_rows else None,
        )

    def noise_id(self) -> int:
        """Identity of the noise stream of this member; 0 if no noise was drawn."""
        return self.noise_ids[0] if self.noise_ids else 0


@dataclass
class InputReads:
    """What one member was shown of test images, written by `SealedInputs` itself, or by the engine where they are not sealed.

    `unanswered` says whether the member, its weights being finite, gave a logit that is not.
    """

    sigmas: list[float] = field(default_factory=list)
    streams: set[int] = field(default_factory=set)
    draws: Counter[int] = field(default_factory=Counter)
    own_noise: bool = True
    unanswered: bool = False

    def amend(self, lineage: Lineage, training: Reads) -> Lineage:
        """The member's lineage with what it was shown; `training` is what it read of untrusted data."""
        return replace(
            lineage,
            test_sigma=min(self.sigmas, default=0.0),
            test_draws=max(self.draws.values(), default=0),
            test_own_noise=self.own_noise and self.streams.isdisjoint(training.noise_ids),
            unanswered=self.unanswered,
        )


@dataclass(frozen=True, eq=False)
class Movement:
    """How far sanitizing moved each image, [0, 1] pixel units: over all its pixels, and its pixel that moved most."""

    l2: Float64[np.ndarray, "m"]
    linf: Float64[np.ndarray, "m"]


@dataclass(frozen=True, eq=False)
class View:
    """What one member trains on, and what that was made from."""

    images: Images
    labels: Int64[Tensor, "n"]
    num_classes: int
    lineage: Lineage
