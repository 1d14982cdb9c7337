"""Answers as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

GUARDS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Headers of every answer: its content type holds, nobody on the way may cache it, and no page elsewhere may embed
it."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINES: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class SetHeaders(list[tuple[bytes, bytes]]):
    """Headers of many answers, which are encoded once. They must not change."""

    __slots__ = ("raw",)

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        super().__init__(headers)
        self.raw = b"".join([b"%b: %b\r\n" % pair for pair in self])


def encode(status: int, headers: Iterable[tuple[bytes, bytes]], date: bytes, body: bytes) -> bytes:
    """One answer. ``date``: the line Date; ``body``: empty for an answer to HEAD, whose length is still that of GET's
    body."""
    if type(headers) is SetHeaders:
        return b"%b%b%b\r\n%b" % (_LINES[status], date, headers.raw, body)
    out = [_LINES[status], date]
    for name, value in headers:
        out += (name, b": ", value, b"\r\n")
    out += (b"\r\n", body)
    return b"".join(out)
