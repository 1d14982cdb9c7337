"""The base of the three ways to run functions: takes tasks, ends them early, counts those that still run."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from delaybox.wire.gen import worker_pb2 as pb
from delaybox.worker import failures, logs
from delaybox.worker.assigned import AssignedTask
from delaybox.worker.attempt import Common, TaskRun
from delaybox.worker.functions import FunctionKind, TaskFunction
from delaybox.worker.parted import Parted, Reports
from delaybox.worker.session import NodeSession, Received
from delaybox.worker.slots import Slots
from delaybox.worker.strays import Stray, Strays
from delaybox.worker.timeouts import TimeLimits

log = logging.getLogger("delaybox.worker")

LOST: Final = "the session with the node was lost; others have the task now"
CANCELLED: Final = "cancelled"


class TaskSession(Reports, Protocol):
    """A session by which tasks come to a crew."""

    @property
    def held(self) -> dict[int, TaskRun]:
        """Tasks under way, by sequence number."""

    def refuse(self, task: AssignedTask) -> None:
        """A task that cannot be run here is handed back; it was never held."""


class Crew(TimeLimits):
    """Runs functions of one kind in ``slots.size`` places.

    ``freed`` is called when a place came free that another session may use.
    """

    kind: FunctionKind

    def __init__(
        self,
        functions: Mapping[str, TaskFunction[..., Any]],
        *,
        size: int,
        common: Common,
    ) -> None:
        self.functions = functions
        self.slots = Slots(size)
        self.freed: Callable[[], None] = lambda: None
        self.common = common
        self.strays: Strays[TaskRun] = Strays()
        self._lingering: set[TaskRun] = set()

    @property
    def queued(self) -> int:
        """Tasks that have not begun, though there is a place for each."""
        return 0

    async def start(self) -> None:
        """Returns when it can take tasks."""

    async def stop(self) -> None:
        """Ends whatever is left, at once. Twice is harmless."""

    def handle(self, session: NodeSession[TaskRun], received: Received[TaskRun]) -> None:
        """Carries out what a node's message asks for."""
        for run in received.lost:
            self.lose(run)
        self.common.stats.lost += received.unhandled
        if received.adopted:
            self._adopted(session, received.adopted)
        if received.tasks:
            self.take(session, received.tasks, ahead=received.ahead)
        for run in received.cancel:
            self.cancel(run)

    def take(self, session: TaskSession, tasks: Sequence[AssignedTask], *, ahead: int = 0) -> None:
        """Starts tasks that came by a session; there is a place for each but the last ``ahead``."""
        runs: list[TaskRun] = []
        held, functions = session.held, self.functions
        for assignment in tasks:
            function = functions.get(assignment.name)
            if function is None:
                self.common.stats.handed_back += 1
                session.refuse(assignment)
                words = "task %s asks for %r, which is not served here"
                logs.about(log, logging.WARNING, assignment, words, assignment.id, assignment.name)
                continue
            run = TaskRun(session, assignment, function, self.common)
            held[run.sequence] = run
            runs.append(run)
        if ahead:
            last = {assignment.sequence for assignment in tasks[-ahead:]}
            for run in runs:
                run.ahead = run.sequence in last
        self._begin(runs)

    def cancel(self, run: TaskRun) -> None:
        """Somebody cancelled the task: asks the run to stop."""
        self.end_early(run, failures.failed(CANCELLED, cancelled=True))

    @abstractmethod
    def _begin(self, runs: list[TaskRun]) -> None:
        """Starts runs; there is a place for each that did not come ahead."""

    @abstractmethod
    def _interrupt(self, run: TaskRun) -> None:
        """Asks the code of a run to end, in the way of this kind. The code may have ended already, or not begun."""

    def end_early(self, run: TaskRun, verdict: pb.Failed) -> None:
        """Asks the run to stop. ``verdict`` is reported when it has stopped, unless it returned a value all the
        same."""
        if run.settled or run.over is not None:
            return
        run.over = verdict
        run.signal.set(verdict.reason)
        self._interrupt(run)

    def lose(self, run: TaskRun) -> None:
        """Others have the task: asks the run to stop. Its place is free when it has."""
        if run.lose():
            self.linger(run)
            run.signal.set(LOST)
            self._interrupt(run)

    def linger(self, run: TaskRun) -> None:
        """The run's end is reported, and its code goes on."""
        if run not in self._lingering:
            self._lingering.add(run)
            self.slots.lingering += 1

    def _stop_lingering(self, run: TaskRun) -> None:
        if run in self._lingering:
            self._lingering.discard(run)
            self.slots.lingering -= 1

    # From one node to another

    def carry(
        self, session: NodeSession[TaskRun], parted: Sequence[Parted[TaskRun]], adopt_ms: int, *, there: bool = False
    ) -> None:
        """Attempts that left their session go on; the next session that can adopt them is offered them.

        They are lost after ``adopt_ms``. ``there``: their node goes away and still answers for them meanwhile.
        """
        strays: list[Stray[TaskRun]] = []
        for one in parted:
            stray = Stray(one, max_output=session.max_output, giver=session if there else None)
            if stray.running:
                one.run.session = stray
                self.linger(one.run)
            strays.append(stray)
        if strays:
            session.away += len(strays) if there else 0
            self.strays.add(strays)
            asyncio.get_running_loop().call_later(adopt_ms / 1000, self._give_up, strays)
            self.offer()

    def offer(self) -> None:
        """Offers the strays to a session that can adopt them, if there is one."""
        now = time.monotonic()
        for session, strays in self.strays.arrange():
            carried = pb.Carried(partition=strays[0].partition, lease=strays[0].lease)
            for stray in strays:
                ran_ms = round((now - stray.run.began) * 1000) if stray.run.began else 0
                carried.tasks.add(number=stray.number, id=stray.run.assignment.id, ran_ms=ran_ms)
            session.offer(carried)

    def _adopted(self, session: NodeSession[TaskRun], answers: Sequence[pb.Adopted]) -> None:
        lost = 0
        for answer in answers:
            stray = self.strays.answered(session, answer.number)
            if stray is None:
                continue
            if answer.sequence:
                if stray.running:
                    self._stop_lingering(stray.run)
                    stray.run.session, stray.run.sequence = session, answer.sequence
                stray.settle(session, answer.sequence)
            else:
                # Of one that has ended it is not known whether by this attempt's report or by others.
                lost += not answer.ended
                self._lost(stray)
        if lost:
            log.warning("%d tasks came too late to %s: others have been given them", lost, session.node)
        self.freed()

    def _give_up(self, strays: Sequence[Stray[TaskRun]]) -> None:
        gone = self.strays.give_up(strays)
        if gone:
            log.warning("no node took over %d tasks in time: others have been given them", len(gone))
        for stray in gone:
            self._lost(stray)
        self.freed()

    def _lost(self, stray: Stray[TaskRun]) -> None:
        if stray.running:
            self.lose(stray.run)
        else:
            self.common.stats.lost += 1

    def _left(self, run: TaskRun) -> None:
        """The code of a run has ended, whatever was reported for it."""
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None
        if run in self._lingering:
            self._lingering.discard(run)
            self.slots.lingering -= 1
            self.freed()
        else:
            self._asked_for_places()

    def _asked_for_places(self) -> None:
        """Calls ``freed`` if a place may have come free that another session waits for."""
        if self.slots.short:
            self.freed()
