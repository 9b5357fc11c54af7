"""What needs no module of its own: the shape of images, JSON, and its digest."""

import hashlib
import json
from typing import Any

from jaxtyping import Float
from torch import Tensor

ABSTAIN = -1
"""The prediction of a classifier that does not answer; counts as wrong."""

Images = Float[Tensor, "n c h w"]
Json = dict[str, Any]


def digest_of(value: Json) -> str:
    """SHA-256 of a JSON value in canonical form, 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
