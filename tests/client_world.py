"""Carries a client's steps out as a script says, without a node and without waiting."""

from __future__ import annotations

from typing import Any

from delaybox.client.endpoints import Endpoints
from delaybox.client.errors import (
    CallTimeout,
    Failure,
    Unreachable,
)
from delaybox.client.retries import ClientSession
from delaybox.client.steps import Emit, Invoke, OpenStream, Pause, Pull, Receive, Start, Steps, Wait
from delaybox.core.errors import (
    Overloaded,
    StoreFull,
    StoreUnavailable,
    TaskNotFound,
)
from delaybox.wire.gen import scheduler_pb2 as pb

NEVER_SENT = Failure(Unreachable("no connection"), "UNAVAILABLE", sent=False)
BROKE = Failure(Unreachable("the connection broke"), "UNAVAILABLE")
TIMED_OUT = Failure(CallTimeout("too slow"), "DEADLINE_EXCEEDED")
STORE_AWAY = Failure(StoreUnavailable("no store"), "UNAVAILABLE", retry_after_s=1)
BUSY = Failure(Overloaded("busy"), "RESOURCE_EXHAUSTED", refused=True, retry_after_s=2)
FULL = Failure(StoreFull("full"), "UNAVAILABLE", refused=True, retry_after_s=1)
NO = Failure(TaskNotFound("no"), "NOT_FOUND", refused=True)

Answer = Any


class _Routine:
    """Steps under way. ``waits``: for what."""

    def __init__(self, steps: Steps[Any]) -> None:
        self._steps = steps
        self.answer: Any = None
        self.raised: Exception | None = None
        self.waits: Wait | None = None
        self.ended = False
        self.result: Any = None

    def next(self) -> Any:
        raised, self.raised = self.raised, None
        answer, self.answer = self.answer, None
        return self._steps.send(answer) if raised is None else self._steps.throw(raised)


class World:
    """Carries steps out as a script says: ``script`` answers each effect that needs an answer, in turn."""

    def __init__(
        self, *script: Answer, nodes: int = 1, retries: int | None = 5, timeout_s: float | None = 30.0, safe=False
    ):
        self.now = 1000.0
        self.script = list(script)
        self.did: list[Any] = []
        self.emitted: list[Any] = []
        self.pauses: list[float] = []
        names = tuple(f"n{i}" for i in range(nodes))
        self.session = ClientSession(
            Endpoints(names, lambda: 0.0),
            clock=lambda: self.now,
            draw=lambda: 0.0,
            timeout_s=timeout_s,
            retries=retries,
            safe=safe,
        )

    def run(self, steps: Steps[Any]) -> Any:
        """What the steps return. Those that are started beside them go on when these wait."""
        main = _Routine(steps)
        routines = [main]
        while True:
            before = len(self.did)
            for routine in list(routines):
                self._on(routine, routines)
            if main.ended:
                return main.result
            routines = [routine for routine in routines if not routine.ended]
            if len(self.did) == before and not any(
                routine.waits.flag.is_set() for routine in routines if routine.waits
            ):
                times = [one.waits.timeout_s for one in routines if one.waits and one.waits.timeout_s is not None]
                assert times, "it would wait for ever"
                self.now += min(times)
                for routine in routines:
                    routine.waits = None

    def _on(self, routine: _Routine, routines: list[_Routine]) -> None:
        """Carries one on until it waits, or ends."""
        if routine.waits is not None:
            if not routine.waits.flag.is_set():
                return
            routine.waits.flag.clear()
            routine.waits = None
        try:
            while True:
                effect = routine.next()
                self.did.append(effect)
                if isinstance(effect, Start):
                    routines.append(_Routine(effect.steps))
                elif isinstance(effect, Wait) and not effect.flag.is_set():
                    routine.waits = effect
                    return
                else:
                    try:
                        routine.answer = self._do(effect)
                    except Exception as error:
                        routine.raised = error
        except StopIteration as end:
            routine.ended, routine.result = True, end.value

    def _do(self, effect: Any) -> Any:
        match effect:
            case Pause():
                self.pauses.append(effect.seconds)
                self.now += effect.seconds
            case Emit():
                self.emitted += effect.items
            case Pull():
                return all(not effect.sink.add(item) for item in effect.source)
            case OpenStream():
                return effect
            case Invoke() | Receive():
                answer = self.script.pop(0)
                return answer(effect) if callable(answer) else answer
            case Wait():
                effect.flag.clear()
        return None

    def invoked(self) -> list[int]:
        return [effect.which for effect in self.did if isinstance(effect, Invoke)]


def answer_of(effect: Any) -> pb.ScheduleBatchResponse:
    return pb.ScheduleBatchResponse(
        results=[pb.ScheduleResult(id=task.payload.decode(), created=True) for task in effect.request.tasks]
    )
