"""Checks a request's head beyond what the parser (llhttp) checks, so that it can be read in one way only."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

MAX_HEAD: Final = 16 * 1024
"""Bytes of request line and headers."""
MAX_HEADERS: Final = 100

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_SPOKEN = ("1.0", "1.1")
_WORDS: Final = (
    # llhttp's error -> our message, with how to mend it.
    ("can't be present with", "Content-Length and Transfer-Encoding exclude each other; send one of them"),
    ("Duplicate Content-Length", "the header content-length is given more than once; send it once"),
    ("Content-Length", "Content-Length is not a number of bytes; correct it"),
    ("Transfer-Encoding", "this Transfer-Encoding is not served; send Content-Length, or chunked"),
    ("header", "a header of the request cannot be read in one way alone; correct it, or leave it out"),
)


class BadHead(Exception):
    """A head that must not be served. ``path``: decoded, empty where it is not known."""

    def __init__(self, status: int, message: str, path: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.path = path


class Head(NamedTuple):
    """``raw_path``: as it came, without the query. ``headers``: names in small letters, in their order.

    ``length``: bytes of the body, -1 where it comes in chunks.
    """

    method: str
    raw_path: bytes
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    length: int
    keep_alive: bool
    is_1_0: bool
    awaits_continue: bool


def read_head(
    method: bytes, version: str, target: bytes, headers: list[tuple[bytes, bytes]], *, keep_alive: bool
) -> Head:
    """The head made of these parts, which llhttp has accepted. BadHead."""
    if version not in _SPOKEN:
        raise BadHead(400, "this is no HTTP/1.1 request; its first line must be METHOD /path HTTP/1.1")
    raw_path, path, query = _target(target, headers)
    length, is_1_0, awaits_continue = 0, version == "1.0", False
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or is_1_0:
                raise BadHead(400, "this Transfer-Encoding is not served; send Content-Length, or chunked", path)
            length = -1
        elif name == b"expect":
            awaits_continue = value.lower() == b"100-continue" and not is_1_0
    return Head(method.decode(), raw_path, path, query, headers, length, keep_alive, is_1_0, awaits_continue)


def unreadable(problem: str, target: bytes) -> BadHead:
    """The error for a head that llhttp refuses."""
    path = target.partition(b"?")[0].decode("ascii", "replace")
    for part, words in _WORDS:
        if part in problem:
            return BadHead(400, words, path)
    return BadHead(400, f"this is no HTTP/1.1 request ({problem}); send METHOD /path HTTP/1.1 and its headers", path)


def _target(target: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, str, bytes]:
    """Raw path, path, and query of a request's target."""
    if target[:1] != b"/":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise BadHead(400, "the request's target is no path; it begins with /")
        authority, rest = absolute.groups()
        # The guards check Host, so nothing else may name the host that the request is for.
        if [value for name, value in headers if name == b"host"] != [authority]:
            raise BadHead(400, "the request's target names another host than its header Host; send the path alone")
        target = rest if rest.startswith(b"/") else b"/" + rest
    raw_path, _, query = target.partition(b"?")
    if b"%" not in raw_path and raw_path.isascii():
        return raw_path, raw_path.decode("ascii"), query
    if _BAD_ESCAPE.search(raw_path) is None:
        try:
            return raw_path, unquote_to_bytes(raw_path).decode(), query
        except UnicodeDecodeError:
            pass
    raise BadHead(400, "the path is not percent-encoded UTF-8; encode it")
