"""Calls for members whose workers have room: who makes one, and who of all that receive it answers.

If every idle member claimed what one task is announced for, 99 of them would cost 6.7 ms of the server's time. So each
call draws two members, and the one with more places free claims at once. The other one looks a moment later whether
work still waits, because what heartbeats show of places is up to half a second old.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from delaybox.core.errors import DelayBoxError
from delaybox.core.membership import free_places
from delaybox.engine.clock_estimate import local_ms
from delaybox.engine.placement import Placement
from delaybox.store import keys, nodes
from delaybox.store.leftovers import left
from delaybox.store.store import Store

ASK_AGAIN_MS = 50.0
"""A member without room asks others for help no more often."""
_SECOND_S = 0.05
"""The second of two members looks this long after the first was called."""
MOST_NAMED = 64
_MOST_AT_ONCE = 64
"""Calls that are weighed at once. Beyond that a member answers without weighing."""


async def publish(store: Store, channel: str, message: str) -> None:
    """Sends a message without which work is found as well, only later."""
    with contextlib.suppress(DelayBoxError):
        await store.servers.publish(channel, message)


class WorkerCalls:
    """The calls for WORKER tasks. ``claim`` is called with a partition from which this member's guests are to claim."""

    def __init__(
        self,
        store: Store,
        placement: Placement,
        member_id: str,
        now_ms: Callable[[], int],
        claim: Callable[[int], None],
    ) -> None:
        self._store = store
        self._placement = placement
        self._me = member_id
        self._now_ms = now_ms
        self._claim = claim
        self._asked = -1e9
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, partitions: Sequence[int]) -> None:
        """Calls others to these partitions, where the workers here have no room; not more than once in a while."""
        now = local_ms()
        if self._placement.alone or now - self._asked < ASK_AGAIN_MS:
            return
        self._asked = now
        seed = self._placement.seed_for_others(self._now_ms())
        message = " ".join(map(str, [seed, *partitions[:MOST_NAMED]]))
        # Where it is lost, the owner of the partition calls a little later.
        self._begin(asyncio.create_task(publish(self._store, keys.help_channel(self._store.prefix), message)))

    def asked(self, seed: int, partitions: Sequence[int]) -> None:
        """Another member has no room for what waits in these partitions."""
        # Of two members it is the other one.
        drawn = (self._me,) if self._placement.count <= 2 else self._placement.drawn(seed, 0)
        self._answer(drawn, partitions)

    def left(self, seed: int, waiting: int, partitions: Sequence[int]) -> None:
        """At least this many tasks wait in these partitions that nobody claimed in time."""
        self._answer(self._placement.drawn(seed, waiting), partitions)

    def stop(self) -> None:
        """Answers no calls any more. Twice is harmless."""
        for task in self._tasks:
            task.cancel()

    def _answer(self, drawn: tuple[str, ...], partitions: Sequence[int]) -> None:
        if len(drawn) == 2 and len(self._tasks) < _MOST_AT_ONCE:
            self._begin(asyncio.create_task(self._weigh(drawn, partitions)))
        elif drawn:
            for p in partitions:
                self._claim(p)

    def _begin(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _weigh(self, pair: tuple[str, ...], partitions: Sequence[int]) -> None:
        # Without an answer of the store both claim, as soon as it is back.
        with contextlib.suppress(DelayBoxError):
            # Both go by what is stored of both, so that they come to the same result.
            first, second = await nodes.some(self._store, pair)
            better = pair[0] if free_places(first) >= free_places(second) else pair[1]
            if better != self._me:
                await asyncio.sleep(_SECOND_S)
                now_ms, found = await left(self._store, partitions)
                waits = [one.ready or 0 <= one.first_ms <= now_ms for one in found]
                partitions = [p for p, still in zip(partitions, waits, strict=True) if still]
        for p in partitions:
            self._claim(p)
