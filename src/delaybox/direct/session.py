"""A worker's session in its own process: tasks go to its crew as they were claimed, and their ends to the settler,
without messages in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from delaybox import metrics
from delaybox.core.lane import split
from delaybox.roles.worker_host import WorkerHost
from delaybox.targets.worker_offers import Offered
from delaybox.targets.worker_profile import Profile
from delaybox.targets.worker_session import WorkerSession
from delaybox.wire import body as wire_body
from delaybox.wire.gen import worker_pb2
from delaybox.worker.assigned import AssignedBody
from delaybox.worker.attempt import TaskRun
from delaybox.worker.crew import Crew


class PayloadAlone:
    """The body of a task that has a payload and nothing else, as most have: it is not worth decoding."""

    __slots__ = ("payload",)

    header: Final[Mapping[str, bytes]] = MappingProxyType({})
    labels: Final[Mapping[str, str]] = MappingProxyType({})
    timeout_ms: Final = 0

    def __init__(self, payload: bytes) -> None:
        self.payload: Final = payload


class OwnTask:
    """A delivery, as the attempt at it sees its task. See `worker.assigned.AssignedTask`."""

    __slots__ = ("_body", "_delivery", "sequence", "want_result")

    def __init__(self, sequence: int, offered: Offered) -> None:
        self.sequence = sequence
        self.want_result = offered.keep_ms > 0
        self._delivery = offered.delivery
        self._body: AssignedBody | None = offered.task

    @property
    def id(self) -> str:
        return self._delivery.id

    @property
    def name(self) -> str:
        return split(self._delivery.lane).name

    @property
    def queue(self) -> str:
        return split(self._delivery.lane).queue

    @property
    def due_ms(self) -> int:
        return self._delivery.due_ms

    @property
    def attempt(self) -> int:
        return self._delivery.attempt

    @property
    def token(self) -> int:
        return self._delivery.token

    @property
    def traceparent(self) -> str:
        return self._delivery.trace.decode()

    @property
    def task(self) -> AssignedBody:
        """Read when it is first asked for. DecodeError."""
        if self._body is None:
            body = self._delivery.body
            payload = wire_body.payload_alone(body)
            self._body = wire_body.decode(body) if payload is None else PayloadAlone(payload)
        return self._body


class Seat:
    """The worker's half: takes what its attempts report. See `worker.parted.Reports` and `worker.crew.TaskSession`.

    ``emptied`` is called when nothing is held any more.
    """

    def __init__(self, crew: Crew, emptied: Callable[[], None]) -> None:
        self.held: dict[int, TaskRun] = {}
        self.max_output = 0
        self._crew = crew
        self._emptied = emptied
        self._done: list[int] = []
        self._flushing = False
        self._host: WorkerHost
        self._session: OwnSession

    def open(self, host: WorkerHost, profile: Profile) -> OwnSession:
        """Takes tasks from now on."""
        self._host = host
        self.max_output = host.gateway.max_output
        self._session = OwnSession(profile, self, self._crew, host)
        self._crew.slots.join(self)
        host.gateway.add(self._session)
        return self._session

    @property
    def taken(self) -> int:
        """Places that are taken: see `worker.slots.Holder`."""
        return len(self.held) + self._session.beyond.extra

    def drain(self) -> None:
        """No other session shares the places, so none is ever asked to give some back."""

    # Ends of tasks: each is reported once, and only if the task is held

    def done(self, sequence: int) -> None:
        if self.held.pop(sequence, None) is not None:
            self._done.append(sequence)
            if not self._flushing:
                self.poke()

    def succeeded(self, sequence: int, output: bytes, content_type: str, duration_ms: int) -> None:
        if self.held.pop(sequence, None) is not None:
            self._session.succeeded(sequence, output, content_type, duration_ms)
            self.poke()

    def failed(self, sequence: int, failure: worker_pb2.Failed) -> None:
        if self.held.pop(sequence, None) is not None:
            failure.sequence = sequence
            self._session.failed(failure)
            self.poke()

    def hand_back(self, sequences: Iterable[int]) -> None:
        self._session.handed_back([one for one in sequences if self.held.pop(one, None) is not None])
        self.poke()

    def refuse(self, task: object) -> None:
        assert isinstance(task, OwnTask)
        self._session.handed_back((task.sequence,))
        self.poke()

    def progress(self, sequence: int, fraction: float, message: str) -> None:
        if sequence in self.held:
            report = worker_pb2.TaskProgress(sequence=sequence)
            report.progress.fraction = fraction
            report.progress.message = message
            self._host.progress(self._session, report)

    def poke(self) -> None:
        """There may be ends to pass on, or room: once in a turn of the loop, for all that come in it."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._done:
            done, self._done = self._done, []
            self._session.done(done)
        self._session.beyond.ahead = self._crew.slots.ahead_of(self)
        self._host.gateway.received(self._session)
        if not self.held:
            self._emptied()


class OwnSession(WorkerSession):
    """The node's half, without a stream: what it is assigned it starts at once."""

    def __init__(self, profile: Profile, seat: Seat, crew: Crew, host: WorkerHost) -> None:
        super().__init__(f"own-{crew.kind.value}", profile, host.engine.stored, max_output=host.gateway.max_output)
        self._seat = seat
        self._crew = crew
        self.connected = True

    @property
    def free(self) -> int:
        """Places that are free, also those that are saved."""
        slots = self._crew.slots
        return 0 if self._leaving or not self.connected else slots.size - slots.taken

    @property
    def places(self) -> int:
        """Places that it has, free or not."""
        return self._crew.slots.size

    def assign(
        self,
        offered: Iterable[Offered],
        *,
        suspect: bool = False,
        alone: bool = False,
        cost: int = 1,
        ahead: bool = False,
    ) -> int:
        """Starts tasks, or has the crew keep them at hand; returns how many."""
        held, sequence = self._held, self._sequence
        tasks: list[OwnTask] = []
        for o in offered:
            sequence += 1
            held[sequence] = o
            tasks.append(OwnTask(sequence, o))
        count, self._sequence = sequence - self._sequence, sequence
        self.beyond.charge(range(sequence - count + 1, sequence + 1), cost)
        if suspect and count:
            self.suspects.add(sequence)
            self.alone = alone
        self._crew.take(self._seat, tasks, ahead=len(tasks) if ahead else 0)
        return count

    def cancel(self, task_id: bytes) -> bool:
        """Asks the attempt at a task to stop; False when there is none here."""
        for sequence, o in self._held.items():
            if o.delivery.task_id == task_id and (run := self._seat.held.get(sequence)) is not None:
                self._crew.cancel(run)
                return True
        return False

    def _too_late(self, *sequences: int) -> None:
        metrics.stale_ack(len(sequences))
        self._crew.common.stats.stale += len(sequences)
