"""What passes between a caller and grpc's core on one HTTP/2 connection, counted. No I/O: bytes in, bytes out.

grpc's core reads a whole message into memory, as large as its caller announces, before Python is involved. So the
frames are checked on their way: their heads, and the five bytes before each message that hold its length. A message
that is too long, or that comes while too much is under way, is not passed on. In its place the core gets a few secret
bytes, which `refusal` recognises in the call that the message was for; the rest of the message is dropped.

RFC 9113 has the frames, gRPC's "PROTOCOL-HTTP2" the messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST_STREAMS = 10_000
"""Streams that a caller may open before it knows a limit; the core refuses most of them."""
MOST_FRAMES = 1 << 62
"""No bound."""
BUSY_BYTES = 192 << 20
"""Most bytes of unfinished messages, over all connections; a message that would exceed it is refused before it
comes."""

_DATA, _HEADERS, _RST_STREAM, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 8, 9
_END_STREAM, _END_HEADERS, _PADDED = 1, 4, 8
_HEAD = 9
_EACH = 1 << 31
_REFUSED_STREAM = (7).to_bytes(4, "big")
_TOO_LONG, _BUSY = b"l", b"b"
_SECRET = os.urandom(16)
_MARK = len(_SECRET) + 5


class Violation(Exception):
    """The caller does what no gRPC client does, so the connection must be closed."""


class Totals:
    """Counts shared by all connections. ``unfinished``: bytes of messages that have arrived in part; ``asked``: is
    called when the request of a call has come whole."""

    __slots__ = ("asked", "unfinished")

    def __init__(self, asked: Callable[[], None] = lambda: None) -> None:
        self.unfinished = 0
        self.asked = asked


def refusal(raw: bytes) -> tuple[bool, int] | None:
    """Recognises the replacement of a refused message: (whether it was too long, its bytes). None for any other
    message."""
    if len(raw) < _MARK or raw[-_MARK:-5] != _SECRET:
        return None
    return raw[-5:-4] == _TOO_LONG, int.from_bytes(raw[-4:], "big")


class _Stream:
    __slots__ = ("got", "left", "prefix", "refused", "since", "total")

    def __init__(self) -> None:
        self.left = 0
        """Bytes of the message under way that are still missing."""
        self.got = 0
        self.prefix = b""
        self.since = 0.0
        self.total = 0
        """All bytes of the stream."""
        self.refused = False


class Traffic:
    """One connection. ``limit``: bytes that a message may have; ``now``: a clock in seconds."""

    def __init__(self, totals: Totals, limit: int, now: Callable[[], float]) -> None:
        self._totals = totals
        self._limit = limit
        self._now = now
        self._streams: dict[int, _Stream] = {}
        self._highest = 0
        self.most_streams = MOST_STREAMS
        """Most open streams. Bytes that would open another wait, with everything behind them, until one ends."""
        self.frames = MOST_FRAMES
        """How many more calls may start (a large head counts as several); the bytes behind them wait."""
        self.waiting = False
        self._taken = _EACH
        """The last stream that the core gets."""
        self.greeted = False
        """Whether it began with HTTP/2's preface."""
        self.unfinished = 0
        self.held = 0
        """Bytes of all streams that are open."""
        # From the caller
        self._tail = b""
        self._left = 0
        self._stream: _Stream | None = None
        self._skip = False
        self._last = False
        self._mark = b""
        # From the core
        self._core_head = b""
        self._core_left = 0
        self._in_headers = False
        self._credit = 0
        self._refusals = b""

    @property
    def open(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def take_no_more(self) -> None:
        """From now on streams that the caller opens are refused, unseen by the core: with REFUSED_STREAM, by which the
        caller knows that nothing was done. The core itself, when it is stopped, would end them as cancelled."""
        self._taken = min(self._taken, self._highest)
        self.most_streams = MOST_STREAMS

    def oldest(self) -> float:
        """When the oldest unfinished message began; infinity where there is none."""
        if not self.unfinished:
            return float("inf")
        return min((s.since for s in self._streams.values() if s.left), default=float("inf"))

    def close(self) -> None:
        """The connection is gone."""
        for stream in list(self._streams):
            self._end(stream)
        self._tail = self._mark = b""

    # -- from the caller ------------------------------------------------------------------------------------------

    def from_caller(self, data: bytes) -> bytes:
        """The bytes to pass on to the core. Violation."""
        self.waiting = False
        if self._tail:
            data = self._tail + data
            self._tail = b""
        at = 0
        if not self.greeted:
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise Violation("it does not speak HTTP/2")
            if len(data) < len(PREFACE):
                self._tail = data
                return b""
            self.greeted = True
            at = len(PREFACE)
        out: list[bytes] = []
        start, end = 0, len(data)
        while at < end:
            if not self._left:
                if end - at < _HEAD:
                    self._tail = data[at:]
                    end = at
                    break
                if self.frames <= 0 or (data[at + 3] == _HEADERS and len(self._streams) >= self.most_streams):
                    self.waiting = True
                    self._tail = data[at:]
                    end = at
                    break
                replaced = self._frame(data, at)
                if replaced is not None:
                    out += (data[start:at], replaced)
                    start = at + _HEAD
                at += _HEAD
            else:
                stop = min(end, at + self._left)
                if self._skip:
                    self._left -= stop - at
                    start = at = stop
                elif self._stream is None:
                    self._left -= stop - at
                    at = stop
                else:
                    at, start = self._payload(self._stream, data, at, stop, start, out)
                    if at < stop and self._left:
                        # Only the first bytes of a message's prefix have come: they are kept until the rest has.
                        self._tail = data[at:]
                        end = at
                        break
            if not self._left and self._mark:
                out += (data[start:at], self._mark)
                start, self._mark = at, b""
        if not out and start == 0 and end == len(data):
            return data
        out.append(data[start:end])
        return b"".join(out)

    def _frame(self, data: bytes, at: int) -> bytes | None:
        """Handles a frame's head. Returns what replaces it, if it is not passed on as it is."""
        self._left = size = int.from_bytes(data[at : at + 3], "big")
        self.frames -= 1 + (size >> 10)
        kind, flags = data[at + 3], data[at + 4]
        number = int.from_bytes(data[at + 5 : at + _HEAD], "big") & 0x7FFFFFFF
        self._stream, self._skip = None, False
        if number > self._taken:
            return self._refuse(kind, number, size)
        if kind == _DATA:
            stream = self._streams.get(number)
            if stream is None:
                return None
            if flags & _PADDED:
                raise Violation("it pads its data, which no gRPC client does")
            stream.total += size
            self.held += size
            self._last = bool(flags & _END_STREAM)
            if self._last:
                self._totals.asked()
            if not stream.refused:
                self._stream = stream
                return None
            # The core does not see these bytes, so it will not give the caller window for them; that is done here.
            self._skip = True
            self._credit += size
            return _frame(_DATA, _END_STREAM, number, b"") if self._last else b""
        if kind == _HEADERS:
            if number > self._highest:
                self._highest = number
                self._streams[number] = _Stream()
        elif kind == _RST_STREAM:
            self._end(number)
        return None

    def _refuse(self, kind: int, number: int, size: int) -> bytes:
        """A frame of a stream that is not taken. The core could not read any head that comes after one that it did not
        get, because each is compressed by those before it; it gets none from now on."""
        if kind == _HEADERS and number > self._highest:
            self._highest = number
            self._refusals += _frame(_RST_STREAM, 0, number, _REFUSED_STREAM)
        elif kind == _DATA:
            self._credit += size
        self._skip = True
        return b""

    def _payload(self, s: _Stream, data: bytes, at: int, stop: int, start: int, out: list[bytes]) -> tuple[int, int]:
        """Handles part of a DATA frame. Returns how far it came, and from where bytes are still to be passed on."""
        while at < stop:
            if s.left:
                size = min(s.left, stop - at)
                s.left -= size
                at += size
                self._left -= size
                if s.left:
                    self._count(s, size)
                else:
                    self._count(s, -s.got)
                continue
            need = 5 - len(s.prefix)
            if stop - at < need:
                if self._left > stop - at:
                    break
                s.prefix += data[at:stop]
                self._left -= stop - at
                at = stop
                continue
            head = s.prefix + data[at : at + need]
            at += need
            self._left -= need
            size = int.from_bytes(head[1:], "big")
            busy = self._totals.unfinished + size > BUSY_BYTES
            if size > self._left and not self._last and (size > self._limit or busy):
                if s.prefix:
                    raise Violation("it sends the length of a message that is refused in pieces")
                why = _TOO_LONG if size > self._limit else _BUSY
                mark = _SECRET + why + size.to_bytes(4, "big")
                out += (data[start : at - 5], b"\0" + (self._left + _MARK).to_bytes(4, "big"))
                s.refused = True
                number = next(n for n, found in self._streams.items() if found is s)
                self._mark = _frame(_DATA, 0, number, mark)
                self._stream = None
                self._credit -= _MARK
                return self._pass(at, stop), at
            s.prefix = b""
            s.left = size
            s.since = self._now()
        return at, start

    def _pass(self, at: int, stop: int) -> int:
        """Fills the rest of the frame in which a refused message began, because the frame's head has announced that
        many bytes."""
        self._left -= stop - at
        return stop

    def _count(self, s: _Stream, size: int) -> None:
        s.got += size
        self.unfinished += size
        self._totals.unfinished += size

    def _end(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._count(stream, -stream.got)
            self.held -= stream.total
            if stream is self._stream:
                self._stream = None

    # -- from the core --------------------------------------------------------------------------------------------

    def from_core(self, data: bytes) -> bytes:
        """The bytes to pass on to the caller."""
        at, end = 0, len(data)
        boundary = -1
        while at < end:
            if self._core_left:
                step = min(self._core_left, end - at)
                self._core_left -= step
                at += step
                continue
            if not self._core_head and not self._in_headers:
                boundary = at
            step = min(_HEAD - len(self._core_head), end - at)
            self._core_head += data[at : at + step]
            at += step
            if len(self._core_head) == _HEAD:
                self._core_frame(self._core_head)
                self._core_head = b""
        if (self._credit > 0 or self._refusals) and boundary >= 0:
            return data[:boundary] + self._take_own() + data[boundary:]
        return data

    def _core_frame(self, head: bytes) -> None:
        self._core_left = int.from_bytes(head[:3], "big")
        kind, flags = head[3], head[4]
        if kind in (_HEADERS, _CONTINUATION):
            self._in_headers = not flags & _END_HEADERS
        if kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self._end(int.from_bytes(head[5:], "big") & 0x7FFFFFFF)

    def give_back(self) -> bytes:
        """Frames of our own for the caller, to send between frames of the core; empty where there are none now."""
        if self._core_left or self._core_head or self._in_headers:
            return b""
        return self._take_own()

    def _take_own(self) -> bytes:
        own, self._refusals = self._refusals, b""
        if self._credit > 0:
            own += _frame(_WINDOW_UPDATE, 0, 0, self._credit.to_bytes(4, "big"))
            self._credit = 0
        return own


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
