"""Calls for members whose workers have room: who makes one, and who of all that receive it answers.

If every idle member claimed what one task is announced for, 99 of them would cost 6.7 ms of the server's time. So each
call draws two members, and the one that suits better, by its free places and its punctuality, claims at once. The
other one looks a moment later whether work still waits, because what heartbeats show of both is up to half a second
old, and free places may be those of other work. If neither takes it, all that run it and have room are called.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from delaybox.core.errors import DelayBoxError
from delaybox.core.membership import help_of
from delaybox.engine.clock_estimate import local_ms
from delaybox.engine.helping import Helping
from delaybox.engine.placement import Placement
from delaybox.store import keys, nodes
from delaybox.store.leftovers import unclaimed
from delaybox.store.store import Store

ASK_AGAIN_MS = 50.0
"""A member without room asks others for help no more often."""
SLOWEST = 8
"""While nobody comes it asks so many times more seldom: where all are full each call and each look before it is in
vain. Nobody came where in most of the partitions something waits that was due at the last call."""
_SECOND_S = 0.02
"""The second of two members looks this long after the first was called. It only reads, and claims where work waits."""
FULL_AGAIN_MS = 100.0
"""A member without room answers no more often. Where all are full they call one another 20 times a second each, and
every answer reads what waits in up to 64 partitions."""
ALL_AGAIN_MS = 1_000.0
"""All are called to a lane in a partition no more often: each with room claims there, most for nothing."""
_ANNOUNCED_MS = 1_000.0
"""A lane that claims meet again and again is announced to other members no more often."""
_ANNOUNCED_MOST = 10_000
MOST_NAMED = 64
_LANES_NAMED = 16
_MOST_AT_ONCE = 64
"""Calls that are weighed at once. Beyond that a member answers without weighing."""
_OWN_MOST = 64
"""So many of its own calls a member knows when they come back to it."""


async def publish(store: Store, channel: str, message: str) -> None:
    """Sends a message without which work is found as well, only later."""
    with contextlib.suppress(DelayBoxError):
        await store.servers.publish(channel, message)


class WorkerCalls:
    """The calls for WORKER tasks. ``claim`` is called with a partition from which this member's guests are to claim,
    and answers whether one has room; ``free``: how many more tasks of a lane they can take; ``changed``: the partitions
    of ``helping`` are others now; ``room``: whether a guest has room for anything; ``own``: as ``claim``,
    where this member called."""

    def __init__(
        self,
        store: Store,
        placement: Placement,
        member_id: str,
        now_ms: Callable[[], int],
        claim: Callable[[int], bool],
        free: Callable[[bytes], int],
        changed: Callable[[], None] = lambda: None,
        room: Callable[[], bool] = lambda: True,
        own: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._store = store
        self._placement = placement
        self._me = member_id
        self._now_ms = now_ms
        self._claim = claim
        self._free = free
        self._room = room
        self._own = own
        self.helping = Helping(changed)
        self._asked = self._answered_full = self._lent = -1e9
        self._unasked: dict[int, None] = {}
        """Partitions without room that no call has named yet, because the last call was a moment ago, or named as many
        others as a call may; the first one first."""
        self._slower = 1
        self._asked_ms = 0
        """When it called last, by the server's clock."""
        self._sent: dict[tuple[int, ...], None] = {}
        """Its calls that have not come back to it, the first one first."""
        self._asking: asyncio.Task[None] | None = None
        self._all_called: dict[tuple[int, bytes], float] = {}
        """Lanes of partitions to which all were called, by whomever, and when."""
        self._put_off: dict[int, None] = {}
        """Partitions of calls that came a moment after one that there was no room for, the first call's first."""
        self._answering: asyncio.Task[None] | None = None
        self._announced: dict[bytes, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def announce(self, lanes: Sequence[bytes]) -> None:
        """A claim met these lanes with needs, which workers of other members may have."""
        now = local_ms()
        fresh = [lane for lane in lanes if now - self._announced.get(lane, -1e9) >= _ANNOUNCED_MS]
        if not fresh or self._placement.alone:
            return
        if len(self._announced) > _ANNOUNCED_MOST:
            self._announced.clear()
        self._announced |= dict.fromkeys(fresh, now)
        message = b" ".join(fresh).decode()
        self._begin(asyncio.create_task(publish(self._store, keys.lanes_channel(self._store.prefix), message)))

    def lend(self, partition: int, lanes: Sequence[bytes]) -> bool:
        """Calls others to a partition that a guest with these lanes leaves to them for a while. False: nobody else runs
        all of these, or the last one was lent a moment ago."""
        now = local_ms()
        # Where all are full whoever is called brings no room: then it is called as seldom as for help.
        if now - self._lent < ASK_AGAIN_MS * self._slower or not self._placement.others_run(lanes):
            return False
        self._lent = now
        self._begin(asyncio.create_task(self._ask([partition])))
        return True

    def stays(self, partition: int) -> None:
        """A guest took something in a partition that is not its own."""
        self.helping.begin([partition])

    def ask(self, partitions: Sequence[int]) -> None:
        """Calls others to these partitions, where the workers here have no room: at once, or, as it calls no more than
        once in a while, then."""
        if self._placement.alone or not partitions:
            return
        now = local_ms()
        if now - self._asked > 2 * ASK_AGAIN_MS * self._slower:
            self._slower = 1
        wait_ms = self._asked + ASK_AGAIN_MS * self._slower - now
        if wait_ms <= 0:
            self._asked, self._asked_ms = now, self._now_ms()
            self._begin(asyncio.create_task(self._ask(partitions[:MOST_NAMED])))
            partitions, wait_ms = partitions[MOST_NAMED:], ASK_AGAIN_MS
        self._unasked |= dict.fromkeys(partitions)
        if self._unasked and self._asking is None:
            self._asking = asyncio.create_task(self._ask_later(wait_ms / 1000))
            self._begin(self._asking)

    async def _ask(self, partitions: Sequence[int]) -> None:
        seed = self._placement.seed_for_others(self._now_ms())
        message = " ".join(map(str, [seed, *partitions]))
        if len(self._sent) >= _OWN_MOST:
            del self._sent[next(iter(self._sent))]
        self._sent[seed, *partitions] = None
        # Where it is lost, the owner of the partition calls a little later.
        await publish(self._store, keys.help_channel(self._store.prefix), message)

    async def _ask_later(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        waiting, asked_ms = list(self._unasked), self._asked_ms
        self._unasked, self._asking, self._asked, self._asked_ms = {}, None, local_ms(), self._now_ms()
        partitions = waiting[:MOST_NAMED]
        self.ask(waiting[MOST_NAMED:])
        # Places may have come free meanwhile, and whoever is called claims in every partition that is named.
        with contextlib.suppress(DelayBoxError):
            now_ms, found = await unclaimed(self._store, partitions)
            # One that is empty says little: this member may have emptied it itself.
            nobody_came = 2 * sum(bool(one.lanes(asked_ms)) for one in found) > len(found)
            self._slower = min(2 * self._slower, SLOWEST) if nobody_came else 1
            partitions = [p for p, one in zip(partitions, found, strict=True) if one.lanes(now_ms)]
        if partitions:
            await self._ask(partitions)

    def asked(self, seed: int, partitions: Sequence[int]) -> None:
        """A member has no room for what waits in these partitions."""
        if (seed, *partitions) in self._sent:
            # It is its own call, which the server sends to it as well. With a place that came free just now it would
            # take back what it has lent.
            del self._sent[seed, *partitions]
            if self._placement.count <= 2:
                self._claim_at(partitions, self._own)
            return
        # Of two members it is the other one.
        drawn = (self._me,) if self._placement.count <= 2 else self._placement.drawn(seed, 0)
        self._answer(drawn, partitions)

    def all_asked(self, waiting: Sequence[tuple[int, bytes]]) -> None:
        """Of these lanes work waits in these partitions, and those who were called before have not taken it."""
        self._note(waiting)
        self._claim_at(sorted({p for p, lane in waiting if self._free(lane) > 0}))

    def left(self, seed: int, waiting: int, partitions: Sequence[int]) -> None:
        """At least this many tasks wait in these partitions that nobody claimed in time."""
        self._answer(self._placement.drawn(seed, waiting), partitions)

    def stop(self) -> None:
        """Answers no calls any more. Twice is harmless."""
        self.helping.close()
        for task in self._tasks:
            task.cancel()

    def _answer(self, drawn: tuple[str, ...], partitions: Sequence[int]) -> None:
        if drawn and not self._room():
            wait_ms = self._answered_full + FULL_AGAIN_MS - local_ms()
            if wait_ms > 0:
                # Not left out: who called may not call again for a second, and places may come free before.
                self._put_off |= dict.fromkeys(partitions)
                if self._answering is None:
                    self._answering = asyncio.create_task(self._answer_later(drawn, wait_ms / 1000))
                    self._begin(self._answering)
                return
            self._answered_full = local_ms()
        if len(drawn) == 2 and len(self._tasks) < _MOST_AT_ONCE:
            self._begin(asyncio.create_task(self._weigh(drawn, partitions)))
        elif drawn:
            self._claim_at(partitions)

    async def _answer_later(self, drawn: tuple[str, ...], wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        partitions = list(self._put_off)
        self._put_off, self._answering = {}, None
        # Without room it answers for the first ones, and the others are put off again.
        for at in range(0, len(partitions), MOST_NAMED):
            self._answer(drawn, partitions[at : at + MOST_NAMED])

    def _claim_at(self, partitions: Sequence[int], claim: Callable[[int], bool] | None = None) -> None:
        self.helping.begin([p for p in partitions if (claim or self._claim)(p)])

    def _begin(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _weigh(self, pair: tuple[str, ...], partitions: Sequence[int]) -> None:
        called_ms = self._now_ms()
        # Without an answer of the store both claim, as soon as it is back.
        with contextlib.suppress(DelayBoxError):
            if self._placement.run_the_same(pair):
                # Both go by what is stored of both, so that they come to the same result.
                first, second = await nodes.some(self._store, pair)
                better = pair[0] if help_of(first) >= help_of(second) else pair[1]
            else:
                # What one of them has room for, the other one does not run.
                self._claim_at(partitions)
                better = pair[0]
            if better != self._me:
                await asyncio.sleep(_SECOND_S)
                now_ms, found = await unclaimed(self._store, partitions)
                old = [(p, one.lanes(called_ms)) for p, one in zip(partitions, found, strict=True)]
                partitions = [p for p, one in zip(partitions, found, strict=True) if one.lanes(now_ms)]
                # Where work comes all the time, what came since says nothing of those that were called.
                await self._call_all([(p, lane) for p, lanes in old for lane in lanes])
        self._claim_at(partitions)

    async def _call_all(self, waiting: Sequence[tuple[int, bytes]]) -> None:
        now = local_ms()
        fresh = [one for one in waiting if now - self._all_called.get(one, -1e9) >= ALL_AGAIN_MS]
        if fresh and self._placement.count > 2:
            # What is not named here waits for the next call.
            self._note(fresh[:_LANES_NAMED])
            message = " ".join(f"{p}={lane.decode()}" for p, lane in fresh[:_LANES_NAMED])
            await publish(self._store, keys.help_channel(self._store.prefix), message)

    def _note(self, waiting: Sequence[tuple[int, bytes]]) -> None:
        if len(self._all_called) > _ANNOUNCED_MOST:
            self._all_called.clear()
        self._all_called |= dict.fromkeys(waiting, local_ms())
