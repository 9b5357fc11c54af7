"""Progress: what is done, how fast, what is left; for people, for programs, or not at all."""

import io
import json

import pytest

from certidote import progress
from certidote.progress import Bar, JsonLines, Lines, progress_named
from certidote.types import Silent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_30_seconds_with_rate_and_time_left(clock: list[float]) -> None:
    out = io.StringIO()
    lines = Lines(out)
    lines.start("models", 1_000, 100)
    for second in range(10, 61, 10):
        clock[0] = float(second)
        lines.advance(20, "interim certified accuracy 0.9 (0.8 to 0.95)")
    clock[0] = 70.0
    lines.finish()
    assert out.getvalue().splitlines() == [
        "models: 1000 models (100 already done)",
        "models: 160/1000 models, 2.0/s, 420 s left, interim certified accuracy 0.9 (0.8 to 0.95)",
        "models: 220/1000 models, 2.0/s, 390 s left, interim certified accuracy 0.9 (0.8 to 0.95)",
        "models: stopped at 220/1000 models in 70.0 s",
    ]


def test_json_lines_are_one_object_each(clock: list[float]) -> None:
    out = io.StringIO()
    lines = JsonLines(out)
    lines.start("models", 10, 2)
    clock[0] = 0.5
    lines.advance(1)
    clock[0] = 2.0
    lines.advance(3, "interim")
    clock[0] = 4.0
    lines.advance(4)
    lines.finish()
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["event"] for row in rows] == ["start", "advance", "advance", "finish"], "at most one a second"
    assert rows[0]["seconds_left"] is None
    assert rows[1] == {
        "event": "advance", "stage": "models", "done": 6, "total": 10, "unit": "models", "seconds": 2.0, "rate": 2.0, "seconds_left": 2.0,
        "note": "interim",
    }  # fmt: skip
    assert rows[-1]["done"] == 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_chosen_by_name_or_by_where_it_goes() -> None:
    assert isinstance(progress_named("auto", io.StringIO()), Lines)
    assert isinstance(progress_named("auto", Terminal()), Bar)
    assert isinstance(progress_named("lines", Terminal()), Lines)
    assert isinstance(progress_named("bar", io.StringIO()), Bar)
    assert isinstance(progress_named("json", Terminal()), JsonLines)
    assert isinstance(progress_named("quiet", Terminal()), Silent)
    with pytest.raises(ValueError, match="unknown progress 'loud'; choose auto, bar, lines, json or quiet"):
        progress_named("loud")
