"""Named random streams: a tree of keys, and the noise of one ensemble member drawn from it.

A `Key` is a root seed and the path of names below it. Every random draw of the library comes from one, named by meaning
(`key / "members" / 17 / "noise"`) and never by worker, batch, time or order of completion: scheduling cannot change a result.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

ROW_BLOCK = 1024
"""Rows whose noise is drawn together. Part of the noise's definition: changing it changes every draw."""


@dataclass(frozen=True)
class Key:
    """A node in the tree of random streams: a root seed and the path of names below it."""

    root: int
    path: tuple[str | int, ...] = ()

    def __truediv__(self, name: str | int | np.integer) -> "Key":
        return Key(self.root, (*self.path, name if isinstance(name, str) else int(name)))

    def entropy(self) -> int:
        """256 bits, a pure function of (root, path)."""
        return int.from_bytes(hashlib.sha256(repr((self.root, self.path)).encode()).digest(), "big")

    def numpy(self) -> np.random.Generator:
        """A fresh generator at the start of this stream: called twice, it gives the same numbers twice."""
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(self.entropy())))

    def under(self, other: "Key") -> bool:
        """Whether this stream is `other` or one of those named below it."""
        return self.root == other.root and self.path[: len(other.path)] == other.path

    def identity(self) -> int:
        """63 bits naming this stream, for records that must show two streams to be different."""
        return self.entropy() >> 193


def fresh_root() -> int:
    """A 128-bit root from the operating system, which nobody who made the data could know."""
    return secrets.randbits(128)


def committed_root(secret: int, digest: str) -> int:
    """A 128-bit root that holds for one configuration alone: whoever changes that afterwards cannot find a secret for the same root.

    Args:
        secret: from `fresh_root`, drawn after the configuration was recorded.
        digest: of the configuration.
    """
    return int.from_bytes(hashlib.sha256(f"{secret:x} {digest}".encode()).digest()[:16], "big")


def row_blocks(num_rows: int) -> Iterator[range]:
    """The aligned blocks of rows, in order; the last one may be short."""
    for start in range(0, num_rows, ROW_BLOCK):
        yield range(start, min(start + ROW_BLOCK, num_rows))


def normal_block(key: Key, rows: range, image_shape: tuple[int, ...], device: str = "cpu") -> Float32[Tensor, "n ..."]:
    """Standard normal numbers for one aligned block of rows, keyed by block: independent of how rows are chunked.

    A GPU draws its own, faster than they could be copied there: from the same entropy, but other numbers than a CPU does. Which device
    drew them is part of a run's configuration.

    Args:
        key: the member's noise stream.
        rows: a block from `row_blocks`; its first row must be a multiple of `ROW_BLOCK`.
        image_shape: (c, h, w).
        device: "cpu", or a CUDA device.
    Returns: (len(rows), c, h, w) float32, on the device.
    Raises: ValueError if the block is not aligned.
    """
    if rows.start % ROW_BLOCK or rows.step != 1 or len(rows) > ROW_BLOCK:
        raise ValueError(f"rows {rows} are not one aligned block of at most {ROW_BLOCK} rows; take blocks from row_blocks()")
    return normals(key / (rows.start // ROW_BLOCK), (len(rows), *image_shape), device)


def normals(key: Key, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Float32[Tensor, "..."]:
    """Standard normal numbers of one key on a device, as `normal_block` draws them."""
    if torch.device(device).type == "cpu":
        return torch.from_numpy(key.numpy().standard_normal(shape, dtype=np.float32))
    return _device_normal(key, shape, device)


def _device_normal(key: Key, shape: tuple[int, ...], device: torch.device | str) -> Float32[Tensor, "..."]:
    """Torch's counter-based CUDA generator uses all 64 bits of its seed, unlike the CPU one."""
    generator = torch.Generator(device).manual_seed(key.identity())
    return torch.randn(shape, generator=generator, device=device)


@contextmanager
def torch_seeded(key: Key) -> Iterator[None]:
    """Torch's global generator seeded from `key` inside the block and restored after it.

    For model constructors, which draw their initial weights there. The seed is hashed down to the 32 bits that torch's CPU
    generator really uses; everything else draws from `Key.numpy`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.entropy() & 0xFFFFFFFF)
        yield
