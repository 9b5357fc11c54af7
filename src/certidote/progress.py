"""Progress for people: a live bar on a terminal, a line at most every 30 seconds elsewhere."""

import sys
import time
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.progress import TaskID

EVERY_SECONDS = 30.0


@runtime_checkable
class Stream(Protocol):
    """Where lines go: standard error, usually."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...

    def isatty(self) -> bool: ...


class Lines:
    """Progress off a terminal: a line when a stage starts and ends, and at most one every 30 seconds between."""

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or sys.stderr
        self._stage, self._unit = "", ""
        self._total = self._done = self._first = 0
        self._began = self._last = 0.0

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None:
        self._stage, self._unit, self._total, self._done, self._first = stage, unit, total, done, done
        self._began = self._last = time.monotonic()
        resumed = f" ({done} already done)" if done else ""
        self._say(f"{stage}: {total} {unit}{resumed}")

    def advance(self, by: int = 1, note: str = "") -> None:
        self._done += by
        now = time.monotonic()
        if now - self._last >= EVERY_SECONDS:
            self._last = now
            rate = (self._done - self._first) / max(now - self._began, 1e-9)
            left = (self._total - self._done) / rate if rate else float("inf")
            note = f", {note}" if note else ""
            self._say(f"{self._stage}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left{note}")

    def finish(self, note: str = "") -> None:
        seconds = time.monotonic() - self._began
        self._say(f"{self._stage}: done in {seconds:.1f} s{f', {note}' if note else ''}")

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class Bar:
    """Progress on a terminal: stage, bar, done/total, rate, time left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._task: TaskID | None = None
        self._began = 0.0
        self._done = 0
        self._unit = ""

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None:
        self._progress.start()
        self._began, self._done, self._unit = time.monotonic(), 0, unit
        self._task = self._progress.add_task(stage, total=total, completed=done, rate="", note="")

    def advance(self, by: int = 1, note: str = "") -> None:
        if self._task is None:
            return
        self._done += by
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        self._progress.update(self._task, advance=by, rate=f"{rate:.1f} {self._unit}/s", note=note)

    def finish(self, note: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, note=note)
            self._progress.stop()


def for_stream(stream: Stream | None = None) -> Lines | Bar:
    """The right one for where the output goes."""
    stream = stream or sys.stderr
    return Bar() if stream.isatty() else Lines(stream)
