"""Limits of queues, as pools of permits: how those of one limit are dealt to the partitions in which work waits. Pure.

A limit is a `Pool` of permits. A permit of `concurrency` is in use while its task lies in a lease; one of `rate` for a
fixed time after the claim. So at most n claims fall into any interval, because none of n permits is used twice in it.
A partition counts its own use, in the claim itself; here stands only how many permits each may have in use. The sum
over all partitions is never more than the limit, whoever deals and whatever message is lost:

- a partition gets more only by a grant, which is on record here *before* it is sent;
- a partition gives permits back first, and then reports that, so the record is corrected downwards only by a report
  that has seen the last grant (`seq`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

GRANT_MS = 2_000
"""A grant is refused by its partition when it comes later than this. It is then dealt again under a new number."""
_OLD_MS, _OLD_RATE_MS = 1_000, 200
"""While somebody wants more, who has not reported for this long is asked whether it still needs what it has. Whose
tasks end reports that by itself. Permits of a rate come free by time, and whoever has no more work for them says
nothing: it is asked sooner, but not before it can have begun what waited there."""
TURN_MS = 250
"""A partition whose work goes on keeps the permits that it was granted for this long, while others wait for theirs.
Each exchange costs some milliseconds in which a permit is used by nobody."""
RATE_TURN_MS = 4_000
"""The same of a rate's permits, as far as a partition has one more than its part: what is above that leaves at once.
A permit of a rate comes free by time, and every millisecond until its next use is lost for good."""
_CRITICAL_MS = 3_000_000
"""A deadline that is earlier by this is that of a critical task: it does not wait for the end of a turn."""
_APART_MS = 200
"""A report from further ahead than this is none of this time: the clock was set back since."""
FRESH_MS = 10_000
"""A wish that is older than this counts no more: whoever had it reports it again every second."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The permits of one limit. ``hold_ms``: how long a claim uses one; 0: as long as the task lies in a lease."""

    name: bytes
    permits: int
    hold_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one partition has and needs of a pool, as read in one script.

    ``budget``: how many permits it may have in use; ``seq``: the last grant that it took; ``want``: how many it could
    use, those in use among them; ``deadline``: ms by which the first task that waits is ordered; ``at``: ms at which
    it was read, by the clock of the partition's server.
    """

    partition: int
    budget: int
    seq: int
    want: int
    deadline: int
    at: int


@dataclass(frozen=True, slots=True)
class Share:
    """What is on record of one partition. ``at``: when its last report was read."""

    dealt: int = 0
    seq: int = 0
    want: int = 0
    deadline: int = 0
    at: int = 0


Ledger = Mapping[int, Share]
"""The record of one pool, by partition. It is kept in one place, and changed there by compare and set."""


@dataclass(frozen=True, slots=True)
class Grant:
    """For one partition. ``budget``: its permits from now on; ``cap``: it gives back what it does not use above this,
    because others wait. None: it gives back only what it could not use."""

    partition: int
    budget: int
    seq: int
    cap: int | None = None


def deal(
    ledger: Ledger, reports: Iterable[Needs], permits: int, now: int, *, rate: bool = False, hold_ms: int = 0
) -> tuple[dict[int, Share], list[Grant]]:
    """The record after some reports, and what to send to which partition.

    Each partition with waiting work has the same number of permits, if it can use so many; what cannot be divided goes
    to those whose first task is the earliest. Nobody gets what another still has: who has too many is asked for them
    when its turn is over, and for what it cannot use at once. ``rate``: these permits come free by time, after
    ``hold_ms``.
    """
    shares = dict(ledger)
    pending: set[int] = set()
    for report in reports:
        _note(shares, report, now, pending)
    for p, share in list(shares.items()):
        if now - share.at > FRESH_MS and share.want:
            shares[p] = replace(share, want=0)
        # For a while the record shows that it was asked, so that no earlier report counts any more.
        if not shares[p].want and not shares[p].dealt and now - share.at > GRANT_MS:
            del shares[p]
    if not any(share.want or share.dealt for share in shares.values()):
        shares.clear()
    wishes = sorted(((s.deadline, p) for p, s in shares.items() if s.want))
    ideal = _divided([(p, shares[p].want) for _, p in wishes], permits)
    free = permits - sum(s.dealt for s in shares.values())
    if free < 0:
        # The limit was lowered. Nothing begins before enough has ended.
        return shares, [Grant(p, s.dealt, s.seq, cap=0) for p, s in sorted(shares.items()) if s.dealt]
    grants: list[Grant] = []
    short: list[int] = []
    for _, p in wishes:
        share = shares[p]
        missing = ideal[p] - share.dealt
        if missing <= 0:
            continue
        more = min(missing, free)
        if more < missing:
            short.append(share.deadline)
        if more:
            free -= more
            shares[p] = share = replace(share, dealt=share.dealt + more, seq=max(share.seq + 1, now))
            grants.append(Grant(p, share.dealt, share.seq))
            pending.discard(p)
    hungry = any(share.want > share.dealt for share in shares.values())
    # A grant that its partition has not taken is sent again.
    grants += [Grant(p, shares[p].dealt, shares[p].seq) for p in sorted(pending) if p in shares]
    if short:
        first = min(short)
        for p, share in sorted(shares.items()):
            part = ideal.get(p, 0)
            # A number from ahead of the clock is of before that was set back, so that turn is over.
            since = now - share.seq
            if -_APART_MS <= since < (RATE_TURN_MS if rate else TURN_MS) and first >= share.deadline - _CRITICAL_MS:
                part = part + 1 if rate else share.dealt
            if share.dealt > part:
                grants.append(Grant(p, share.dealt, share.seq, cap=part))
    if hungry:
        asked = {grant.partition for grant in grants}
        grants += [
            Grant(p, share.dealt, share.seq)
            for p, share in sorted(shares.items())
            if share.dealt
            and (now - share.at > _old_ms(share, rate, hold_ms) or share.want < share.dealt)
            and p not in asked
        ]
    return shares, grants


def _old_ms(share: Share, rate: bool, hold_ms: int) -> int:
    """For how long a report counts. Each permit of a rate lets one task begin now, and one more after each hold."""
    if not rate:
        return _OLD_MS
    return min(max(share.want // share.dealt - 2, 0) * hold_ms, _OLD_MS - _OLD_RATE_MS) + _OLD_RATE_MS


def _note(shares: dict[int, Share], report: Needs, now: int, pending: set[int]) -> None:
    p, before = report.partition, shares.get(report.partition, Share())
    if 0 < before.at - report.at < FRESH_MS and before.at <= now + _APART_MS:
        # Another engine noted a later one first. By this one the partition would seem to have what it gave back since,
        # and all together more than there is.
        return
    dealt, seq = before.dealt, before.seq
    if report.seq >= before.seq:
        # Newer than the record: the server has lost what was written here last.
        dealt, seq = report.budget, report.seq
    else:
        pending.add(p)
    shares[p] = Share(dealt, seq, report.want, report.deadline, report.at)


def _divided(wishes: Sequence[tuple[int, int]], permits: int) -> dict[int, int]:
    """Equal parts of the permits, the first ones in order coming first with what cannot be divided."""
    ideal = dict.fromkeys((p for p, _ in wishes), 0)
    left, open_ = permits, [p for p, _ in wishes]
    most = dict(wishes)
    while left > 0 and open_:
        each = max(left // len(open_), 1)
        still: list[int] = []
        for p in open_:
            more = min(each, most[p] - ideal[p], left)
            ideal[p] += more
            left -= more
            if ideal[p] < most[p]:
                still.append(p)
        open_ = still
    return ideal


# -- rates --------------------------------------------------------------------------------------------------------

MOST_PERMITS = 10_000
"""Of one limit: each one in use is an entry in the store."""
SHORTEST_MS = 100
LONGEST_MS = 24 * 3_600_000
_USABLE = 0.98


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` claims in any ``interval_ms``."""

    count: int
    interval_ms: int

    def __str__(self) -> str:
        return f"{self.count}/{_span(self.interval_ms)}"

    def permits(self, burst: int | None) -> tuple[int, int]:
        """How many permits there are, and how long (ms) a claim uses one; so many may start together.

        A burst that does not divide the rate would waste part of it, so the next smaller one that does not is taken.
        """
        most = min(burst or self.count, self.count)
        for permits in range(most, 0, -1):
            times = self.count // permits
            if permits * times >= _USABLE * self.count:
                # Rounded up, so that never more than `times` uses of a permit fall into an interval.
                return permits, -(-self.interval_ms // times)
        raise AssertionError("one permit always divides")  # pragma: no cover


_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
_BY_NAME = dict(_UNITS)


def _span(ms: int) -> str:
    for name, length in _UNITS:
        if ms % length == 0:
            return name if ms == length else f"{ms // length}{name}"
    return f"{ms}ms"  # pragma: no cover


def rate_of(text: str) -> Rate:
    """``100/s``, ``5/10m``. ValueError, whose text says what is wrong and how to mend it."""
    count, slash, interval = (part.strip() for part in text.partition("/"))
    unit = interval.lstrip("0123456789")
    number = interval[: len(interval) - len(unit)] or "1"
    if not slash or not _whole(count) or unit.strip() not in _BY_NAME or not _whole(number):
        raise ValueError(
            f"{text!r} is no rate; give a number of tasks, a slash and an interval, such as '100/s' or '5/10m'"
        )
    rate = Rate(int(count), int(number) * _BY_NAME[unit.strip()])
    if not rate.count:
        raise ValueError(f"{text!r} would let nothing through; to hold the queue's tasks back set paused")
    if not SHORTEST_MS <= rate.interval_ms <= LONGEST_MS:
        raise ValueError(f"the interval of {text!r} must be between {SHORTEST_MS}ms and {_span(LONGEST_MS)}")
    if rate.count > MOST_PERMITS:
        raise ValueError(
            f"{text!r} counts more than {MOST_PERMITS:,} tasks in one interval; give a shorter interval, such as "
            f"'{_shorter(rate)}'"
        )
    return rate


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


def _shorter(rate: Rate) -> Rate:
    parts = -(-rate.count // MOST_PERMITS)
    for _, length in _UNITS:
        if length * parts <= rate.interval_ms and length >= SHORTEST_MS:
            return Rate(max(rate.count * length // rate.interval_ms, 1), length)
    return Rate(MOST_PERMITS, max(rate.interval_ms // parts, SHORTEST_MS))
