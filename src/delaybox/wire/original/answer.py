"""Domain -> the bodies that the original's REST answers with. Pure."""

from __future__ import annotations

from base64 import b64encode

import msgspec

from delaybox.core.task import TaskView


def render_tasks(tasks: list[TaskView]) -> bytes:
    """The body of ``GET /task``."""
    return msgspec.json.encode([_view(task) for task in tasks])


def _view(task: TaskView) -> dict[str, object]:
    out: dict[str, object] = {"taskUuid": task.task_id}
    if task.header:
        # A task from Kafka or the Redis channel may hold bytes that are no UTF-8; JSON must be UTF-8.
        out["parameter"] = {name: value.decode("utf-8", "replace") for name, value in task.header.items()}
    out["pyload"] = b64encode(task.payload).decode()
    out["status"] = task.state.value
    return out


def render_created(task_id: str) -> bytes:
    """The body that answers a stored task; ids need no escaping."""
    return b'{"message":"task created","taskUuid":"%b"}' % task_id.encode()


def render_error(message: str) -> bytes:
    """The body of every refusal on the compatible routes."""
    return msgspec.json.encode({"error": message})
