"""A task asked for over ``/v1``, and a change of one -> domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from msgspec import UNSET, Raw, UnsetType

from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask, PayloadTooLarge
from delaybox.core.lane import check_name
from delaybox.core.limits import (
    DEFAULT_PAYLOAD_BYTES,
    FAIRNESS_KEY_FORM,
    GROUP,
    GROUP_FORM,
    LABEL,
    LABEL_FORM,
    MAX_FAIRNESS_KEY_BYTES,
    MAX_HEADER_BYTES,
    MAX_KEY_BYTES,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    MAX_WEIGHT,
    MIN_WEIGHT,
    NAME,
    NAME_FORM,
    QUEUE,
    QUEUE_FORM,
    task_bytes,
)
from delaybox.core.localtime import local_ms
from delaybox.core.needs import NO_NEEDS, needs_asked
from delaybox.core.retry import RetryFields, RetryPolicy, checked_policy
from delaybox.core.task import (
    DEFAULT_QUEUE,
    DELIVERY_MODES,
    NO_RESULT,
    ON_CONFLICT,
    PRIORITY_NAMES,
    UNIQUE_WHILE,
    DeliveryMode,
    NewTask,
    OnConflict,
    Priority,
    TaskChange,
    TaskType,
    UniqueWhile,
    check_delivery,
)
from delaybox.core.webhook import NO_WEBHOOKS, Webhook, WebhookRules
from delaybox.core.words import PRIORITY_MEANT, show, unknown
from delaybox.wire import controls
from delaybox.wire.encoded import check_task_needs
from delaybox.wire.json import types
from delaybox.wire.json.moments import moment_ms
from delaybox.wire.json.reading import JsonReader, check_json
from delaybox.wire.original.request import decode_base64
from delaybox.wire.shell_rules import ShellRules
from delaybox.wire.strictjson import Number, decimal_of
from delaybox.wire.webhook import with_json_type

TYPE_NAMES: Final[Mapping[str, TaskType]] = MappingProxyType(
    {
        "pub_sub": TaskType.PUB_SUB,
        "shell": TaskType.SHELL_CMD,
        "http": TaskType.HTTP,
        "worker": TaskType.WORKER,
    }
)
_TYPE_MEANT: Final = {"pubsub": "pub_sub", "shell_cmd": "shell", "webhook": "http"}
# Python 3.11 looks an enum's member up in 0.2 us.
_PUB_SUB: Final = TaskType.PUB_SUB
_NORMAL: Final = Priority.NORMAL
_NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})
_NO_LABELS: Mapping[str, str] = MappingProxyType({})

_read_task = JsonReader(types.TaskRequest, where="a field of a task")
_read_change = JsonReader(types.ChangeRequest, where="a field that can be changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRules:
    """What this node accepts."""

    max_payload_bytes: int = DEFAULT_PAYLOAD_BYTES
    shell: ShellRules = field(default_factory=ShellRules)
    webhooks: WebhookRules = NO_WEBHOOKS


def parse_task(body: bytes | Raw, rules: TaskRules, *, key: str | None = None) -> NewTask:
    """The task in a body. ``key``: the Idempotency-Key header. Raises InvalidTask, PayloadTooLarge or TypeDisabled."""
    raw = bytes(body)
    longest = task_bytes(rules.max_payload_bytes)
    if len(raw) > longest:
        raise PayloadTooLarge(
            "body",
            f"the task holds {len(raw)} bytes, more than {longest}; a payload may have {rules.max_payload_bytes} bytes "
            "before it is encoded",
            limit=longest,
        )
    asked = _read_task(body)
    _read_task.check_names(raw, asked)

    task_type = _PUB_SUB
    if asked.type is not None and asked.type != "pub_sub":
        task_type = type_of("type", asked.type)
    when = when_of(asked, _read_task, raw)
    own_key = asked.idempotency_key
    if own_key is not None:
        check_key("idempotency_key", own_key)
        if key is not None and key != own_key:
            raise InvalidTask(
                "idempotency_key",
                f"idempotency_key {show(own_key)} and the header Idempotency-Key {show(key)} differ; give one of them",
            )
        key = own_key
    if asked.on_conflict is not None or asked.max_wait is not None or asked.unique_while is not None:
        check_keyed(key, asked.on_conflict or "", asked.max_wait is not None, asked.unique_while or "")
    if task_type is not _PUB_SUB or asked.name is not None:
        check_name(task_type, asked.name or "")
    payload = _payload(asked.payload, asked.payload_json, asked.payload_base64, rules.max_payload_bytes) or b""
    header = (
        _NO_HEADERS if not asked.headers else headers_of({name: text.encode() for name, text in asked.headers.items()})
    )
    webhook = None
    if task_type is not _PUB_SUB and task_type is TaskType.SHELL_CMD:
        rules.shell.check(payload, asked.name or "")
    elif task_type is not _PUB_SUB and task_type is TaskType.HTTP:
        if asked.payload_json is not UNSET:
            header = with_json_type(header)
        webhook = rules.webhooks.check(_webhook(asked), header, payload)
    elif (
        asked.url is not None
        or asked.method is not None
        or asked.retry_on is not None
        or asked.on_success is not None
        or asked.on_failure is not None
        or asked.cloudevents is not None
    ):
        names = ("url", "method", "retry_on", "on_success", "on_failure", "cloudevents")
        field = next(name for name in names if getattr(asked, name) is not None)
        raise InvalidTask(field, f"{field} belongs to webhooks; give type http with it, or leave it out")
    new = NewTask(
        payload=payload,
        due_ms=when.due_ms,
        delay_ms=when.delay_ms,
        zone=when.zone or "",
        type=task_type,
        queue=DEFAULT_QUEUE if asked.queue is None else queue_of("queue", asked.queue),
        priority=_NORMAL if asked.priority is None else priority_of("priority", asked.priority),
        header=header,
        name=asked.name or "",
        idempotency_key=key,
        retry=None if asked.retry is None else retry_of(_read_task, asked.retry, raw),
        timeout_ms=0 if asked.timeout is None else duration(_read_task, raw, "timeout", asked.timeout),
        expire_after_ms=0
        if asked.expire_after is None
        else duration(_read_task, raw, "expire_after", asked.expire_after),
        labels=_NO_LABELS if not asked.labels else labels_of(asked.labels),
        keep_result_ms=0
        if asked.keep_result is None
        else duration(_read_task, raw, "keep_result", asked.keep_result, least=0) or NO_RESULT,
        max_snooze_ms=0 if asked.max_snooze is None else duration(_read_task, raw, "max_snooze", asked.max_snooze),
        on_conflict=OnConflict.KEEP if asked.on_conflict is None else on_conflict_of(asked.on_conflict),
        max_wait_ms=0 if asked.max_wait is None else duration(_read_task, raw, "max_wait", asked.max_wait),
        unique_while=None if asked.unique_while is None else unique_while_of(asked.unique_while),
        delivery=DeliveryMode.AT_LEAST_ONCE if asked.delivery is None else delivery_of(asked.delivery),
        reject_past=bool(asked.reject_past),
        queue_unstated=task_type is TaskType.WORKER and asked.queue is None,
        group="" if asked.group is None else group_of("group", asked.group),
        fairness_key="" if asked.fairness_key is None else fairness_key_of("fairness_key", asked.fairness_key),
        fairness_weight=1.0
        if asked.fairness_weight is None
        else fairness_weight_of("fairness_weight", asked.fairness_weight, keyed=asked.fairness_key is not None),
        webhook=webhook,
        needs=NO_NEEDS
        if asked.cost is None and not asked.requires and not asked.prefers
        else needs_asked(asked.cost, asked.requires, asked.prefers),
    )
    if asked.delivery is not None:
        check_delivery(new)
    if new.needs is not NO_NEEDS:
        check_task_needs(new)
    return new


def _webhook(asked: types.TaskRequest) -> Webhook:
    statuses = [whole("retry_on", status) for status in asked.retry_on or ()]
    return Webhook(
        asked.url or "",
        asked.method or "POST",
        tuple(statuses),
        asked.on_success or "",
        asked.on_failure or "",
        asked.cloudevents or "",
    )


def parse_change(body: bytes, rules: TaskRules) -> TaskChange:
    """What a PATCH body asks for. Raises InvalidTask or PayloadTooLarge."""
    asked = _read_change(body)
    _read_change.check_names(body, asked)
    when = when_of(asked, _read_change, body)
    change = TaskChange(
        due_ms=when.due_ms,
        delay_ms=when.delay_ms,
        zone=when.zone,
        priority=None if asked.priority is None else priority_of("priority", asked.priority),
        payload=_payload(asked.payload, asked.payload_json, asked.payload_base64, rules.max_payload_bytes),
        labels=None if asked.labels is None else labels_of(asked.labels),
    )
    if change == TaskChange():
        raise InvalidTask("body", "body changes nothing; give at, delay, priority, payload or labels")
    return change


def _number(reader: JsonReader[Any], body: bytes, field: str, value: str | float) -> str | int:
    """A whole number, which ``body`` may spell as a float (1.7e12), without a float's rounding; text is returned as it
    is."""
    if type(value) is not float:
        return value  # type: ignore[return-value]
    found: Any = reader.strictly(body)
    for name in field.split("."):
        found = found[name]
    assert isinstance(found, Number)
    exact = decimal_of(found)
    if exact is None or exact != exact.to_integral_value():
        raise InvalidTask(field, f"{field} {found[:40]} is not a whole number in range; give whole milliseconds")
    return int(exact)


def duration(reader: JsonReader[Any], body: bytes, field: str, value: str | float, *, least: int = 1) -> int:
    """Milliseconds of the duration in a field of a body. InvalidTask."""
    return duration_ms(field, _number(reader, body, field, value), least=least)


def whole(field: str, value: int | float) -> int:
    """A count that JSON may spell as 5.0. InvalidTask."""
    if isinstance(value, float) and not value.is_integer():
        raise InvalidTask(field, f"{field} {value:g} is not a whole number; round it")
    return int(value)


class Timed(Protocol):
    """A body that may say when."""

    at: types.Number | types.LocalTime
    delay: types.Number


class DueAsked(NamedTuple):
    """A due time or a delay, or neither. ``zone``: in which the time was given; None: in none."""

    due_ms: int | None = None
    delay_ms: int | None = None
    zone: str | None = None


def when_of(asked: Timed, reader: JsonReader[Any], body: bytes) -> DueAsked:
    """When the task of a body is to be due. InvalidTask."""
    at, delay = asked.at, asked.delay
    if at is not None:
        if delay is not None:
            shown = f"{at.local} {at.zone}" if isinstance(at, types.LocalTime) else at
            raise InvalidTask("delay", f"at {show(shown)} and delay {show(delay)} are both given; give one of them")
        if isinstance(at, types.LocalTime):
            fold = 0 if at.fold is None else whole("at.fold", at.fold)
            return DueAsked(local_ms("at", at.local, at.zone, fold), None, at.zone)
        return DueAsked(moment_ms("at", _number(reader, body, "at", at)))
    return _AT_ONCE if delay is None else DueAsked(None, duration(reader, body, "delay", delay, least=0))


_AT_ONCE: Final = DueAsked()


def type_of(field: str, text: str) -> TaskType:
    """The task type of that name. InvalidTask."""
    found = TYPE_NAMES.get(text)
    if found is None:
        raise InvalidTask(field, f"{field} " + unknown(text, TYPE_NAMES, _TYPE_MEANT, where="a task type"))
    return found


def priority_of(field: str, text: str) -> Priority:
    """The priority of that name. InvalidTask."""
    found = PRIORITY_NAMES.get(text)
    if found is None:
        raise InvalidTask(field, f"{field} " + unknown(text, types.PRIORITIES, PRIORITY_MEANT, where="a priority"))
    return found


def queue_of(field: str, text: str) -> str:
    """A queue's name. InvalidTask."""
    if QUEUE.fullmatch(text) is None:
        raise InvalidTask(field, f"{field} {show(text)} is not a queue name; use {QUEUE_FORM}")
    return text


def fairness_key_of(field: str, text: str) -> str:
    """A fairness key. InvalidTask."""
    if not 1 <= len(text.encode()) <= MAX_FAIRNESS_KEY_BYTES or any(c < " " or c == "\x7f" for c in text):
        raise InvalidTask(field, f"{field} {show(text)} is not a fairness key; use {FAIRNESS_KEY_FORM}")
    return text


def fairness_weight_of(field: str, weight: float, *, keyed: bool) -> float:
    """The weight of a fairness key. ``keyed``: there is such a key. InvalidTask."""
    if not keyed:
        raise InvalidTask(field, f"{field} is given and no fairness_key; give fairness_key as well, or leave it out")
    return checked_weight(field, weight)


def checked_weight(field: str, weight: float) -> float:
    """The weight of a queue or a fairness key. InvalidTask."""
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        pause = "; to hold a queue's tasks back set paused" if "fairness" not in field and weight <= 0 else ""
        raise InvalidTask(
            field, f"{field} {weight:g} is out of range; give {MIN_WEIGHT:g} to {MAX_WEIGHT:g} (1 is usual){pause}"
        )
    return float(weight)


def group_of(field: str, text: str) -> str:
    """A group's name. InvalidTask."""
    if GROUP.fullmatch(text) is None:
        raise InvalidTask(field, f"{field} {show(text)} is not a group's name; use {GROUP_FORM}")
    return text


def labels_of(labels: Mapping[str, str], field: str = "labels") -> Mapping[str, str]:
    """Labels within their limits. InvalidTask."""
    if len(labels) > MAX_LABELS:
        raise InvalidTask(field, f"{field} holds {len(labels)} pairs; give at most {MAX_LABELS}")
    for name, value in labels.items():
        check_label(field, name, value)
    return labels


def check_label(field: str, name: str, value: str) -> None:
    """One label within its limits. InvalidTask."""
    if LABEL.fullmatch(name) is None:
        raise InvalidTask(
            field,
            f"{field}: {show(name)} is not a label's name; use {LABEL_FORM}",
        )
    if len(value) > MAX_LABEL_VALUE:
        raise InvalidTask(
            field, f"{field}: the value of {show(name)} has {len(value)} characters; use at most {MAX_LABEL_VALUE}"
        )


def function_of(field: str, name: str) -> str:
    """The name of a function or command. InvalidTask."""
    if NAME.fullmatch(name) is None:
        raise InvalidTask(field, f"{field} {show(name)} is not a name; use {NAME_FORM}")
    return name


def check_key(field: str, key: str) -> None:
    """An idempotency key within its limits. InvalidTask."""
    size = len(key.encode())
    if not 1 <= size <= MAX_KEY_BYTES:
        raise InvalidTask(field, f"{field} has {size} bytes; use 1 to {MAX_KEY_BYTES}, or leave it out")


def check_keyed(key: str | None, on_conflict: str, max_wait: bool, unique_while: str) -> None:
    """What is said of a task's key has a key, and max_wait something that puts the task off. InvalidTask."""
    for name, given in (("on_conflict", on_conflict), ("max_wait", max_wait), ("unique_while", unique_while)):
        if given and key is None:
            raise InvalidTask(name, f"{name} is given and no idempotency key; give one as well")
    if max_wait and on_conflict != OnConflict.REPLACE.value:
        raise InvalidTask("max_wait", "max_wait goes with on_conflict replace; give that as well, or leave it out")


def on_conflict_of(text: str) -> OnConflict:
    """What is done where the key is taken. InvalidTask."""
    found = ON_CONFLICT.get(text)
    if found is None:
        raise InvalidTask("on_conflict", "on_conflict " + unknown(text, ON_CONFLICT, {}, where="a way"))
    return found


def delivery_of(text: str) -> DeliveryMode:
    """Whether a task may be carried out twice. InvalidTask."""
    found = DELIVERY_MODES.get(text)
    if found is None:
        raise InvalidTask("delivery", "delivery " + unknown(text, DELIVERY_MODES, {}, where="a way"))
    return found


def unique_while_of(text: str) -> UniqueWhile:
    """How long a key that is a lock is held. InvalidTask."""
    found = UNIQUE_WHILE.get(text)
    if found is None:
        raise InvalidTask("unique_while", "unique_while " + unknown(text, UNIQUE_WHILE, {}, where="a span"))
    return found


def headers_of(headers: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Headers within their limit, none with a reserved name. InvalidTask, PayloadTooLarge."""
    controls.check_free(headers)
    size = sum(map(len, headers)) + sum(map(len, headers.values()))
    if size > MAX_HEADER_BYTES:
        raise PayloadTooLarge(
            "headers",
            f"headers holds {size} bytes, more than {MAX_HEADER_BYTES}; move large values into the payload",
            limit=MAX_HEADER_BYTES,
        )
    return headers


def _payload(text: str | None, raw: Raw | UnsetType, encoded: str | None, limit: int) -> bytes | None:
    if raw is not UNSET and bytes(raw) == b"null":
        # Null counts as missing, as in every field: generated clients send it for fields that their caller left out.
        raw = UNSET
    if raw is UNSET and encoded is None:
        # The usual cases come first, because this runs for each task of a batch.
        if text is None:
            return None
        data = text.encode()
        if len(data) <= limit:
            return data
    if (text is not None) + (raw is not UNSET) + (encoded is not None) > 1:
        given = [name for name, is_given in (
            ("payload", text is not None), ("payload_json", raw is not UNSET), ("payload_base64", encoded is not None),
        ) if is_given]  # fmt: skip
        raise InvalidTask(given[1], f"{' and '.join(given)} are both given; give one of them")
    if text is not None:
        data, field = text.encode(), "payload"
    elif encoded is not None:
        data, field = decode_base64("payload_base64", encoded, limit, as_go=False), "payload_base64"
    elif raw is UNSET:
        return None
    else:
        assert isinstance(raw, Raw)
        data, field = bytes(raw), "payload_json"
        check_size(field, data, limit)
        check_json(field, data)
    check_size(field, data, limit)
    return data


def check_size(field: str, payload: bytes, limit: int) -> None:
    """PayloadTooLarge for a payload of more than ``limit`` bytes."""
    if len(payload) > limit:
        raise PayloadTooLarge(
            field,
            f"{field} holds {len(payload)} bytes, more than {limit}; store it elsewhere and send its address",
            limit=limit,
        )


_RETRY: Final = RetryFields(
    "retry.max_attempts",
    "retry.backoff.initial",
    "retry.backoff.factor",
    "retry.backoff.max",
    "retry.backoff.jitter",
)


def retry_of(reader: JsonReader[Any], asked: types.Retry, body: bytes) -> RetryPolicy:
    """The policy that stands in the field ``retry`` of a body. InvalidTask."""

    def span(field: str, value: str | float | None) -> int | None:
        return None if value is None else duration(reader, body, field, value)

    b = asked.backoff or types.Backoff()
    return checked_policy(
        _RETRY,
        attempts=None if asked.max_attempts is None else whole(_RETRY.attempts, asked.max_attempts),
        initial_ms=span(_RETRY.initial, b.initial),
        factor=b.factor,
        max_ms=span(_RETRY.maximum, b.max),
        jitter=b.jitter,
    )
