"""Reads a serialized batch without a message for each task: making and reading those took 80 % of the time.

Only the common fields of bulk are read here: payload, then due_ms or delay_ms, as every protobuf library writes them.
The rest of a task (its type, queue, priority, name, and how long its result is kept) is compared as bytes, and read
once for all tasks that have the same. Tasks in any other form are left to the real parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from google.protobuf.message import DecodeError

from delaybox.core import ids
from delaybox.core.errors import DelayBoxError, InvalidTask, PayloadTooLarge
from delaybox.core.limits import MAX_BATCH, MAX_DELAY_MS, MAX_DUE_MS, MIN_DUE_MS
from delaybox.core.task import NewTask, TaskType
from delaybox.wire.body import varint
from delaybox.wire.bounds import check_items
from delaybox.wire.encoded import EncodedTask, TaskKind
from delaybox.wire.gen import scheduler_pb2 as pb

_TASKS = 0x0A
_PAYLOAD = 0x0A
_DUE = 0x10
_DELAY = 0x18
_TIMES = (_DUE, _DELAY)
_LONGEST_USUAL = (1 << 42) - 1
"""The latest due time that takes six bytes of seven bits, as every one from `MIN_DUE_MS` on."""
_STORED_PAYLOAD = b"\x1a"
"""The tag of Task.payload: a stored body is this and what follows the tag of NewTask.payload."""
_KIND_FIELDS = frozenset({4, 5, 6, 7, 14})
_MOST_KINDS = 4_096
_LONGEST_KIND = 256
_NO_PAYLOAD = b"\x1a\x00"
_KEEP_RESULT_TAG = b"\x50"


Read = Callable[[pb.NewTask], NewTask]
"""Makes the task of a message, checked."""


class BatchReader:
    """Reads serialized batches. ``limit``: bytes that a payload may have.

    The first task of each kind, and every unusual one, is read by the caller's function ``read``, which checks it in
    full; later tasks of the same kind need no second check.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kinds: dict[bytes, tuple[TaskKind, bytes]] = {}

    def tasks(self, raw: bytes, read: Read, most: int = MAX_BATCH) -> Iterator[EncodedTask | NewTask | DelayBoxError]:
        """Yields for each task of a ScheduleBatchRequest the task, or the error why it is none.

        Raises InvalidTask for bytes that are no batch or hold no task, PayloadTooLarge for more than ``most`` tasks.
        """
        try:
            raw, places = frames(raw, most)
        except DecodeError:
            raise InvalidTask(
                "request", "the request is not a delaybox.v1.ScheduleBatchRequest; see the contract"
            ) from None
        if not places:
            raise InvalidTask("tasks", f"tasks is empty; send 1 to {most}")
        return self._each(raw, places, read)

    def _each(
        self, raw: bytes, places: list[tuple[int, int]], read: Read
    ) -> Iterator[EncodedTask | NewTask | DelayBoxError]:
        kinds, limit = self._kinds, self._limit
        for at, stop in places:
            found = plain(raw, at, stop, limit)
            if found is not None:
                due48, body, kind = found
                known = kinds.get(kind)
                if known is not None:
                    if known[1]:
                        body = (b"" if body == _NO_PAYLOAD else body) + known[1]
                    yield EncodedTask(due48, body, known[0])
                    continue
            try:
                yield self._whole(raw[at:stop], None if found is None else found[2], read)
            except DelayBoxError as error:
                yield error

    def messages(self, tasks: Sequence[pb.NewTask], read: Read) -> Iterator[EncodedTask | NewTask | DelayBoxError]:
        """As `tasks`, for messages that stand ready: their times need not be decoded."""
        kinds, limit = self._kinds, self._limit
        for message in tasks:
            raw = message.SerializeToString()
            due = message.due_ms
            # The usual task: a payload, and a due time of six bytes as those of the next century are. All in line,
            # because calling a function here takes a tenth of the whole.
            if MIN_DUE_MS <= due <= _LONGEST_USUAL and raw[0] == _PAYLOAD:
                at = raw[1] + 2
                if at > 129:
                    at = (raw[1] & 127 | raw[2] << 7) + 3 if raw[2] < 128 else limit
                if at < limit and raw[at] == _DUE:
                    known = kinds.get(raw[at + 7 :])
                    if known is not None:
                        yield EncodedTask(due, _STORED_PAYLOAD + raw[1:at] + known[1], known[0])
                        continue
            found = plain(raw, 0, len(raw), limit)
            if found is not None:
                due48, body, kind = found
                known = kinds.get(kind)
                if known is not None:
                    if known[1]:
                        body = (b"" if body == _NO_PAYLOAD else body) + known[1]
                    yield EncodedTask(due48, body, known[0])
                    continue
            try:
                yield self._whole(raw, None if found is None else found[2], read)
            except DelayBoxError as error:
                yield error

    def _whole(self, raw: bytes, kind: bytes | None, read: Read) -> NewTask:
        """Reads a task by way of its message. ``kind``: the kind of a plain task, else None."""
        check_items(raw, pb.NewTask, field="task")
        try:
            message = pb.NewTask.FromString(raw)
        except DecodeError:
            raise InvalidTask("tasks", "this is not a delaybox.v1.NewTask; see the contract") from None
        task = read(message)
        # Whether a command is allowed depends on the caller, so commands are checked each time.
        if kind is not None and task.type is not TaskType.SHELL_CMD and len(kind) <= _LONGEST_KIND and is_kind(kind):
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            tail = _KEEP_RESULT_TAG + varint(task.keep_result_ms) if task.keep_result_ms else b""
            self._kinds[kind] = (TaskKind.of(task), tail)
        return task


def frames(raw: bytes, most: int = MAX_BATCH) -> tuple[bytes, list[tuple[int, int]]]:
    """The place of each task in a serialized ScheduleBatchRequest, and the bytes in which these places are.

    PayloadTooLarge for more than ``most``; ``google.protobuf.message.DecodeError`` for bytes that are no such message.
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


def plain(raw: bytes, at: int, stop: int, longest: int) -> tuple[int, bytes, bytes] | None:
    """The task at that place, if it has only the common fields and a body of at most ``longest`` bytes; else None.

    (``due48`` and ``body``, see `EncodedTask`; its *kind*: type, queue, priority, name and how long its result is kept,
    serialized.)
    """
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
    return due48, body, raw[at:stop]


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
