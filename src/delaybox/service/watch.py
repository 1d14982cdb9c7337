"""Waits for tasks: one watcher in each process looks at them for all who wait.

A task is looked at when somebody begins to wait for it, unless it was just stored here (`own_tasks`), soon after a
script announced that it has ended, unless its result was announced as well, and from time to time without a reason:
20 ms after the last look, then after twice as long, up to half a second while nothing changes. Looks are batched. Looks
of the last kind are a safety net for lost announcements: their number a second is bounded, so that very many waiting
callers do not cause more of them, and the bound falls while they find hardly anything new.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice

from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.errors import DelayBoxError, Overloaded, StoreUnavailable
from delaybox.core.partition import of_id
from delaybox.core.task import TaskState
from delaybox.service.own_tasks import OwnTasks
from delaybox.store import progress
from delaybox.store.asyncio_end import end
from delaybox.store.listening import Listening
from delaybox.store.states import announced, has_result, states
from delaybox.store.store import Store
from delaybox.wire.standing import Standing

log = logging.getLogger("delaybox.service")

PAUSES_S = (0.02, 0.04, 0.08, 0.16, 0.32, 0.5)
LOOKS_A_SECOND = 10_000
"""Most looks of the safety net in a second, while they find ends; LEAST_A_SECOND while they find none."""
LEAST_A_SECOND = 1_000
_FEW = 100
"""While at most this many tasks are looked at for a reason at once, these looks also search the leases, so that they
find tasks that run or are gone. With more, if only their ends are waited for, only looks of the safety net search the
leases."""
MOST_WATCHED = 1_000_000
"""Tasks of all waiting callers of one process together, a task once for each of them."""
_AT_ONCE = 1_024
_REST_AFTER_S = 10.0
"""How long the connection that listens for ends is kept while nobody waits."""
_MOST_WAITING_BYTES = 8 * 1024 * 1024
"""Most bytes of results that are kept for one waiting caller; further results are looked up again when it fetches
them."""

Change = tuple[bytes, Standing]
"""Id, and the present state of the task."""


class _Watched:
    """One id that somebody waits for. ``fresh``: waiting callers that have not got its known state yet."""

    __slots__ = ("fresh", "known", "level", "look_at", "watches")

    def __init__(self) -> None:
        self.known: Standing | None = None
        self.level = 0
        self.look_at = 0.0
        self.watches: list[Watch] = []
        self.fresh: list[Watch] = []


class Watch:
    """The tasks that one caller waits for. Each iteration returns the changes since the last; it ends with the last
    task.

    ``ends_only``: only how each task ends. Close it if the iteration is left early.
    """

    def __init__(self, watcher: Watcher, wanted: Sequence[bytes], *, ends_only: bool) -> None:
        self._watcher = watcher
        self._left = set(wanted)
        self.ends_only = ends_only
        self._news: dict[bytes, Standing] = {}
        self._bytes = 0
        self._again: list[bytes] = []
        self._event = asyncio.Event()
        self._error: DelayBoxError | None = None

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> list[Change]:
        """The changes since the last call. The watcher's error, when it had to stop."""
        while not self._news:
            if not self._left:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            self._event.clear()
            await self._event.wait()
        news, self._news, self._bytes = self._news, {}, 0
        again, self._again = self._again, []
        if again:
            self._watcher.look(self, again)
        return list(news.items())

    def close(self) -> None:
        """Ends the wait. Harmless when repeated."""
        self._watcher.forget(self, self._left)
        self._left = set()

    def notify(self, task_id: bytes, standing: Standing) -> bool:
        """Called by the watcher; whether this ends the wait for the task."""
        if standing.ended:
            size = len(standing.result)
            if size and self._bytes + size > _MOST_WAITING_BYTES and self._news:
                self._again.append(task_id)
                return False
            self._bytes += size
            self._left.discard(task_id)
        elif self.ends_only:
            return False
        self._news[task_id] = standing
        self._event.set()
        return standing.ended

    def fail(self, error: DelayBoxError) -> None:
        """Called by the watcher when it stops."""
        self._error = error
        self._event.set()


class Watcher:
    """Looks for all `Watch`es of one process. Starts with the first, and rests when there is none."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watched: dict[bytes, _Watched] = {}
        self._soon: dict[bytes, None] = {}
        # One queue for each length of pause: all in it wait equally long, so each queue is in the order of time by
        # itself.
        self._later: list[deque[tuple[float, bytes]]] = [deque() for _ in PAUSES_S]
        self._event = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._looked_from = 0.0
        self._rests_at = 0.0
        self._looks_a_second = LOOKS_A_SECOND
        self._idle: set[bytes] = set()
        self._waits = 0
        """Tasks that callers wait for, a task once for each."""
        self._closed = False
        self._own = OwnTasks()
        self._listens = False
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def mark(self) -> int:
        """Give it to `stored` afterwards."""
        return self._own.mark

    def stored(self, task_id: str, mark: int) -> None:
        """This process has stored a task. ``mark``: as it was before the task was sent."""
        if self._listens:
            self._own.stored(ids.parse(task_id), mark, asyncio.get_running_loop().time())

    def watch(self, wanted: Sequence[bytes], *, ends_only: bool) -> Watch:
        """Begins to look at the tasks of a watch. Overloaded where too many are looked at."""
        if self._waits + len(wanted) > MOST_WATCHED:
            raise Overloaded(f"callers wait for {self._waits:,} tasks here, {MOST_WATCHED:,} at most; try again later")
        watch = Watch(self, wanted, ends_only=ends_only)
        if self._closed:
            watch.fail(_stopping())
            return watch
        now = asyncio.get_running_loop().time()
        self._rests_at = now + _REST_AFTER_S
        for task_id in dict.fromkeys(wanted):
            entry = self._watched.get(task_id)
            if entry is None:
                entry = self._watched[task_id] = _Watched()
            entry.watches.append(watch)
            self._waits += 1
            entry.fresh.append(watch)
            ended = self._own.take(task_id, now)
            if ended:
                self._notify(task_id, announced(ended), now)
            elif ended is not None and ends_only:
                self._look_later(task_id, entry, now)
            else:
                self._soon[task_id] = None
        if not self._tasks:
            ends = Listening(self._store, set(self._store.ended), self._on_message, self._subscribed, self._lost)
            loops = (self._look_on(), ends.run())
            self._tasks = [asyncio.create_task(loop, name="delaybox-watcher") for loop in loops]
        if self._soon:
            self._event.set()
        elif self._alarm is None and self._watched:
            # Most of these have ended by then, without any look.
            self._alarm = asyncio.get_running_loop().call_later(PAUSES_S[0], self._wake)
        return watch

    def forget(self, watch: Watch, wanted: set[bytes]) -> None:
        """Removes a watch."""
        for task_id in wanted:
            entry = self._watched.get(task_id)
            if entry is not None and watch in entry.watches:
                entry.watches.remove(watch)
                self._waits -= 1
                entry.fresh = [other for other in entry.fresh if other is not watch]
                if not entry.watches:
                    del self._watched[task_id]

    def look(self, watch: Watch, wanted: Sequence[bytes]) -> None:
        """Looks at these as soon as possible, and reports their state to the watch even if it is not new."""
        for task_id in wanted:
            entry = self._watched.get(task_id)
            if entry is not None:
                entry.fresh.append(watch)
                self._soon[task_id] = None
        self._event.set()

    async def close(self) -> None:
        """Ends the watcher, and with it every wait, also those that begin later. Harmless when repeated."""
        self._closed = True
        for watch in {watch for entry in self._watched.values() for watch in entry.watches}:
            watch.fail(_stopping())
        self._watched.clear()
        self._waits = 0
        self._rest()
        await asyncio.gather(*self._ending)

    def _rest(self) -> None:
        for task in self._tasks:
            ending = asyncio.create_task(end(task))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._tasks = []
        self._lost()
        self._soon.clear()
        for queue in self._later:
            queue.clear()

    def _wake(self) -> None:
        self._alarm = None
        self._event.set()

    def _subscribed(self, _channel: str | None) -> None:
        self._own.missed()
        self._listens = True

    def _lost(self) -> None:
        self._own.missed()
        self._listens = False

    def _on_message(self, _channel: str, data: bytes) -> None:
        watched = self._watched
        if has_result(data):
            task_id = data[:16]
            if task_id in watched:
                self._notify(task_id, announced(data), asyncio.get_running_loop().time())
            elif self._listens:
                self._own.ended(task_id, data)
            return
        self._own.several_ended(data)
        for at in range(0, len(data), 16):
            task_id = data[at : at + 16]
            if task_id in watched:
                self._soon[task_id] = None
        if self._soon:
            self._event.set()

    async def _look_on(self) -> None:
        away = 0
        while True:
            taken = self._due()
            if not taken:
                self._event.clear()
                try:
                    await asyncio.wait_for(self._event.wait(), self._pause_s())
                except TimeoutError:
                    if not self._watched and asyncio.get_running_loop().time() >= self._rests_at:
                        return self._rest()
                continue
            try:
                found = await self._standings(taken)
                await self._add_progress(taken, found)
            except Exception as error:
                away += 1
                if away == 1:
                    known = isinstance(error, DelayBoxError)
                    log.warning("watched tasks cannot be looked at: %s", error, exc_info=None if known else error)
                self._soon |= dict.fromkeys(taken)
                await asyncio.sleep(min(0.05 * 2 ** min(away, 5), 1.0))
                continue
            away = 0
            now = asyncio.get_running_loop().time()
            self._weigh(taken, found)
            for task_id, standing in zip(taken, found, strict=True):
                self._notify(task_id, standing, now)

    async def _standings(self, taken: list[bytes]) -> list[Standing | None]:
        idle = self._idle
        asked = [task_id for task_id in taken if task_id not in idle]
        if len(asked) <= _FEW or not all(self._ends_only(task_id) for task_id in asked):
            return await states(self._store, taken)
        # Nearly all of these were just stored or have just ended, so they lie in no lease.
        found = dict(zip(asked, await states(self._store, asked, leased=False), strict=True))
        polled = [task_id for task_id in taken if task_id in idle]
        if polled:
            found |= zip(polled, await states(self._store, polled), strict=True)
        return [found[task_id] for task_id in taken]

    async def _add_progress(self, taken: list[bytes], found: list[Standing | None]) -> None:
        """Adds the progress of running tasks, for callers that wait for more than ends."""
        running = [
            i
            for i, (task_id, standing) in enumerate(zip(taken, found, strict=True))
            if standing is not None and standing.state is TaskState.RUNNING and not self._ends_only(task_id)
        ]
        if running:
            for i, noted in zip(running, await progress.of(self._store, [taken[i] for i in running]), strict=True):
                standing = found[i]
                if noted and standing is not None:
                    found[i] = replace(standing, progress=noted)

    def _ends_only(self, task_id: bytes) -> bool:
        entry = self._watched.get(task_id)
        return entry is None or all(watch.ends_only for watch in entry.watches)

    def _weigh(self, taken: list[bytes], found: list[Standing | None]) -> None:
        """Adjusts the bound of the safety net by how much its looks find."""
        if not self._idle:
            return
        ended = sum(
            1
            for task_id, standing in zip(taken, found, strict=True)
            if task_id in self._idle and standing is not None and standing.ended
        )
        if ended * 4 >= len(self._idle):
            self._looks_a_second = LOOKS_A_SECOND
        else:
            self._looks_a_second = max(self._looks_a_second // 2, LEAST_A_SECOND)

    def _notify(self, task_id: bytes, standing: Standing | None, now: float) -> None:
        entry = self._watched.get(task_id)
        if entry is None:
            return
        if standing is not None:
            notified = entry.watches if _differs(standing, entry.known) else entry.fresh
            if notified is entry.watches and not _same_state(standing, entry.known):
                entry.level = self._first_level(task_id, standing)
            entry.known = standing
            entry.fresh = []
            if notified:
                over = {watch for watch in notified if watch.notify(task_id, standing)}
                left = [watch for watch in entry.watches if watch not in over]
                self._waits -= len(entry.watches) - len(left)
                entry.watches = left
                if not entry.watches:
                    del self._watched[task_id]
                    return
        self._look_later(task_id, entry, now)

    def _look_later(self, task_id: bytes, entry: _Watched, now: float) -> None:
        level = entry.level
        entry.level = min(level + 1, len(PAUSES_S) - 1)
        entry.look_at = now + PAUSES_S[level]
        self._later[level].append((entry.look_at, task_id))

    def _first_level(self, task_id: bytes, standing: Standing) -> int:
        """The pause before the next look. A task that is not due yet will hardly change before its time."""
        if standing.state is not TaskState.SCHEDULED:
            return 0
        now_ms = self._store.now_ms(of_id(task_id, self._store.partitions))
        left_s = (standing.due_ms - now_ms) / 1000
        return next((level for level, pause_s in enumerate(PAUSES_S) if pause_s >= left_s), len(PAUSES_S) - 1)

    def _due(self) -> list[bytes]:
        """The ids to look at now: first those with a reason, then those whose pause is over, within the bounds."""
        taken = dict.fromkeys(islice(self._soon, _AT_ONCE))
        for task_id in taken:
            del self._soon[task_id]
        now = asyncio.get_running_loop().time()
        room = min(_AT_ONCE - len(taken), int((now - self._looked_from) * self._looks_a_second))
        self._idle = set()
        for queue in self._later:
            while queue and len(self._idle) < room and queue[0][0] <= now:
                look_at, task_id = queue.popleft()
                entry = self._watched.get(task_id)
                # This entry is outdated: the task was looked at meanwhile, and stands in a queue again.
                if entry is not None and entry.look_at == look_at and task_id not in taken:
                    taken[task_id] = None
                    self._idle.add(task_id)
        # Unused looks are kept for a moment only: all looks of a second at once would be a burst.
        self._looked_from = max(self._looked_from + len(self._idle) / self._looks_a_second, now - 0.1)
        return list(taken)

    def _pause_s(self) -> float:
        now = asyncio.get_running_loop().time()
        if not self._watched:
            for queue in self._later:
                queue.clear()
            return max(self._rests_at - now, 0.01)
        self._rests_at = now + _REST_AFTER_S
        heads = [queue[0][0] for queue in self._later if queue]
        if not heads:
            return _REST_AFTER_S
        # At least a few ms, so that several become due meanwhile and share one round trip.
        return max(min(heads) - now, 0.01)


def _stopping() -> StoreUnavailable:
    return StoreUnavailable("this node is stopping; ask another one")


def _differs(standing: Standing, known: Standing | None) -> bool:
    """Whether a caller counts it as a change; another due time alone is none."""
    return not _same_state(standing, known) or (known is not None and standing.progress != known.progress)


def _same_state(standing: Standing, known: Standing | None) -> bool:
    return known is not None and (standing.state, standing.attempt, standing.reason) == (
        known.state,
        known.attempt,
        known.reason,
    )
