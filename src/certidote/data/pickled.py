"""The pickles of the CIFAR-10 release, read without unpickling: a small machine for the handful of opcodes that they consist of.

A pickle is a program, and loading one runs it. Here nothing is imported and nothing is called: the six names that a pickled uint8
array mentions stand for themselves, and any other name or opcode is refused.
"""

import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from certidote.data.checks import Refused

RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
NAMES = (*RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode", "__builtin__ bytes", "builtins bytes")
"""All that these files may mention."""

MAX_OPCODES = 200_000
"""A batch of 10,000 images has about 40,000."""

MAX_MADE = 64 * 2**20
"""Bytes that all texts made while reading may have together; a batch of 10,000 images has 31 million."""

MAX_SIDES = 4
"""Of an array's shape."""

SHOWN = 80
"""Characters that messages show of a reason."""

VALUES = "INT BININT BININT1 BININT2 LONG LONG1 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8".split()
VALUES += "BINUNICODE SHORT_BINUNICODE UNICODE FLOAT BINFLOAT".split()


class _Name(str):
    """What GLOBAL pushes: a name, never the thing."""


class _Array:
    """A NumPy array or dtype under construction."""

    def __init__(self, kind: str, arguments: tuple[Any, ...]) -> None:
        self.kind, self.arguments = kind, arguments
        self.value: np.ndarray[Any, np.dtype[np.uint8]] | None = None


def read_pickled(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle of plain values and uint8 arrays, its keys as text.

    Args:
        where: what messages call the file.
    Raises: ValueError, naming the file, if it is anything else or damaged. No content can make this run code.
    """
    try:
        found = _Machine(where).run(content)
        if not isinstance(found, dict):
            raise ValueError("it holds no dictionary")
        return {text(key): plain(value) for key, value in found.items()}
    except Refused:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        shown = ascii(reason[:SHOWN])[1:-1]
        raise Refused(f"{where} is damaged or no pickle of the CIFAR-10 release ({shown}); get it anew") from error


def text(value: object) -> str:
    """Python 2 wrote bytes where Python 3 writes text.

    Raises: ValueError for anything else: tuples in tuples can take for ever to print.
    """
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise ValueError("it holds something else than text where a text should be")


def plain(value: object) -> Any:
    """An array in place of what it was made from."""
    return value.value if isinstance(value, _Array) else value


class _Machine:
    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.made = 0
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "NONE": lambda _: self.stack.append(None),
            "NEWTRUE": lambda _: self.stack.append(True),
            "NEWFALSE": lambda _: self.stack.append(False),
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "TUPLE": lambda _: self.stack.append(tuple(self.to_mark())),
            "TUPLE1": lambda _: self.stack.append(tuple(self.pop(1))),
            "TUPLE2": lambda _: self.stack.append(tuple(self.pop(2))),
            "TUPLE3": lambda _: self.stack.append(tuple(self.pop(3))),
            "LIST": lambda _: self.stack.append(self.to_mark()),
            "DICT": lambda _: self.stack.append(_pairs(self.to_mark())),
            "APPEND": lambda _: self.extend(self.pop(1)),
            "APPENDS": lambda _: self.extend(self.to_mark()),
            "SETITEM": lambda _: self.update(self.pop(2)),
            "SETITEMS": lambda _: self.update(self.to_mark()),
            "GLOBAL": self.name,
            "STACK_GLOBAL": lambda _: self.name(" ".join(text(part) for part in self.pop(2))),
            "REDUCE": lambda _: self.reduce(),
            "BUILD": lambda _: self.build(),
            "MEMOIZE": lambda _: self.put(len(self.memo)),
            "PUT": self.put,
            "BINPUT": self.put,
            "LONG_BINPUT": self.put,
            "GET": lambda index: self.stack.append(self.memo[int(index)]),
            "BINGET": lambda index: self.stack.append(self.memo[index]),
            "LONG_BINGET": lambda index: self.stack.append(self.memo[index]),
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "STOP": lambda _: None,
            **dict.fromkeys(VALUES, self.stack.append),
        }

    def run(self, content: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count > MAX_OPCODES:
                raise Refused(f"{self.where} has more than {MAX_OPCODES:,} opcodes; it is no pickle of the CIFAR-10 release")
            if opcode.name not in self.steps:
                raise Refused(
                    f"{self.where} has the pickle opcode {opcode.name}, which the CIFAR-10 release does not use; not read"
                )
            if opcode.name in ("STRING", "BINSTRING", "SHORT_BINSTRING") and isinstance(argument, str):
                argument = argument.encode("latin-1")
            self.steps[opcode.name](argument)
        if len(self.stack) != 1 or self.marks:
            raise ValueError("it ends with other than one value")
        return self.stack[0]

    def top(self) -> Any:
        """The last value above the last mark."""
        return self.stack[self._checked(1)]

    def pop(self, count: int) -> list[Any]:
        self._checked(count)
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def to_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("it goes back to a mark that is not there")
        place = self.marks.pop()
        taken = self.stack[place:]
        del self.stack[place:]
        return taken

    def _checked(self, count: int) -> int:
        """The place of the lowest of the `count` last values, none of which lies below a mark."""
        place = len(self.stack) - count
        if place < (self.marks[-1] if self.marks else 0):
            raise ValueError("its stack runs empty")
        return place

    def put(self, index: int) -> None:
        self.memo[int(index)] = self.top()

    def extend(self, values: list[Any]) -> None:
        made = self.top()
        if not isinstance(made, list):
            raise ValueError("it appends to what is no list")
        made.extend(values)

    def update(self, values: list[Any]) -> None:
        made = self.top()
        if not isinstance(made, dict):
            raise ValueError("it sets items of what is no dictionary")
        made.update(_pairs(values))

    def name(self, name: str) -> None:
        if name not in NAMES:
            shown = name[:SHOWN].replace(" ", ".", 1)
            raise Refused(f"{self.where} names {shown!a}, which could run code; it is not read, get it anew")
        self.stack.append(_Name(name))

    def reduce(self) -> None:
        called, arguments = self.pop(2)
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls what has no name")
        if called in RECONSTRUCT:
            self.stack.append(_Array("array", arguments))
        elif called == "numpy dtype":
            self.stack.append(_Array("dtype", arguments))
        elif called == "_codecs encode" and len(arguments) == 2 and arguments[1] == "latin1" and isinstance(arguments[0], str):
            self.made += len(arguments[0])  # one text in the file can be asked for again and again
            if self.made > MAX_MADE:
                raise Refused(f"{self.where} makes more than {MAX_MADE:,} bytes of text; it is no pickle of the CIFAR-10 release")
            self.stack.append(arguments[0].encode("latin-1"))  # how Python 3 writes bytes for Python 2
        elif called.endswith(" bytes") and arguments == ():
            self.stack.append(b"")
        else:
            raise ValueError(f"it calls {called} in an unknown way")

    def build(self) -> None:
        (state,) = self.pop(1)
        made = self.top()
        if not isinstance(made, _Array) or not isinstance(state, tuple):
            raise ValueError("it sets the state of what is no array")
        if made.kind == "array":
            _, shape, dtype, by_columns, content = state
            if not isinstance(dtype, _Array) or not dtype.arguments or text(dtype.arguments[0]) != "u1":
                raise ValueError("its array is not of unsigned bytes")
            if not isinstance(shape, tuple) or len(shape) > MAX_SIDES or not all(_is_side(side) for side in shape):
                raise ValueError("its array has a shape that is none")
            if not isinstance(content, bytes) or math.prod(shape) != len(content):
                raise ValueError(f"its array of shape {shape} has other than that many bytes")
            made.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


def _is_side(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, str | bytes) for key in values[::2]):
        raise ValueError("a key is no text")
    return dict(zip(values[::2], values[1::2], strict=True))
