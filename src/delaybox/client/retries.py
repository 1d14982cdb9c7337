"""Calls a node until it answers: which attempts a call gets, how long each may take, and which error ends it.

Pure: the steps that are to be carried out are yielded, and the clock and the random draw belong to the `ClientSession`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from delaybox.client.batches import TaskBatch, batch_request
from delaybox.client.endpoints import Endpoints, pause_s
from delaybox.client.errors import CallTimeout, Failure, OutcomeUnknown, Unreachable
from delaybox.client.steps import Invoke, Pause, Steps
from delaybox.core.errors import DelayBoxError, Overloaded, StoreFull, StoreUnavailable
from delaybox.wire.gen import scheduler_pb2 as pb

T = TypeVar("T")

log = logging.getLogger("delaybox.client")

_LEAST_ATTEMPT_S: Final = 0.5
_WARN_AFTER: Final = 3
_WARN_EVERY_S: Final = 30.0


class Repeating(Enum):
    """Whether repeating a call may do harm."""

    READ = "changes nothing"
    REPEATABLE = "the same again"
    ONCE = "perhaps a second task"


@dataclass(frozen=True, slots=True)
class RpcCall(Generic[T]):
    """One unary call. ``parse``: from the response to what the caller gets."""

    method: str
    request: Message
    kind: Repeating
    parse: Callable[[Any], T]


class ClientSession:
    """How one client calls: its nodes and its time limits.

    ``timeout_s``: of all attempts of a call; ``retries``: how many further ones, None: as many as fit into that time.
    ``batch``: makes the request for tasks in bulk.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        clock: Callable[[], float],
        draw: Callable[[], float],
        timeout_s: float | None,
        retries: int | None,
        safe: bool,
        batch: Callable[[Sequence[pb.NewTask]], Message | TaskBatch] = batch_request,
    ) -> None:
        self.endpoints = endpoints
        self.batch = batch
        self.clock = clock
        self.draw = draw
        self.timeout_s = timeout_s
        self.retries = retries
        self.safe = safe
        self._quiet_until = 0.0

    def warn(self, error: DelayBoxError, count: int, left_s: float | None) -> None:
        """Logs once in a while that calls wait for a node, so that the program does not wait in silence."""
        if count < _WARN_AFTER or self.clock() < self._quiet_until:
            return
        self._quiet_until = self.clock() + _WARN_EVERY_S
        rest = "without a time limit" if left_s is None else f"for up to {left_s:.0f} s"
        log.warning("%s; trying again %s", error, rest)

    def unary(self, call: RpcCall[T], *, timeout_s: float | None = None) -> Steps[T]:
        """Until a node answers. Its error, Unreachable, OutcomeUnknown, CallTimeout."""
        tries = Tries(self, call.kind, timeout_s)
        while True:
            which = tries.pick()
            outcome = yield from tries.measured(Invoke(which, call.method, call.request, tries.attempt_s()))
            if not isinstance(outcome, Failure):
                self.endpoints.worked(which)
                return call.parse(outcome)
            pause = tries.pause_after(outcome, which)
            if pause > 0:
                yield Pause(pause)


class Tries:
    """The attempts of one call: which node, how long, whether once more.

    A call that can be repeated without harm is tried until the time is over, or until ``session.retries`` are used up
    where a number is set. ``timeout_s``: of all attempts together; unless given the session's, counted from the last
    success.
    """

    __slots__ = ("_count", "_deadline", "_fixed", "_kind", "_maybe_done", "_session", "_since")

    def __init__(self, session: ClientSession, kind: Repeating, timeout_s: float | None = None) -> None:
        self._session = session
        self._kind = kind
        self._fixed = timeout_s is not None
        limit = session.timeout_s if timeout_s is None else timeout_s
        self._since = session.clock()
        self._deadline = None if limit is None else self._since + limit
        self._count = 0
        self._maybe_done = False

    def pick(self) -> int:
        return self._session.endpoints.pick(self._session.clock())

    def attempt_s(self) -> float | None:
        """The time for the next attempt. If it can be repeated elsewhere, it is not all of the time that is left."""
        if self._deadline is None:
            return None
        left = max(self._deadline - self._session.clock(), 0.001)
        if self._kind is Repeating.ONCE or len(self._session.endpoints.names) == 1:
            return left
        return min(left, max(left / 2, _LEAST_ATTEMPT_S))

    def measured(self, invoke: Invoke) -> Steps[Any]:
        """The outcome of this attempt. How long it took tells how busy the node is."""
        pace, clock = self._session.endpoints.pace, self._session.clock
        began = clock()
        pace.began(invoke.which)
        try:
            outcome = yield invoke
        finally:
            pace.ended(invoke.which)
        if not isinstance(outcome, Failure):
            now = clock()
            pace.took(invoke.which, invoke.method, now, now - began)
        return outcome

    def went_on(self) -> None:
        """A stream received something: its attempts are counted from the start again."""
        self._count = 0
        self._since = self._session.clock()
        if not self._fixed and self._session.timeout_s is not None:
            self._deadline = self._since + self._session.timeout_s

    def pause_after(self, failure: Failure, which: int) -> float:
        """How long to wait before the next attempt; raises what the caller gets when there is none."""
        session = self._session
        now = session.clock()
        wish_s = failure.retry_after_s or 0.0
        elsewhere = isinstance(failure.error, Unreachable | CallTimeout | StoreUnavailable | Overloaded)
        if elsewhere:
            session.endpoints.failed(which, now, least_s=wish_s)
        else:
            session.endpoints.worked(which)
        certain = not failure.sent or failure.refused
        self._maybe_done = self._maybe_done or not certain
        used_up = session.retries is not None and self._count >= session.retries
        if not (elsewhere and (certain or self._kind is not Repeating.ONCE)) or used_up or failure.final:
            raise self._end(failure)
        pause = 0.0
        if not session.endpoints.healthy(now):
            # No sooner than the node asked for, and later by chance: whom it refused at once, it has told the same.
            draw = session.draw()
            pause = max(wish_s * (1 + draw), pause_s(self._count + 1, draw))
        if self._deadline is not None:
            left = self._deadline - now
            if pause > wish_s and left > _LEAST_ATTEMPT_S:
                # The client's own pause (not one that a node asked for) is cut, so that a last attempt comes before the
                # time is over.
                pause = max(wish_s, min(pause, left - _LEAST_ATTEMPT_S))
            if pause >= left:
                raise self._end(failure)
        self._count += 1
        session.warn(failure.error, self._count, None if self._deadline is None else self._deadline - now)
        return pause

    def _end(self, failure: Failure) -> DelayBoxError:
        error = failure.error
        if self._count:
            error.add_note(f"{self._count + 1} attempts were made within {self._session.clock() - self._since:.1f} s")
        known = not isinstance(error, Unreachable | CallTimeout | StoreUnavailable) or isinstance(error, StoreFull)
        if self._kind is Repeating.READ or not self._maybe_done or (known and not isinstance(error, Overloaded)):
            return error
        return outcome_unknown(error)


def outcome_unknown(error: DelayBoxError) -> OutcomeUnknown:
    """The error for a write that may or may not have happened."""
    unknown = OutcomeUnknown(
        f"it may have been done, or not: {error}. A call with a key, or safe=True, can be repeated without harm"
    )
    unknown.__cause__ = error
    return unknown
