"""The workers' sessions of a node that serve the same lanes: what is claimed for them, and which of them gets what."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from delaybox.core.delivery import HAND_BACK, Delivery, HandBack, Report
from delaybox.core.lane import split
from delaybox.core.queue import LiveRules
from delaybox.core.result_keeping import wished_ms
from delaybox.core.retry import LOSSES_CAP
from delaybox.targets.worker_offers import ClaimedTasks, Offered, Wishes
from delaybox.targets.worker_session import WorkerSession
from delaybox.targets.worker_suspect_tasks import Suspects
from delaybox.wire import body as wire_body
from delaybox.wire.gen import task_pb2

_LATER = HandBack(delay_ms=1_000)
_TURN = HandBack(delay_ms=250)
"""A suspect that must not wait here comes back after this time."""
_NO_WAITING_S = 10.0
"""So long after a task that must not wait at a worker none is claimed to wait there: for those no place would come
free."""


class Claimer(Protocol):
    """Claims tasks for a pool; in a node it is the engine's `Guest`."""

    @property
    def coming(self) -> int:
        """Tasks that were claimed and are on their way to the pool."""

    def more_room(self) -> None:
        """The pool can take more than before."""


class LanePool:
    """The sessions that serve the same lanes, and what was claimed for them.

    ``cost``: places of a session that each task takes. ``beside``: pools of tasks with needs, which the same sessions
    run (`worker_needs`).

    Tasks that are one loss short of the cap are suspects: they are handed out with care (`worker_suspect_tasks`).
    ``same_process``: the workers run in this process, and all that was claimed is charged when it dies. So one suspect
    is claimed for at a time, and others are handed back.

    Some tasks are sent before a place is free for them (`WorkerSession.ahead`), where nothing else needs those places.
    """

    _sends_ahead = True

    def __init__(
        self,
        lanes: frozenset[bytes],
        rules: LiveRules,
        alone: set[bytes],
        *,
        same_process: bool = False,
        cost: int = 1,
    ) -> None:
        self._same_process = same_process
        self.lanes = lanes
        self.cost = cost
        self.members: list[WorkerSession] = []
        self.beside: Sequence[LanePool] = ()
        self.claimer: Claimer | None = None
        self._rules = rules
        self._kept_of: dict[bytes, int] = {}
        self._bound_of: dict[bytes, bool] = {}
        self._version = 0
        self.announced({})
        self._waiting: deque[Offered] = deque()
        self._suspects = Suspects(alone, 1, cost) if same_process else Suspects(alone, cost=cost)
        self._turn = 0
        self._placed_only_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"workers of {len(self.lanes)} functions"

    @property
    def sessions(self) -> list[WorkerSession]:
        """Those that run its tasks."""
        return self.members

    def room_at(self, session: WorkerSession) -> int:
        """How many of its tasks a session can be sent now."""
        return session.room

    @property
    def spoken_for(self) -> int:
        """Places that tasks which were claimed will take."""
        coming = 0 if self.claimer is None else self.claimer.coming
        return (coming + len(self._waiting)) * self.cost

    def announced(self, keep_ms: Mapping[str, int]) -> None:
        """How long results are kept, by function; the last announcement counts."""
        self._of_function = keep_ms
        self._version = self._rules.version
        self._kept_of = {lane: self._wished_ms(lane, 0) for lane in self.lanes}
        self._bound_of = {lane: self._bound(lane) for lane in self.lanes}
        self._limits_time = any(rules.timeout_ms for rules in self._rules.stored.values())

    def _follow_rules(self) -> None:
        if self._version != self._rules.version:
            self.announced(self._of_function)

    def room(self) -> int:
        """Tasks that can be claimed now."""
        sessions = self.sessions
        free = -len(self._waiting)
        for s in sessions:
            free += s.room
        if self._suspects:
            # Those that wait for their turn, and not for room, take no room from others.
            free -= self._suspects.places(sessions)
        elif self._may_send_ahead and time.monotonic() >= self._placed_only_until:
            for s in sessions:
                if 2 * (ahead := s.ahead) >= s.beyond.ahead:
                    free += ahead
        return free - sum(pool.spoken_for for pool in self.beside) if self.beside else free

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Returns when all are reported."""
        run = ClaimedTasks(report, len(batch))
        self._follow_rules()
        # Most tasks have a payload alone and a lane that is known here: they take no calls but one.
        usual, bound_of = self._usual(), self._bound_of
        for d in batch:
            keep_ms = usual.get(d.lane)
            if keep_ms is None or not wire_body.has_only_payload(d.body):
                offered = Offered(d, run, *self.wishes(d))
            else:
                offered = Offered(d, run, keep_ms)
            if d.losses < LOSSES_CAP - 1:
                self._waiting.append(offered)
                if (d.once or d.limit_keys or bound_of.get(d.lane, True)) and self._needs_a_place(d):
                    self._placed_only_until = time.monotonic() + _NO_WAITING_S
            elif not self._suspects.full:
                self._suspects.add(offered)
            else:
                run.report([d], _LATER)
        self.hand_out()
        if self._same_process and self._suspects:
            for o in self._suspects.take():
                o.run.report([o.delivery], _TURN)
        try:
            await run.over
        except asyncio.CancelledError:
            self._waiting = deque(o for o in self._waiting if o.run is not run)
            self._suspects.forget(run)
            for session in self.sessions:
                session.forget(run)
            raise

    def hand_out(self) -> None:
        """Gives waiting tasks to sessions with room, evenly. Without any session they are handed back."""
        if not self.sessions:
            self.hand_back()
            return
        waiting = self._waiting
        while waiting:
            open_ = [s for s in self.sessions if self.room_at(s) > 0]
            if not open_:
                break
            share = -(-len(waiting) // len(open_))
            # What does not divide evenly goes to the first session, so sessions take turns at being first.
            self._turn += 1
            first = self._turn % len(open_)
            for session in open_[first:] + open_[:first]:
                count = min(share, self.room_at(session), len(waiting))
                session.assign((waiting.popleft() for _ in range(count)), cost=self.cost)
        self._suspects.hand_out(self.sessions)
        if waiting and self._may_send_ahead:
            self._send_ahead()
        self.watch()

    def _send_ahead(self) -> None:
        waiting = self._waiting
        some = sorted((s for s in self.members if s.ahead), key=_wanted, reverse=True)
        self._follow_rules()
        if not some or any(self._needs_a_place(o.delivery) for o in waiting):
            return
        for session in some:
            count = min(session.ahead, len(waiting))
            session.assign((self._in_line(session) for _ in range(count)), ahead=True)

    def _needs_a_place(self, d: Delivery) -> bool:
        """One that was acked already cannot be handed back; others may do without a permit that is not used, of a key
        or of its queue."""
        if d.once or d.limit_keys:
            return True
        bound = self._bound_of.get(d.lane)
        # A lane that is served in any queue is not among these.
        return self._bound(d.lane) if bound is None else bound

    def _bound(self, lane: bytes) -> bool:
        rules = self._rules.of(split(lane).queue)
        return rules.concurrency is not None or rules.rate is not None

    def _in_line(self, session: WorkerSession) -> Offered:
        offered = self._waiting.popleft()
        offered.delivery.line = 1 + session.held // max(1, session.places)
        return offered

    @property
    def _may_send_ahead(self) -> bool:
        """Not while suspects or tasks with needs may wait for places: those would not come free."""
        return self._sends_ahead and not self.beside and not self._suspects

    def hand_back(self) -> None:
        """What waits goes to others."""
        back = [*self._waiting, *self._suspects.take()]
        self._waiting.clear()
        for o in back:
            o.run.report([o.delivery], HAND_BACK)

    def enforce(self) -> None:
        """Ends tasks that are out of time and that their workers have not ended."""
        self._timer = None
        for session in self.sessions:
            session.enforce()
        self.more_room()
        self.watch()

    def lose(self, session: WorkerSession, *, together: bool) -> None:
        """A session's worker is gone: its tasks go to others. ``together``: most other workers went at the same
        time."""
        self.members.remove(session)
        suspects = bool(session.suspects)
        company = session.lose(together=together)
        for pool in (self, *self.beside):
            if suspects:
                pool.suspects_lost(company)
            pool.hand_out()

    def suspects_lost(self, company: Sequence[bytes]) -> None:
        """A worker died while it had suspects. ``company``: their ids, if it had several."""
        self._suspects.lost(company)

    def suspects_ended(self, task_ids: Sequence[bytes]) -> None:
        """These suspects came to an end."""
        self._suspects.ended(task_ids)

    def watch(self) -> None:
        """Sets the timer to the first limit of all sessions."""
        first = min((s.next_limit for s in self.sessions), default=math.inf)
        if first == math.inf:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, first - time.monotonic())
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self.enforce)

    def more_room(self) -> None:
        """A session granted credit, or tasks of it came to an end."""
        for session in self.sessions:
            if ended := session.suspects_ended():
                for pool in (self, *self.beside):
                    pool.suspects_ended(ended)
        if self._waiting or self._suspects:
            self.hand_out()
        if self.claimer is not None and self.room() > 0:
            self.claimer.more_room()

    def _usual(self) -> Mapping[bytes, int]:
        """How long results are kept of tasks that have a payload alone, by lane; of others see `wishes`."""
        return {} if self._limits_time else self._kept_of

    def wishes(self, d: Delivery) -> Wishes:
        """How long the task's result is kept, and how long an attempt may take; ms."""
        self._follow_rules()
        task = None if wire_body.has_only_payload(d.body) else _decoded(d.body)
        timeout_ms = 0 if task is None else task.timeout_ms
        if not timeout_ms and self._limits_time:
            timeout_ms = self._rules.of(split(d.lane).queue).timeout_ms or 0
            if timeout_ms:
                # The worker learns of it as of the task's own: of a field that comes twice the last one counts.
                d.body += wire_body.timeout_field(timeout_ms)
                if task is not None:
                    task.timeout_ms = timeout_ms
        return self._kept_ms(d, task), timeout_ms, task if self._same_process else None

    def _kept_ms(self, d: Delivery, task: task_pb2.Task | None) -> int:
        if task is not None and task.no_result:
            return 0
        own = 0 if task is None else task.keep_result_ms
        if own or d.lane not in self._kept_of:
            return self._wished_ms(d.lane, own)
        return self._kept_of[d.lane]

    def _wished_ms(self, lane: bytes, task_ms: int) -> int:
        queue, function_ms = split(lane).queue, self._of_function.get(split(lane).name, 0)
        return wished_ms(task_ms, function_ms=function_ms, queue_ms=self._rules.of(queue).keep_result_ms)


def _wanted(session: WorkerSession) -> int:
    return session.ahead


def _decoded(body: bytes) -> task_pb2.Task | None:
    """None: it cannot be read. It goes out all the same, and the worker reports what is wrong with it."""
    try:
        return wire_body.decode(body)
    except DecodeError:
        return None
