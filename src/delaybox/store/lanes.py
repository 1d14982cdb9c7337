"""What each queue holds now, read with plain commands."""

from __future__ import annotations

from collections import Counter
from typing import Any

from redis.exceptions import RedisError

from delaybox.core.lane import split
from delaybox.core.query import QueueStats
from delaybox.core.task import TaskType
from delaybox.store import keys
from delaybox.store.loader import translate
from delaybox.store.record import UnreadableRecord, read
from delaybox.store.store import Store

_SAMPLE = 20_000
"""Most near entries and leased tasks that are read of one partition; a deeper queue is shown with less than it has."""


_LEASES = 100
"""Most leases read of one partition; where there are more, the number in flight is estimated from these."""
_ALL_UP_TO = 10_000
"""While the whole store holds no more than this, every pending task is looked at."""


_HEADS = 256
"""Lanes with ready work, and entries of each near index, that `waiting` looks at in one partition."""
_PARTITIONS = 64
"""Partitions that `waiting` looks at in one call; where there are more, the next call looks at others."""


async def waiting(store: Store, now_ms: int, turn: int = 0) -> dict[bytes, int]:
    """Lanes with due tasks that nobody has taken yet, and how many of them were seen; StoreUnavailable.

    Bounded, so a lane behind hundreds of others may be missing. ``turn``: which partitions to look at, where there are
    very many; a caller counts it up.
    """
    first = turn * _PARTITIONS % store.partitions
    tags = store.tags[first : first + _PARTITIONS]
    actives = [(letter, kind) for letter in "pshw" for kind in ("", ":critical")]
    pipe = store.client.pipeline(transaction=False)
    for tag in tags:
        for near in keys.nears(tag):
            pipe.zrange(near, "-inf", now_ms, byscore=True, offset=0, num=_HEADS)
        for letter, kind in actives:
            pipe.zrange(f"{tag}:active:{letter}{kind}", 0, _HEADS - 1)
    found: Counter[bytes] = Counter()
    try:
        replies: list[Any] = await pipe.execute()
        ready: list[tuple[bytes, str]] = []
        each = 8 + len(actives)
        for i, tag in enumerate(tags):
            mine = replies[i * each : (i + 1) * each]
            for members in mine[:8]:
                found.update(member[16:] for member in members)
            for (_, kind), lanes in zip(actives, mine[8:], strict=True):
                ready += [(lane, f"{tag}:ready:{lane.decode()}{kind}") for lane in lanes]
        for at in range(0, len(ready), 1_000):
            pipe = store.client.pipeline(transaction=False)
            for _, key in ready[at : at + 1_000]:
                pipe.zcard(key)
            for (lane, _), count in zip(ready[at : at + 1_000], await pipe.execute(), strict=True):
                found[lane] += count
    except (RedisError, OSError) as error:
        raise translate(error) from error
    return {lane: count for lane, count in found.items() if count}


async def queues(store: Store) -> list[QueueStats]:
    """Every queue that has tasks pending (in a large store: due before the horizon) or in flight."""
    counts = await store.counts()
    complete = sum(c.pending for c in counts) <= _ALL_UP_TO
    try:
        return await _queues(store, complete, counts[0].now_ms)
    except (RedisError, OSError) as error:
        raise translate(error) from error


async def _queues(store: Store, complete: bool, now_ms: int) -> list[QueueStats]:
    pending: Counter[bytes] = Counter()
    ready: Counter[bytes] = Counter()
    in_flight: Counter[bytes] = Counter()
    guessed = False
    for tag in store.tags:
        pipe = store.client.pipeline(transaction=False)
        for near in keys.nears(tag):
            pipe.zrange(near, 0, _SAMPLE - 1)
        # Due tasks that wait for a worker stay in near for a while; of other tasks time keepers leave none there.
        for priority in range(4):
            due = keys.near(tag, priority, "w")
            pipe.zrange(due, "-inf", now_ms, byscore=True, offset=0, num=_SAMPLE)
        pipe.zrange(keys.leases(tag), 0, _LEASES - 1)
        for letter in "pshw":
            pipe.zrange(f"{tag}:active:{letter}", 0, -1)
            pipe.zrange(f"{tag}:active:{letter}:critical", 0, -1)
        pipe.hlen(keys.leased(tag))
        pipe.zrange(keys.buckets(tag), 0, -1 if complete else 0)
        replies: list[Any] = await pipe.execute()
        buckets = replies.pop() if complete else []
        if not complete:
            replies.pop()
        running = replies.pop()
        if not complete:
            for members in replies[:8]:
                pending.update(member[16:] for member in members)
        for members in replies[8:12]:
            ready.update(member[16:] for member in members)
        pipe = store.client.pipeline(transaction=False)
        for lease_id in replies[12]:
            pipe.hgetall(keys.lease(tag, lease_id))
        for number in buckets:
            pipe.hgetall(keys.bucket(tag, int(number)))
        lanes: list[bytes] = []
        for i, active in enumerate(replies[13:]):
            for lane in active:
                lanes.append(lane)
                pipe.zcard(f"{tag}:ready:{lane.decode()}" + (":critical" if i % 2 else ""))
        more: list[Any] = await pipe.execute()
        leased = len(replies[12])
        hashes = leased + len(buckets)
        here = Counter(lane for held in more[:leased] for lane in _lanes_of(held))
        # Where there are more leases than were read, these stand for all.
        share = running / here.total() if leased >= _LEASES and here else 1.0
        guessed = guessed or share > 1.0
        in_flight.update({lane: round(count * max(share, 1.0)) for lane, count in here.items()})
        for held in more[leased:hashes]:
            pending.update(_lanes_of(held))
        for lane, count in zip(lanes, more[hashes:], strict=True):
            ready[lane] += count
            if not complete:
                pending[lane] += count
    sums: dict[tuple[TaskType, str], list[bytes]] = {}
    for lane in sorted(pending.keys() | in_flight.keys()):
        try:
            task_type, queue, _ = split(lane)
        except ValueError:
            continue  # a newer node's task type
        sums.setdefault((task_type, queue), []).append(lane)
    return [
        QueueStats(
            queue=queue,
            type=task_type,
            pending=sum(pending[lane] for lane in lanes_),
            ready=sum(ready[lane] for lane in lanes_),
            in_flight=sum(in_flight[lane] for lane in lanes_),
            complete=complete and not guessed,
            ready_lanes=tuple(lane for lane in lanes_ if ready[lane]),
        )
        for (task_type, queue), lanes_ in sums.items()
    ]


def _lanes_of(held: dict[bytes, bytes]) -> list[bytes]:
    lanes: list[bytes] = []
    for task_id, raw in held.items():
        try:
            lanes.append(read(task_id, raw).lane)
        except UnreadableRecord:
            continue
    return lanes
