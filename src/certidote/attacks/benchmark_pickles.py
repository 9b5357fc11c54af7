"""The pickles that the poisoning benchmark and its dialects exchange, read without unpickling anything.

Lists, tuples, dictionaries, numbers and text; Pillow images, NumPy arrays and scalars, torch tensors. Each is built here from its recorded
state: no class is imported, no function of a file is called, and nothing is allocated that the file does not itself hold.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from certidote.data.checks import Refused, check_memory, check_ratio, quoted
from certidote.data.pickled import ARRAYS, Array, Call, Grammar, Machine, Name, reading, text

MAX_FILE = 2 * 2**30
MAX_OPCODES = 400_000
"""500 images have about 10,000."""
MAX_SIDE = 4_096
MAX_NUMBERS = 200_000
BANDS = {"RGB": 3, "L": 1}
"""Modes of images, as Pillow calls them: color and grey."""

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1_001
"""What files of torch before 1.6, and storages within pickles of any version, begin with."""

STORAGES = {
    "torch FloatStorage": "f4",
    "torch DoubleStorage": "f8",
    "torch HalfStorage": "f2",
    "torch LongStorage": "i8",
    "torch IntStorage": "i4",
    "torch ShortStorage": "i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "b1",
}


class PickledImage:
    """A Pillow image under construction: (h, w, c) levels."""

    def __init__(self) -> None:
        self.levels: UInt8[np.ndarray, "h w c"] | None = None

    def set_state(self, state: object) -> None:
        if not isinstance(state, list | tuple) or len(state) not in (5, 6):  # one more for images that came from files
            raise ValueError("its image has a state that is none")
        mode, size, content = state[1], state[2], state[4]
        if not isinstance(mode, str) or mode not in BANDS:
            raise ValueError("its image is neither RGB nor gray (mode L)")
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(type(side) is int for side in size):
            raise ValueError("its image has a size that is none")
        width, height = size
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE) or not isinstance(content, bytes):
            raise ValueError("its image has a size or content that is none")
        if len(content) != width * height * BANDS[mode]:
            raise ValueError(f"its image of {height}x{width} pixels has {len(content)} bytes")
        self.levels = np.frombuffer(content, np.uint8).reshape(height, width, BANDS[mode])


@dataclass
class Storage:
    """The numbers behind tensors; they may come after the pickle that speaks of them."""

    kind: str
    count: int
    content: bytes | memoryview | None = None

    def numbers(self) -> np.ndarray[Any, np.dtype[Any]]:
        if self.content is None or len(self.content) != self.count * np.dtype(self.kind).itemsize:
            raise ValueError(f"its tensor claims {self.count} numbers that are not there")
        return np.frombuffer(self.content, np.dtype(self.kind).newbyteorder("<"))


@dataclass(frozen=True)
class Tensor:
    """A torch tensor: a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Raises: ValueError if the view leaves its storage, or repeats numbers (a view can claim any size that way)."""
        numbers = self.storage.numbers()
        size = math.prod(self.shape)
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if size > len(numbers) or (size and last >= len(numbers)):
            raise ValueError(f"its tensor of shape {self.shape} is larger than what is stored")
        strides = tuple(stride * numbers.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides, writeable=False)


def _image(machine: Machine, arguments: tuple[Any, ...]) -> PickledImage:
    if arguments:
        raise ValueError("it makes an image in an unknown way")
    return PickledImage()


def _reconstructed(machine: Machine, arguments: tuple[Any, ...]) -> PickledImage:
    """`copyreg._reconstructor(class, object, None)`, in pickles of protocol 0 and 1."""
    if len(arguments) != 3 or not isinstance(arguments[0], Name) or arguments[0] not in IMAGES or arguments[2] is not None:
        raise ValueError("it makes an object in an unknown way")
    return PickledImage()


def _ordered(machine: Machine, arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments:
        raise ValueError("it makes a dictionary in an unknown way")
    return {}


def _scalar(machine: Machine, arguments: tuple[Any, ...]) -> Any:
    dtype, content = arguments
    array = Array(machine.grammar)
    array.fill((1,), dtype, False, content)
    assert array.value is not None
    return array.value[0].item()


def _from_buffer(machine: Machine, arguments: tuple[Any, ...]) -> Array:
    content, dtype, shape, order = arguments
    array = Array(machine.grammar)
    array.fill(shape, dtype, text(order) == "F", content)
    return array


def _tensor(machine: Machine, arguments: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0:
        raise ValueError("its tensor has no storage")
    for sides in (shape, strides):
        if not isinstance(sides, tuple) or len(sides) > 4 or not all(type(side) is int and 0 <= side < 2**40 for side in sides):
            raise ValueError("its tensor has a shape that is none")
    if len(shape) != len(strides):
        raise ValueError("its tensor has a shape that is none")
    return Tensor(storage, offset, shape, strides)


def _storage_in_bytes(machine: Machine, arguments: tuple[Any, ...]) -> Storage:
    """`torch.storage._load_from_bytes`: a whole file of the old form, in which lies one storage."""
    (content,) = arguments
    if not isinstance(content, bytes):
        raise ValueError("its storage is no bytes")
    found = _old_form(Machine(WITHIN, machine.where, machine.spent), content)
    if not isinstance(found, Storage):
        raise ValueError("its storage is none")
    return found


IMAGES = {
    "PIL.Image Image",
    "PIL.PngImagePlugin PngImageFile",
    "PIL.JpegImagePlugin JpegImageFile",
    "PIL.BmpImagePlugin BmpImageFile",
    "PIL.PpmImagePlugin PpmImageFile",
}

_NUMPY: dict[str, Call] = {
    **ARRAYS,
    **{f"numpy.{core}.multiarray scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _from_buffer for core in ("core", "_core")},
    "collections OrderedDict": _ordered,
}
_TENSORS: dict[str, Call] = {"torch._utils _rebuild_tensor_v2": _tensor}
_PICTURES: dict[str, Call] = {
    **dict.fromkeys(IMAGES, _image),
    "copyreg _reconstructor": _reconstructed,
    "copy_reg _reconstructor": _reconstructed,
}
_MENTIONED = frozenset({"numpy ndarray", "builtins object", "__builtin__ object"})
_KINDS = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "b1"})
_WHAT, _ADVICE = "the poisoning benchmark", "get it anew, or craft poisons with 'certidote poison'"

BENCHMARK = Grammar(
    _WHAT,
    {**_NUMPY, **_PICTURES, **_TENSORS, "torch.storage _load_from_bytes": _storage_in_bytes},
    _MENTIONED,
    "numbers",
    _KINDS,
    frozenset({"NEWOBJ", "BYTEARRAY8"}),
    MAX_OPCODES,
    _ADVICE,
)
"""Files that Python's pickle wrote."""

TORCH = Grammar(
    _WHAT,
    {**_NUMPY, **_PICTURES, **_TENSORS},
    _MENTIONED | frozenset(STORAGES),
    "numbers",
    _KINDS,
    frozenset({"NEWOBJ", "BYTEARRAY8", "BINPERSID"}),
    MAX_OPCODES,
    _ADVICE,
)
"""Files that torch.save wrote."""

WITHIN = Grammar(_WHAT, {}, frozenset(STORAGES), "numbers", frozenset(), frozenset({"BINPERSID"}), MAX_OPCODES, _ADVICE)
"""A storage within a pickle."""


def read_benchmark(path: Path) -> Any:
    """What a file that pickle or torch.save wrote holds, as `Array`, `PickledImage` and `Tensor` where these were.

    Raises: ValueError, in one line that names the file, if it is anything else, damaged or too large. No content can make this run code,
        or take much more memory than the file has bytes.
    """
    where = f"file {quoted(path)}"
    content = _content(path, where)
    if content.startswith(b"PK\x03\x04"):
        return reading(TORCH, where, lambda machine: _zipped(machine, content))
    if MAGIC.to_bytes(10, "little") in content[:32]:
        return reading(TORCH, where, lambda machine: _old_form(machine, content))
    return reading(BENCHMARK, where, lambda machine: machine.run(io.BytesIO(content)))


def interpreted(path: Path, made: Any, interpret: Callable[[Any], Any]) -> Any:
    """What `interpret` makes of a value from `read_benchmark`; whatever it raises becomes one line that names the file."""
    with np.errstate(all="ignore"):  # numbers that are none are refused, and that is all that is said of them
        return reading(BENCHMARK, f"file {quoted(path)}", lambda _: interpret(made))


def _content(path: Path, where: str) -> bytes:
    try:
        size = path.stat().st_size if path.is_file() else -1
        if not 0 <= size <= MAX_FILE:
            raise Refused(f"{where} is no regular file of at most {MAX_FILE:,} bytes; give a file of the benchmark")
        check_memory(size, where)
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"{where} cannot be read ({error.strerror}); check its permissions") from error


# ------------------------------------------------------------------------------------------------------------------- torch


def _storage(identity: Any) -> tuple[str, Storage]:
    """The key and the empty storage that a persistent identity names."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage" or not isinstance(identity[1], Name):
        raise ValueError("it speaks of what is no storage")
    count = identity[4]
    if identity[1] not in STORAGES or type(count) is not int or not 0 <= count < 2**40:
        raise ValueError("its storage has a kind or size that is none")
    if len(identity) > 5 and identity[5] is not None:
        raise ValueError("its storage is a view of another one")
    return text(identity[2]), Storage(STORAGES[identity[1]], count)


def _remembering(found: dict[str, Storage]) -> Callable[[Any], Storage]:
    """One storage for each key, however often it is named."""

    def recall(identity: Any) -> Storage:
        key, storage = _storage(identity)
        kept = found.setdefault(key, storage)
        if (kept.kind, kept.count) != (storage.kind, storage.count):
            raise ValueError("one storage has two kinds or sizes")
        return kept

    return recall


def _old_form(machine: Machine, content: bytes) -> Any:
    """Five pickles, then the numbers of each storage behind their count."""
    found: dict[str, Storage] = {}
    machine.persistent = _remembering(found)
    stream = io.BytesIO(content)
    if machine.run(stream) != MAGIC or machine.run(stream) != PROTOCOL:
        raise ValueError("it does not begin like a file of torch")
    system = machine.run(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not in little-endian order")
    made, keys = machine.run(stream), machine.run(stream)
    if not isinstance(keys, list) or sorted(map(text, keys)) != sorted(found):
        raise ValueError("it lists other storages than it has")
    place, numbers = stream.tell(), memoryview(content)
    for key in map(text, keys):
        storage = found[key]
        (count,) = struct.unpack_from("<q", content, place)
        size = storage.count * np.dtype(storage.kind).itemsize
        if count != storage.count or len(content) - place - 8 < size:
            raise ValueError(f"its storage claims {storage.count} numbers that are not there")
        storage.content = numbers[place + 8 : place + 8 + size]
        place += 8 + size
    return made


def _zipped(machine: Machine, content: bytes) -> Any:
    """A zip archive with one pickle and a file for each storage."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        total = sum(info.file_size for info in infos.values())
        check_memory(total, machine.where)
        check_ratio(total, len(content), machine.where)
        pickles = [name for name in infos if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it holds other than one pickle")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in infos and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are not in little-endian order")
        found: dict[str, Storage] = {}
        machine.persistent = _remembering(found)
        made = machine.run(io.BytesIO(archive.read(pickles[0])))
        for key, storage in found.items():
            name = f"{root}data/{key}"
            if name not in infos or infos[name].file_size != storage.count * np.dtype(storage.kind).itemsize:
                raise ValueError(f"its storage claims {storage.count} numbers that are not there")
            storage.content = archive.read(name)
        return made


# ------------------------------------------------------------------------------------------------------------------ values


def as_levels(value: Any) -> UInt8[np.ndarray, "c h w"]:
    """An image. Raises: ValueError if it is none."""
    if not isinstance(value, PickledImage) or value.levels is None:
        raise ValueError("an image is expected where there is none")
    return value.levels.transpose(2, 0, 1).copy()


def as_array(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Numbers from an array, a tensor, or lists in lists (up to three deep, of equal lengths).

    Raises: ValueError for anything else.
    """
    if isinstance(value, Array) and value.value is not None:
        return value.value
    if isinstance(value, Tensor):
        return value.array()
    return np.array(_numbers(value, 3, [MAX_NUMBERS]))


def as_number(value: Any) -> int:
    """A whole number, also from an array or tensor that holds one. Raises: ValueError for anything else."""
    if isinstance(value, Array | Tensor):
        array = as_array(value)
        if array.size != 1 or array.dtype.kind not in "iu":
            raise ValueError("a whole number is expected where there is none")
        return int(array.reshape(-1)[0])
    if type(value) is not int:
        raise ValueError("a whole number is expected where there is none")
    return value


def as_pair(value: Any) -> tuple[Any, Any]:
    """Raises: ValueError unless it is a tuple or list of two."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError("a pair is expected where there is none")
    return value[0], value[1]


def as_list(value: Any) -> list[Any]:
    """Raises: ValueError unless it is a list or tuple."""
    if not isinstance(value, list | tuple):
        raise ValueError("a list is expected where there is none")
    return list(value)


def _numbers(value: Any, deep: int, left: list[int]) -> Any:
    """Lists of numbers; `left` counts down, because one list in a file can be named again and again."""
    if isinstance(value, list | tuple) and deep:
        left[0] -= len(value)
        if left[0] < 0:
            raise ValueError(f"it lists more than {MAX_NUMBERS:,} numbers one by one")
        if not {type(each) for each in value} <= {int, float, bool}:
            return [_numbers(each, deep - 1, left) for each in value]
        if any(type(each) is int and abs(each) >= 2**63 for each in value):
            raise ValueError("it lists a number of more than 64 bits")
        return list(value)
    if type(value) in (int, float, bool) and (type(value) is float or abs(value) < 2**63):
        return value
    if isinstance(value, Array | Tensor):
        array = as_array(value)
        if array.size == 1:
            return array.reshape(-1)[0].item()
    raise ValueError("numbers are expected where there are none")
