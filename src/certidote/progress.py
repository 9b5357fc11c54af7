"""Progress for people and programs, on standard error: a live bar on a terminal, a line at most every 30 seconds elsewhere, JSON
lines for another program, or nothing."""

import json
import sys
import time
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from certidote.types import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import TaskID

EVERY_SECONDS = 30.0
"""Between two lines for people."""

JSON_EVERY_SECONDS = 1.0
"""Between two lines for programs."""


@runtime_checkable
class Stream(Protocol):
    """Where lines go: standard error, usually."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...

    def isatty(self) -> bool: ...


class _Pace:
    """Counts what is done, and how fast since this run began: work of earlier runs is no speed of ours."""

    def __init__(self, total: int, done: int, unit: str) -> None:
        self.total, self.done, self.unit = total, done, unit
        self._first, self._began = done, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def rate(self) -> float:
        return (self.done - self._first) / max(self.seconds(), 1e-9)

    def left(self) -> float | None:
        """Seconds, None before anything is done."""
        return (self.total - self.done) / self.rate() if self.done > self._first else None


class Lines:
    """Progress off a terminal: a line when a stage starts and ends, and at most one every 30 seconds between."""

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or sys.stderr
        self._stage, self._pace, self._last = "", _Pace(0, 0, ""), 0.0

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None:
        self._stage, self._pace, self._last = stage, _Pace(total, done, unit), time.monotonic()
        resumed = f" ({done} already done)" if done else ""
        self._say(f"{stage}: {total} {unit.removesuffix('s') if total == 1 else unit}{resumed}")

    def advance(self, by: int = 1, note: str = "") -> None:
        pace = self._pace
        pace.done += by
        now = time.monotonic()
        if now - self._last >= EVERY_SECONDS:
            self._last = now
            left = pace.left()
            left_words = "" if left is None else f", {left:.0f} s left"
            note = f", {note}" if note else ""
            self._say(f"{self._stage}: {pace.done}/{pace.total} {pace.unit}, {pace.rate():.1f}/s{left_words}{note}")

    def finish(self, note: str = "") -> None:
        pace, note = self._pace, f", {note}" if note else ""
        ending = "done" if pace.done >= pace.total else f"stopped at {pace.done}/{pace.total} {pace.unit}"
        self._say(f"{self._stage}: {ending} in {pace.seconds():.1f} s{note}")

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class JsonLines:
    """Progress for programs: one JSON object a line, when a stage starts and ends and at most once a second between.

    Keys: event ("start", "advance" or "finish"), stage, done, total, unit, seconds since the stage began in this run, rate per
    second, seconds_left (null before anything is done), note.
    """

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or sys.stderr
        self._stage, self._pace, self._last = "", _Pace(0, 0, ""), 0.0

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None:
        self._stage, self._pace = stage, _Pace(total, done, unit)
        self._say("start", "")

    def advance(self, by: int = 1, note: str = "") -> None:
        self._pace.done += by
        if time.monotonic() - self._last >= JSON_EVERY_SECONDS:
            self._say("advance", note)

    def finish(self, note: str = "") -> None:
        self._say("finish", note)

    def _say(self, event: str, note: str) -> None:
        pace, left = self._pace, self._pace.left()
        self._last = time.monotonic()
        row = {"event": event, "stage": self._stage, "done": pace.done, "total": pace.total, "unit": pace.unit}
        row |= {"seconds": round(pace.seconds(), 3), "rate": round(pace.rate(), 3)}
        row |= {"seconds_left": None if left is None else round(left, 1), "note": note}
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()


class Bar:
    """Progress on a terminal: stage, bar, done/total, rate, time left, latest figure."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )  # fmt: skip
        self._task: TaskID | None = None
        self._pace = _Pace(0, 0, "")

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None:
        self._progress.start()
        self._pace = _Pace(total, done, unit)
        self._task = self._progress.add_task(stage, total=total, completed=done, rate="", note="")

    def advance(self, by: int = 1, note: str = "") -> None:
        if self._task is None:
            return
        self._pace.done += by
        self._progress.update(self._task, advance=by, rate=f"{self._pace.rate():.1f} {self._pace.unit}/s", note=note)

    def finish(self, note: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, note=note)
            self._progress.stop()


def progress_named(name: str, stream: Stream | None = None) -> Progress:
    """auto, bar, lines, json or quiet; auto is a bar on a terminal and lines elsewhere.

    Raises: ValueError for another name.
    """
    stream = stream or sys.stderr
    if name == "bar" or (name == "auto" and stream.isatty()):
        return Bar()
    if name in ("auto", "lines"):
        return Lines(stream)
    if name == "json":
        return JsonLines(stream)
    if name == "quiet":
        return Silent()
    raise ValueError(f"unknown progress {name!r}; choose auto, bar, lines, json or quiet")
