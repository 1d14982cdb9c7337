"""Pools of tasks with needs: the sessions of a `LanePool` whose workers have what the tasks of some lanes need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from delaybox.core.delivery import Delivery, Target
from delaybox.core.errors import DelayBoxError
from delaybox.core.lane import split
from delaybox.core.needs import WorkerNeeds
from delaybox.core.queue import LiveRules
from delaybox.targets.worker_offers import Wishes
from delaybox.targets.worker_pool import LanePool
from delaybox.targets.worker_session import WorkerSession

MOST_POOLS = 64
"""Different needs for which one pool of workers claims at a time; each has a claimer of its own."""
_MOST_LANES = 500
"""Lanes with the same needs, at most; the one that was met first is forgotten for another."""
_ASKED_MOST = 16
"""Partitions that are asked together whether a large task waits."""
_ASK_AGAIN_S = 0.25
"""While places are saved it is asked so often whether a task still waits for them."""


class NeedyHost(Protocol):
    """What claims for pools; in a node it is the engine."""

    def admit(
        self,
        *,
        lanes: Sequence[bytes],
        target: Target,
        room: Callable[[], int],
        full: Callable[[Sequence[int]], None] | None = None,
        called_only: bool = False,
    ) -> Any:
        """Starts to claim for ``target``; see `engine.engine.Engine.admit`."""

    def serve(self, guest: Any, lanes: Sequence[bytes]) -> None:
        """A claimer serves these lanes from now on."""

    def dismiss(self, guest: Any) -> Awaitable[None]:
        """Stops a claimer."""

    async def waits(self, lanes: Sequence[bytes], partitions: Sequence[int]) -> bool:
        """Whether tasks of these lanes are due in one of these partitions."""


class NeedyPool(LanePool):
    """Tasks of some lanes of ``parent`` that have the same needs.

    ``liked``: its sessions are those that the tasks prefer, or all where they prefer none. Otherwise they are the
    others, and claim only what lies ready, when they are called: 100 ms after it was due, or at once when a worker that
    the tasks prefer has no room.
    A task that takes several places does not wait for ever beside smaller ones: while one waits, a session whose places
    come free keeps them for it.
    """

    _sends_ahead = False

    def __init__(
        self,
        parent: LanePool,
        needs: WorkerNeeds,
        host: NeedyHost,
        rules: LiveRules,
        alone: set[bytes],
        *,
        liked: bool,
        same_process: bool,
    ) -> None:
        super().__init__(frozenset(), rules, alone, same_process=same_process, cost=needs.cost)
        self.liked = liked
        self.listed: dict[bytes, None] = {}
        self.guest: Any = None
        self._parent = parent
        self._needs = needs
        self._host = host
        self._short: set[int] = set()
        self._saving: asyncio.Task[None] | None = None
        self._saved: WorkerSession | None = None
        self._used = asyncio.Event()

    def __repr__(self) -> str:
        return f"workers with {self._needs.describe() or 'room'}"

    @property
    def sessions(self) -> list[WorkerSession]:
        """Those that run its tasks."""
        needs, likes = self._needs, bool(self._needs.prefers)
        return [
            s
            for s in self._parent.members
            if needs.run_by(s.profile.labels, max(s.places, s.beyond.most))
            and (not likes or needs.liked_by(s.profile.labels) is self.liked)
        ]

    def room_at(self, session: WorkerSession) -> int:
        """How many of its tasks a session can be sent now."""
        return max(0, session.free if session is self._saved else session.room) // self.cost

    def room(self) -> int:
        """Tasks that can be claimed now."""
        sessions = self.sessions
        saved = self._saved if self._saved in sessions else None
        kept = 0 if saved is None else self.room_at(saved)
        rest = sessions if saved is None else [s for s in sessions if s is not saved]
        others = self._parent.spoken_for + sum(pool.spoken_for for pool in self._parent.beside if pool is not self)
        if others:
            # What goes to sessions that are none of these takes no room here.
            mine = set(map(id, rest))
            others = max(0, others - sum(s.room for s in self._parent.members if id(s) not in mine))
        free = max(0, sum(map(self.room_at, rest)) - -(-others // self.cost))
        return kept + free - len(self._waiting) - self._suspects.places(sessions)

    def hand_out(self) -> None:
        """Gives waiting tasks to sessions with room. Without any session they are handed back."""
        before = len(self._waiting)
        super().hand_out()
        if self._saved is not None and len(self._waiting) < before:
            # A task has the places now, or came and went to another session.
            self._used.set()
        elif self._waiting:
            # It was claimed for places that others took meanwhile.
            self.short(())

    def more_room(self) -> None:
        """Places came free. The parent reports suspects that ended."""
        if self._waiting or self._suspects:
            self.hand_out()
        if self.claimer is not None and self.room() > 0:
            self.claimer.more_room()

    def watch(self) -> None:
        """The parent has the timer for all."""
        self._parent.watch()

    def wishes(self, d: Delivery) -> Wishes:
        """As the parent's."""
        return self._parent.wishes(d)

    def _usual(self) -> Mapping[bytes, int]:
        return {}

    def short(self, partitions: Sequence[int]) -> None:
        """There is no room for what may be due in these partitions."""
        self._short.update(partitions)
        if self.cost > 1 and self._saving is None and self.sessions:
            self._saving = asyncio.ensure_future(self._save())
            self._saving.add_done_callback(self._no_more)

    async def _save(self) -> None:
        """While a task waits for several places, keeps those of one session for it, until one has come."""
        self._used.clear()
        with contextlib.suppress(DelayBoxError):
            while not self._used.is_set():
                partitions = sorted(self._short)[:_ASKED_MOST]
                self._short.difference_update(partitions)
                if self._waiting:
                    self._choose()
                elif partitions and await self._host.waits(sorted(self.listed), partitions):
                    self._short.update(partitions)
                    self._choose()
                elif not self._short:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._used.wait(), _ASK_AGAIN_S)

    def _choose(self) -> None:
        open_ = [s for s in self.sessions if s is self._saved or not s.beyond.saved]
        if self._saved in open_ or not open_:
            return
        self._let_go()
        self._saved = max(open_, key=lambda s: s.free)
        self._saved.beyond.saved = self.cost
        asyncio.get_running_loop().call_soon(self.more_room)

    def _let_go(self) -> None:
        if self._saved is not None:
            self._saved.beyond.saved, self._saved = 0, None

    def _no_more(self, _: object) -> None:
        self._saving = None
        self._let_go()
        self._short.clear()
        self._parent.more_room()

    def close(self) -> None:
        """Nothing is claimed for it any more; what waits is handed back."""
        if self._saving is not None:
            self._saving.cancel()
        self.hand_back()


class NeedyPools:
    """The pools of one `LanePool` for tasks with needs; they come and go with sessions and with what claims meet."""

    def __init__(
        self,
        host: NeedyHost,
        parent: LanePool,
        rules: LiveRules,
        alone: set[bytes],
        later: Callable[[Awaitable[None]], None],
        *,
        same_process: bool,
    ) -> None:
        self._host = host
        self._parent = parent
        self._rules = rules
        self._alone = alone
        self._later = later
        self._same_process = same_process
        self._pools: dict[tuple[WorkerNeeds, bool], NeedyPool] = {}

    @property
    def lanes(self) -> list[bytes]:
        """Those that this member claims as others do; not those whose tasks prefer other workers."""
        return [lane for pool in self._pools.values() if pool.liked for lane in pool.listed]

    def fit(self, lanes: Iterable[bytes] = ()) -> None:
        """Sessions came, went or have more places, or claims met ``lanes``."""
        for key, pool in list(self._pools.items()):
            if not pool.sessions:
                self._drop(key)
        for lane in lanes:
            try:
                needs = split(lane).needs
            except ValueError:
                continue  # of a newer version
            for liked in (True, False) if needs.prefers else (True,):
                self._add(lane, needs, liked=liked)

    def _add(self, lane: bytes, needs: WorkerNeeds, *, liked: bool) -> None:
        key = needs, liked
        pool = self._pools.get(key)
        if pool is None:
            pool = NeedyPool(
                self._parent,
                needs,
                self._host,
                self._rules,
                self._alone,
                liked=liked,
                same_process=self._same_process,
            )
            if not pool.sessions:
                return
            if len(self._pools) >= MOST_POOLS:
                self._drop(next(iter(self._pools)))
            pool.listed[lane] = None
            self._pools[key] = pool
            pool.guest = pool.claimer = self._host.admit(
                lanes=[lane], target=pool, room=pool.room, full=pool.short, called_only=not liked
            )
            self._parent.beside = tuple(self._pools.values())
        elif lane not in pool.listed:
            pool.listed[lane] = None
            if len(pool.listed) > _MOST_LANES:
                del pool.listed[next(iter(pool.listed))]
            self._host.serve(pool.guest, sorted(pool.listed))

    def _drop(self, key: tuple[WorkerNeeds, bool]) -> None:
        pool = self._pools.pop(key)
        self._parent.beside = tuple(self._pools.values())
        pool.close()
        self._later(self._host.dismiss(pool.guest))
