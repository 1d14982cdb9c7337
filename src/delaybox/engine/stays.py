"""When a taker looks at partitions that it shares with other members: those that it was called to, and those of its own
that it lends, because it had no room and has called others.

Both go by what their looks find. Who is called looks a moment after others might have claimed: sooner where it found
something, later where it did not, and after some looks for nothing it leaves. Who lends looks later, and takes a
partition back when others leave something there. So each of them is claimed in by one member most of the time, and no
message says by which.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from delaybox.engine.asks import UNTIL_CALLED
from delaybox.store.store import Claimed

STAY_MS = 1_000.0
"""A member without room learns of nothing that comes due, so what it has no room for would be late by the 100 ms after
which the owner of the partition calls others. Whoever came once looks there as long as it finds something."""
THEIRS_MS = 5.0
"""What whoever claims there as a rule has not taken after this time, it has no room for."""
LEND_MS: Final = 2_000.0
"""How long a partition is lent. Each time that one comes back, a task or two may find its member without room again."""
SOON_MS: Final = 0.3
"""Least time after which who was called looks: a claim of whoever claims there as a rule is under way by then."""
MISSES: Final = 16
"""Whoever was called and finds nothing so often in a row is not needed there."""
LEFT: Final = 2
"""Others that leave something so often in a row do not claim there. Once any process may stand still for a moment."""
_ARRIVE_MS = 20.0
"""Others need so long to answer the call: what is found before says nothing of them."""
_KEPT_MS = 1_000.0
"""What was lent, and nobody took, is lent again after this time at the earliest."""
_CLOSE_MS = STAY_MS / 2
"""Others may have left where nothing was due for longer."""


class _Shared:
    """A partition that is shared from ``since`` until ``until``. ``behind``: how long after others this taker looks;
    ``last``: when something was due there last; ``misses``: how often in a row the other one was quicker, or slower."""

    __slots__ = ("behind", "last", "misses", "since", "stay_ms", "until")

    def __init__(self, now_ms: float, stay_ms: float, behind: float) -> None:
        self.since = self.last = now_ms
        self.until = now_ms + stay_ms
        self.stay_ms = stay_ms
        self.behind = behind
        self.misses = 0

    def on(self, now_ms: float) -> bool:
        """Not where the server's clock was set back since: it would last for as long as that step."""
        return self.since - STAY_MS <= now_ms < self.until

    def left_until(self, due_ms: float) -> float:
        """Until when what is due then is left to others."""
        close = due_ms - self.last <= _CLOSE_MS
        if due_ms < UNTIL_CALLED:
            self.last = max(self.last, due_ms)
        return due_ms + self.behind if close else due_ms


class Stays:
    """Of one tracker, by partition."""

    def __init__(self) -> None:
        self._called: dict[int, _Shared] = {}
        self._lent: dict[int, _Shared] = {}

    def begin(self, partition: int, now_ms: float, stay_ms: float) -> None:
        """It was called there, and stays for so long."""
        self._lent.pop(partition, None)
        before = self._called.get(partition)
        behind = before.behind if before is not None and before.on(now_ms) else THEIRS_MS
        self._called[partition] = _Shared(now_ms, stay_ms, behind)

    def on(self, partition: int, now_ms: float) -> bool:
        """Whether it stays there."""
        stay = self._called.get(partition)
        return stay is not None and stay.on(now_ms)

    @property
    def lends(self) -> bool:
        """Whether it ever lent a partition."""
        return bool(self._lent)

    def to_lend(self, partitions: Collection[int], now_ms: float) -> int | None:
        """One of its own that may be lent now."""
        for p in partitions:
            lent = self._lent.get(p)
            if lent is None or not lent.since - STAY_MS <= now_ms < max(lent.until, lent.since + _KEPT_MS):
                return p
        return None

    def lend(self, partition: int, now_ms: float) -> None:
        """Others were called to it, and claim there in place of this taker."""
        self._lent[partition] = _Shared(now_ms, LEND_MS, THEIRS_MS)

    def heard(self, partition: int, now_ms: float, due_ms: float, *, mine: bool) -> float:
        """When to look at what was announced to be due."""
        if mine:
            lent = self._lent.get(partition)
            return due_ms if lent is None or not lent.on(now_ms) else lent.left_until(due_ms)
        stay = self._called.get(partition)
        return due_ms if stay is None or not stay.on(now_ms) else due_ms + stay.behind

    def look(
        self, partition: int, claimed: Claimed, due_ms: float, *, mine: bool = False, late_ms: float = 0.0
    ) -> float:
        """When to look again at a partition in which nothing is due now, and the next is at ``due_ms``. ``late_ms``: of
        what the claim took."""
        if mine:
            lent = self._lent.get(partition)
            return due_ms if lent is None or not self._lends(lent, claimed, late_ms) else lent.left_until(due_ms)
        stay = self._called.get(partition)
        if stay is not None and claimed.leased:
            stay.since = claimed.now_ms
            stay.until, stay.misses = stay.since + stay.stay_ms, 0
            stay.behind = max(stay.behind / 4, SOON_MS)
        elif stay is not None and stay.on(claimed.now_ms):
            stay.misses += 1
            stay.behind = min(2 * stay.behind, THEIRS_MS)
            if stay.misses >= MISSES:
                stay.until = stay.since
        if stay is None or stay.since - STAY_MS > claimed.now_ms or due_ms > stay.until:
            return UNTIL_CALLED
        return due_ms + stay.behind

    def _lends(self, lent: _Shared, claimed: Claimed, late_ms: float) -> bool:
        """Whether it goes on to be lent: not where others left something. What came due a moment ago they may be about
        to take."""
        if not claimed.leased:
            lent.misses = 0
        elif late_ms >= lent.behind and claimed.now_ms >= lent.since + _ARRIVE_MS:
            lent.misses += 1
            if lent.misses >= LEFT:
                lent.until = min(lent.until, claimed.now_ms)
        return lent.on(claimed.now_ms)
