"""Tasks on their way to a worker: the field ``tasks`` of ``ToWorker``, written by hand.

A stored body is a serialized ``Task``, so it goes into the message as it is. The protobuf library would parse, copy and
write it again for every worker that it is handed to.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from delaybox.core.delivery import Delivery
from delaybox.core.lane import split
from delaybox.wire.body import varint

_AT_ONCE: Final = 1_000
"""So many entries are first measured together, because mostly all of them fit. Of more this would be done again for
each message."""


def assignment(sequence: int, d: Delivery, *, want_result: bool) -> bytes:
    """One entry of ``ToWorker.tasks``; entries put one behind the other are a valid part of the message."""
    body, trace = d.body, d.trace
    # As `ids.render`, without text in between.
    h = hexlify(d.task_id, b"-", 2)
    middle = _middle(d.lane, d.due_ms, d.attempt, d.token, want_result)
    fields = b"".join((
        b"\x08", varint(sequence), b"\x12\x24", h[:4], h[5:29], h[30:34], h[35:], middle, varint(len(body)), body,
    ))  # fmt: skip
    if trace:
        # A field may stand behind the body as well.
        fields += b"\x52%b%b" % (varint(len(trace)), trace)
    return b"".join((b"\x1a", varint(len(fields)), fields))


def fitting(entries: Sequence[bytes], most: int) -> int:
    """How many of these, the first ones, one message of so many bytes takes; at least one, if there is any."""
    if len(entries) <= _AT_ONCE and sum(map(len, entries)) <= most:
        return len(entries)
    count = size = 0
    for entry in entries:
        size += len(entry)
        if count and size > most:
            break
        count += 1
    return count


@lru_cache(maxsize=1024)
def _middle(lane: bytes, due_ms: int, attempt: int, token: int, want_result: bool) -> bytes:
    """The fields from ``name`` to ``want_result``, and the tag of the body. Cached, because they are the same for many
    tasks of a herd, and making them took a third of the time."""
    return b"%b\x28%b%b\x38%b%b\x4a" % (
        _of_lane(lane),
        varint(due_ms),
        b"\x30" + varint(attempt) if attempt else b"",
        varint(token),
        b"\x40\x01" if want_result else b"",
    )


@lru_cache(maxsize=4096)
def _of_lane(lane: bytes) -> bytes:
    """The fields ``name`` and ``queue``."""
    _, queue, name, _ = split(lane)
    return b"\x1a%b%b\x22%b%b" % (varint(len(name)), name.encode(), varint(len(queue)), queue.encode())
