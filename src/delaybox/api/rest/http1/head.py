"""The head of a request, read strictly (RFC 9112): what could be read in two ways is refused, not repaired."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

MAX_HEAD: Final = 16 * 1024
"""Bytes of request line and headers."""
MAX_HEADERS: Final = 100
END: Final = b"\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([A-Z]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LENGTH = re.compile(rb"[0-9]{1,19}")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_TEXT = bytes({*range(0x20, 0x7F), *range(0x80, 0x100), 0x09})
"""What may stand in a line; the rest must be the ends of lines."""
_FRAMING = (b"content-length", b"transfer-encoding")
_NAMES_KEPT = 1024


class BadHead(Exception):
    """No request that may be served. ``path``: decoded, empty where it is not known."""

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


_names: dict[bytes, bytes] = {}
"""Names as they were written -> in small letters. Of the same callers, so nearly always known."""


def read_head(head: bytes) -> Head:
    """The head that these bytes are, without the empty line at their end. BadHead."""
    lines = head.split(b"\r\n")
    # The lines hold no other line feed or carriage return, and no control character.
    if len(head.translate(None, _TEXT)) != 2 * (len(lines) - 1):
        raise BadHead(400, "the head holds a control character, or a line that does not end with CR LF; leave it out")
    first = _REQUEST_LINE.fullmatch(lines[0])
    if first is None:
        raise BadHead(400, "this is no HTTP/1.1 request; its first line must be METHOD /path HTTP/1.1")
    method, target, minor = first.groups()
    headers = _headers(lines)
    raw_path, path, query = _target(target, headers)
    framing = [name for name, _ in headers if name in _FRAMING]
    if len(framing) > 1:
        if len(set(framing)) == 1:
            raise BadHead(400, f"the header {framing[0].decode()} is given more than once; send it once", path)
        raise BadHead(400, "Content-Length and Transfer-Encoding exclude each other; send one of them", path)
    length, chunked, keep_alive, awaits_continue = 0, False, minor == b"1", False
    for name, value in headers:
        if name == b"content-length":
            if _LENGTH.fullmatch(value) is None:
                raise BadHead(400, "Content-Length is not a number of bytes; correct it", path)
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or minor == b"0":
                raise BadHead(400, "this Transfer-Encoding is not served; send Content-Length, or chunked", path)
            chunked = True
        elif name == b"connection":
            said = value.lower()
            keep_alive = b"close" not in said and (keep_alive or b"keep-alive" in said)
        elif name == b"expect":
            awaits_continue = value.lower() == b"100-continue" and minor == b"1"
    if chunked:
        length = -1
    return Head(method.decode(), raw_path, path, query, headers, length, keep_alive, minor == b"0", awaits_continue)


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    if len(lines) - 1 > MAX_HEADERS:
        raise BadHead(431, f"the request has more than {MAX_HEADERS} headers; send fewer")
    out: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        written, colon, value = line.partition(b":")
        name = _names.get(written) if colon else None
        if name is None:
            # Also a line that goes on the last one, and a space before the colon: proxies differ in what they mean.
            if not colon or _TOKEN.fullmatch(written) is None:
                raise BadHead(400, "a header of the request has no name that may stand before its colon; correct it")
            name = written.lower()
            if len(_names) < _NAMES_KEPT and len(written) <= 64:
                _names[written] = name
        out.append((name, value.strip(b" \t")))
    return out


def _target(target: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, str, bytes]:
    """Raw path, path, and query of a request's target."""
    if target[0] != 0x2F:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise BadHead(400, "the request's target is no path; it begins with /")
        authority, rest = absolute.groups()
        # The guards look at Host, so nothing else may say whom the request is for.
        if [value for name, value in headers if name == b"host"] != [authority]:
            raise BadHead(400, "the request's target names another host than its header Host; send the path alone")
        target = rest if rest.startswith(b"/") else b"/" + rest
    raw_path, _, query = target.partition(b"?")
    if b"%" not in raw_path:
        return raw_path, raw_path.decode("ascii"), query
    if _BAD_ESCAPE.search(raw_path) is None:
        try:
            return raw_path, unquote_to_bytes(raw_path).decode(), query
        except UnicodeDecodeError:
            pass
    raise BadHead(400, "the path is not percent-encoded UTF-8; encode it")
