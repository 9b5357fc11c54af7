"""TOML files that users hand over: recipes, options."""

import tomllib
from pathlib import Path
from typing import Any


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """What a file holds.

    Args:
        what: it is, for messages: "recipe".
    Raises: ValueError, naming the file, if it cannot be read or is not TOML in UTF-8.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {what} {str(path)!r}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {str(path)!r}: not valid TOML: {error}") from None
