"""WORKER: hands tasks to the workers that are connected to this node. worker_session.py has one worker's side of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from delaybox import metrics
from delaybox.core.delivery import HAND_BACK, Delivery, HandBack, Report, Target
from delaybox.core.lane import split
from delaybox.core.membership import Activity, ConnectedWorker
from delaybox.core.queue import LiveRules
from delaybox.core.retry import LOSSES_CAP
from delaybox.core.task import TaskType
from delaybox.targets.worker_adoption import Adopting, Adoption
from delaybox.targets.worker_confirmations import OutcomeStore
from delaybox.targets.worker_lives import Lives
from delaybox.targets.worker_offers import ClaimedTasks, Offered
from delaybox.targets.worker_session import Profile, WorkerSession
from delaybox.targets.worker_suspects import Suspects
from delaybox.wire import body as wire_body
from delaybox.wire.assignment import has_only_payload

log = logging.getLogger("delaybox.workers")

RESUME_S = 2.0
"""How long a session whose stream broke is kept, so that its worker can come back to it."""
_LATER = HandBack(delay_ms=1_000)
_TURN = HandBack(delay_ms=250)
"""A suspect that must not wait here comes back after this time."""
_LANES_SHOWN = 2_000
_WORKERS_SHOWN = 200


class Claimer(Protocol):
    """Claims tasks for a pool; in a node it is the engine's `Guest`."""

    def more_room(self) -> None:
        """The pool can take more than before."""


class ClaimHost(Adopting, Protocol):
    """Makes claimers, adopts tasks and stores outcomes; in a node it is the engine."""

    @property
    def stored(self) -> OutcomeStore:
        """How far the outcomes that were reported are stored."""

    def admit(self, *, lanes: Sequence[bytes], target: Target, room: Callable[[], int]) -> Any:
        """Starts to claim for ``target``."""

    def dismiss(self, guest: Any) -> Awaitable[None]:
        """Stops a claimer."""


class LanePool:
    """The sessions that serve the same lanes, and what was claimed for them.

    Tasks that are one loss short of the cap are suspects: they are handed out with care (`worker_suspects`).
    ``same_process``: the workers run in this process, and all that was claimed is charged when it dies. So one suspect
    is claimed for at a time, and others are handed back.
    """

    def __init__(
        self, lanes: frozenset[bytes], rules: LiveRules, alone: set[bytes], *, same_process: bool = False
    ) -> None:
        self._same_process = same_process
        self.lanes = lanes
        self.sessions: list[WorkerSession] = []
        self.claimer: Claimer | None = None
        self._rules = rules
        self._kept_of: dict[bytes, int] = {}
        self._version = 0
        self.announced({})
        self._waiting: deque[Offered] = deque()
        self._suspects = Suspects(alone, 1) if same_process else Suspects(alone)
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"workers of {len(self.lanes)} functions"

    def announced(self, keep_ms: Mapping[str, int]) -> None:
        """How long results are kept, by function; the last announcement counts."""
        self._of_function = keep_ms
        self._version = self._rules.version
        self._kept_of = {
            lane: self._rules.of(split(lane).queue).kept_ms(keep_ms.get(split(lane).name, 0)) for lane in self.lanes
        }
        self._limits_time = any(rules.timeout_ms for rules in self._rules.stored.values())

    def room(self) -> int:
        """Tasks that can be claimed now."""
        # Suspects that wait for their turn, and not for room, take no room from others.
        return sum(s.room for s in self.sessions) - len(self._waiting) - self._suspects.places(self.sessions)

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        """Returns when all are reported."""
        run = ClaimedTasks(report, len(batch))
        for d in batch:
            offered = Offered(d, run, *self.wishes(d))
            if d.losses < LOSSES_CAP - 1:
                self._waiting.append(offered)
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
            back = [*self._waiting, *self._suspects.take()]
            self._waiting.clear()
            for o in back:
                o.run.report([o.delivery], HAND_BACK)
            return
        waiting = self._waiting
        while waiting:
            open_ = [s for s in self.sessions if s.room > 0]
            if not open_:
                break
            share = -(-len(waiting) // len(open_))
            # What does not divide evenly goes to the first session, so sessions take turns at being first.
            self._turn += 1
            first = self._turn % len(open_)
            for session in open_[first:] + open_[:first]:
                count = min(share, session.room, len(waiting))
                session.assign(waiting.popleft() for _ in range(count))
        self._suspects.hand_out(self.sessions)
        self.watch()

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
        self.sessions.remove(session)
        suspects = bool(session.suspects)
        company = session.lose(together=together)
        if suspects:
            self._suspects.lost(company)
        self.hand_out()

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
                self._suspects.ended(ended)
        if self._waiting or self._suspects:
            self.hand_out()
        if self.claimer is not None and self.room() > 0:
            self.claimer.more_room()

    def wishes(self, d: Delivery) -> tuple[int, int]:
        """How long the task's result is kept, and how long an attempt may take; ms."""
        if self._version != self._rules.version:
            self.announced(self._of_function)
        kept, timeout_ms = self._own_wishes(d)
        if not timeout_ms and self._limits_time:
            timeout_ms = self._rules.of(split(d.lane).queue).timeout_ms or 0
            if timeout_ms:
                # The worker learns of it as of the task's own: of a field that comes twice the last one counts.
                d.body += wire_body.timeout_field(timeout_ms)
        return kept, timeout_ms

    def _own_wishes(self, d: Delivery) -> tuple[int, int]:
        own = timeout_ms = 0
        if not has_only_payload(d.body):
            # A body that cannot be read goes out all the same: the worker reports what is wrong with it.
            with contextlib.suppress(DecodeError):
                task = wire_body.decode(d.body)
                own, timeout_ms = task.keep_result_ms, task.timeout_ms
                if task.no_result:
                    return 0, timeout_ms
        # A lane that is served in any queue is not among these.
        if own or d.lane not in self._kept_of:
            return self._rules.of(split(d.lane).queue).kept_ms(own or self._of_function.get(d.name, 0)), timeout_ms
        return self._kept_of[d.lane], timeout_ms


class Gateway:
    """All sessions of this process. ``max_output``: bytes of a result. ``same_process``: see `LanePool`."""

    def __init__(
        self,
        host: ClaimHost,
        *,
        rules: LiveRules,
        max_output: int,
        lease_ms: int = 15_000,
        same_process: bool = False,
    ) -> None:
        self._host = host
        self._same_process = same_process
        self._lives = Lives(lease_ms)
        self._rules = rules
        self.max_output = max_output
        self.lease_ms = lease_ms
        self._pools: dict[frozenset[bytes], LanePool] = {}
        self._guests: dict[frozenset[bytes], Any] = {}
        self._sessions: dict[str, WorkerSession] = {}
        self._alone: set[bytes] = set()
        self._lingering: dict[str, asyncio.TimerHandle] = {}
        self._steps: set[asyncio.Future[None]] = set()
        self._answered = asyncio.Event()

    def open(self, profile: Profile) -> WorkerSession:
        """A new session; its pool claims from now on."""
        session = WorkerSession(os.urandom(12).hex(), profile, self._host.stored, max_output=self.max_output)
        self.add(session)
        return session

    def add(self, session: WorkerSession) -> None:
        """Claims for a session from now on."""
        profile = session.profile
        self._sessions[session.id] = session
        pool = self._pools.get(profile.lanes)
        if pool is None:
            pool = self._pools[profile.lanes] = LanePool(
                profile.lanes, self._rules, self._alone, same_process=self._same_process
            )
            guest = self._host.admit(lanes=sorted(profile.lanes), target=pool, room=pool.room)
            self._guests[profile.lanes] = pool.claimer = guest
        pool.announced(profile.keep_ms)
        pool.sessions.append(session)
        session.connect(0)
        self._lives.came(profile.identity, session.id)

    def resume(self, session_id: str, seen: int, profile: Profile) -> WorkerSession | None:
        """The session whose stream broke, unchanged. None: it is unknown, or over."""
        session = self._sessions.get(session_id)
        if session is None or session.profile.lanes != profile.lanes:
            return None
        handle = self._lingering.pop(session_id, None)
        if handle is not None:
            handle.cancel()
        if not session.connect(seen):
            self.end(session)
            return None
        self._lives.returned(session.profile.identity, session.id)
        return session

    def broken(self, session: WorkerSession) -> None:
        """The session's stream ended. It may be resumed for a while; if the worker holds nothing, the session is
        over."""
        if self._sessions.get(session.id) is not session:
            return
        session.connected = False
        self._lives.went(session.profile.identity, session.id, with_tasks=session.held > 0)
        if not session.held:
            self.end(session)
            return
        loop = asyncio.get_running_loop()
        self._lingering[session.id] = loop.call_later(RESUME_S, self.end, session)

    def end(self, session: WorkerSession) -> None:
        """The session's worker is gone: its tasks go to others. Twice is harmless."""
        if self._sessions.pop(session.id, None) is None:
            return
        self._lingering.pop(session.id, None)
        if session.held:
            metrics.worker_lost()
            log.warning("worker %s went away with %d tasks; they go to others", session.profile.identity, session.held)
        self._lives.went(session.profile.identity, session.id, with_tasks=session.held > 0)
        pool = self._pools[session.profile.lanes]
        pool.lose(session, together=self._lives.most_left())
        if not pool.sessions:
            del self._pools[pool.lanes]
            self._later(self._host.dismiss(self._guests.pop(pool.lanes)))

    def _later(self, step: Awaitable[None]) -> None:
        task = asyncio.ensure_future(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)

    def _is_open(self, session: WorkerSession) -> bool:
        return self._sessions.get(session.id) is session

    def received(self, session: WorkerSession) -> None:
        """A message of the worker was handled, so there may be room."""
        pool = self._pools[session.profile.lanes]
        if session.carried:
            carried, session.carried = session.carried, []
            for group in carried:
                adoption = Adoption(session, group, wishes=pool.wishes, watch=pool.watch, is_open=self._is_open)
                self._later(adoption.run(self._host))
        pool.more_room()
        self._answered.set()

    async def stored(self, *, within_s: float) -> None:
        """Returns when the outcomes of all messages that were handled are stored, at the latest after ``within_s``."""
        stored = self._host.stored
        await stored.wait(stored.mark, within_s=within_s)

    async def wait_for_answer(self, timeout_s: float) -> None:
        """Returns when a worker sent a message, at the latest after ``timeout_s``."""
        self._answered.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), timeout_s)

    def cancel(self, task_id: bytes) -> bool:
        """Asks the worker that has a task to stop it. False: no worker here has it."""
        return any(session.cancel(task_id) for session in self._sessions.values())

    def leave(self) -> None:
        """Asks every worker to connect elsewhere; nothing more is handed out."""
        for session in self._sessions.values():
            session.leave()

    @property
    def sessions(self) -> Sequence[WorkerSession]:
        """Those that are open."""
        return list(self._sessions.values())

    def part(self) -> None:
        """This process ends. What workers that can move hold stays in its lease, and they bring it to another node."""
        for session in self._sessions.values():
            session.part()

    @property
    def held(self) -> int:
        """How many tasks workers have now."""
        return sum(session.held for session in self._sessions.values())

    @property
    def connected(self) -> int:
        """How many workers are connected."""
        return len(self._sessions)

    def activity(self) -> Activity:
        """For the heartbeat: who is connected, and which lanes are served."""
        lanes = sorted({lane for pool in self._pools.values() for lane in pool.lanes})
        workers = tuple(
            ConnectedWorker(
                identity=s.profile.identity,
                labels=s.profile.labels,
                functions=len(s.profile.lanes),
                concurrency=s.profile.concurrency,
                running=s.held,
                connected=s.connected,
            )
            for s in islice(self._sessions.values(), _WORKERS_SHOWN)
        )
        return Activity(
            types=TaskType.WORKER.value if lanes else "",
            workers=workers,
            worker_count=len(self._sessions),
            lanes=tuple(lanes[:_LANES_SHOWN]),
            lane_count=len(lanes),
        )
