"""Many calls of one function in one payload, and their outcomes in one result, for the chunks of `Client.map`.

Both are a sequence of parts: a byte for the kind of part, its length in four bytes (big endian), its bytes.
A call is written like the payload of a single call; the content type's parameter ``of`` names a form other than
JSON. A worker that does not know these content types refuses the task, because it cannot read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from delaybox.core.errors import NotDecodable

CALLS: Final = "application/vnd.delaybox.calls"
RESULTS: Final = "application/vnd.delaybox.results"

VALUE: Final = 0
"""A value, in the form that the content type names; JSON unless it names one."""
BYTES: Final = 1
FAILED: Final = 2
"""A serialized delaybox.v1.Failed: the call raised, and may be tried again."""

MAX_PARTS: Final = 10_000
_HEAD = Struct(">BI")


class CallPart(NamedTuple):
    """One call, or the outcome of one."""

    kind: int
    data: bytes


def join(parts: Iterable[CallPart]) -> bytes:
    """One payload of many parts."""
    return b"".join(_HEAD.pack(part.kind, len(part.data)) + part.data for part in parts)


def split(what: str, data: bytes) -> list[CallPart]:
    """The parts of a payload. NotDecodable."""
    found: list[CallPart] = []
    at, size = 0, len(data)
    while at < size:
        if len(found) >= MAX_PARTS:
            raise NotDecodable(f"{what} holds more than {MAX_PARTS} parts")
        if size - at < _HEAD.size:
            raise NotDecodable(f"{what} breaks off after {len(found)} parts")
        kind, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if length > size - at:
            raise NotDecodable(f"{what} breaks off after {len(found)} parts")
        found.append(CallPart(kind, data[at : at + length]))
        at += length
    return found


def typed(content_type: str, of: str) -> str:
    """``content_type`` with the form of its values, where that is not JSON."""
    return f"{content_type};of={of}" if of else content_type


def form(content_type: str) -> str:
    """The form of the values; empty for JSON."""
    return content_type.partition(";of=")[2]
