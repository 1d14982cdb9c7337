"""One handing-out of a task to its target, and what can come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from msgspec import Struct

from delaybox.core import ids
from delaybox.core.lane import split
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import TaskResult, TaskType


class Delivery(Struct, gc=False):
    """A leased task on its way to a target. ``token`` rises with every delivery and goes along to fence stale doers.

    ``attempt`` counts failed attempts before this one, ``losses`` how often who ran it was lost: of a WORKER task its
    worker, else its node. ``body`` is the protobuf task; ``look``: it says until when the task may be delivered.
    """

    task_id: bytes
    partition: int
    lease_id: bytes
    token: int
    attempt: int
    losses: int
    due_ms: int
    lane: bytes
    stub: bool
    body: bytes
    look: bool = False

    @property
    def id(self) -> str:
        """The id as callers see it."""
        return ids.render(self.task_id)

    @property
    def type(self) -> TaskType:
        """The task type."""
        return split(self.lane).type

    @property
    def name(self) -> str:
        """The function or command that its lane names."""
        return split(self.lane).name


@dataclass(frozen=True, slots=True)
class Done:
    """It was carried out. ``result`` is kept where the task or its target wants one."""

    result: TaskResult | None = None
    keep_ms: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """It was tried and failed; one attempt is charged. Not ``retryable``: dead-lettered at once.

    ``retry``: of what carried it out, for a task that brings no policy of its own. ``delay_ms``: when to try again, in
    place of the policy's back-off. ``traceback``: for people; kept with the dead letter that this may make of the task.
    """

    reason: str
    retryable: bool = True
    result: TaskResult | None = None
    keep_ms: int = 0
    retry: RetryPolicy | None = None
    delay_ms: int | None = None
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class HandBack:
    """It was not tried; nothing is charged. Due again after ``delay_ms``."""

    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """Who carried it out went away in the middle; one loss is charged. ``together``: with most others like it."""

    together: bool = False


Outcome = Done | Failed | HandBack | Lost
DONE = Done()
HAND_BACK = HandBack()
LOST = Lost()


class Report(Protocol):
    """Called by a target as deliveries end, in any order and grouping; a second report of one delivery is ignored."""

    def __call__(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None: ...


class Target(Protocol):
    """Carries tasks of one type out."""

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Tries every delivery and reports each. What is unreported on return is handed back; an exception fails it.

        Cancelled when the node stops and its grace is over: what is unreported then is handed back.
        """


@runtime_checkable
class Limited(Protocol):
    """A target that can tell how many more tasks it has room for, which changes with how fast it is rid of them."""

    @property
    def room(self) -> int:
        """So many more may be handed over now; looked at whenever tasks end."""


@runtime_checkable
class Pausing(Protocol):
    """A target that can be unable to carry anything out for a while; meanwhile nothing is claimed for it."""

    @property
    def trouble(self) -> str:
        """Why it is unable; '' while it is able."""

    def on_change(self, call: Callable[[], None]) -> None:
        """``call`` is called when ``trouble`` begins or ends."""
