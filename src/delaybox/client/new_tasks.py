"""Tasks as a caller writes them -> the wire's NewTask. Times and durations are checked here, the rest by the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypedDict

from delaybox.client import traced
from delaybox.client.models import STATES, TYPES, KeyLimit, Retry, TaskState
from delaybox.client.values import (
    Duration,
    Moment,
    flag_of,
    headers_of,
    json_of,
    key_of,
    labels_of,
    most_of,
    named_of,
    number_of,
    policy_of,
    priority_number,
    put_policy,
    put_when,
    raw_of,
    share_of,
    text_of,
    texts_of,
    unix_ms,
)
from delaybox.core.durations import span_ms
from delaybox.core.errors import InvalidTask
from delaybox.core.limits import MAX_COST
from delaybox.core.needs import checked_cost
from delaybox.core.words import show
from delaybox.wire import controls
from delaybox.wire.call import CONTENT_TYPE, OPTIONS_ATTRIBUTE, Call, Codecs, Encoded, name_of
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.trace import PARENT

CODECS: Final = Codecs()
"""The codecs for arguments and results that this process knows; add your own here, on both sides."""

_TYPE_NUMBERS: Final = {str(kind): number for number, kind in TYPES.items()}
_DELIVERY: Final[Mapping[str, int]] = {
    "at_least_once": pb.DELIVERY_AT_LEAST_ONCE,
    "at_most_once": pb.DELIVERY_AT_MOST_ONCE,
}
_ON_CONFLICT: Final[Mapping[str, int]] = {"keep": pb.ON_CONFLICT_KEEP, "replace": pb.ON_CONFLICT_REPLACE}
_UNIQUE_WHILE: Final[Mapping[str, int]] = {"pending": pb.UNIQUE_WHILE_PENDING, "running": pb.UNIQUE_WHILE_RUNNING}
_STATE_NUMBERS: Final = {str(state): number for number, state in STATES.items()}


class When(TypedDict, total=False):
    """``at``, ``at_ms`` (Unix ms) or ``delay`` (from the moment it is stored, by the store's clock); none: at once."""

    at: Moment | None
    at_ms: int | None
    delay: Duration | None


class MapOptions(When, total=False):
    """The options of a map's tasks: as `Options`, without a key."""

    queue: str
    priority: str
    retry: Retry | int | None
    timeout: Duration | None
    expire_after: Duration | None
    labels: Mapping[str, str] | None
    headers: Mapping[str, str | bytes] | None
    keep_result: Duration | None
    max_snooze: Duration | None
    delivery: str
    group: str
    fairness_key: str
    fairness_weight: float
    cost: int
    requires: Sequence[str]
    prefers: Sequence[str]
    reject_past: bool
    content_type: str


class Options(When, total=False):
    """The options of every task. A length of time that is a number is seconds.

    queue: a queue's name; "default" unless given.
    priority: "low", "normal" (unless given), "high" or "critical".
    key: idempotency key, at most 256 bytes: the same key and task again answers with the first one's id and
        ``created`` False, for the task's life and 24 h more. Another task with it is an IdempotencyConflict.
    retry: how many further attempts a failed one may have (0: none), or a Retry; unless given the function's own
        policy, else 4 further ones (5 in all) with exponential back-off.
    timeout: longest time of one attempt.
    expire_after: a task that is late by more than this is not run, but becomes a dead letter with the reason "expired".
    labels: up to 16 pairs for filters.
    headers: travel with the task; text or bytes. Names that decide what a task is (taskType, delay, …) are refused.
    keep_result: how long its result is kept, 0 for not at all; unless given what its queue keeps, which is none unless
        configured.
    max_snooze: for how long in all its function may put it off (RetryLater), from the first time; unless given 7 days.
    on_conflict: with a key that names a task already: "keep" (unless given): the first one stays; "replace": this one
        takes its place: a pending one keeps its id, one that runs is never tried again.
    max_wait: with "replace": for how long such calls may put the task off, from the first that says so on.
    unique_while: the key is a lock, free again as soon as its task is not "pending" (waits to be handed out for the
        first time) or not "running" any more, in whatever way it ends.
    delivery: "at_most_once": acked before it is handed out; it is never carried out twice, and perhaps not at all, for
        it is not tried again when it fails or is lost. Unless given "at_least_once".
    fairness_key: where there are fewer places than work, keys of a queue take turns, such as the names of customers.
    fairness_weight: the key's share beside other keys, 0.01 to 100; 1 unless given.
    cost: how many places it takes of the worker that runs it, or of the process that carries out its command or
        webhook; 1 unless given.
    requires: labels that its worker must have, such as ["gpu", "zone=b"].
    prefers: labels of workers that are asked first; where none of them has room, others run it.
    group: a name; tasks of one group can be released, moved or cancelled together (``run_now_many(group=…)``).
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
    max_snooze: Duration | None
    delivery: str
    on_conflict: str
    max_wait: Duration | None
    unique_while: str
    group: str
    fairness_key: str
    fairness_weight: float
    cost: int
    requires: Sequence[str]
    prefers: Sequence[str]
    reject_past: bool


class CallOptions(Options, total=False):
    """``content_type``: the codec that writes the arguments; JSON unless given."""

    content_type: str


class WebhookOptions(Options, total=False):
    """Options of a webhook; ``headers`` are those of its request.

    method: "POST" unless given.
    retry_on: statuses from 400 to 499 that are tried again, though they are final otherwise (408, 425, 429 are not).
    on_success, on_failure: a URL that is called when it has ended well, or became a dead letter, by a task of its own.
    cloudevents: "binary" or "structured", the form of the CloudEvent that is sent, or "none"; else as the node is set.
    """

    method: str
    retry_on: Sequence[int]
    on_success: str
    on_failure: str
    cloudevents: str


class Filter(TypedDict, total=False):
    """Which tasks; everything that is given must hold. Due in [due_from, due_to)."""

    state: TaskState | str | None
    queue: str | None
    type: str | None
    function: str | None
    labels: Mapping[str, str] | None
    group: str | None
    due_from: Moment | None
    due_to: Moment | None


class HistoryFilter(TypedDict, total=False):
    """Which ends; everything that is given must hold. Ended in [start, end)."""

    state: TaskState | str | None
    queue: str | None
    type: str | None
    function: str | None
    start: Moment | None
    end: Moment | None


class Slack(TypedDict, total=False):
    """How long tasks of a queue may wait behind others of it, by priority."""

    high: Duration
    normal: Duration
    low: Duration


class RulesToSet(TypedDict, total=False):
    """Rules of a queue; None clears one. See `Client.set_queue`."""

    paused: bool | None
    keep_result: Duration | None
    retry: Retry | int | None
    timeout: Duration | None
    weight: float | None
    slack: Slack | None
    concurrency: int | None
    rate: str | None
    burst: int | None
    keys: Sequence[KeyLimit] | None
    key_keep: Duration | None
    resume_rate: str | None


class NewTask:
    """A task to schedule: made by `call`, `publish`, `shell` or `webhook`, which take `Options`."""

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

    @classmethod
    def webhook(cls, url: str, /, *, json: Any = None, data: object = None, **options: Any) -> NewTask:
        """Calls a URL. See `new_webhook`."""
        return cls(new_webhook(url, json, data, options))

    @property
    def key(self) -> str:
        """Its idempotency key; empty when it has none."""
        return self.message.idempotency_key


def new_call(
    function: str | Callable[..., Any], arguments: object, options: Mapping[str, Any], codecs: Codecs = CODECS
) -> pb.NewTask:
    """A WORKER task. ``arguments``: see `Codecs.call`. InvalidTask, NotEncodable, TypeError for an unknown option.

    A function of a worker has options of its own, such as its queue; options given here override them.
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


class MapCalls:
    """Makes items of a map into tasks of one function: an item is its only argument, unless it is a Call. InvalidTask.

    ``keep_result_ms``: unless the options set it. ``key``: a name for each item, by which a later map finds its task.
    """

    __slots__ = ("_codecs", "_content_type", "_key", "_pattern", "again")

    def __init__(
        self,
        function: str | Callable[..., Any],
        options: Mapping[str, Any],
        codecs: Codecs,
        *,
        keep_result_ms: int,
        key: Callable[[Any], str] | None = None,
    ) -> None:
        if "key" in options or (key is not None and not callable(key)):
            raise InvalidTask("key", "one key names one task; give a function that says the key of an item")
        self._codecs = codecs
        self._key = key
        self._pattern = new_call(function, None, options, codecs)
        if self._pattern.no_result:
            raise InvalidTask("keep_result", "keep_result 0 leaves a map without results; leave it out")
        self._pattern.keep_result_ms = self._pattern.keep_result_ms or keep_result_ms
        if PARENT not in self._pattern.headers:
            traced.put(self._pattern, traced.current())
        self._content_type = str(_own_and(function, options).get("content_type") or "")
        self.again = self._pattern.retry.max_attempts != 1
        """Whether an item that failed may be tried again."""

    def one(self, item: Any) -> pb.NewTask:
        """NotEncodable, InvalidTask."""
        task = self._task(self.encoded(item))
        if self._key is not None:
            task.idempotency_key = key_of(self._key(item))
        return task

    def several(self, items: Sequence[Encoded]) -> pb.NewTask:
        """One task of several calls."""
        return self._task(self._codecs.several(items))

    def encoded(self, item: Any) -> Encoded:
        """The call of an item. NotEncodable."""
        return self._codecs.call(item if isinstance(item, Call) else Call(item), self._content_type)

    def _task(self, encoded: Encoded) -> pb.NewTask:
        task = pb.NewTask()
        task.CopyFrom(self._pattern)
        task.payload = encoded.data
        if encoded.content_type:
            task.headers[CONTENT_TYPE] = encoded.content_type.encode()
        return task


def new_publish(payload: object, options: Mapping[str, Any]) -> pb.NewTask:
    """A PUB_SUB task. ``payload``: bytes as they stand, text as UTF-8, anything else as JSON."""
    task = pb.NewTask(payload=raw_of(payload), type=pb.TASK_TYPE_PUB_SUB)
    return _with(task, options) if options else task


def new_shell(command: str | bytes, name: str, options: Mapping[str, Any]) -> pb.NewTask:
    """A SHELL_CMD task: ``command`` for sh, or with ``name`` a named command and ``command`` its standard input."""
    if not (raw := raw_of(command)).strip() and not name:
        raise InvalidTask("command", "command is empty; give one for sh, or with name=... a named command")
    task = pb.NewTask(payload=raw, type=pb.TASK_TYPE_SHELL_CMD, name=name)
    return _with(task, options) if options else task


def new_webhook(url: str, json: object, data: object, options: Mapping[str, Any]) -> pb.NewTask:
    """An HTTP task. ``json``: the body as JSON, or ``data``: bytes as they stand, text as UTF-8. InvalidTask.

    None for both: no body. The headers name what the body is, where it is not JSON.
    """
    if json is not None and data is not None:
        raise InvalidTask("data", "json and data are both given; give one of them")
    task = pb.NewTask(type=pb.TASK_TYPE_HTTP)
    task.webhook.url = text_of("url", url)
    options = dict(options)
    if (method := options.pop("method", None)) is not None:
        task.webhook.method = text_of("method", method)
    for field in ("on_success", "on_failure", "cloudevents"):
        if (text := options.pop(field, None)) is not None:
            setattr(task.webhook, field, text_of(field, text))
    for status in options.pop("retry_on", None) or ():
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 499:
            raise InvalidTask("retry_on", f"retry_on holds {show(status)}; give statuses from 400 to 499")
        task.webhook.retry_on.append(status)
    if data is not None:
        task.payload = raw_of(data)
    elif json is not None:
        task.payload = json_of("json", json)
        if not any(name.lower() == "content-type" for name in options.get("headers") or ()):
            task.headers["content-type"] = b"application/json"
    return _with(task, options) if options else task


def _with(task: pb.NewTask, options: Mapping[str, Any]) -> pb.NewTask:
    for name, value in options.items():
        put = _PUT.get(name)
        if put is None:
            raise TypeError(f"{name!r} is not an option of a task; there are {', '.join(_PUT)}")
        if value is not None:
            put(task, value)
    put_when(task, options)
    return task


def _put_headers(task: pb.NewTask, headers: object) -> None:
    given = headers_of(headers)
    controls.check_free(given)
    for name, value in given.items():
        task.headers[name] = value


def _put_flag(task: pb.NewTask, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidTask("reject_past", f"reject_past {show(value)} is neither True nor False; give one of them")
    task.reject_past = value


def _put_cost(task: pb.NewTask, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTask("cost", f"cost {show(value)} is no whole number; give 1 to {MAX_COST} places")
    task.cost = checked_cost("cost", value)


def _named(name: str, without: str) -> Callable[[pb.NewTask, Any], None]:
    return lambda task, value: setattr(task, name, named_of(name, value, without))


def _span(option: str) -> Callable[[pb.NewTask, Any], None]:
    return lambda task, value: setattr(task, f"{option}_ms", span_ms(option, value))


def _put_keep_result(task: pb.NewTask, value: Any) -> None:
    ms = span_ms("keep_result", value, least=0)
    task.keep_result_ms, task.no_result = ms, ms == 0


def _put_later(task: pb.NewTask, value: object) -> None:
    """`put_when` looks at all three together."""


_PUT: Final[Mapping[str, Callable[[pb.NewTask, Any], None]]] = {
    "at": _put_later,
    "at_ms": _put_later,
    "delay": _put_later,
    "queue": _named("queue", "the default"),
    "priority": lambda task, value: setattr(task, "priority", priority_number(value)),
    "key": lambda task, value: setattr(task, "idempotency_key", key_of(value)),
    "retry": lambda task, value: put_policy(task.retry, policy_of("retry", value)),
    "timeout": _span("timeout"),
    "expire_after": _span("expire_after"),
    "labels": lambda task, value: task.labels.update(labels_of("labels", value)),
    "headers": _put_headers,
    "keep_result": _put_keep_result,
    "max_snooze": _span("max_snooze"),
    "delivery": lambda task, value: setattr(task, "delivery", number_of("delivery", value, _DELIVERY, "a way")),
    "on_conflict": lambda task, value: setattr(
        task, "on_conflict", number_of("on_conflict", value, _ON_CONFLICT, "a way")
    ),
    "max_wait": _span("max_wait"),
    "unique_while": lambda task, value: setattr(
        task, "unique_while", number_of("unique_while", value, _UNIQUE_WHILE, "a span")
    ),
    "group": _named("group", "none"),
    "fairness_key": _named("fairness_key", "none"),
    "fairness_weight": lambda task, value: setattr(task, "fairness_weight", share_of("fairness_weight", value)),
    "cost": _put_cost,
    "requires": lambda task, value: task.requires.extend(texts_of("requires", value)),
    "prefers": lambda task, value: task.prefers.extend(texts_of("prefers", value)),
    "reject_past": _put_flag,
}


def filter_of(wanted: Mapping[str, Any]) -> pb.TaskFilter:
    """The wire's filter. InvalidTask, TypeError for an unknown part."""
    if strange := wanted.keys() - Filter.__annotations__.keys():
        raise TypeError(f"{min(strange)!r} is no part of a filter; there are {', '.join(Filter.__annotations__)}")
    out = pb.TaskFilter()
    if (queue := wanted.get("queue")) is not None:
        out.queue = named_of("queue", queue, "any")
    if (function := wanted.get("function")) is not None:
        out.function = named_of("function", function, "any")
    if (labels := wanted.get("labels")) is not None:
        out.labels.update(labels_of("labels", labels))
    if (group := wanted.get("group")) is not None:
        out.group = named_of("group", group, "any")
    if (state := wanted.get("state")) is not None:
        out.state = number_of("state", state, _STATE_NUMBERS, "a state")  # type: ignore[assignment]
    if (kind := wanted.get("type")) is not None:
        out.type = number_of("type", kind, _TYPE_NUMBERS, "a task type")  # type: ignore[assignment]
    if (moment := wanted.get("due_from")) is not None:
        out.due_from_ms = unix_ms("due_from", moment)
    if (moment := wanted.get("due_to")) is not None:
        out.due_to_ms = unix_ms("due_to", moment)
    return out


def history_of(wanted: Mapping[str, Any]) -> pb.HistoryRequest:
    """The wire's question for ends. InvalidTask, TypeError for an unknown part."""
    if strange := wanted.keys() - HistoryFilter.__annotations__.keys():
        known = ", ".join(HistoryFilter.__annotations__)
        raise TypeError(f"{min(strange)!r} is no part of a filter of ends; there are {known}")
    out = pb.HistoryRequest()
    if (queue := wanted.get("queue")) is not None:
        out.queue = named_of("queue", queue, "any")
    if (function := wanted.get("function")) is not None:
        out.function = named_of("function", function, "any")
    if (state := wanted.get("state")) is not None:
        out.state = number_of("state", state, _STATE_NUMBERS, "a state")  # type: ignore[assignment]
    if (kind := wanted.get("type")) is not None:
        out.type = number_of("type", kind, _TYPE_NUMBERS, "a task type")  # type: ignore[assignment]
    if (moment := wanted.get("start")) is not None:
        out.from_ms = unix_ms("start", moment)
    if (moment := wanted.get("end")) is not None:
        out.to_ms = unix_ms("end", moment)
    return out


def selection_of(wanted: Mapping[str, Any], *, everything: bool, limit: int, dry_run: bool) -> pb.Selection:
    """The filter of a bulk call. InvalidTask when it is empty and ``everything`` is not given."""
    found, every = filter_of(wanted), flag_of("everything", everything)
    if every and found != pb.TaskFilter():
        raise InvalidTask("everything", "everything is given with a filter; give one of them")
    if not every and found == pb.TaskFilter():
        raise InvalidTask("filter", "no filter is given; give one, or everything=True for every one")
    dry = flag_of("dry_run", dry_run)
    return pb.Selection(filter=found, all=every, limit=most_of("limit", limit), dry_run=dry)
