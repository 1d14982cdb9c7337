"""WORKER: hands tasks to the workers that are connected to this node. worker_session.py has one worker's side of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol

from delaybox import metrics
from delaybox.core.lane import without_needs
from delaybox.core.membership import Activity, ConnectedWorker
from delaybox.core.queue import LiveRules
from delaybox.core.task import TaskType
from delaybox.targets.worker_adoption import Adopting, Adoption
from delaybox.targets.worker_confirmations import OutcomeStore
from delaybox.targets.worker_lost import BrokenStreams, Lives
from delaybox.targets.worker_needs import NeedyHost, NeedyPools
from delaybox.targets.worker_pool import LanePool
from delaybox.targets.worker_profile import Profile
from delaybox.targets.worker_session import WorkerSession

log = logging.getLogger("delaybox.workers")

_LANES_SHOWN = 2_000
_WORKERS_SHOWN = 200
_RUNNING_SHOWN = 200
_TASKS_LOOKED_AT = 5_000
"""Tasks whose lanes a heartbeat counts: half a millisecond."""
_MOST_KNOWN = 1_000


class ClaimHost(Adopting, NeedyHost, Protocol):
    """Makes claimers, adopts tasks and stores outcomes; in a node it is the engine."""

    @property
    def stored(self) -> OutcomeStore:
        """How far the outcomes that were reported are stored."""


class Gateway:
    """All sessions of this process. ``now_ms``: Redis's clock. ``max_output``: bytes of a result. ``same_process``: see
    `LanePool`.
    """

    def __init__(
        self,
        host: ClaimHost,
        *,
        rules: LiveRules,
        now_ms: Callable[[], int],
        max_output: int,
        lease_ms: int = 15_000,
        same_process: bool = False,
    ) -> None:
        self._host = host
        self._same_process = same_process
        self._lives = Lives(lease_ms)
        self._rules = rules
        self._now_ms = now_ms
        self.max_output = max_output
        self.lease_ms = lease_ms
        self._pools: dict[frozenset[bytes], LanePool] = {}
        self._guests: dict[frozenset[bytes], Any] = {}
        self._needy: dict[frozenset[bytes], NeedyPools] = {}
        self._met: dict[bytes, None] = {}
        """Lanes with needs that claims met, the last ones."""
        self._sessions: dict[str, WorkerSession] = {}
        self._alone: set[bytes] = set()
        self._broken = BrokenStreams(self.end)
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
        session.since_ms = self._now_ms()
        pool = self._pools.get(profile.lanes)
        if pool is None:
            pool = self._pools[profile.lanes] = LanePool(
                profile.lanes, self._rules, self._alone, same_process=self._same_process
            )
            guest = self._host.admit(lanes=sorted(profile.lanes), target=pool, room=pool.room)
            self._guests[profile.lanes] = pool.claimer = guest
        pool.announced(profile.keep_ms)
        pool.members.append(session)
        session.connect(0)
        self._lives.came(profile.identity, session.id)
        self._fit(pool, self._met)

    def met(self, lanes: Sequence[bytes]) -> None:
        """Claims met lanes with needs; they are served from now on where workers here have what is needed."""
        fresh = [lane for lane in lanes if lane not in self._met]
        self._met |= dict.fromkeys(fresh)
        while len(self._met) > _MOST_KNOWN:
            del self._met[next(iter(self._met))]
        for pool in self._pools.values():
            self._fit(pool, lanes)

    def _fit(self, pool: LanePool, lanes: Iterable[bytes]) -> None:
        mine = [lane for lane in lanes if without_needs(lane) in pool.lanes]
        if not mine:
            return
        needy = self._needy.get(pool.lanes)
        if needy is None:
            needy = self._needy[pool.lanes] = NeedyPools(
                self._host, pool, self._rules, self._alone, self._later, same_process=self._same_process
            )
        needy.fit(mine)

    def resume(self, session_id: str, seen: int, profile: Profile) -> WorkerSession | None:
        """The session whose stream broke, unchanged. None: it is unknown, or over."""
        session = self._sessions.get(session_id)
        if session is None or session.profile.lanes != profile.lanes:
            return None
        self._broken.forget(session_id)
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
        self._broken.keep(session)

    def end(self, session: WorkerSession) -> None:
        """The session's worker is gone: its tasks go to others. Twice is harmless."""
        if self._sessions.pop(session.id, None) is None:
            return
        self._broken.forget(session.id)
        if session.held:
            metrics.worker_lost()
            log.warning("worker %s went away with %d tasks; they go to others", session.profile.identity, session.held)
        self._lives.went(session.profile.identity, session.id, with_tasks=session.held > 0)
        pool = self._pools[session.profile.lanes]
        pool.lose(session, together=self._lives.most_left())
        if needy := self._needy.get(pool.lanes):
            needy.fit()
        if not pool.sessions:
            del self._pools[pool.lanes]
            self._needy.pop(pool.lanes, None)
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
        if session.places > session.beyond.most:
            session.beyond.most = session.places
            self._fit(pool, self._met)
        pool.more_room()
        for needy in pool.beside:
            needy.more_room()
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
        lanes = sorted(
            {lane for pool in self._pools.values() for lane in pool.lanes}
            | {lane for needy in self._needy.values() for lane in needy.lanes}
        )
        workers = tuple(
            ConnectedWorker(
                identity=s.profile.identity,
                labels=s.profile.labels,
                functions=len(s.profile.lanes),
                concurrency=s.profile.concurrency,
                running=s.running,
                connected=s.connected,
                places=s.places,
                since_ms=s.since_ms,
            )
            for s in islice(self._sessions.values(), _WORKERS_SHOWN)
        )
        return Activity(
            types=TaskType.WORKER.value if lanes else "",
            workers=workers,
            worker_count=len(self._sessions),
            free=sum(s.room for s in self._sessions.values()),
            running=self._running(),
            lanes=tuple(lanes[:_LANES_SHOWN]),
            lane_count=len(lanes),
        )

    def _running(self) -> dict[str, int]:
        """Tasks that workers have now, by lane. Of a session with very many some stand for all."""
        found: Counter[bytes] = Counter()
        busy = [session for session in self._sessions.values() if session.held]
        for session in busy:
            lanes = session.lanes_held(max(1, _TASKS_LOOKED_AT // len(busy)))
            for lane, count in Counter(lanes).items():
                found[lane] += round(count * session.running / len(lanes))
        return {lane.decode(): count for lane, count in found.most_common(_RUNNING_SHOWN)}
