"""Trials that share noise: the clean set is noised and denoised once for each draw, and then only the poisons of each trial.

Denoising is row by row, so a trial's set made this way is what `OneShot` makes of it with the same noise, bit for bit. For measuring only: what
a member gets was partly made before it was its turn, which its lineage says, and no certificate follows from such a lineage.
"""

import copy
from dataclasses import replace
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from certidote.defenses.one_shot import OneShot
from certidote.defenses.sanitize import sanitized, sanitized_again
from certidote.streams import Key
from certidote.types import Reads, Untrusted, View

SHARED = "a denoised copy of the clean set that trials share"
"""The mark in the lineage of members."""


class SharedDraws:
    """Denoised copies of the clean set, one for each draw, kept as long as a worker has the run.

    Args:
        defense: whose noise is shared.
    """

    def __init__(self, defense: OneShot) -> None:
        self.defense = defense
        self._clean: dict[Key, Float[Tensor, "n c h w"]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"defense": self.defense, "_clean": {}}  # each worker makes its own

    def view(self, clean: Untrusted, poisoned: Untrusted, rows: Int64[Tensor, "m"], key: Key) -> View:
        """What a member trains on: the set as `poisoned` has it, noised and denoised.

        All of its noise is drawn again and goes on the member's record; only `rows` are denoised again.

        Args:
            clean: the set under attack, without trusted images.
            poisoned: the same, but for `rows`.
            key: of the draw, as the defense's `view` takes it.
        """
        noise, defense = key / "noise", self.defense
        if noise not in self._clean:
            apart = copy.copy(clean)
            apart.reads = Reads()  # nobody's record: whichever member comes first, all records are alike
            self._clean[noise] = sanitized(apart, defense.denoiser, defense.sigma, noise, defense.device).images
        made = sanitized_again(poisoned, self._clean[noise], rows, defense.denoiser, defense.sigma, noise, defense.device)
        lineage = replace(made.lineage, unsealed=(SHARED,))
        return View(made.images, poisoned.labels_on(defense.device), len(poisoned.class_names), lineage)


def shared_draw(key: Key, draw: int, model: int) -> Key:
    """The key of a draw that trials share: members / 17 -> draws / 2 / 5, say, for the sixth model of each of these trials."""
    return Key(key.root, (*key.path[:-2], "draws", draw, model))
