"""A body in chunks, decoded as it arrives (RFC 9112, section 7.1)."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_LONGEST_LINE: Final = 256
_MOST_TRAILERS: Final = 8 * 1024
MOST_CHUNKS: Final = 10_000
"""Each costs about a microsecond, however small it is."""


class BadChunk(Exception):
    """The bytes are no chunks, or too many."""


class _Part(Enum):
    SIZE = auto()
    DATA = auto()
    END = auto()
    TRAILERS = auto()
    OVER = auto()


class Chunks:
    """Decodes one body. ``rest``: the bytes that came after it, once it is ``over``."""

    __slots__ = ("_buffer", "_count", "_left", "_part", "_trailers", "rest")

    def __init__(self) -> None:
        self._part = _Part.SIZE
        self._buffer = b""
        self._left = 0
        self._count = 0
        self._trailers = 0
        self.rest = b""

    @property
    def over(self) -> bool:
        """Whether the last chunk has been read."""
        return self._part is _Part.OVER

    def feed(self, data: bytes) -> bytes:
        """What of the body these bytes hold. BadChunk."""
        out: list[bytes] = []
        data = self._buffer + data if self._buffer else data
        self._buffer = b""
        at = 0
        while True:
            if self._part is _Part.DATA:
                part = data[at : at + self._left]
                out.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left:
                    break
                self._part = _Part.END
            if self._part is _Part.OVER:
                self.rest += data[at:]
                break
            end = data.find(b"\r\n", at, at + _LONGEST_LINE + 2)
            if end < 0:
                self._buffer = data[at:]
                if len(self._buffer) > _LONGEST_LINE or b"\n" in self._buffer:
                    raise BadChunk
                if self._part is _Part.END and self._buffer not in (b"", b"\r"):
                    raise BadChunk
                break
            self._line(data[at:end])
            at = end + 2
        return b"".join(out)

    def _line(self, line: bytes) -> None:
        if self._part is _Part.END:
            if line:
                raise BadChunk
            self._part = _Part.SIZE
        elif self._part is _Part.SIZE:
            found = _SIZE.fullmatch(line)
            self._count += 1
            if found is None or self._count > MOST_CHUNKS:
                raise BadChunk
            self._left = int(found[1], 16)
            self._part = _Part.DATA if self._left else _Part.TRAILERS
        else:
            self._trailers += len(line)
            if self._trailers > _MOST_TRAILERS or b"\n" in line or b"\r" in line:
                raise BadChunk
            if not line:
                self._part = _Part.OVER
