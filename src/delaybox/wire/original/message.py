"""The original's serialized ``Task`` -> domain: what it kept in its sorted set, what comes over its channel. Pure."""

from __future__ import annotations

from hashlib import blake2b

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from delaybox.core.durations import duration_ms
from delaybox.core.errors import InvalidTask, PayloadTooLarge
from delaybox.core.lane import NAMED, check_name
from delaybox.core.limits import MAX_DUE_MS, message_bytes
from delaybox.core.retry import NO_RETRY
from delaybox.core.task import NewTask, TaskType
from delaybox.wire import body, controls
from delaybox.wire.bounds import check_items
from delaybox.wire.gen import task_pb2
from delaybox.wire.json.tasks import labels_of
from delaybox.wire.original import request
from delaybox.wire.proto.tasks import retry_of
from delaybox.wire.shell_rules import check_payload
from delaybox.wire.webhook import webhook_of


def of_message(raw: bytes, rules: request.OriginalRules) -> NewTask:
    """The task that a message on the channel asks for, by the rules of ``POST /task``.

    Its header is the ``parameter``. Its uuid and status are ignored, because a task gets its id here. Fields from 5 on,
    which are DelayBox's own, count. InvalidTask and its kin for what cannot be accepted.
    """
    longest = message_bytes(rules.max_payload_bytes)
    if len(raw) > longest:
        raise PayloadTooLarge("body", f"the message holds {len(raw)} bytes, more than {longest}", limit=longest)
    message = _read(raw)
    payload = message.payload
    if len(payload) > rules.max_payload_bytes:
        raise PayloadTooLarge(
            "payload",
            f"payload holds {len(payload)} bytes, more than {rules.max_payload_bytes}",
            limit=rules.max_payload_bytes,
        )
    if message.at_most_once:
        raise InvalidTask("at_most_once", "at_most_once is set, which is taken over REST and gRPC only; use these")
    task = request.of_header(message.header, rules)
    if task.type is TaskType.SHELL_CMD:
        check_payload(payload)
    if task.type in NAMED or message.name:
        check_name(task.type, message.name)
    return replace(
        task,
        payload=payload,
        name=message.name,
        retry=retry_of(message.retry) if message.HasField("retry") else task.retry,
        timeout_ms=duration_ms("timeout_ms", message.timeout_ms),
        expire_after_ms=duration_ms("expire_after_ms", message.expire_after_ms),
        keep_result_ms=duration_ms("keep_result_ms", message.keep_result_ms),
        max_snooze_ms=duration_ms("max_snooze_ms", message.max_snooze_ms),
        labels=labels_of(body.pairs(message.labels)),
        webhook=webhook_of(message) if task.type is TaskType.HTTP else None,
    )


def of_pending(raw: bytes, score: float, *, fold: bool = False) -> tuple[str, NewTask]:
    """(its uuid, the task) of a member of the original's sorted set, due at ``score`` (ms; 0 or past: at once).

    The idempotency key is made of the uuid, or, with ``fold``, of the task's content: equal copies then have one key.
    InvalidTask for a member that is no task.
    """
    message = _read(raw)
    uuid = message.taskUuid
    if not uuid:
        raise InvalidTask("taskUuid", "it has no taskUuid, so it is no task of the original")
    if not -MAX_DUE_MS <= score <= MAX_DUE_MS:
        raise InvalidTask("score", f"its score {score!r} is no time in Unix milliseconds")
    payload = message.payload
    header = body.pairs(message.header)
    due_ms = max(int(score), 0)
    # In the original only two types exist: every other name is published.
    shell = header.get(controls.TASK_TYPE) == controls.SHELL
    # "legacy:" is stored with each task: with another word an import that is run again would store everything twice.
    key = f"same:{_digest(message, due_ms)}" if fold else uuid[:200]
    return uuid, NewTask(
        payload=payload,
        due_ms=due_ms or None,
        type=TaskType.SHELL_CMD if shell else TaskType.PUB_SUB,
        header=header,
        idempotency_key=f"legacy:{key}",
        retry=NO_RETRY if shell else None,
    )


def _read(raw: bytes) -> task_pb2.Task:
    check_items(raw, task_pb2.Task, field="body")
    try:
        return task_pb2.Task.FromString(raw)
    except DecodeError:
        raise InvalidTask("body", "it is not a serialized Task") from None


def _digest(message: task_pb2.Task, due_ms: int) -> str:
    """A key of everything that copies of one task have in common; clears the rest from the message."""
    message.ClearField("taskUuid")
    message.ClearField("status")
    return blake2b(b"%d:" % due_ms + message.SerializeToString(deterministic=True), digest_size=16).hexdigest()
