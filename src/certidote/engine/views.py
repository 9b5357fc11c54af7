"""What the members of one job train on, made group by group, and what was read for it.

On a CPU a group's views are made when it is their turn, so that no more of them exist than are trained together. On a GPU they are made
one group ahead on a stream of their own: while one group trains, the next one's images are noised and denoised.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from certidote.streams import Key
from certidote.types import Reads, Scheme, Untrusted, View


@dataclass(frozen=True, eq=False)
class Viewed:
    """The views of one group of members, their keys, and what `Untrusted` recorded of each."""

    keys: Sequence[Key]
    views: Sequence[View]
    reads: Sequence[Reads]

    @property
    def device(self) -> torch.device:
        return self.views[0].images.device


class Viewing:
    """Makes the views of some members, `together` at a time, and counts the seconds that takes.

    Args:
        root: members are keyed by their number under it.
    """

    def __init__(self, scheme: Scheme, data: Untrusted, root: Key, members: range, together: int) -> None:
        self._scheme, self._data, self._root = scheme, data, root
        self._groups = [members[first : first + together] for first in range(0, len(members), together)]
        self._on_host = 0.0
        self._on_device: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __iter__(self) -> Iterator[Viewed]:
        ahead: Callable[[], Viewed] | None = None
        aside: torch.cuda.Stream | None = None
        for group, following in zip(self._groups, [*self._groups[1:], None], strict=True):
            viewed = self._timed(group) if ahead is None else ahead()
            if viewed.device.type == "cuda" and following is not None:
                aside = aside or torch.cuda.Stream(viewed.device)  # type: ignore[no-untyped-call]
                ahead = self._begun(following, aside)
            yield viewed
            del viewed

    def seconds(self) -> float:
        """Seconds spent on views, to be asked once their members have voted: on a GPU they may overlap with training."""
        return self._on_host + sum(begin.elapsed_time(end) / 1e3 for begin, end in self._on_device)

    def _made(self, group: range) -> Viewed:
        keys = [self._root / member for member in group]
        views, reads = [], []
        for member, key in zip(group, keys, strict=True):
            data = self._data.watched(key)
            views.append(self._scheme.view(data, member, key))
            reads.append(data.reads)
        return Viewed(keys, views, reads)

    def _timed(self, group: range) -> Viewed:
        begin = time.perf_counter()
        viewed = self._made(group)
        if viewed.device.type == "cuda":
            torch.cuda.synchronize(viewed.device)
        self._on_host += time.perf_counter() - begin
        return viewed

    def _begun(self, group: range, aside: "torch.cuda.Stream") -> Callable[[], Viewed]:
        """Begin a group's views on the stream `aside`; the answer hands them to the stream that trains, which waits for them."""
        aside.wait_stream(torch.cuda.current_stream(aside.device))
        with torch.cuda.stream(aside):
            begin = aside.record_event(_event())
            viewed = self._made(group)
            end = aside.record_event(_event())
        self._on_device.append((begin, end))

        def taken() -> Viewed:
            training = torch.cuda.current_stream(aside.device)
            training.wait_event(end)
            for view in viewed.views:
                view.images.record_stream(training)
                view.labels.record_stream(training)
            return viewed

        return taken


def _event() -> "torch.cuda.Event":
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
