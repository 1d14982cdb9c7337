"""How much a host is given: so many requests at once and a second, and none while it does not answer (a breaker).

A host that has failed several times in a row gets no request for a while; then a single one is let through as a probe,
and its success opens the way again. Pure but for the random draws: the time is an argument.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict, deque
from typing import Final

FAILURES: Final = 5
"""So many requests in a row without an answer close the way to a host."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
_WAITING_S: Final = 0.5
"""So many requests of a host may wait in this process as it answers in this time, and at least as many as may run at
once; the rest goes back to the store. So a fast host costs no ways to the store, and a slow one holds few places."""
_FIRST_TOOK_S: Final = 0.1
"""How long a host of which nothing is known is taken to need for an answer."""
_TURNS_AHEAD_S: Final = 0.1
"""By so much the requests of a host may be ahead of its rate."""
_MOST_HOSTS: Final = 10_000
_PLAIN, _DOUBTED, _PROBE = range(3)
"""Which share of the places a request takes: its host answers, may well not, or is asked whether it does again."""
_DOUBTED_S: Final = 1.0
"""When a task comes again for which hosts that have not answered yet leave no place."""


class NoRoom(Exception):
    """The host takes nothing now; ``after_ms``: when to come again. ``silent``: because it does not answer."""

    def __init__(self, after_ms: int, *, silent: bool = False) -> None:
        super().__init__(after_ms)
        self.after_ms = after_ms
        self.silent = silent


class Host:
    """One host with its port."""

    __slots__ = (
        "_between_s",
        "_closed_until",
        "_failures",
        "_limit",
        "_next_at",
        "_pause_s",
        "_probing",
        "_proven",
        "_running",
        "_took_s",
        "_waiting",
    )

    def __init__(self, limit: int, rate: int = 0) -> None:
        self._limit = limit
        self._between_s = 1 / rate if rate else 0.0
        self._next_at = 0.0
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._failures = 0
        self._pause_s = 0.0
        self._closed_until = 0.0
        self._probing = False
        self._proven = False
        self._took_s = _FIRST_TOOK_S

    @property
    def closed(self) -> bool:
        """Whether its breaker is open: it does not answer."""
        return self._pause_s > 0

    @property
    def closed_until(self) -> float:
        """Until when a closed host gets no request; from then on one, the probe."""
        return self._closed_until

    @property
    def pause_s(self) -> float:
        """How long it is left alone; 0: it is not."""
        return self._pause_s

    @property
    def probing(self) -> bool:
        """Whether the probe is under way."""
        return self._probing

    def takes(self, seconds: float) -> int:
        """How many requests it is likely to answer in that time; 1 at least."""
        count = self._limit * seconds / max(self._took_s, 0.001)
        if self._between_s:
            count = min(count, seconds / self._between_s)
        return max(1, int(count))

    @property
    def doubted(self) -> bool:
        """Whether it may well not answer: it never has, or did not the last time. Not where only probes are sent."""
        return not self._pause_s and (self._failures > 0 or not self._proven)

    def may_probe(self, now: float) -> bool:
        """Whether the next request that enters is the probe."""
        return self._pause_s > 0 and now >= self._closed_until and not self._probing and self._running < self._limit

    def put_off_probe(self, now: float) -> None:
        """There is no place for the probe: the host is left alone for a moment longer."""
        self._closed_until = now + FIRST_PAUSE_S

    @property
    def unused(self) -> bool:
        """Whether nothing is known of it that would have to be remembered."""
        return not self._running and not self._waiting and not self._failures

    async def enter(self, now: float) -> None:
        """Waits for room; each `enter` that returns needs a `leave`. NoRoom."""
        if self._pause_s:
            if now < self._closed_until:
                raise NoRoom(spread_ms(self._closed_until - now), silent=True)
            if self._probing or self._running >= self._limit:
                # If the probe fails, the way is closed for twice this pause: whoever came every second would meet that.
                raise NoRoom(spread_ms(max(FIRST_PAUSE_S, self._pause_s / 2)), silent=True)
            self._probing = True
        if self._between_s:
            self._take_turn(now)
        if self._running < self._limit:
            self._running += 1
            return
        if len(self._waiting) >= self._limit * max(1.0, _WAITING_S / self._took_s):
            raise NoRoom(spread_ms(self._took_s * len(self._waiting) / self._limit))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._running -= 1
                self._next()
            raise

    def _take_turn(self, now: float) -> None:
        """Takes the next turn that the rate gives. A few may be taken ahead, so that a loop that wakes late loses
        none. NoRoom."""
        ahead = self._next_at - now
        if ahead > _TURNS_AHEAD_S:
            self._probing = False
            raise NoRoom(spread_ms(ahead))
        self._next_at = max(self._next_at, now) + self._between_s

    def leave(self, now: float, took_s: float | None, *, answered: bool | None) -> None:
        """A request has ended. ``took_s``: None: it was not sent. ``answered``: whether the host answered; None:
        nothing was learnt of it."""
        self._running -= 1
        if took_s is not None:
            self._took_s += (took_s - self._took_s) / 8
        if answered is not None:
            if answered and self._pause_s and took_s is not None:
                # How long it gave no answer says nothing of how long it takes now.
                self._took_s = took_s
            self._learn(now, answered=answered)
        elif self._probing:
            self._probing = False
        self._next()

    def _learn(self, now: float, *, answered: bool) -> None:
        probed, self._probing = self._probing, False
        if answered:
            self._failures, self._pause_s, self._proven = 0, 0.0, True
            return
        self._failures += 1
        if self._failures < FAILURES:
            return
        if not self._pause_s:
            self._pause_s, self._closed_until = FIRST_PAUSE_S, now + FIRST_PAUSE_S
        elif probed:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._closed_until = now + self._pause_s
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(NoRoom(spread_ms(self._closed_until - now), silent=True))

    def _next(self) -> None:
        while self._waiting and self._running < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._running += 1
                turn.set_result(None)


class Hosts:
    """The hosts that are known, the least lately used first.

    ``most_doubted``: so many requests at once, running or waiting, may be for hosts that have not answered yet, or do
    not any more; half as many may be probes, so that hosts which nobody has asked yet have their turn. However many
    such hosts there are, there is room for those that answer. ``most_bytes``: so much their bodies may hold.
    """

    def __init__(self, per_host: int, rate: int = 0, *, most_doubted: int = 500, most_bytes: int = 1 << 24) -> None:
        self._per_host = per_host
        self._rate = rate
        self._most_doubted = most_doubted
        self._most_probes = max(1, most_doubted // 2)
        self._held = [0, 0, 0]
        self._most_bytes = most_bytes
        self._doubted_bytes = 0
        self._known: OrderedDict[tuple[str, str, int], Host] = OrderedDict()

    def of(self, scheme: str, host: str, port: int) -> Host:
        """The host of that name and port."""
        key = (scheme, host, port)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Host(self._per_host, self._rate)
            if len(self._known) > _MOST_HOSTS:
                self._forget()
        self._known.move_to_end(key)
        return found

    async def enter(self, host: Host, now: float, size: int = 0) -> int:
        """As `Host.enter`; answers which share of the places it takes, for `leave`. ``size``: bytes of its body.
        NoRoom."""
        share = _DOUBTED if host.doubted else _PROBE if host.may_probe(now) else _PLAIN
        if share:
            count = self._held[_DOUBTED] + self._held[_PROBE]
            full = count >= self._most_doubted or (bool(count) and self._doubted_bytes + size > self._most_bytes)
            if share == _PROBE and (full or self._held[_PROBE] >= self._most_probes):
                host.put_off_probe(now)
                raise NoRoom(spread_ms(FIRST_PAUSE_S), silent=True)
            if full:
                raise NoRoom(spread_ms(_DOUBTED_S))
        self._hold(share, 1, size)
        try:
            await host.enter(now)
        except BaseException:
            self._hold(share, -1, -size)
            raise
        return share

    def leave(
        self, host: Host, now: float, took_s: float | None, *, answered: bool | None, share: int, size: int = 0
    ) -> None:
        """As `Host.leave`."""
        self._hold(share, -1, -size)
        host.leave(now, took_s, answered=answered)

    def _hold(self, share: int, count: int, size: int) -> None:
        self._held[share] += count
        if share:
            self._doubted_bytes += size

    @property
    def closed(self) -> int:
        """How many do not answer."""
        return sum(host.closed for host in self._known.values())

    def _forget(self) -> None:
        """Forgets one that is not in use; a host that does not answer only where all are such."""
        idle = next((key for key, host in self._known.items() if host.unused), None)
        if idle is None:
            idle = next((key for key, host in self._known.items() if not host._running and not host._waiting), None)
        if idle is not None:
            del self._known[idle]


def spread_ms(seconds: float) -> int:
    """Milliseconds, that time to twice that time, drawn so that not all come again at the same moment.

    One of at most 64 values, because hand-backs with the same delay share a round trip. Fewer bring those of a host
    that does not answer back in bursts, which hold up the others'.
    """
    tenths = math.ceil(10 * max(seconds, 0.1))
    values = min(64, 4 * tenths)
    return 100 * tenths + 100 * tenths // values * random.randrange(values)
