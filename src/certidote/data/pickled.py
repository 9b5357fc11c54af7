"""Pickles read without unpickling: a small machine for the handful of opcodes that pickles of arrays, numbers and text consist of.

A pickle is a program, and loading one runs it. Here nothing is imported and nothing is called: a `Grammar` lists the names that a kind of
file may mention, each with what a call of it stands for, and any other name or opcode is refused. `CIFAR` is the grammar of the CIFAR-10
release.
"""

import io
import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from certidote.data.checks import Refused

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


class Name(str):
    """What GLOBAL pushes: a name, never the thing."""


@runtime_checkable
class Made(Protocol):
    """Something under construction, whose state BUILD sets."""

    def set_state(self, state: object) -> None: ...


Call = Callable[["Machine", tuple[Any, ...]], Any]
"""What a call of a name with these arguments stands for. Raises: ValueError if they are not what honest files have."""


@dataclass(frozen=True)
class Grammar:
    """What a kind of file may consist of.

    Attributes:
        what: the kind, for messages: "the CIFAR-10 release".
        calls: by name ("numpy dtype"), what calling it stands for.
        mentioned: names that may be mentioned and not be called.
        arrays: what types of numbers arrays may have, for messages.
        kinds: the same as NumPy's codes, without byte order.
        opcodes: besides those of `Machine.steps`.
        most: opcodes of one file.
        advice: what to do about a file that is refused.
    """

    what: str
    calls: Mapping[str, Call]
    mentioned: frozenset[str]
    arrays: str
    kinds: frozenset[str]
    opcodes: frozenset[str] = frozenset()
    most: int = MAX_OPCODES
    advice: str = "get it anew"


class DType:
    """A NumPy dtype under construction: its code, and its byte order."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments = arguments
        self.order: Literal["<", ">"] = "<"

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple):
            raise ValueError("it sets the state of a type to what is no state")
        if len(state) > 1 and state[1] in (">", b">"):
            self.order = ">"

    def numpy(self, grammar: Grammar) -> np.dtype[Any]:
        """The type. Raises: ValueError if it is none of the grammar's."""
        if not self.arguments or (code := text(self.arguments[0])) not in grammar.kinds:
            raise ValueError(f"its array is not of {grammar.arrays}")
        return np.dtype(code).newbyteorder(self.order)


class Array:
    """A NumPy array under construction."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.value: np.ndarray[Any, np.dtype[Any]] | None = None

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple):
            raise ValueError("it sets the state of what is no array")
        _, shape, dtype, by_columns, content = state
        self.fill(shape, dtype, bool(by_columns), content)

    def fill(self, shape: object, dtype: object, by_columns: bool, content: object) -> None:
        """Raises: ValueError unless the content has just the bytes that shape and type need."""
        if not isinstance(dtype, DType):
            raise ValueError(f"its array is not of {self.grammar.arrays}")
        kind = dtype.numpy(self.grammar)
        if not isinstance(shape, tuple) or len(shape) > MAX_SIDES or not all(_is_side(side) for side in shape):
            raise ValueError("its array has a shape that is none")
        if not isinstance(content, bytes) or math.prod(shape) * kind.itemsize != len(content):
            raise ValueError(f"its array of shape {shape} has other than that many bytes")
        self.value = np.frombuffer(content, kind).reshape(shape, order="F" if by_columns else "C")


def _latin(machine: "Machine", arguments: tuple[Any, ...]) -> bytes:
    """`_codecs.encode`: how Python 3 writes bytes for Python 2."""
    if len(arguments) != 2 or arguments[1] != "latin1" or not isinstance(arguments[0], str):
        raise ValueError("it encodes in an unknown way")
    machine.count_made(len(arguments[0]))  # one text in the file can be asked for again and again
    return arguments[0].encode("latin-1")


def _no_bytes(machine: "Machine", arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise ValueError("it makes bytes in an unknown way")
    return b""


def _dtype(machine: "Machine", arguments: tuple[Any, ...]) -> DType:
    return DType(arguments)


def _array(machine: "Machine", arguments: tuple[Any, ...]) -> Array:
    return Array(machine.grammar)


ARRAYS: dict[str, Call] = {
    "numpy.core.multiarray _reconstruct": _array,
    "numpy._core.multiarray _reconstruct": _array,
    "numpy dtype": _dtype,
    "_codecs encode": _latin,
    "__builtin__ bytes": _no_bytes,
    "builtins bytes": _no_bytes,
}
"""What pickled arrays call."""

CIFAR = Grammar("the CIFAR-10 release", ARRAYS, frozenset({"numpy ndarray"}), "unsigned bytes", frozenset({"u1"}))


def read_pickled(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle of plain values and uint8 arrays, its keys as text.

    Args:
        where: what messages call the file.
    Raises: ValueError, naming the file, if it is anything else or damaged. No content can make this run code.
    """

    def dictionary(machine: "Machine") -> dict[str, Any]:
        found = machine.run(io.BytesIO(content))
        if not isinstance(found, dict):
            raise ValueError("it holds no dictionary")
        return {text(key): plain(value) for key, value in found.items()}

    return reading(CIFAR, where, dictionary)


def reading(grammar: Grammar, where: str, read: Callable[["Machine"], Any]) -> Any:
    """What `read` makes with a fresh machine.

    Raises: ValueError, in one line that names the file, whatever goes wrong.
    """
    try:
        return read(Machine(grammar, where))
    except Refused:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        if isinstance(error, KeyError):
            reason = "it refers to what is not there"
        shown = ascii(reason[:SHOWN])[1:-1]
        raise Refused(f"{where} is damaged or no pickle of {grammar.what} ({shown}); {grammar.advice}") from error


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
    return value.value if isinstance(value, Array) else value


@dataclass
class Spent:
    """What reading a file has cost so far; machines for pickles within pickles share it."""

    opcodes: int = 0
    made: int = 0


@dataclass
class Machine:
    """Runs one pickle after the other, each of which leaves one value.

    Attributes:
        grammar: what is allowed.
        where: what messages call the file.
        spent: shared by machines that read the same file.
        persistent: what BINPERSID stands for, where the grammar has that opcode.
    """

    grammar: Grammar
    where: str
    spent: Spent = field(default_factory=Spent)
    persistent: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        allowed = self.grammar.opcodes
        steps = {name: step for name, step in self._more().items() if name in allowed}
        self.steps: dict[str, Callable[[Any], None]] = {**self._basic(), **steps}

    def _basic(self) -> dict[str, Callable[[Any], None]]:
        return {
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
            **dict.fromkeys(VALUES, lambda value: self.stack.append(value)),
        }

    def _more(self) -> dict[str, Callable[[Any], None]]:
        """Steps of opcodes that only some grammars have."""
        return {
            "NEWOBJ": lambda _: self.reduce(),  # a class and the arguments of its making
            "BINPERSID": lambda _: self.stack.append(self.recalled(self.pop(1)[0])),
            "BYTEARRAY8": lambda value: self.stack.append(bytes(value)),
        }

    def run(self, stream: io.BytesIO) -> Any:
        """The value that the pickle at the stream's place leaves; the stream then stands behind it."""
        self.stack, self.marks, self.memo = [], [], {}
        what = self.grammar.what
        for opcode, argument, _ in pickletools.genops(stream):
            self.spent.opcodes += 1
            if self.spent.opcodes > self.grammar.most + 1:
                raise Refused(f"{self.where} has more than {self.grammar.most:,} opcodes; it is no pickle of {what}")
            if opcode.name not in self.steps:
                raise Refused(f"{self.where} has the pickle opcode {opcode.name}, which {what} does not use; not read")
            if opcode.name in ("STRING", "BINSTRING", "SHORT_BINSTRING") and isinstance(argument, str):
                argument = argument.encode("latin-1")
            self.steps[opcode.name](argument)
        if len(self.stack) != 1 or self.marks:
            raise ValueError("it ends with other than one value")
        return self.stack[0]

    def count_made(self, size: int) -> None:
        """Raises: ValueError if more bytes were made while reading than honest files need."""
        self.spent.made += size
        if self.spent.made > MAX_MADE:
            raise Refused(f"{self.where} makes more than {MAX_MADE:,} bytes of text; it is no pickle of {self.grammar.what}")

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
        if name not in self.grammar.calls and name not in self.grammar.mentioned:
            shown = name[:SHOWN].replace(" ", ".", 1)
            raise Refused(f"{self.where} names {shown!a}, which could run code; it is not read, {self.grammar.advice}")
        self.stack.append(Name(name))

    def reduce(self) -> None:
        called, arguments = self.pop(2)
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls what has no name")
        if called not in self.grammar.calls:
            raise ValueError(f"it calls {called} in an unknown way")
        self.stack.append(self.grammar.calls[called](self, arguments))

    def build(self) -> None:
        (state,) = self.pop(1)
        made = self.top()
        if not isinstance(made, Made):
            raise ValueError("it sets the state of what is no array")
        made.set_state(state)

    def recalled(self, identity: Any) -> Any:
        if self.persistent is None:
            raise ValueError("it speaks of what is kept elsewhere")
        return self.persistent(identity)


def _is_side(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, str | bytes) or type(key) is int for key in values[::2]):
        raise ValueError("a key is neither text nor number")
    return dict(zip(values[::2], values[1::2], strict=True))
