"""Lanes: task type + queue. A lane is what a node says it can serve, and what ready sets are kept by."""

from __future__ import annotations

from delaybox.core.task import DEFAULT_QUEUE, TaskType


def lane_of(task_type: TaskType, queue: str) -> bytes:
    """The lane's stored name. The default queue is the empty string: most records then spend one byte on it."""
    return (task_type.value + ("" if queue == DEFAULT_QUEUE else queue)).encode()


def split(lane: bytes) -> tuple[TaskType, str]:
    """The task type and queue of a stored lane; ValueError for a letter this version does not know."""
    text = lane.decode()
    return TaskType(text[:1]), text[1:] or DEFAULT_QUEUE
