"""Watches tasks until they have ended, over as many streams as that takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from delaybox.client.errors import CallTimeout, Failure, Unreachable
from delaybox.client.models import STATES
from delaybox.client.retries import ClientSession, Repeating, Tries
from delaybox.client.steps import Drop, Emit, OpenStream, Pause, Receive, Steps
from delaybox.wire.gen import scheduler_pb2 as pb

_WATCH_S: Final = 60.0
"""Longest life of one watch, so that a cut that is not reported is noticed."""
_HELD_S: Final = 1.0
"""A stream that lasted this long had worked."""
_SHORT_S: Final = 1.0
"""Least time for one look, because a shorter one may be over before a node is reached."""
_LOOK_S: Final = 5.0
"""How long a look may take even if the caller wants to wait less."""


class Watching:
    """The ids of one watch. Another thread may add ids, or remove all of them: see `changed`."""

    __slots__ = ("changed", "ids", "stream")

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = dict.fromkeys(ids)
        self.changed = False
        """Set when the stream must be opened again with the present ids. Whoever sets it then drops the stream."""
        self.stream: Any = None


def watched(
    session: ClientSession, wanted: Iterable[str] | Watching, *, ends_only: bool, limit_s: float | None = None
) -> Steps[dict[str, None]]:
    """Emits the wire's events until all have ended or the time is over; returns the ids that have not ended.

    However short the time is, the present states are looked at once.
    """
    watching = wanted if isinstance(wanted, Watching) else Watching(wanted)
    open_ = watching.ids
    until = None if limit_s is None else session.clock() + limit_s
    if limit_s is not None and limit_s < _SHORT_S:
        yield from _looked(session, open_, ends_only=ends_only)
    tries = Tries(session, Repeating.READ, limit_s)
    while open_:
        opened = session.clock()
        left = _WATCH_S if until is None else min(_WATCH_S, until - opened)
        if left <= 0:
            return open_
        which = tries.pick()
        watching.changed = False
        stream = yield OpenStream(which, "Watch", pb.WatchRequest(ids=list(open_), ends_only=ends_only), left)
        watching.stream = stream
        while not watching.changed and isinstance(answer := (yield Receive(stream)), pb.WatchResponse):
            tries.went_on()
            for event in answer.events:
                if STATES[event.state].is_end:
                    open_.pop(event.id, None)
            yield Emit(answer.events)
            if not open_:
                break
        watching.stream = None
        yield Drop(stream)
        if not open_:
            session.endpoints.worked(which)
            return open_
        if watching.changed:
            continue
        if isinstance(answer, Failure) and isinstance(answer.error, CallTimeout):
            tries.went_on()  # its own time was over
            continue
        if answer is None:
            answer = Failure(Unreachable(f"{session.endpoints.names[which]} ended the watch"), "UNAVAILABLE")
        if answer.sent and session.clock() - opened >= _HELD_S:
            tries.went_on()  # it worked, only without news, so the failure is a new one
        yield Pause(tries.pause_after(answer, which))
    return open_


def _looked(session: ClientSession, open_: dict[str, None], *, ends_only: bool) -> Steps[None]:
    """Emits the present state of each; removes from ``open_`` those that have ended."""
    unseen = dict(open_)
    tries = Tries(session, Repeating.READ, _LOOK_S)
    while unseen:
        which = tries.pick()
        stream = yield OpenStream(which, "Watch", pb.WatchRequest(ids=list(unseen)), tries.attempt_s())
        while isinstance(answer := (yield Receive(stream)), pb.WatchResponse):
            for event in answer.events:
                unseen.pop(event.id, None)
                if STATES[event.state].is_end:
                    open_.pop(event.id, None)
            yield Emit([event for event in answer.events if not ends_only or STATES[event.state].is_end])
            if not unseen:
                break
        yield Drop(stream)
        if not unseen:
            session.endpoints.worked(which)
            return
        if answer is None:
            answer = Failure(Unreachable(f"{session.endpoints.names[which]} ended the watch"), "UNAVAILABLE")
        yield Pause(tries.pause_after(answer, which))


def id_of_key(session: ClientSession, key: str) -> Steps[str]:
    """The id of the task that an idempotency key names, also where nothing else of it is kept. TaskNotFound."""
    tries = Tries(session, Repeating.READ)
    while True:
        which = tries.pick()
        stream = yield OpenStream(which, "Watch", pb.WatchRequest(idempotency_key=key), tries.attempt_s())
        answer = yield Receive(stream)
        yield Drop(stream)
        if isinstance(answer, pb.WatchResponse):
            session.endpoints.worked(which)
            return answer.events[0].id
        if answer is None:
            answer = Failure(Unreachable(f"{session.endpoints.names[which]} ended the watch"), "UNAVAILABLE")
        yield Pause(tries.pause_after(answer, which))
