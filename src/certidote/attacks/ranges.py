"""Numbers that options of attacks may be, as types: the command line refuses others before it trains anything; attacks check them again."""

from collections.abc import Callable
from functools import wraps
from math import inf
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

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

P = ParamSpec("P")
T = TypeVar("T")


def numbers_checked(attack: Callable[P, T]) -> Callable[P, T]:
    """The attack, which refuses, in one line, an option that is no such number, tuple or truth value as its parameter says.

    Ranges, choices of text and tensors stay for the attack to check.
    """
    kinds = get_type_hints(attack)

    @wraps(attack)
    def checked(*given: P.args, **options: P.kwargs) -> T:
        for name, value in options.items():
            if name in kinds and not _fits(value, kinds[name]):
                raise ValueError(f"{name}={value!r}; give {_in_words(kinds[name])}")
        return attack(*given, **options)

    return checked


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(each, get_args(kind)[0]) for each in value)
    numbers = {int: Integral, float: Real}
    if kind in numbers:
        return isinstance(value, numbers[kind]) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (bool, NoneType) else True


def _in_words(kind: Any) -> str:
    """For messages: "a whole number", "a number or a tuple of numbers"."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_in_words(each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return "a tuple of numbers"
    return {int: "a whole number", float: "a number", bool: "True or False", NoneType: "None"}.get(kind, str(kind))
