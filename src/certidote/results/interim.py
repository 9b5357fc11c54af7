"""The certified accuracy of a run that is still going on: a figure for its progress, never a claim.

The bound is computed for however many votes there are at the moment, which a certificate with a fixed number of models must not do.
So the figure is always called "interim", and no certificate is made from it.
"""

import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from certidote.engine.jobs import BlockRecord
from certidote.results.summary import wilson
from certidote.types import Ballots

LowerBound = Callable[[Int64[np.ndarray, "n"], int, float], Float64[np.ndarray, "n"]]
"""(counts, trials, alpha) -> lower bounds on vote shares."""

_Small = Integer[np.ndarray, "members n_test"]

EVERY_SECONDS = 1.0
"""How often the figure is worked out again while votes come in."""


class Interim:
    """Watches votes as they are committed. Counts members 0, 1, ... up to the first one missing; later ones wait.

    Args:
        labels: (n_test,) the true classes.
        num_classes: of them.
        n0: members that select the answers; no bound before all of them have voted. 0: the counted votes select.
        alpha: failure probability of one bound.
        lower_bound: on the vote share of the selected class.
    """

    def __init__(
        self, labels: Int64[np.ndarray, "n_test"], num_classes: int, n0: int, alpha: float, lower_bound: LowerBound
    ) -> None:
        self._labels, self._n0, self._alpha, self._lower_bound = labels, n0, alpha, lower_bound
        self._selection = np.zeros((len(labels), num_classes), dtype=np.int64)
        self._estimation = np.zeros_like(self._selection)
        self._members = 0
        self._waiting: dict[int, tuple[_Small, Bool[np.ndarray, members]]] = {}
        self._kind = np.min_scalar_type(num_classes)
        self._note, self._noted, self._asked = "", float("-inf"), False
        self._certified: tuple[int, tuple[int, int]] | None = None

    def resume(self, ballots: Ballots) -> None:
        """Start from the votes of earlier runs. Once, before the first record."""
        self._count(ballots.votes, ballots.failed)

    def see(self, records: list[BlockRecord]) -> None:
        for record in records:
            self._waiting[record.job.first] = record.votes.astype(self._kind), record.failed
        self._asked = False
        while self._members in self._waiting:
            self._count(*self._waiting.pop(self._members))

    def _count(self, votes: _Small, failed: Bool[np.ndarray, "members"]) -> None:
        images = np.arange(len(self._labels))
        for row, lost in zip(votes, failed, strict=True):
            if not lost:
                (self._selection if self._members < self._n0 else self._estimation)[images, row] += 1
            self._members += 1

    def certified(self) -> tuple[int, int]:
        """Test images whose answer is right and would be certified by the votes so far, and those open either way."""
        if self._certified is None or self._certified[0] != self._members:
            self._certified = self._members, self._count_certified()
        return self._certified[1]

    def _count_certified(self) -> tuple[int, int]:
        trials = self._members - self._n0
        if trials < 1:
            return 0, len(self._labels)
        answers = (self._selection if self._n0 else self._estimation).argmax(axis=1)
        hits = self._estimation[np.arange(len(answers)), answers]
        bounds = self._lower_bound(np.arange(trials + 1, dtype=np.int64), trials, self._alpha)
        won, lost = bounds[hits] > 0.5, bounds[trials - hits] > 0.5
        return int((won & (answers == self._labels)).sum()), int((~won & ~lost).sum())

    def note(self) -> str:
        """ "interim certified accuracy 0.913 (0.881 to 0.937)": with the Wilson 95 % interval over test images.

        At most `EVERY_SECONDS` old while votes come in. Asked again without new votes, as at the end of a run, it is exact.
        """
        now, exact = time.monotonic(), self._asked
        self._asked = True
        if (exact or now - self._noted >= EVERY_SECONDS) and self._members > self._n0:
            right, _ = self.certified()
            low, high = wilson(right, len(self._labels))
            self._note = f"interim certified accuracy {right / len(self._labels):.3f} ({low:.3f} to {high:.3f})"
            self._noted = now
        return self._note

    def decided(self) -> bool:
        """Whether every image's answer has a share above 1/2, or one below, by its bound. Only with a bound that holds at any time."""
        return self.certified()[1] == 0
