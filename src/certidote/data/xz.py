"""What `xz` packed, unpacked a piece at a time in bounded memory: a header of some bytes can ask a decoder for gigabytes."""

import io
import lzma
from typing import Any

MEMORY = 256 * 2**20
"""Bytes that a decoder may take; the strongest preset of xz needs 65 MiB."""

PIECE = 2**16


class Unpacked(io.RawIOBase):
    """The content of an .xz file (or several, one after the other) as a stream to be read once, forward.

    Args:
        packed: a binary file.
    Reading raises: lzma.LZMAError if it is damaged, cut off or asks for more than `MEMORY`.
    """

    def __init__(self, packed: Any) -> None:
        self._packed, self._decoder, self._rest = packed, self._new(), b""

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(memlimit=MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while len(buffer):
            if self._decoder.eof and not self._next():
                return 0
            if self._decoder.needs_input and not self._rest:
                self._rest = self._packed.read(PIECE)
                if not self._rest:
                    raise lzma.LZMAError("it ends in the middle")
            piece, self._rest = self._decoder.decompress(self._rest, len(buffer)), b""
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
        return 0

    def _next(self) -> bool:
        """Whether another packed file follows, zeros between them apart."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        while not rest:
            piece = self._packed.read(PIECE)
            if not piece:
                return False
            rest = piece.lstrip(b"\0")
        self._rest, self._decoder = rest, self._new()
        return True
