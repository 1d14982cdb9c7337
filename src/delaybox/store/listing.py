"""Reads lists of tasks with plain commands; nothing here writes. Lists are snapshots piece by piece, not one moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from delaybox.core.errors import InvalidTask
from delaybox.core.task import TaskView
from delaybox.store import keys
from delaybox.store.loader import translate
from delaybox.store.pages import buckets
from delaybox.store.record import Record, UnreadableRecord, read
from delaybox.store.store import Store
from delaybox.store.views import of_record, pending_state

_Entry = tuple[int, bytes, Record]
"""due ms, id, record"""

MOST_REACHED = 100_000
"""Pages go no further than this many tasks: what a page passes over must be counted each time."""
_LAST = 10**15
_MINUTES_AT_ONCE = 200
_NAMED_AT_ONCE = 5_000
_SETS_AT_ONCE = 500

SORTED_UP_TO = 50_000
"""Inside one minute that holds more than this, tasks come in no stated order."""


async def pending(store: Store, *, limit: int, skip: int) -> list[TaskView]:
    """Waiting tasks, soonest due first.

    Before the lowest horizon the near indexes and ready sets give the order. From there on the buckets do, minute by
    minute; minutes that ``skip`` passes over are only counted. InvalidTask past the first MOST_REACHED.
    """
    if skip + limit > MOST_REACHED:
        raise InvalidTask(
            "offset",
            f"offset reaches past the first {MOST_REACHED:,} tasks, which is as far as pages go here; "
            "GET /v1/tasks goes on from cursor to cursor, however many there are",
        )
    try:
        return await _pending(store, limit, skip)
    except (RedisError, OSError) as error:
        raise translate(error) from error


async def _pending(store: Store, limit: int, skip: int) -> list[TaskView]:
    width = store.bucket_ms
    now = await store.ping()
    pipe = store.client.pipeline(transaction=False)
    for tag in store.tags:
        pipe.hget(keys.clock(tag), "horizon")
    edge = min(int(horizon or 0) for horizon in await pipe.execute()) // width

    named = await _indexed(store, skip + limit)
    before = sorted((due, task_id) for task_id, (_, due) in named.items() if due < edge * width)
    here = [(named[task_id][0], task_id) for _, task_id in before[skip : skip + limit]]
    out = sorted(await _records(store, here), key=_order)
    passed = max(0, skip - len(before))
    # What is indexed past the edge may have its record in a bucket of another minute (rescheduled, retried).
    moved = [
        (p, task_id)
        for task_id, (p, due) in named.items()
        if due >= edge * width and due // width != _home(store, task_id)
    ]
    extra: dict[int, list[_Entry]] = {}
    for entry in await _records(store, moved):
        if entry[0] >= edge * width:
            extra.setdefault(entry[0] // width, []).append(entry)

    async for minutes in _minutes(store, edge, extra):
        left = minutes
        while left and len(out) < limit:
            over, chosen, left = await _choose(store, left, extra, passed, limit - len(out))
            passed -= over
            for found in await _read_minutes(store, chosen, extra, passed + limit - len(out)):
                out += found[passed : passed + limit - len(out)]
                passed = max(0, passed - len(found))
        if len(out) >= limit:
            break
    return await _views(store, out[:limit], now)


def _order(entry: _Entry) -> tuple[int, bytes]:
    return entry[0], entry[1]


def _home(store: Store, task_id: bytes) -> int:
    return int.from_bytes(task_id[:6], "big") // store.bucket_ms


_Minute = tuple[int, list[tuple[int, str]]]
"""A minute: its bucket number, and (partition, bucket's key) of each partition that has tasks in it."""


async def _minutes(store: Store, edge: int, extra: Mapping[int, object]) -> AsyncIterator[list[_Minute]]:
    """The minutes from ``edge`` on in order, those of ``extra`` among them, some hundred at a time."""
    others = sorted(extra)
    group: list[_Minute] = []
    async for number, p in buckets(store, edge, _LAST):
        while others and others[0] < number:
            group.append((others.pop(0), []))
        if others and others[0] == number:
            others.pop(0)
        if not group or group[-1][0] != number:
            if len(group) >= _MINUTES_AT_ONCE:
                yield group
                group = []
            group.append((number, []))
        group[-1][1].append((p, keys.bucket(store.tags[p], number)))
    yield group + [(number, []) for number in others]


async def _choose(
    store: Store, minutes: list[_Minute], extra: Mapping[int, list[_Entry]], passed: int, count: int
) -> tuple[int, list[_Minute], list[_Minute]]:
    """How many tasks the first minutes hold that are passed over, the minutes to read, and those that are left."""
    pipe = store.client.pipeline(transaction=False)
    for _, places in minutes:
        for _, key in places:
            pipe.hlen(key)
    sizes = iter(await pipe.execute() if any(places for _, places in minutes) else ())
    totals = [sum(next(sizes) for _ in places) + len(extra.get(number, ())) for number, places in minutes]
    over = first = 0
    while first < len(minutes) and over + totals[first] <= passed:
        over += totals[first]
        first += 1
    last, taken = first, 0
    while last < len(minutes) and taken < passed - over + count:
        taken += totals[last]
        last += 1
    return over, minutes[first:last], minutes[last:]


async def _read_minutes(
    store: Store, minutes: Sequence[_Minute], extra: Mapping[int, list[_Entry]], count: int
) -> list[list[_Entry]]:
    """The tasks of each minute; the first chunks of all their buckets come in one round trip."""
    pipe = store.client.pipeline(transaction=False)
    for _, places in minutes:
        for _, key in places:
            pipe.hscan(key, 0, count=1000)
    firsts: Any = iter(await pipe.execute() if any(places for _, places in minutes) else ())
    out: list[list[_Entry]] = []
    for number, places in minutes:
        buckets_ = [(*place, next(firsts)) for place in places]
        out.append(await _minute(store, number, buckets_, extra.get(number, []), count))
    return out


async def _indexed(store: Store, count: int) -> dict[bytes, tuple[int, int]]:
    """Id -> (partition, due ms) of the first ``count`` entries of each near index and each ready set.

    The due time of a ready task is only approximate, because its set is ordered by virtual deadline.
    """
    pipe = store.client.pipeline(transaction=False)
    for tag in store.tags:
        for letter in "pshw":
            pipe.zrange(f"{tag}:active:{letter}", 0, -1)
            pipe.zrange(f"{tag}:active:{letter}:critical", 0, -1)
    replies = await pipe.execute()
    sets: list[tuple[int, str]] = []
    for p, tag in enumerate(store.tags):
        sets += [(p, near) for near in keys.nears(tag)]
        for i, lanes in enumerate(replies[p * 8 : p * 8 + 8]):
            sets += [(p, f"{tag}:ready:{lane.decode()}" + (":critical" if i % 2 else "")) for lane in lanes]
    found: dict[bytes, tuple[int, int]] = {}
    at = 0
    while sets and at < count:
        most = min(_NAMED_AT_ONCE, count - at)
        more: list[tuple[int, str]] = []
        for from_ in range(0, len(sets), _SETS_AT_ONCE):
            some = sets[from_ : from_ + _SETS_AT_ONCE]
            pipe = store.client.pipeline(transaction=False)
            for _, key in some:
                pipe.zrange(key, at, at + most - 1, withscores=True)
            for (p, key), members in zip(some, await pipe.execute(), strict=True):
                for member, score in members:
                    found.setdefault(member[:16], (p, int(score)))
                if len(members) == most:
                    more.append((p, key))
        sets, at = more, at + most
    return found


async def _minute(
    store: Store, number: int, places: Sequence[tuple[int, str, Any]], extra: list[_Entry], count: int
) -> list[_Entry]:
    """The tasks due in one bucket's time over all partitions, sorted by due time, pointers followed.

    ``places``: partition, key and the reply to its first HSCAN.
    """
    here = list(extra)
    pointers: list[tuple[int, bytes]] = []
    for p, key, first in places:
        reply = first
        while True:
            cursor = reply[0]
            for task_id, raw in reply[1].items():
                if raw == b"":
                    pointers.append((p, task_id))
                else:
                    here += _read(task_id, raw)
            if cursor == 0 or len(here) > max(SORTED_UP_TO, count):
                break
            reply = await store.client.hscan(key, cursor, count=1000)
    here += await _records(store, pointers)
    width = store.bucket_ms
    unique = {entry[1]: entry for entry in here if entry[0] // width == number}
    return sorted(unique.values(), key=lambda r: (r[0], r[1]))


async def _records(store: Store, places: Sequence[tuple[int, bytes]]) -> list[_Entry]:
    if not places:
        return []
    pipe = store.client.pipeline(transaction=False)
    for p, task_id in places:
        home = int.from_bytes(task_id[:6], "big") // store.bucket_ms
        pipe.hget(keys.bucket(store.tags[p], home), task_id)
    out: list[_Entry] = []
    for (_, task_id), raw in zip(places, await pipe.execute(), strict=True):
        if raw:
            out += _read(task_id, raw)
    return out


def _read(task_id: bytes, raw: bytes) -> list[_Entry]:
    try:
        record = read(task_id, raw)
    except UnreadableRecord:
        return []  # the claim or the scrubber moves it to quarantine, where it is counted
    return [(record.due_ms, task_id, record)]


async def _views(store: Store, entries: Sequence[_Entry], now: int) -> list[TaskView]:
    stubs = [e for e in entries if e[2].stub]
    bodies: dict[bytes, bytes] = {}
    if stubs:
        pipe = store.client.pipeline(transaction=False)
        for _, task_id, _ in stubs:
            pipe.get(keys.body(store.tags[int.from_bytes(task_id[6:8], "big") & 0xFFF], task_id))
        for (_, task_id, _), body in zip(stubs, await pipe.execute(), strict=True):
            if body is not None:
                bodies[task_id] = body
    # A stub whose body is gone was completed between the two reads.
    views: list[TaskView] = []
    for _, task_id, r in entries:
        if not r.stub or task_id in bodies:
            with suppress(UnreadableRecord):  # one strange task must not hide the others
                views.append(of_record(r, pending_state(r, now), body=bodies.get(task_id, b"")))
    return views
