"""Reads a serialized batch without a message for each task: making and reading those took 80 % of the time.

Only the common fields of bulk are read here: payload, then due_ms or delay_ms, as every protobuf library writes them.
The rest of a task (its type, queue, priority, name, and how long its result is kept) is compared as bytes, and read
once for all tasks that have the same. Tasks in any other form are left to the real parser.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError

from delaybox.core import ids
from delaybox.core.errors import PayloadTooLarge
from delaybox.core.limits import MAX_BATCH, MAX_DELAY_MS, MAX_DUE_MS, MIN_DUE_MS
from delaybox.wire.body import varint
from delaybox.wire.bounds import check_items
from delaybox.wire.gen import scheduler_pb2 as pb

_TASKS = 0x0A
_PAYLOAD = 0x0A
_DUE = 0x10
_DELAY = 0x18
_TIMES = (_DUE, _DELAY)
_STORED_PAYLOAD = b"\x1a"
"""The tag of Task.payload: a stored body is this and what follows the tag of NewTask.payload."""
_KIND_FIELDS = frozenset({4, 5, 6, 7, 14})


class Plain(NamedTuple):
    """A task without anything unusual. ``due48``: see store.record.Draft; ``kind``: its type, queue, priority, name and
    how long its result is kept, serialized."""

    due48: int
    body: bytes
    kind: bytes


def frames(raw: bytes, most: int = MAX_BATCH) -> tuple[bytes, list[tuple[int, int]]]:
    """Where in a serialized ScheduleBatchRequest each task lies; with it the bytes that the places are in.

    PayloadTooLarge for more than ``most``; ``google.protobuf.message.DecodeError`` for what is no such message.
    """
    found = _frames(raw, most)
    if found is None:
        # Written strangely, or with fields of a later version.
        check_items(raw, pb.ScheduleBatchRequest)
        message = pb.ScheduleBatchRequest.FromString(raw)
        message.DiscardUnknownFields()
        raw = message.SerializeToString()
        found = _frames(raw, most)
        if found is None:
            raise DecodeError("not a batch")
    return raw, found


def _frames(raw: bytes, most: int) -> list[tuple[int, int]] | None:
    out: list[tuple[int, int]] = []
    at, end = 0, len(raw)
    try:
        while at < end:
            if raw[at] != _TASKS:
                return None
            size = raw[at + 1]
            at += 2
            if size > 127:
                size, shift, byte = size & 127, 7, 128
                while byte > 127:
                    if shift > 28:
                        return None
                    byte = raw[at]
                    at += 1
                    size |= (byte & 127) << shift
                    shift += 7
            stop = at + size
            if stop > end:
                return None
            out.append((at, stop))
            at = stop
            if len(out) > most:
                raise PayloadTooLarge("tasks", f"tasks holds more than {most} tasks; send 1 to {most}", limit=most)
    except IndexError:
        return None
    return out


def plain(raw: bytes, at: int, stop: int, longest: int) -> Plain | None:
    """The task that lies there, if it is plain and its body has at most ``longest`` bytes; else None."""
    start = at
    body = b""
    if at < stop and raw[at] == _PAYLOAD:
        at += 1
        if stop - at < 2:
            return None
        size = raw[at]
        at += 1
        if size > 127:
            high = raw[at]
            if high > 127:
                return None
            size = size & 127 | high << 7
            at += 1
        at += size
        if at > stop or at - start > longest:
            return None
        body = _STORED_PAYLOAD + raw[start + 1 : at]
    due48 = 0
    if at < stop:
        tag = raw[at]
        if tag in _TIMES:
            six = int.from_bytes(raw[at + 1 : at + 7], "little")
            if six & 0x808080808080 == 0x8080808080 and at + 7 <= stop:
                # Every due time of the next centuries takes six bytes of seven bits.
                value = (
                    six & 0x7F
                    | six >> 1 & 0x3F80
                    | six >> 2 & 0x1FC000
                    | six >> 3 & 0xFE00000
                    | six >> 4 & 0x7F0000000
                    | six >> 5 & 0x3F800000000
                )
                at += 7
            else:
                value = shift = 0
                byte = 128
                while byte > 127:
                    at += 1
                    if at >= stop or shift > 49:
                        return None
                    byte = raw[at]
                    value |= (byte & 127) << shift
                    shift += 7
                at += 1
            if tag == _DUE:
                if not MIN_DUE_MS <= value <= MAX_DUE_MS:
                    return None
                due48 = value
            elif value > MAX_DELAY_MS:
                return None
            else:
                due48 = ids.RELATIVE | value
    return Plain(due48, body, raw[at:stop])


def is_kind(raw: bytes) -> bool:
    """Whether these bytes hold type, queue, priority, name and keep_result_ms and nothing else."""
    try:
        message = pb.NewTask.FromString(raw)
    except DecodeError:
        return False
    return {field.number for field, _ in message.ListFields()} <= _KIND_FIELDS


def stored(task_id: bytes, due_ms: int, *, created: bool) -> bytes:
    """One entry of ScheduleBatchResponse.results; entries put one behind the other are the message."""
    due = varint(due_ms)
    text = task_id.hex()
    return b"\x0a%c\x0a\x24%b\x10%b%b" % (
        39 + len(due) + 2 * created,
        f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}".encode(),
        due,
        b"\x18\x01" if created else b"",
    )
