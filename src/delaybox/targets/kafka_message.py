"""What a due task becomes on a Kafka topic.

One call a message, tens of thousands a second: the common case decodes nothing.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from delaybox.core.delivery import Delivery
from delaybox.core.lane import cost_of, split
from delaybox.core.task import TaskType
from delaybox.otel import tracing
from delaybox.wire import body as wire_body
from delaybox.wire import cloudevents, controls, trace
from delaybox.wire.shell_signing import ATTEMPT, COST, DUE, FENCING, SIGNATURE, TASK_ID, TYPE, Signing
from delaybox.wire.topics import KEY, TOMBSTONE, TopicRules

Headers = list[tuple[str, str | bytes | None]]
"""Headers as the client's library returns them; the values are bytes."""
Message = tuple[str, bytes | None, bytes, Headers]
"""Topic, value (None: a tombstone), key, headers."""

CARRIED = trace.NAMES
"""Entries of the task's own header that become headers of the message, beside those of a CloudEvent."""
CE_TYPE = "delaybox.task.due"

_HAS_HEADER = b"\x12"
"""A body starts with its header's field when it has one: fields are written in the order of their numbers."""
_ID_FIELD = wire_body.published("", b"")
_NAMED = b":"
"""Stands in a lane whose tasks name a command or a function; their bodies do not hold that name."""
_PAYLOAD_FIRST = 0x1A
_OURS = frozenset((*controls.PARAMETERS, KEY, TOMBSTONE, "kafkaTopic"))
"""Headers that were instructions to DelayBox. Where messages pass through, all others are kept, except ``delaybox-``
ones."""
_TIME_ALONE = b"\x12\x23\x0a\x12executionTimestamp"
_TIME_SIZE = 37
_PROTOBUF = ("content-type", b"application/protobuf")
_MARKS = (b"key", b"Key", b"opic", b"trace", b"baggage", b"ce_", controls.SHELL)
_DUES_KEPT = 4096
_SHELL = ord(TaskType.SHELL_CMD.value)
_UNSIGNED = Signing(())


def composer(
    rules: TopicRules, *, value: Literal["task", "payload"], source: str, signing: Signing = _UNSIGNED
) -> Callable[[Delivery], Message]:
    """A function that makes the message of a delivery. It raises InvalidTask for a topic that is not allowed and for a
    task that only calls itself a command, and ``google.protobuf.message.DecodeError`` for a body that is no task.

    ``source``: the CloudEvents source of tasks that carry none. ``signing``: signs shell tasks; without a key they are
    sent unsigned.
    """
    default = rules.default
    bare = value == "payload"
    usual = not bare
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
        # With dashes from the beginning four slices are enough; five took a quarter longer.
        h = hexlify(d.task_id, b"-", 2)
        raw = h[:4] + h[5:29] + h[30:34] + h[35:]
        due, time = dues.get(d.due_ms) or moment(d.due_ms)
        attempt = attempts[d.attempt] if d.attempt < 63 else (ATTEMPT, b"%d" % (d.attempt + 1))
        lane = d.lane
        if usual and body[:1] != _HAS_HEADER and lane[0] != _SHELL and _NAMED not in lane:
            # What most messages are, made in one go.
            return default, _ID_FIELD + raw + body, raw, [(TASK_ID, raw), attempt, due, *constant, ("ce_id", raw), time]
        headers: Headers = [(TASK_ID, raw), attempt, due]
        if lane[0] == _SHELL:
            return default, *_command(d, raw, headers)
        topic, key = default, raw
        event = False
        if body[:1] == _HAS_HEADER and (_states_more(body) if bare else any(mark in body for mark in _MARKS)):
            message = wire_body.decode(body)
            header = message.header
            # A task that was stored while this header was still accepted: the Go original's workers would run it.
            controls.check_type(header, shell=False)
            topic = rules.topic(header)
            key = rules.key(header) or raw
            event = "ce_id" in header
            if bare:
                headers += [
                    (name, one)
                    for name, one in header.items()
                    if name not in _OURS
                    and not name.startswith("delaybox-")
                    and (event or not name.startswith(controls.EVENT))
                ]
                if cloudevents.media_type(header) == cloudevents.STRUCTURED:
                    # The value is the event; a message cannot be one in both modes.
                    return topic, message.payload, key, headers
                if not message.payload and TOMBSTONE in header:
                    return topic, None, key, headers
            else:
                headers += [
                    (name, one)
                    for name, one in header.items()
                    if name in CARRIED or (event and name.startswith(controls.EVENT))
                ]
                if event:
                    # The event's description of its data does not describe this value, which is the Task.
                    headers.append(_PROTOBUF)
        if not event:
            headers += constant
            headers += (("ce_id", raw), time)
        if bare:
            return topic, payload_of(body), key, headers
        if _NAMED in d.lane:
            return topic, wire_body.published(raw.decode(), body, split(d.lane).name), key, headers
        return topic, _ID_FIELD + raw + body, key, headers

    def _command(d: Delivery, raw: bytes, headers: Headers) -> tuple[bytes, bytes, Headers]:
        """Value, key, headers of a shell task."""
        message = wire_body.decode(d.body)
        message.taskUuid = raw.decode()
        message.name = split(d.lane).name
        if (cost := cost_of(d.lane)) > 1:
            # In the value, which is signed.
            message.header[COST] = b"%d" % cost
        # Workers recognise shell tasks by the task's header, as those of the Go original do.
        message.header[controls.TASK_TYPE] = controls.SHELL
        headers += ((FENCING, b"%d" % d.token), (TYPE, controls.SHELL))
        command = message.SerializeToString()
        if signing:
            covered: dict[str, bytes] = dict(headers)  # type: ignore[arg-type]  # bytes, all of them
            headers.append((SIGNATURE, signing.sign(default, covered, command)))
        return command, raw, headers

    def traced(d: Delivery) -> Message:
        topic, raw, key, headers = compose(d)
        if d.trace:
            headers = [one for one in headers if one[0] not in (trace.PARENT, trace.STATE)]
            headers.append((trace.PARENT, d.trace))
        return topic, raw, key, headers

    return compose if tracing.spans is None else traced


def _states_more(body: bytes) -> bool:
    """Whether a header holds more than the time of execution. Most hold only that, and it is not passed on."""
    return not body.startswith(_TIME_ALONE) or body[_TIME_SIZE : _TIME_SIZE + 1] == _HAS_HEADER


def payload_of(body: bytes) -> bytes:
    """The payload of a body."""
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
