"""What a due task becomes on a Kafka topic.

One call a message, tens of thousands a second: the common case decodes nothing.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from delaybox.core.delivery import Delivery
from delaybox.core.lane import split
from delaybox.core.task import NewTask, TaskType
from delaybox.wire import body as wire_body
from delaybox.wire.topics import TopicRules

Headers = list[tuple[str, str | bytes | None]]
"""As the client's library has them; the values are bytes."""
Message = tuple[str, bytes, bytes, Headers]
"""Topic, value, key, headers."""

TASK_ID = "delaybox-task-id"
ATTEMPT = "delaybox-attempt"
DUE = "delaybox-due"
CARRIED = ("traceparent", "tracestate", "baggage")
"""Of the task's own header these become headers of the message; and those of a CloudEvent, where it was one."""
CE_TYPE = "delaybox.task.due"

_HAS_HEADER = b"\x12"
"""A body starts with its header's field when it has one: fields are written in the order of their numbers."""
_ID_FIELD = wire_body.published("", b"")
_NAMED = b":"
"""In a lane: its tasks name a command or a function, which is not in their bodies."""
_PAYLOAD_FIRST = 0x1A
_MARKS = (b"key", b"Key", b"opic", b"trace", b"baggage", b"ce_")
_DUES_KEPT = 4096
_SHELL = ord(TaskType.SHELL_CMD.value)
_TASK_TYPE = b"taskType"
_IS_SHELL = wire_body.encode(NewTask(header={"taskType": TaskType.SHELL_CMD.name.encode()}))


def composer(rules: TopicRules, *, value: Literal["task", "payload"], source: str) -> Callable[[Delivery], Message]:
    """A function that makes the message of a delivery. It raises InvalidTask for a topic that is not allowed, and
    ``google.protobuf.message.DecodeError`` for a body that is no task.

    ``source``: the CloudEvents source of tasks that carry none.
    """
    default = rules.default
    bare = value == "payload"
    constant = (("ce_specversion", b"1.0"), ("ce_type", CE_TYPE.encode()), ("ce_source", source.encode()))
    attempts = tuple((ATTEMPT, b"%d" % n) for n in range(1, 64))
    dues: dict[int, tuple[tuple[str, bytes], tuple[str, bytes]]] = {}

    def moment(due_ms: int) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
        if len(dues) >= _DUES_KEPT:
            dues.clear()
        text = datetime.fromtimestamp(due_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        found = dues[due_ms] = ((DUE, b"%d" % due_ms), ("ce_time", text.encode()))
        return found

    def compose(d: Delivery) -> Message:
        body = d.body
        h = hexlify(d.task_id)
        raw = b"%b-%b-%b-%b-%b" % (h[:8], h[8:12], h[12:16], h[16:20], h[20:])
        due, time = dues.get(d.due_ms) or moment(d.due_ms)
        attempt = attempts[d.attempt] if d.attempt < 63 else (ATTEMPT, b"%d" % (d.attempt + 1))
        headers: Headers = [(TASK_ID, raw), attempt, due]
        if d.lane[0] == _SHELL:
            # Workers tell what is theirs by the task's header, as the original's do.
            named = wire_body.published(raw.decode(), body, split(d.lane).name)
            return default, named if _TASK_TYPE in body else named + _IS_SHELL, raw, headers
        topic, key = default, raw
        event = False
        if body[:1] == _HAS_HEADER and any(mark in body for mark in _MARKS):
            header = wire_body.decode(body).header
            topic = rules.topic(header)
            key = rules.key(header) or raw
            event = "ce_id" in header
            headers += [
                (name, one) for name, one in header.items() if name in CARRIED or (event and name.startswith("ce_"))
            ]
        if not event:
            headers += constant
            headers += (("ce_id", raw), time)
        if bare:
            return topic, payload_of(body), key, headers
        if _NAMED in d.lane:
            return topic, wire_body.published(raw.decode(), body, split(d.lane).name), key, headers
        return topic, _ID_FIELD + raw + body, key, headers

    return compose


def payload_of(body: bytes) -> bytes:
    """A body's payload alone."""
    if not body:
        return body
    if body[0] == _PAYLOAD_FIRST:
        size = shift = 0
        for at in range(1, len(body)):
            size |= (body[at] & 127) << shift
            if body[at] < 128:
                return body[at + 1 : at + 1 + size]
            shift += 7
    return wire_body.decode(body).payload
