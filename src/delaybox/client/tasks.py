"""Tasks as a caller writes them -> the wire's NewTask. Times and durations are checked here, the rest by the node."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, TypedDict

from delaybox.client.models import PRIORITIES, STATES, TYPES, Retry, TaskState
from delaybox.core.errors import InvalidTask
from delaybox.core.ids import MAX_DUE_MS, MIN_DUE_MS
from delaybox.wire import controls
from delaybox.wire.call import CONTENT_TYPE, OPTIONS_ATTRIBUTE, Call, Codecs, name_of
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.v1.moments import duration_ms, moment_ms
from delaybox.wire.v1.words import unknown

Moment = datetime | str | int
"""When: an aware datetime, RFC 3339 text with an offset, or Unix ms."""
Duration = timedelta | str | int
"""How long: a timedelta, text such as "15m", "1h30m" or "PT15M", or whole milliseconds."""

CODECS: Final = Codecs()
"""The forms of arguments and results that this process knows; add your own here, on both sides."""

_TYPE_NUMBERS: Final = {str(kind): number for number, kind in TYPES.items()}
_STATE_NUMBERS: Final = {str(state): number for number, state in STATES.items()}
_PRIORITY_NUMBERS: Final = {str(priority): number for number, priority in PRIORITIES.items()}
_EPOCH_ORDINAL: Final = datetime(1970, 1, 1).toordinal()  # noqa: DTZ001 - the calendar alone is asked


class When(TypedDict, total=False):
    """``at`` or ``delay`` (from the moment it is stored, by the store's clock), not both; neither: at once."""

    at: Moment | None
    delay: Duration | None


class Options(When, total=False):
    """What every task may say.

    queue: a queue's name; "default" unless given.
    priority: "low", "normal" (unless given), "high" or "critical".
    key: idempotency key, at most 256 bytes: the same key and task again answers with the first one's id and
        ``created`` False, for the task's life and 24 h more. Another task with it is an IdempotencyConflict.
    retry: attempts in all, or a Retry; unless given the function's own policy, else 5 with exponential back-off.
    timeout: longest time of one attempt.
    expire_after: later than due by more than this it is not run, but a dead letter with the reason "expired".
    labels: up to 16 pairs for filters.
    headers: travel with the task; text or bytes. Names that say what a task is (taskType, delay, …) are refused.
    keep_result: how long its result is kept; unless given what its queue keeps, which is none unless configured.
    reject_past: True: a past ``at`` is refused (PastDue), not run at once.
    """

    queue: str
    priority: str
    key: str | None
    retry: Retry | int | None
    timeout: Duration | None
    expire_after: Duration | None
    labels: Mapping[str, str] | None
    headers: Mapping[str, str | bytes] | None
    keep_result: Duration | None
    reject_past: bool


class CallOptions(Options, total=False):
    """``content_type``: the codec that writes the arguments; JSON unless given."""

    content_type: str


class Filter(TypedDict, total=False):
    """Which tasks; everything that is given must hold. Due in [due_from, due_to)."""

    state: TaskState | str | None
    queue: str | None
    type: str | None
    labels: Mapping[str, str] | None
    due_from: Moment | None
    due_to: Moment | None


class NewTask:
    """A task to schedule: made by `call`, `publish` or `shell`, which say what it is and take `Options`."""

    __slots__ = ("message",)

    def __init__(self, message: pb.NewTask) -> None:
        self.message = message

    @classmethod
    def call(cls, function: str | Callable[..., Any], arguments: object = None, /, **options: Any) -> NewTask:
        """Runs a worker's function. See `new_call`."""
        return cls(new_call(function, arguments, options))

    @classmethod
    def publish(cls, payload: object = b"", /, **options: Any) -> NewTask:
        """Publishes a payload. See `new_publish`."""
        return cls(new_publish(payload, options))

    @classmethod
    def shell(cls, command: str | bytes = "", /, *, name: str = "", **options: Any) -> NewTask:
        """Runs a command. See `new_shell`."""
        return cls(new_shell(command, name, options))

    @property
    def key(self) -> str:
        """Its idempotency key; empty when it has none."""
        return self.message.idempotency_key


def new_call(
    function: str | Callable[..., Any], arguments: object, options: Mapping[str, Any], codecs: Codecs = CODECS
) -> pb.NewTask:
    """A WORKER task. ``arguments``: see `Codecs.call`. InvalidTask, NotEncodable, TypeError for an unknown option.

    A function of a worker brings options of its own, such as its queue; those given here count more.
    """
    options = _own_and(function, options)
    if "content_type" in options:
        options = dict(options)
        encoded = codecs.call(arguments, options.pop("content_type") or "")
    else:
        encoded = codecs.call(arguments)
    task = pb.NewTask(payload=encoded.data, type=pb.TASK_TYPE_WORKER, name=name_of(function))
    if encoded.content_type:
        task.headers[CONTENT_TYPE] = encoded.content_type.encode()
    return _with(task, options) if options else task


def _own_and(function: object, options: Mapping[str, Any]) -> Mapping[str, Any]:
    own = getattr(function, OPTIONS_ATTRIBUTE, None)
    return {**own, **options} if own else options


def calls_of(
    function: str | Callable[..., Any], options: Mapping[str, Any], codecs: Codecs, *, keep_result_ms: int
) -> Callable[[Any], pb.NewTask]:
    """Makes items into calls of one function: each item is its only argument, unless it is a Call.

    ``keep_result_ms``: unless the options say. InvalidTask.
    """
    if options.get("key") is not None:
        raise InvalidTask("key", "one key names one task; a set of tasks cannot share it")
    pattern = new_call(function, None, options, codecs)
    pattern.keep_result_ms = pattern.keep_result_ms or keep_result_ms
    content_type = _own_and(function, options).get("content_type") or ""

    def make(item: Any) -> pb.NewTask:
        encoded = codecs.call(item if isinstance(item, Call) else Call(item), content_type)
        task = pb.NewTask()
        task.CopyFrom(pattern)
        task.payload = encoded.data
        if encoded.content_type:
            task.headers[CONTENT_TYPE] = encoded.content_type.encode()
        return task

    return make


def new_publish(payload: object, options: Mapping[str, Any]) -> pb.NewTask:
    """A PUB_SUB task. ``payload``: bytes as they stand, text as UTF-8, anything else as JSON."""
    task = pb.NewTask(payload=raw_of(payload), type=pb.TASK_TYPE_PUB_SUB)
    return _with(task, options) if options else task


def new_shell(command: str | bytes, name: str, options: Mapping[str, Any]) -> pb.NewTask:
    """A SHELL_CMD task: ``command`` for sh, or with ``name`` a named command and ``command`` its standard input."""
    task = pb.NewTask(payload=raw_of(command), type=pb.TASK_TYPE_SHELL_CMD, name=name)
    return _with(task, options) if options else task


def raw_of(payload: object) -> bytes:
    """Bytes as they stand, text as UTF-8, anything else as JSON. InvalidTask."""
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    if isinstance(payload, str):
        return payload.encode()
    return json_of("payload", payload)


def json_of(what: str, value: object) -> bytes:
    """Compact JSON. InvalidTask."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(
            what, f"{what} cannot be made JSON ({error}); give bytes, text or plain JSON values"
        ) from None


def _with(task: pb.NewTask, options: Mapping[str, Any]) -> pb.NewTask:
    for name, value in options.items():
        put = _PUT.get(name)
        if put is None:
            raise TypeError(f"{name!r} is not an option of a task; there are {', '.join(_PUT)}")
        if value is not None:
            put(task, value)
    if options.get("at") is not None and options.get("delay") is not None:
        raise InvalidTask("delay", "at and delay are both given; give one of them")
    return task


def unix_ms(field: str, value: Moment) -> int:
    """Unix ms of a moment; rounded up, so that nothing is early. InvalidTask."""
    if isinstance(value, datetime):
        offset = value.utcoffset()
        if offset is None:
            raise InvalidTask(
                field,
                f"{field} {value.isoformat()} has no time zone; use datetime.now(UTC), or .astimezone() for local time",
            )
        day = value.toordinal() - _EPOCH_ORDINAL
        second = (day * 24 + value.hour) * 3600 + value.minute * 60 + value.second
        micros = second * 1_000_000 + value.microsecond - offset // timedelta(microseconds=1)
        ms = -(-micros // 1000)
        if not MIN_DUE_MS <= ms <= MAX_DUE_MS:
            raise InvalidTask(field, f"{field} {value.isoformat()} is before 1973-03-03 or after 5138-11-16")
        return ms
    return moment_ms(field, _number(field, value))


def span_ms(field: str, value: Duration, *, least: int = 1) -> int:
    """Milliseconds of a duration. InvalidTask."""
    if type(value) is str:
        return _spelled_ms(field, value, least)
    if isinstance(value, timedelta):
        # Rounded up, so that nothing is early.
        value = -(-value // timedelta(milliseconds=1))
    return duration_ms(field, _number(field, value), least=least)


@lru_cache(1024)
def _spelled_ms(field: str, text: str, least: int) -> int:
    # A hundred thousand tasks with the same "15m" are usual, and reading it takes longer than all the rest of a task.
    return duration_ms(field, text, least=least)


def _number(field: str, value: object) -> str | int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidTask(field, f"{field} {value!r} is neither text nor a whole number of milliseconds")
    return value


def _number_of(field: str, value: str, numbers: Mapping[str, int], what: str) -> int:
    found = numbers.get(value)
    if found is None:
        raise InvalidTask(field, f"{field} " + unknown(str(value), numbers, {}, where=what))
    return found


def seconds(field: str, value: float | timedelta | str | None) -> float | None:
    """A time that is waited here: a number of seconds, a timedelta, or text such as "30s". InvalidTask."""
    if isinstance(value, str):
        value = timedelta(milliseconds=span_ms(field, value, least=0))
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value is None or value >= 0:
        return value
    raise InvalidTask(
        field, f'{field} {value!r} is not a time to wait; give seconds, a timedelta, or text such as "30s"'
    )


def put_when(message: Any, when: Mapping[str, Any]) -> None:
    """Sets due_ms or delay_ms of a message that has them. InvalidTask when both are given."""
    at, delay = when.get("at"), when.get("delay")
    if at is not None and delay is not None:
        raise InvalidTask("delay", "at and delay are both given; give one of them")
    if at is not None:
        message.due_ms = unix_ms("at", at)
    if delay is not None:
        message.delay_ms = span_ms("delay", delay, least=0)


def priority_number(value: str) -> int:
    """The wire's number of a priority. InvalidTask."""
    return _number_of("priority", value, _PRIORITY_NUMBERS, "a priority")


def _put_retry(task: pb.NewTask, retry: Retry | int) -> None:
    if isinstance(retry, int):
        retry = Retry(retry)
    task.retry.max_attempts = retry.attempts
    task.retry.initial_ms = span_ms("retry.initial", retry.initial)
    task.retry.factor = retry.factor
    task.retry.max_ms = span_ms("retry.maximum", retry.maximum)
    task.retry.jitter = retry.jitter


def _put_headers(task: pb.NewTask, headers: Mapping[str, str | bytes]) -> None:
    controls.check_free(headers)
    for name, value in headers.items():
        task.headers[name] = value.encode() if isinstance(value, str) else value


def _text(name: str) -> Callable[[pb.NewTask, Any], None]:
    return lambda task, value: setattr(task, name, value)


def _span(option: str, least: int = 1) -> Callable[[pb.NewTask, Any], None]:
    return lambda task, value: setattr(task, f"{option}_ms", span_ms(option, value, least=least))


_PUT: Final[Mapping[str, Callable[[pb.NewTask, Any], None]]] = {
    "at": lambda task, value: setattr(task, "due_ms", unix_ms("at", value)),
    "delay": _span("delay", 0),
    "queue": _text("queue"),
    "priority": lambda task, value: setattr(task, "priority", priority_number(value)),
    "key": _text("idempotency_key"),
    "retry": _put_retry,
    "timeout": _span("timeout"),
    "expire_after": _span("expire_after"),
    "labels": lambda task, value: task.labels.update(value),
    "headers": _put_headers,
    "keep_result": _span("keep_result"),
    "reject_past": _text("reject_past"),
}


def filter_of(wanted: Mapping[str, Any]) -> pb.TaskFilter:
    """The wire's filter. InvalidTask, TypeError for an unknown part."""
    if strange := wanted.keys() - Filter.__annotations__.keys():
        raise TypeError(f"{min(strange)!r} is no part of a filter; there are {', '.join(Filter.__annotations__)}")
    out = pb.TaskFilter(queue=wanted.get("queue") or "", labels=wanted.get("labels") or {})
    if (state := wanted.get("state")) is not None:
        out.state = _number_of("state", state, _STATE_NUMBERS, "a state")  # type: ignore[assignment]
    if (kind := wanted.get("type")) is not None:
        out.type = _number_of("type", kind, _TYPE_NUMBERS, "a task type")  # type: ignore[assignment]
    if (moment := wanted.get("due_from")) is not None:
        out.due_from_ms = unix_ms("due_from", moment)
    if (moment := wanted.get("due_to")) is not None:
        out.due_to_ms = unix_ms("due_to", moment)
    return out


def selection_of(wanted: Mapping[str, Any], *, everything: bool, limit: int, dry_run: bool) -> pb.Selection:
    """What a bulk call works on. InvalidTask when it names nothing."""
    if not everything and not any(value is not None for value in wanted.values()):
        raise InvalidTask("filter", "no filter is given; give one, or everything=True for every pending task")
    return pb.Selection(filter=filter_of(wanted), all=everything, limit=limit, dry_run=dry_run)
