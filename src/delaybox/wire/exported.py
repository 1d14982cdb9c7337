"""The lines of an exported store: one JSON object each, with a checksum of itself before everything else.

The first line is the header, the last one the end. Bytes stand in base64.
"""

from __future__ import annotations

from typing import Final, TypeVar
from zlib import crc32

import msgspec

from delaybox.core.errors import ConfigError

FORMAT: Final = 1
LONGEST: Final = 256 * 1024 * 1024
"""Bytes of a line, at most: a line that is longer is no line of an export."""
_CRC: Final = b'{"crc":"%08x",'
_SIZE: Final = len(_CRC % 0)

_Read = TypeVar("_Read", "Header", "ExportedLine")


class Damaged(ConfigError):
    """A line that is not what was written."""

    code = "damaged_export"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. ``export``: names this export; ``store``: the store's id; ``at_ms``: when it began, by the
    server's clock; ``by``: the version that wrote it."""

    delaybox_export: int
    export: str
    store: str
    partitions: int
    bucket_ms: int
    at_ms: int
    by: str


class ExportedLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line behind the header. One of the first six says what it is.

    ``task``, ``dead``: an id; ``value``: the record, or the dead letter, as stored; ``body``: one that lies apart;
    ``print``: the fingerprint behind the idempotency key. ``due_ms``, ``lane``: for readers; the record counts.
    ``key``: of a task that has ended, with its entry as ``value``, until ``until_ms``. ``queue``: its rules are
    ``value``. ``done``: (partition, bucket) of which all tasks stand above; bucket -1: the partition is complete.
    ``end``: how many there are of each.
    """

    task: str | None = None
    dead: str | None = None
    key: bytes | None = None
    queue: str | None = None
    done: tuple[int, int] | None = None
    end: dict[str, int] | None = None
    was: str = ""
    due_ms: int = 0
    lane: str = ""
    value: bytes = b""
    body: bytes = b""
    print: bytes = b""
    until_ms: int = 0


def encode(line: Header | ExportedLine) -> bytes:
    """The line, with its end."""
    text = msgspec.json.encode(line)
    return _CRC % crc32(text[1:]) + text[1:] + b"\n"


def read_header(raw: bytes, where: str) -> Header:
    """The first line. Damaged for what is none, or of a newer format."""
    if not raw.startswith(b'{"crc":"') or b'"delaybox_export"' not in raw:
        raise Damaged(f"{where}, line 1: this is no export of a store; name a file that `delaybox export` wrote")
    try:
        found = _checked(raw, Header)
    except ValueError:
        raise Damaged(f"{where}, line 1: {_MEND}") from None
    if found.delaybox_export != FORMAT:
        raise Damaged(
            f"{where}, line 1: it has format {found.delaybox_export}, written by DelayBox {found.by}, and this version "
            f"reads format {FORMAT}; use that version or a later one"
        )
    return found


def read_line(raw: bytes, where: str, number: int) -> ExportedLine:
    """A line behind the header. Damaged."""
    try:
        return _checked(raw, ExportedLine)
    except ValueError:
        raise Damaged(f"{where}, line {number}: {_MEND}") from None


_MEND: Final = (
    "it is damaged (its checksum is another, or it is cut off); take the file from where it was copied from, or give "
    "--skip-damaged to store all other lines"
)


def _checked(raw: bytes, kind: type[_Read]) -> _Read:
    if not raw.endswith(b"\n") or len(raw) <= _SIZE or raw[:_SIZE] != _CRC % crc32(raw[_SIZE:-1]):
        raise ValueError
    return msgspec.json.decode(b"{" + raw[_SIZE:-1], type=kind)
