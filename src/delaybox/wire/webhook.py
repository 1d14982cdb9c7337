"""Webhooks as requests and records spell them -> domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from delaybox.core.errors import InvalidTask
from delaybox.core.task import NewTask
from delaybox.core.webhook import BINARY, CE, STRUCTURED, Webhook, WebhookRules
from delaybox.wire import controls
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.gen import task_pb2
from delaybox.wire.topics import KEY, TOMBSTONE
from delaybox.wire.trace import BAGGAGE, trace_in

URL: Final = "url"
METHOD: Final = "method"
RETRY_ON: Final = "retryOn"
ON_SUCCESS: Final = "onSuccess"
ON_FAILURE: Final = "onFailure"
CLOUDEVENTS: Final = "cloudevents"
CONTENT_TYPE: Final = "content-type"
UNSTATED_TYPE: Final = b"application/octet-stream"
"""What a payload is of which nothing is stated."""
_JSON: Final = b"application/json"
_OWN: Final = (URL, METHOD, RETRY_ON, ON_SUCCESS, ON_FAILURE, CLOUDEVENTS)
_OF_RECORD: Final = frozenset((*controls.PARAMETERS, "name", *_OWN, KEY, TOMBSTONE, "key"))
_EVENT: Final = controls.EVENT
_NOT_OF_EVENT: Final = frozenset((*controls.OF_EVENT, "ce_partitionkey"))


def webhook_of(message: task_pb2.Task | pb.NewTask) -> Webhook | None:
    """The webhook in a message; None where it has none."""
    if not message.HasField("webhook"):
        return None
    asked = message.webhook
    return Webhook(
        asked.url,
        asked.method or "POST",
        tuple(asked.retry_on),
        asked.on_success,
        asked.on_failure,
        asked.cloudevents,
    )


def message_of(webhook: Webhook) -> task_pb2.Webhook:
    """As a message."""
    return task_pb2.Webhook(
        url=webhook.url,
        method=webhook.method,
        retry_on=webhook.retry_on,
        on_success=webhook.on_success,
        on_failure=webhook.on_failure,
        cloudevents=webhook.cloudevents,
    )


def callback_of(url: str, cloudevents: str, event: str, header: Mapping[str, bytes]) -> bytes:
    """The stored body of a task that calls back, but for its payload, which the script that ends the first adds.

    ``event``: succeeded or failed, the type of the event that the call is where the task asks for one. ``header``: that
    of the first. Both belong to one trace; its baggage, which may be large, is not kept three times.
    """
    message = task_pb2.Task(webhook=task_pb2.Webhook(url=url, method="POST", cloudevents=cloudevents))
    message.header[CONTENT_TYPE] = _JSON
    if cloudevents in (BINARY, STRUCTURED):
        message.header[f"{CE}type"] = f"io.delaybox.webhook.{event}".encode()
    for name, value in trace_in(header).items():
        if name != BAGGAGE:
            message.header[name] = value
    return message.SerializeToString()


def with_json_type(header: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """The headers of a request whose body was given as JSON."""
    if any(name.lower() == CONTENT_TYPE for name in header):
        return header
    return {**header, CONTENT_TYPE: _JSON}


def of_record(task: NewTask, rules: WebhookRules) -> NewTask:
    """An HTTP task that came through Kafka: its headers hold the webhook beside the request's own. InvalidTask.

    What controls the task is taken out of the headers; attributes of a CloudEvent (``ce_id``) become the headers that
    HTTP has for them (``ce-id``).
    """
    webhook = task.webhook
    if webhook is None:
        header = task.header
        webhook = Webhook(
            _text(header, URL),
            _text(header, METHOD) or "POST",
            _statuses(_text(header, RETRY_ON)),
            _text(header, ON_SUCCESS),
            _text(header, ON_FAILURE),
            _text(header, CLOUDEVENTS),
        )
    own = {
        f"ce-{name.removeprefix(_EVENT)}" if name.startswith(_EVENT) else name: value
        for name, value in task.header.items()
        if name not in _OF_RECORD and name not in _NOT_OF_EVENT
    }
    return replace(task, header=own, webhook=rules.check(webhook, own, task.payload))


def _text(header: Mapping[str, bytes], name: str) -> str:
    try:
        return header.get(name, b"").decode()
    except UnicodeDecodeError:
        raise InvalidTask(name, f"the header {name} is not UTF-8 text; send text") from None


def _statuses(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isascii() and part.isdigit() and len(part) == 3 for part in parts):
        raise InvalidTask("retry_on", f"the header {RETRY_ON} {text[:40]!r} holds no statuses; give them as 404,409")
    return tuple(map(int, parts))
