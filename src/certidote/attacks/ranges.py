"""Numbers that options of attacks may be, as types: the command line refuses others before it trains anything; attacks check them again."""

from math import inf
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MinLen

Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]
"""0 for none."""
Length = Annotated[float, Gt(0), Lt(inf)]
"""Above 0 and finite."""
PixelStep = Annotated[float, Gt(0), Le(1)]
"""A step of pixels in [0, 1] units: above 0, at most all of their range."""
PixelSteps = Annotated[tuple[PixelStep, ...], MinLen(1)]
Weight = Annotated[float, Ge(0), Lt(inf)]
Share = Annotated[float, Ge(0), Le(1)]
"""From 0 to 1."""
Factor = Annotated[float, Gt(0), Le(1)]
"""Above 0, at most 1."""
