"""The stored body: a protobuf ``Task`` without the fields that follow from the id (id, status) or from the lane
(name)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import TypeVar

from delaybox.core.lane import NAMED
from delaybox.core.needs import NO_NEEDS
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import NO_RESULT, DeliveryMode, NewTask, TaskType
from delaybox.wire import trace
from delaybox.wire.gen import task_pb2

_T = TypeVar("_T")

_PAYLOAD_TAG = b"\x1a"
_ONCE = DeliveryMode.AT_MOST_ONCE
_SHORT = [bytes([value]) for value in range(128)]


def encode(task: NewTask) -> bytes:
    """The body of a new task."""
    if not (
        task.retry
        or (task.name and task.type not in NAMED)
        or task.labels
        or task.timeout_ms
        or task.expire_after_ms
        or task.keep_result_ms
        or task.max_snooze_ms
        or task.delivery is _ONCE
        or task.webhook
        or task.zone
    ):
        # Fields 2 and 3 alone are written by hand, because bulk scheduling would spend a third of its time in the
        # library.
        payload = task.payload
        size = len(payload)
        if task.header:
            parts = [_entry(name, value) for name, value in task.header.items()]
            if size:
                parts.append(_PAYLOAD_TAG + varint(size) + payload)
            return b"".join(parts)
        return of_payload(payload)
    message = task_pb2.Task(payload=task.payload)
    # This takes a third of the time of passing all of them to the constructor, which copies maps in Python.
    fields = message.header
    for key, value in task.header.items():
        fields[key] = value
    if task.name and task.type not in NAMED:
        message.name = task.name
    if task.timeout_ms:
        message.timeout_ms = task.timeout_ms
    if task.expire_after_ms:
        message.expire_after_ms = task.expire_after_ms
    if task.keep_result_ms == NO_RESULT:
        message.no_result = True
    elif task.keep_result_ms:
        message.keep_result_ms = task.keep_result_ms
    if task.delivery is _ONCE:
        message.at_most_once = True
    if task.max_snooze_ms:
        message.max_snooze_ms = task.max_snooze_ms
    if task.zone:
        message.zone = task.zone
    if task.labels:
        message.labels.update(task.labels)
    if task.webhook is not None:
        w = task.webhook
        message.webhook.url = w.url
        message.webhook.method = w.method
        message.webhook.retry_on.extend(w.retry_on)
        message.webhook.on_success = w.on_success
        message.webhook.on_failure = w.on_failure
        message.webhook.cloudevents = w.cloudevents
    if task.retry is not None:
        r = task.retry
        message.retry.max_attempts = r.max_attempts
        message.retry.initial_ms = r.initial_ms
        message.retry.factor = r.factor
        message.retry.max_ms = r.max_ms
        message.retry.jitter = r.jitter
    return message.SerializeToString()


def of_payload(payload: bytes) -> bytes:
    """The body of a task that has nothing but a payload."""
    size = len(payload)
    if size < 128:
        return b"\x1a%c%b" % (size, payload) if size else b""
    return _PAYLOAD_TAG + varint(size) + payload


def has_only_payload(body: bytes) -> bool:
    """Whether a stored body holds nothing but the payload, so that it need not be parsed."""
    if len(body) > 1 and body[1] < 128:
        return body[0] == 0x1A and body[1] + 2 == len(body)
    return not body or _payload_at(body) > 0


def payload_alone(body: bytes) -> bytes | None:
    """The payload of a stored body that holds nothing else; None where it does."""
    if not body:
        return b""
    at = _payload_at(body)
    return body[at:] if at else None


def _payload_at(body: bytes) -> int:
    """Where the payload begins that ends with the body, or 0."""
    if len(body) < 2 or body[0] != 0x1A:
        return 0
    if body[1] < 128:
        return 2 if body[1] + 2 == len(body) else 0
    at, size, shift = 1, 0, 0
    while at < len(body):
        byte = body[at]
        size |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            break
    return at if at + size == len(body) else 0


def headers(given: Mapping[str, bytes]) -> bytes:
    """The headers of a body, which stand before all else in it."""
    return b"".join([_entry(name, value) for name, value in given.items()])


def decode(body: bytes) -> task_pb2.Task:
    """The message in a body; ``google.protobuf.message.DecodeError`` when it is not one."""
    return task_pb2.Task.FromString(body)


def pairs(field: Mapping[str, _T]) -> dict[str, _T]:
    """The pairs of a message's map; dict() reads them in Python and takes twice as long."""
    return {name: field[name] for name in field}


def timeout_field(timeout_ms: int) -> bytes:
    """The field ``timeout_ms`` alone, to stand behind a serialized body, where it counts."""
    return task_pb2.Task(timeout_ms=timeout_ms).SerializeToString()


def retry_of(message: task_pb2.Task, default: RetryPolicy) -> RetryPolicy:
    """The task's own retry policy, or ``default`` when it has none."""
    if not message.HasField("retry"):
        return default
    r = message.retry
    return RetryPolicy(
        max_attempts=max(1, r.max_attempts), initial_ms=r.initial_ms, factor=r.factor, max_ms=r.max_ms, jitter=r.jitter
    )


def published(task_id: str, body: bytes, name: str = "") -> bytes:
    """What a subscriber gets: the body with its id in front and, of a lane that has one, the name behind.

    ``task_id`` is in UUID form (36 characters).
    """
    whole = b"\x0a\x24" + task_id.encode() + body
    return whole + b"\x2a" + varint(len(name)) + name.encode() if name else whole


def fingerprint(task: NewTask) -> bytes:
    """Eight bytes that two requests share when they ask for the same task. Part of the stored format.

    The digest of each part with its length before it.
    """
    when = b"d%d" % task.delay_ms if task.delay_ms is not None else b"a%d" % (task.due_ms or 0)
    parts: list[bytes] = [
        _lane_and_priority(task.type, task.queue, task.priority),
        b"%d:%b%d:%b" % (len(when), when, len(task.payload), task.payload),
    ]
    if task.name or task.timeout_ms or task.expire_after_ms or task.keep_result_ms or task.retry is not None:
        limits = b"%d,%d" % (task.timeout_ms, task.expire_after_ms)
        if task.keep_result_ms:
            limits += b",%d" % task.keep_result_ms
        parts += (_sized(task.name.encode()), _sized(limits), _sized(_retry(task.retry)))
    else:
        parts.append(_NO_LIMITS)
    # The field's number is included, because a header and a label of the same name would count as the same otherwise.
    header = task.header
    if trace.PARENT in header:
        # Trace headers do not count: a request that is sent again has another span.
        header = {key: value for key, value in header.items() if key not in trace.NAMES}
    if task.delivery is _ONCE:
        parts.append(_sized(b"once"))
    if task.max_snooze_ms:
        parts.append(_sized(b"snooze %d" % task.max_snooze_ms))
    if task.zone:
        parts.append(_sized(b"zone " + task.zone.encode()))
    if task.fairness_key:
        parts.append(_sized(b"fairness %g " % task.fairness_weight + task.fairness_key.encode()))
    if task.needs != NO_NEEDS:
        parts.append(_sized(b"needs " + task.needs.text().encode()))
    if task.group:
        parts.append(_sized(b"group " + task.group.encode()))
    parts.append(_sized(b"%d" % len(header)))
    for key, value in sorted(header.items()):
        raw = key.encode()
        parts.append(b"%d:%b%d:%b" % (len(raw), raw, len(value), value))
    for name, text in sorted(task.labels.items()):
        parts += (_sized(name.encode()), _sized(text.encode()))
    if task.webhook is not None:
        w = task.webhook
        statuses = ",".join(map(str, w.retry_on))
        parts += (_sized(w.url.encode()), _sized(w.method.encode()), _sized(statuses.encode()))
        if w.on_success or w.on_failure:
            parts += (_sized(w.on_success.encode()), _sized(w.on_failure.encode()))
        if w.cloudevents:
            parts.append(_sized(b"cloudevents " + w.cloudevents.encode()))
    return blake2b(b"".join(parts), digest_size=8).digest()


@lru_cache(maxsize=4096)
def _lane_and_priority(task_type: TaskType, queue: str, priority: int) -> bytes:
    return _sized(task_type.value.encode()) + _sized(queue.encode()) + _sized(b"%d" % priority)


def _retry(policy: RetryPolicy | None) -> bytes:
    if policy is None:
        return b""
    r = policy
    return f"{r.max_attempts},{r.initial_ms},{float(r.factor)!r},{r.max_ms},{float(r.jitter)!r}".encode()


def _sized(part: bytes) -> bytes:
    return b"%d:%b" % (len(part), part)


_NO_LIMITS = _sized(b"") + _sized(b"0,0") + _sized(b"")
"""Whether a task has no name, no times and no retry policy."""


def _entry(name: str, value: bytes) -> bytes:
    """One pair of the header: field 2, a message of key (1) and value (2)."""
    key = name.encode()
    pair = b"\x0a%b%b\x12%b%b" % (varint(len(key)), key, varint(len(value)), value)
    return b"\x12%b%b" % (varint(len(pair)), pair)


def varint(value: int) -> bytes:
    """Protobuf's form of a number that is not negative."""
    if value < 1 << 7:
        return _SHORT[value]
    if value < 1 << 14:
        return bytes((value & 127 | 128, value >> 7))
    if value < 1 << 21:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
