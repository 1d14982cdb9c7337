"""One delivery of a task to its target, and its possible outcomes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from msgspec import Struct

from delaybox.core import ids
from delaybox.core.lane import split
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import TaskResult, TaskType


class Delivery(Struct, gc=False):
    """A leased task on its way to a target. ``token`` rises with every delivery, so that others can refuse a late doer.

    ``attempt`` counts failed attempts before this one; ``losses`` how often the process that ran it was lost (the
    worker of a WORKER task, else the node). ``body`` is the protobuf task; ``look``: it holds a time after which the
    task must not be delivered. ``once``: it is acked before it is handed out. ``priority``: the record's number.
    ``fired_ms``: when it was handed out, by Redis's clock. ``limit_keys``: those of which it has a permit to run.
    ``trace``: the ``traceparent`` of this firing, where it is traced here. ``first_due_ms``: with ``look``, when it was
    due before it was put off without a charge (0: it was not). ``line``: how many runs its place carries out until it
    has ended, its own included: more than one where it was sent before a place was free. ``extended``: what ends it
    may have more to do in the store than for most tasks; ``lent``: no more than to give permits back
    (`ScriptCall.whole`, `ScriptCall.lent`).
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
    once: bool = False
    priority: int = 2
    fired_ms: int = 0
    limit_keys: tuple[bytes, ...] = ()
    trace: bytes = b""
    first_due_ms: int = 0
    line: int = 1
    extended: bool = False
    lent: bool = False

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
    """The task was carried out. ``result`` is kept where the task or its target wants one.

    ``stored``: a result of success in its stored form, in place of ``result``; ``keep_ms`` is then final.
    """

    result: TaskResult | None = None
    keep_ms: int = 0
    stored: bytes = b""


@dataclass(frozen=True, slots=True)
class Failed:
    """The task was tried and failed; one attempt is charged. Not ``retryable``: dead-lettered at once.

    ``retry``: the policy for a task that has none of its own. ``delay_ms``: when to try again, in place of the policy's
    back-off. ``traceback``: for people; kept with the dead letter, if the task becomes one.
    """

    reason: str
    retryable: bool = True
    result: TaskResult | None = None
    keep_ms: int = 0
    retry: RetryPolicy | None = None
    delay_ms: int | None = None
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The task's own code asks for another time: no attempt is charged, but the whole time is limited.

    ``delay_ms``: when to try again; None: after the back-off of its next attempt by the task's policy, or ``retry``.
    ``result`` is kept for ``keep_ms`` if the time is over.
    """

    reason: str
    delay_ms: int | None = None
    retry: RetryPolicy | None = None
    result: TaskResult | None = None
    keep_ms: int = 0


@dataclass(frozen=True, slots=True)
class HandBack:
    """The task was not tried; nothing is charged. It is due again after ``delay_ms``, or at ``until_ms`` (Unix ms by
    its server's clock) where that is given. ``stored`` is called with its id once that is stored; False: others have
    the task by now."""

    delay_ms: int = 0
    until_ms: int = 0
    stored: Callable[[bytes, bool], None] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Lost:
    """The doer went away in the middle; one loss is charged. ``together``: most other doers went away at the same
    time."""

    together: bool = False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The task goes on, and another node answers for it now or soon: nothing is settled here, and its lease is no
    longer extended."""


Outcome = Done | Failed | Snoozed | HandBack | Lost | Elsewhere
DONE = Done()
HAND_BACK = HandBack()
LOST = Lost()
ELSEWHERE = Elsewhere()


class Report(Protocol):
    """Called by a target as deliveries end, in any order and grouping; a second report of one delivery is ignored."""

    def __call__(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None: ...


class Target(Protocol):
    """Carries tasks of one type out."""

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Tries every delivery and reports each. Deliveries that are not reported on return are handed back; after an
        exception they count as failed.

        Cancelled when the node stops and its grace is over: what is unreported then is handed back.
        """


@runtime_checkable
class Limited(Protocol):
    """A target whose room for tasks changes with how fast it delivers them."""

    @property
    def room(self) -> int:
        """How many more tasks it takes now; read whenever tasks end."""


@runtime_checkable
class SideBySide(Protocol):
    """A target whose deliveries may take long and must not wait for one another, whatever their bodies hold."""

    side_by_side: bool


@runtime_checkable
class AcksFirst(Protocol):
    """A target that learns only when a delivery's turn comes whether there is room for it. So it has those that may be
    handed out once at most (``Delivery.once``) acked itself, right before it carries them out: what it hands back
    before that is not lost."""

    ack_first: Callable[[Delivery], Awaitable[bool]] | None
    """Given by whoever hands out. Whether the delivery was acked; if not, others may have it, and its report counts no
    more."""


@runtime_checkable
class Pausing(Protocol):
    """A target that may be unable to carry out tasks for a while; meanwhile nothing is claimed for it."""

    @property
    def trouble(self) -> str:
        """Why it is unable; '' while it is able."""

    def on_change(self, call: Callable[[], None]) -> None:
        """``call`` is called when ``trouble`` begins or ends."""
