"""Stands in for an owner that does not look: it was killed or suspended, and the list of members does not show that
yet."""

from __future__ import annotations

import logging

from delaybox.engine.clock_estimate import RedisClock, local_ms
from delaybox.engine.kernel_timer import Timer
from delaybox.engine.ownership import Ownership
from delaybox.store.promises import Promise, promises
from delaybox.store.store import Store

log = logging.getLogger("delaybox.engine")

PATIENCE_MS = 100.0
"""An owner that is less than this late for its promise is only busy."""
_READ_AHEAD_MS = 5.0
"""Promises that end within this are read in one round trip."""
_AWAY_MS = 1_000.0
_LONGEST_MS = 1_500.0


class StandIn:
    """One step = wait until a promise has run out by `PATIENCE_MS`, read those that have, act or rest.

    With each claim an owner promises when it will look next. The stand-in checks the promise and not the work, because
    a read costs the server a five-hundredth of an empty claim. Lateness from load does not concern it: otherwise every
    look would be doubled in overload.
    """

    def __init__(self, store: Store, ownership: Ownership, member_id: str, clock: RedisClock) -> None:
        self._store = store
        self._ownership = ownership
        self._me = member_id
        self._clock = clock
        self._at: dict[int, float] = {}
        self._timer = Timer()
        ownership.follow(lambda _: self._timer.wake())

    def kick(self, partition: int, due_ms: float) -> None:
        """Something is due at ``due_ms``. The owner got the same message, and has promised to look then."""
        at = due_ms + PATIENCE_MS
        if at < self._at.get(partition, 0.0):
            self._at[partition] = at
            self._timer.wake()

    async def step(self) -> float:
        """For `Loop`."""
        watched = self._ownership.stands_in
        now = self._clock.now_ms()
        # None is later than this, unless the clock was set back.
        self._at = {p: min(self._at.get(p, now + PATIENCE_MS), now + _LONGEST_MS) for p in watched}
        nearest = min(self._at.values(), default=now + _LONGEST_MS)
        if nearest > now:
            await self._timer.wait(self._clock.local_at(nearest))
            now = self._clock.now_ms()
        due = [p for p, at in self._at.items() if at <= now + _READ_AHEAD_MS and p in self._ownership.stands_in]
        if not due:
            return 0.0
        try:
            sent = local_ms()
            now_ms, read = await promises(self._store, due)
            self._clock.observe(sent, local_ms(), now_ms)
        except BaseException:
            # The server was away for the owner as well.
            self._at |= dict.fromkeys(due, self._clock.now_ms() + _AWAY_MS)
            raise
        silent: list[tuple[int, Promise]] = []
        for p, promise in zip(due, read, strict=True):
            # One on its way to another server is looked at again when it may be there.
            self._at[p] = now_ms + _AWAY_MS if promise is None else self._judge(p, promise, now_ms, silent)
        if silent:
            # In one line, because an owner that stands still breaks all of its promises at once.
            log.warning(
                "no look at partitions %s by %s, up to %d ms after that was promised; looking in their place",
                ", ".join(str(p) for p, _ in silent),
                ", ".join(sorted({promise.looker or "?" for _, promise in silent})),
                max(now_ms - promise.until_ms for _, promise in silent),
            )
        return 0.0

    def _judge(self, p: int, promise: Promise, now_ms: int, silent: list[tuple[int, Promise]]) -> float:
        """When to read again. Adds to ``silent`` a promise that was broken."""
        until = promise.until_ms + max(PATIENCE_MS, 2.0 * promise.late_ms)
        if self._ownership.acts(p):
            if promise.looker != self._me and now_ms <= until:
                log.info("the owner of partition %d looks again", p)
                self._ownership.rest(p)
        elif now_ms > until:
            silent.append((p, promise))
            self._ownership.act(p)
        if self._ownership.acts(p):
            return now_ms + PATIENCE_MS
        return max(now_ms + 1.0, min(until, now_ms + _LONGEST_MS))

    def close(self) -> None:
        """Releases what waiting needs."""
        self._timer.close()
