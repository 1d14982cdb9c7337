"""A Kafka record -> the task that it asks for. Pure: no I/O, no clock.

The value is the payload and the headers are the ``parameter`` of ``POST /task``, by the rules of wire.original.
A record may also be a serialized Task (by its content-type), or a CloudEvent (wire.cloudevents).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from delaybox.core.errors import InvalidTask, PayloadTooLarge
from delaybox.core.lane import check_name
from delaybox.core.limits import MAX_DUE_MS
from delaybox.core.task import NewTask, TaskType
from delaybox.core.webhook import NO_WEBHOOKS, WebhookRules
from delaybox.wire import body, cloudevents, controls
from delaybox.wire import webhook as wire_webhook
from delaybox.wire.encoded import PLAIN, EncodedTask
from delaybox.wire.original import message, request
from delaybox.wire.shell_rules import ShellRules
from delaybox.wire.topics import KEY, TOMBSTONE, TopicRules
from delaybox.wire.trace import BAGGAGE, PARENT, trace_of

Headers = Sequence[tuple[str, bytes | str | None]]

TASK_TYPES: Final = frozenset({"application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf"})
"""Content types of a value that is a serialized Task."""

_PARAMETERS: Final = (*controls.PARAMETERS, "name")
_EVENT_PARENT: Final = "ce_traceparent"
_EVENT_STATE: Final = "ce_tracestate"
"""What the extension "distributed tracing" of CloudEvents calls them."""
_NAMED: Final = (TaskType.SHELL_CMD, TaskType.WORKER)


NO_SHELL: Final = ShellRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRules:
    """What records this node accepts. ``topics``: what execution topics they may name; None: not looked at.

    ``pass_through``: a message leaves as its record came, so key and tombstones are kept with the task.
    """

    original: request.OriginalRules = request.DEFAULT_RULES
    shell: ShellRules = NO_SHELL
    webhooks: WebhookRules = NO_WEBHOOKS
    topics: TopicRules | None = None
    pass_through: bool = False


def plain(value: bytes | None, headers: Headers | None, at_ms: int, limit: int) -> EncodedTask | None:
    """The task of a record with a time and nothing else, or without headers.

    None for every other record, also one that would be refused: `of_record` decides then. ``at_ms`` is the record's
    timestamp, 0 where it has none. Most records are of this kind, and a NewTask for each would cost more than the rest.
    """
    payload = b"" if value is None else value
    if len(payload) > limit:
        return None
    if not headers:
        return EncodedTask(0, body.of_payload(payload), PLAIN)
    if len(headers) != 1:
        return None
    name, raw = headers[0]
    if type(raw) is not bytes or not raw.isdigit():
        return None
    size = len(raw)
    if name == "executionTimestamp":
        # Thirteen digits are a time in ms from the year 2001 to 2286; with a 0 in front they are a mistake.
        if size != 13 or raw[0] == 48:
            return None
        at = b"\x12\x23\x0a\x12executionTimestamp\x12\x0d" + raw
        return EncodedTask(int(raw), at + body.of_payload(payload), PLAIN)
    if name == "delay" and size <= 12 and 0 < at_ms < MAX_DUE_MS // 2:
        delay = b"\x12%c\x0a\x05delay\x12%c%b" % (size + 9, size, raw)
        return EncodedTask(at_ms + int(raw), delay + body.of_payload(payload), PLAIN)
    return None


def of_record(
    value: bytes | None, headers: Headers | None, at_ms: int, rules: RecordRules, key: bytes | None = None
) -> NewTask:
    """The task a record asks for. InvalidTask and its kin for what cannot be accepted.

    The same record always gives the same task: a delay counts from ``at_ms``, the record's timestamp, where it has one
    (0: it has none). ``key``: the record's; it counts where messages pass through.
    """
    payload = b"" if value is None else value
    header = {name: raw.encode() if isinstance(raw, str) else raw for name, raw in headers or () if raw is not None}
    event = cloudevents.attributes(payload, header)
    if rules.pass_through:
        if key and not TopicRules.key(header):
            header[KEY] = key
        if value is None:
            header[TOMBSTONE] = b"true"
    if event is not None:
        _heed_event(header, event)
        if PARENT not in header and (given := header.get(_EVENT_PARENT)):
            header |= trace_of(given, header.get(_EVENT_STATE, b""), header.get(BAGGAGE, b""))
    elif _states_task(header):
        task = message.of_message(payload, rules.original)
        if task.type is TaskType.SHELL_CMD:
            rules.shell.check(task.payload, task.name, payload_field="value")
        if KEY in header and not TopicRules.key(task.header):
            task = replace(task, header={**task.header, KEY: header[KEY]})
        return _checked(at_ms, task, rules)
    if len(payload) > rules.original.max_payload_bytes:
        raise PayloadTooLarge(
            "value",
            f"the value holds {len(payload)} bytes, more than {rules.original.max_payload_bytes}; store it elsewhere "
            "and send its address",
            limit=rules.original.max_payload_bytes,
        )
    task = request.of_header(header, rules.original)
    name = ""
    if task.type in _NAMED:
        name = _name(task.type, header.get("name", b""))
    if task.type is TaskType.SHELL_CMD:
        rules.shell.check(payload, name, payload_field="value")
    return _checked(at_ms, replace(task, payload=payload, name=name), rules)


def _states_task(header: Mapping[str, bytes]) -> bool:
    """Refuses a protobuf payload with headers for its time: it is no serialized Task."""
    return cloudevents.media_type(header) in TASK_TYPES and not any(name in header for name in _PARAMETERS)


def _heed_event(header: dict[str, bytes], event: Mapping[str, bytes]) -> None:
    """Uses an event's extension attributes as parameters; the event's headers are kept."""
    for given, raw in event.items():
        if given == cloudevents.PARTITION_KEY:
            if not TopicRules.key(header):
                header[KEY] = raw
            continue
        name = controls.OF_EVENT[given]
        if header.get(name, raw) != raw:
            raise InvalidTask(given, f"the headers {given} and {name} are both given and differ; give one of them")
        header[name] = raw


def _name(task_type: TaskType, raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise InvalidTask("name", "the header name is not UTF-8 text; send text") from None
    check_name(task_type, name)
    return name


def _checked(at_ms: int, task: NewTask, rules: RecordRules) -> NewTask:
    """The task with its delay counted from the record's timestamp."""
    if rules.topics is not None and task.type is TaskType.PUB_SUB:
        rules.topics.topic(task.header)
    if task.type is TaskType.HTTP:
        task = wire_webhook.of_record(task, rules.webhooks)
    if task.delay_ms is None or at_ms <= 0:
        return task
    due_ms = at_ms + task.delay_ms
    if due_ms > MAX_DUE_MS:
        raise InvalidTask(
            "delay",
            f"delay {task.delay_ms} after the record's timestamp {at_ms} is past 10^14 ms; is the timestamp in "
            "milliseconds?",
        )
    return replace(task, due_ms=due_ms, delay_ms=None)
