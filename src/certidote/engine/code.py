"""Which code a run is made with: part of its configuration, so that votes of one code are never counted with those of another."""

import hashlib
import inspect
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import certidote

DECIDING = (
    "adam",
    "ascent",
    "certification",
    "data",
    "defenses",
    "diffusion",
    "engine",
    "graphed",
    "muon",
    "numerics",
    "steps",
    "streams",
    "training",
    "types",
)
"""The parts of the package that can decide a vote or what votes prove; what only shows results may change under a run."""


@cache
def package_digest() -> str:
    """SHA-256 over the names and contents of the package's own source files in `DECIDING`."""
    package = Path(certidote.__file__).parent
    files = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0].removesuffix(".py") in DECIDING]
    return _digest((str(path.relative_to(package).as_posix()), path.read_bytes()) for path in sorted(files))


def code_identity(*parts: object) -> dict[str, str]:
    """The code behind a run: the package's sources, the files that define parts from outside it, and the arithmetic below.

    Args:
        parts: scheme and trainer. A file that defines the class of one, and is not of this package, is digested too; what that
            file imports is not.
    """
    import numpy
    import torch

    # Which build of a version ("+cpu", "+cu128") is a matter of how a machine rounds: `numerics.rounding`.
    identity = {"certidote": package_digest(), "torch": str(torch.__version__).partition("+")[0], "numpy": numpy.__version__}
    for kind in dict.fromkeys(type(part) for part in parts):
        if not kind.__module__.startswith("certidote."):
            identity[f"{kind.__module__}.{kind.__qualname__}"] = _source_digest(kind)
    return identity


def _source_digest(kind: type) -> str:
    try:
        path = inspect.getsourcefile(kind)
    except TypeError:
        path = None
    return "no source file" if path is None else _digest([("", Path(path).read_bytes())])


def _digest(files: Iterable[tuple[str, bytes]]) -> str:
    h = hashlib.sha256()
    for name, content in files:
        text = content.replace(b"\r\n", b"\n")  # as a checkout may write it
        h.update(f"{name} {len(text)}\n".encode())
        h.update(text)
    return h.hexdigest()
