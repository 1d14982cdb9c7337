"""Lanes: task type + queue + function + what tasks need of a worker. Nodes claim by lanes, and each lane has a ready
set of its own."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from delaybox.core.errors import InvalidTask
from delaybox.core.limits import NAME, NAME_FORM
from delaybox.core.needs import MARK, NO_NEEDS, WorkerNeeds, needs_of
from delaybox.core.task import DEFAULT_QUEUE, TaskType

_MARK = MARK.encode()
ANY_QUEUE = "*"
"""Stands for every queue in the lanes of a claim."""

NAMED = frozenset({TaskType.WORKER, TaskType.SHELL_CMD})
"""Types whose tasks may name a function or a command. The name is part of the lane, so that only takers that have it
claim them."""
WITH_PLACES = frozenset({TaskType.WORKER, TaskType.SHELL_CMD, TaskType.HTTP})
"""Types whose tasks take places of who carries them out, and may cost more than one."""


class Lane(NamedTuple):
    """The parts of a lane; ``name`` is empty where none is named. ``needs``: see `core.needs`."""

    type: TaskType
    queue: str
    name: str = ""
    needs: WorkerNeeds = NO_NEEDS


def lane_of(task_type: TaskType, queue: str, name: str = "") -> bytes:
    """The lane's stored name. The default queue is the empty string: most records then spend one byte on it.

    ``name`` may have needs behind it (`core.needs.WorkerNeeds.text`).
    """
    text = task_type.value + ("" if queue == DEFAULT_QUEUE else queue)
    return (f"{text}:{name}" if name and (task_type in NAMED or name[0] == MARK) else text).encode()


@lru_cache(maxsize=4096)
def split(lane: bytes) -> Lane:
    """The parts of a stored lane; ValueError for a letter this version does not know."""
    text, _, name = lane.decode().partition(":")
    name, _, needs = name.partition(MARK)
    return Lane(TaskType(text[:1]), text[1:] or DEFAULT_QUEUE, name, needs_of(needs) if needs else NO_NEEDS)


def without_needs(lane: bytes) -> bytes:
    """The lane of the same function or command whose tasks need nothing but a place."""
    return lane.partition(_MARK)[0].removesuffix(b":")


def cost_of(lane: bytes) -> int:
    """How many places a task of this lane takes."""
    return split(lane).needs.cost if _MARK in lane else 1


def queue_of_lane(lane: bytes) -> bytes:
    """The queue of a stored lane, as lanes spell it."""
    return lane[1:].partition(b":")[0]


def check_name(task_type: TaskType, name: str) -> None:
    """The name of a function or command, or "" for none. InvalidTask for one that the type cannot have or must have."""
    if task_type is TaskType.HTTP and name:
        raise InvalidTask("name", f"name {name[:64]!r} says nothing to an http task; its url says what is called")
    if task_type is TaskType.PUB_SUB and name:
        raise InvalidTask("name", f"name {name[:64]!r} says nothing to a pub_sub task; use headers, or type worker")
    if task_type is TaskType.WORKER and not name:
        raise InvalidTask("name", "name is missing; a worker task names the function that is to run")
    if name and NAME.fullmatch(name) is None:
        raise InvalidTask(
            "name",
            f"name {name[:64]!r} is not a name; use {NAME_FORM}",
        )
