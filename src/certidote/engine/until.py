"""When to stop before all members are done: after some time, after a number of models, or once nothing is open any more."""

import re
from dataclasses import dataclass

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Until:
    """What `--until` asks for; at most one of them.

    Attributes:
        seconds: no job starts later than this after the first.
        models: members to have in all, selecting ones and those of earlier runs included.
        decided: stop once every test image is decided by a bound that may be looked at any time.
    """

    seconds: float | None = None
    models: int | None = None
    decided: bool = False


def parse_until(text: str) -> Until:
    """ "90s", "30m", "12h", "2d": a time budget; "500": a number of models; "decided"; "": no early stop.

    Raises: ValueError for anything else.
    """
    if not text:
        return Until()
    if text == "decided":
        return Until(decided=True)
    time = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if time and float(time[1]) > 0:
        return Until(seconds=float(time[1]) * _UNITS[time[2]])
    if text.isdecimal() and int(text) > 0:
        return Until(models=int(text))
    raise ValueError(f"until {text!r}; give a time such as 30m or 12h, a number of models such as 500, or decided")
