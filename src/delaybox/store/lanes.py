"""What each queue holds now, read with plain commands."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from delaybox.core.lane import split
from delaybox.core.query import QueueList, QueueStats
from delaybox.core.task import TaskType
from delaybox.store import keys
from delaybox.store.record import UnreadableRecord, of_hint, read
from delaybox.store.servers import Command
from delaybox.store.store import Store

_PARTS_AT_ONCE = 4
"""Partitions whose leases are read in one round trip."""
_SAMPLE = 20_000
"""Most near entries that are read of the whole store; where there are more, the first ones of each index stand for
all."""
_LEASES = 100
"""Most leases read of one partition; where there are more, the number in flight is estimated from these."""
_APART = 1_000
"""Most limit keys with waiting tasks that are read of one partition; where there are more, these stand for all."""
_ALL_UP_TO = 10_000
"""While the whole store holds no more than this, every pending task is looked at."""


_HEADS = 256
"""Lanes with ready work, and entries of each near index, that `waiting` looks at in one partition."""
_PARTITIONS = 64
"""Partitions that `waiting` looks at in one call; where there are more, the next call looks at others."""


class DueByLane(NamedTuple):
    """Due tasks that nobody has taken yet, by lane. ``held``: those of a queue that has no permits left. ``parked``:
    those of a paused queue. ``apart``: those of limit keys that have none left; ``waiting_keys``: of how many keys."""

    free: Counter[bytes]
    held: Counter[bytes]
    parked: Counter[bytes]
    apart: Counter[bytes]
    waiting_keys: Counter[bytes]

    def backlog(self, lane: bytes) -> int:
        """Those of a lane that wait for somebody to take them, or will when the queue lets them. Of a limit key without
        permits that is one at most: the others wait for the key, however many could take them."""
        next_of_keys = min(self.apart[lane], self.waiting_keys[lane])
        return self.free[lane] + self.held[lane] + self.parked[lane] + next_of_keys


async def waiting(store: Store, now_ms: int, turn: int = 0) -> dict[bytes, int]:
    """Lanes with due tasks that nobody has taken yet and a claim finds, and how many of them were seen. See
    `all_waiting`."""
    return (await _waiting(store, now_ms, turn, all_=False)).free


async def all_waiting(store: Store, now_ms: int, turn: int = 0) -> DueByLane:
    """Due tasks that nobody has taken yet; StoreUnavailable.

    Bounded, so a lane behind hundreds of others may be missing. ``turn``: which partitions to look at, where there are
    very many, and these stand for all; a caller counts it up.
    """
    found, times = await _waiting(store, now_ms, turn, all_=True), max(1, store.partitions // _PARTITIONS)
    return found if times == 1 else DueByLane(*(Counter({k: n * times for k, n in c.items()}) for c in found))


async def _waiting(store: Store, now_ms: int, turn: int, *, all_: bool) -> DueByLane:
    first = turn * _PARTITIONS % store.partitions
    tags = store.tags[first : first + _PARTITIONS]
    commands: list[Command] = []
    for tag in tags:
        commands += [_due(near, now_ms, _HEADS) for near in keys.nears(tag)]
        commands += [("ZRANGE", active, 0, _HEADS - 1) for active, _ in keys.actives(tag)]
        if all_:
            apart = (keys.parked(tag), keys.limited(tag), keys.apart(tag))
            commands += [("ZRANGE", lanes, 0, _HEADS - 1) for lanes in apart]
    replies = iter(await store.servers.ask_many(commands))
    found = DueByLane(Counter(), Counter(), Counter(), Counter(), Counter())
    counted: list[tuple[Counter[bytes], bytes, Command]] = []
    by_key: dict[bytes, bytes] = {}
    for tag in tags:
        for _ in keys.nears(tag):
            found.free.update(of_hint(member)[1] for member in next(replies))
        known = set(active := _ready(tag, replies))
        counted += [(found.free, *one) for one in active]
        for counter in (found.parked, found.held) if all_ else ():
            for lane, critical in map(keys.parked_lane, next(replies)):
                count: Command = ("ZCARD", keys.ready(tag, lane, critical=critical))
                # A limited lane that has room now is active as well.
                if (lane, count) not in known:
                    known.add((lane, count))
                    counted.append((counter, lane, count))
        for member in next(replies) if all_ else ():
            lane = keys.parked_lane(member)[0]
            counted.append((found.apart, lane, ("ZCARD", keys.waits(tag, member))))
            by_key.setdefault(member, lane)
    for at in range(0, len(counted), 1_000):
        some = counted[at : at + 1_000]
        numbers = await store.servers.ask_many([command for _, _, command in some])
        for (counter, lane, _), number in zip(some, numbers, strict=True):
            if number:
                counter[lane] += number
    found.waiting_keys.update(by_key.values())
    return found


def _due(near: str, now_ms: int, most: int) -> Command:
    """Asks for the first members of a near index that are due."""
    return ("ZRANGE", near, "-inf", now_ms, "BYSCORE", "LIMIT", 0, most)


def _ready(tag: str, replies: Iterator[list[bytes]]) -> list[tuple[bytes, Command]]:
    """Each lane that the next ``replies`` name, which `keys.actives` asked for, and what counts its ready tasks."""
    return [
        (lane, ("ZCARD", keys.ready(tag, lane, critical=critical)))
        for _, critical in keys.actives(tag)
        for lane in next(replies)
    ]


async def queues(store: Store, *, pending: bool = True) -> QueueList:
    """Every queue that has tasks pending (in a large store: due before the horizon) or in flight.

    Without ``pending`` what only waits for its time is not read, and counts for nothing.
    """
    counts = await store.counts()
    complete = pending and sum(c.pending for c in counts) <= _ALL_UP_TO
    return await _queues(store, complete, counts[0].now_ms, sample=pending and not complete)


class _Near(NamedTuple):
    """Near indexes of one partition, each with how many of its entries are counted: of all tasks, and of those that
    guests take the ones that are due."""

    all_: list[tuple[str, int]]
    due: list[tuple[str, int]]


class _Part(NamedTuple):
    """What one partition holds.

    ``lanes``: those with ready work, and what counts it; ``by_key``, ``many_keys``: sets of limit keys with waiting
    tasks, and how many there are; ``running``: leased tasks; ``buckets``: those to be read.
    """

    tag: str
    lanes: list[tuple[bytes, Command]]
    by_key: list[bytes]
    many_keys: int
    leases: list[bytes]
    running: int
    buckets: list[bytes]


async def _near(store: Store, now_ms: int, *, sample: bool) -> list[_Near]:
    asked: list[Command] = []
    for tag in store.tags:
        asked += [("ZCARD", near) for near in keys.nears(tag)] if sample else ()
        asked += [("ZCOUNT", near, "-inf", now_ms) for near in _waiting_for_guests(tag)]
    sizes = iter(await store.servers.ask_many(asked))
    return [
        _Near(
            [(near, next(sizes)) for near in (keys.nears(tag) if sample else ())],
            [(near, next(sizes)) for near in _waiting_for_guests(tag)],
        )
        for tag in store.tags
    ]


def _waiting_for_guests(tag: str) -> list[str]:
    """Due tasks that wait for a worker or a webhook process stay in near for a while; of other tasks time keepers leave
    none there."""
    return keys.nears(tag)[4:]


def _counted(members: Sequence[bytes], size: int) -> dict[bytes, int]:
    """Tasks of each lane, by the first members of an index of this size."""
    found = Counter(of_hint(member)[1] for member in members)
    if not members or size <= len(members):
        return found
    return {lane: round(count * size / len(members)) for lane, count in found.items()}


async def _queues(store: Store, complete: bool, now_ms: int, *, sample: bool) -> QueueList:
    pending: Counter[bytes] = Counter()
    ready: Counter[bytes] = Counter()
    in_flight: Counter[bytes] = Counter()
    ask_many = store.servers.ask_many
    near = await _near(store, now_ms, sample=sample)
    entries = sum(size for here in near for _, size in (*here.all_, *here.due))
    share = min(1.0, _SAMPLE / entries) if entries else 1.0
    asked: list[Command] = []
    for tag, here in zip(store.tags, near, strict=True):
        asked += [
            *[("ZRANGE", index, 0, math.ceil(size * share)) for index, size in here.all_],
            *[_due(index, now_ms, math.ceil(size * share) + 1) for index, size in here.due],
            *[("ZRANGE", active, 0, -1) for active, _ in keys.actives(tag)],
            ("ZRANGE", keys.parked(tag), 0, -1),
            ("ZRANGE", keys.limited(tag), 0, -1),
            ("ZRANGE", keys.apart(tag), 0, _APART - 1),
            ("ZCARD", keys.apart(tag)),
            ("ZRANGE", keys.leases(tag), 0, _LEASES - 1),
            ("HLEN", keys.leased(tag)),
            ("ZRANGE", keys.buckets(tag), 0, -1 if complete else 0),
        ]
    replies = iter(await ask_many(asked))
    guessed = share < 1.0
    parts: list[_Part] = []
    for tag, here in zip(store.tags, near, strict=True):
        for counter, indexes in ((pending, here.all_), (ready, here.due)):
            for (_, size), members in zip(indexes, islice(replies, len(indexes)), strict=True):
                counter.update(_counted(members, size))
        lanes = _ready(tag, replies)
        held_back, active = {*next(replies), *next(replies)}, set(lanes)
        for lane, critical in map(keys.parked_lane, sorted(held_back)):
            count: Command = ("ZCARD", keys.ready(tag, lane, critical=critical))
            # A limited lane that has room now is active as well.
            if (lane, count) not in active:
                lanes.append((lane, count))
        by_key, many_keys, leases, running, numbers = islice(replies, 5)
        parts.append(_Part(tag, lanes, by_key, many_keys, leases, running, numbers if complete else []))
    for at in range(0, len(parts), _PARTS_AT_ONCE):
        some = parts[at : at + _PARTS_AT_ONCE]
        asked = []
        for part in some:
            asked += [
                *[("HGETALL", keys.lease(part.tag, lease_id)) for lease_id in part.leases],
                *[("HGETALL", keys.bucket(part.tag, int(number))) for number in part.buckets],
                *[count for _, count in part.lanes],
                *[("ZCARD", keys.waits(part.tag, member)) for member in part.by_key],
            ]
        more = iter(await ask_many(asked))
        for part in some:
            leased = Counter(lane for held in islice(more, len(part.leases)) for lane in _lanes_of(held))
            # Where there are more leases than were read, these stand for all.
            times = part.running / leased.total() if len(part.leases) >= _LEASES and leased else 1.0
            guessed = guessed or times > 1.0
            in_flight.update({lane: round(count * max(times, 1.0)) for lane, count in leased.items()})
            for held in islice(more, len(part.buckets)):
                pending.update(_lanes_of(held))
            waits = Counter[bytes]()
            for (lane, _), many in zip(part.lanes, islice(more, len(part.lanes)), strict=True):
                waits[lane] += many
            # Where more keys wait than were read, these stand for all.
            guessed = guessed or part.many_keys > len(part.by_key)
            for member, many in zip(part.by_key, islice(more, len(part.by_key)), strict=True):
                waits[keys.parked_lane(member)[0]] += round(many * max(part.many_keys / len(part.by_key), 1.0))
            ready.update(waits)
            if not complete:
                pending.update(waits)
    sums: dict[tuple[TaskType, str], list[bytes]] = {}
    for lane in sorted(pending.keys() | ready.keys() | in_flight.keys()):
        try:
            task_type, queue, *_ = split(lane)
        except ValueError:
            continue  # a newer node's task type
        sums.setdefault((task_type, queue), []).append(lane)
    counted = complete and not guessed
    found = (
        QueueStats(
            queue=queue,
            type=task_type,
            pending=sum(pending[lane] for lane in lanes_),
            ready=sum(ready[lane] for lane in lanes_),
            in_flight=sum(in_flight[lane] for lane in lanes_),
            complete=counted,
            ready_lanes=tuple(lane for lane in lanes_ if ready[lane]),
        )
        for (task_type, queue), lanes_ in sums.items()
    )
    return QueueList(found, complete=counted)


def _lanes_of(held: dict[bytes, bytes]) -> list[bytes]:
    lanes: list[bytes] = []
    for task_id, raw in held.items():
        try:
            lanes.append(read(task_id, raw).lane)
        except UnreadableRecord:
            continue
    return lanes
