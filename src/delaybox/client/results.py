"""Waits for a task's result, and turns it into what its function returned, or into the error why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from delaybox.client.errors import NotFinished, ResultGone, TaskCancelled, TaskFailed
from delaybox.client.models import STATES, TaskState
from delaybox.client.retries import ClientSession
from delaybox.client.steps import Steps, feed
from delaybox.client.watching import watched
from delaybox.core.errors import DelayBoxError
from delaybox.wire.call import Codecs
from delaybox.wire.gen import scheduler_pb2 as pb


def result(session: ClientSession, task_id: str, *, limit_s: float | None, codecs: Codecs) -> Steps[Any]:
    """What the task's function returned. TaskFailed, TaskCancelled, ResultGone, NotFinished, NotDecodable."""
    found: list[pb.TaskEvent] = []
    yield from feed(watched(session, [task_id], ends_only=True, limit_s=limit_s), found.extend)
    for event in found:
        if STATES[event.state].is_end:
            return returned(event, codecs)
    within = f" within {limit_s:g} s" if limit_s else " yet"
    raise NotFinished(f"task {task_id} has not finished{within}; it goes on all the same")


def returned(event: pb.TaskEvent, codecs: Codecs) -> Any:
    """The result of a finished task, or the error why there is none. As `result`."""
    match STATES[event.state]:
        case TaskState.SUCCEEDED if event.HasField("result"):
            left = event.result
            # A command's output has no content type.
            return left.output if left.HasField("exit_code") else codecs.returned(left.output, left.content_type)
        case TaskState.FAILED:
            raise TaskFailed(event.id, event.reason or event.result.reason, event.result.output)
        case TaskState.CANCELLED:
            raise TaskCancelled(event.id)
        case _:
            raise ResultGone(event.id)


@dataclass(frozen=True, slots=True)
class Broken:
    """Wraps an error that is an outcome, because a function's value could be an exception object as well."""

    error: Exception


def value_of(event: pb.TaskEvent, codecs: Codecs) -> Any:
    """As `returned`, with what it raises as a Broken."""
    try:
        return returned(event, codecs)
    except DelayBoxError as error:
        return Broken(error)
