"""Reads lists of tasks with plain commands; nothing here writes. Lists are snapshots piece by piece, not one moment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from delaybox.core.task import TaskView
from delaybox.store import keys
from delaybox.store.loader import translate
from delaybox.store.record import Record, UnreadableRecord, read
from delaybox.store.store import Store
from delaybox.store.views import of_record, pending_state

_Entry = tuple[int, bytes, Record]
"""due ms, id, record"""

SORTED_UP_TO = 50_000
"""Inside one minute that holds more than this, tasks come in no stated order."""


async def pending(store: Store, *, limit: int, skip: int) -> list[TaskView]:
    """Waiting tasks, soonest due first.

    Before the lowest horizon the near indexes and ready sets give the order; from there on the buckets do, minute by
    minute, of which those that ``skip`` passes over are only counted.
    """
    try:
        return await _pending(store, limit, skip)
    except (RedisError, OSError) as error:
        raise translate(error) from error


async def _pending(store: Store, limit: int, skip: int) -> list[TaskView]:
    client, width = store.client, store.bucket_ms
    now = await store.ping()
    pipe = client.pipeline(transaction=False)
    for tag in store.tags:
        pipe.hget(keys.clock(tag), "horizon")
        pipe.zrange(keys.buckets(tag), 0, -1)
    replies = await pipe.execute()
    horizons = [int(h or 0) for h in replies[0::2]]
    edge = min(horizons) // width
    out: list[_Entry] = []
    passed = skip

    # What is indexed past the edge may have its record in a bucket of another minute (rescheduled, retried).
    extra: dict[int, list[_Entry]] = {}
    for entry in await _records(store, await _indexed(store, skip + limit)):
        if entry[0] < edge * width:
            out.append(entry)
        else:
            extra.setdefault(entry[0] // width, []).append(entry)
    out.sort(key=lambda r: (r[0], r[1]))
    if len(out) <= passed:
        passed -= len(out)
        out = []
    else:
        out = out[passed : passed + limit]
        passed = 0

    minutes: dict[int, list[int]] = {number: [] for number in extra}
    for p, numbers in enumerate(replies[1::2]):
        for number in map(int, numbers):
            if number >= edge:
                minutes.setdefault(number, []).append(p)
    for number in sorted(minutes):
        if len(out) >= limit:
            break
        places = [(p, keys.bucket(store.tags[p], number)) for p in minutes[number]]
        if passed and places:
            pipe = client.pipeline(transaction=False)
            for _, key in places:
                pipe.hlen(key)
            total = sum(await pipe.execute())
            if total <= passed:
                passed -= total
                continue
        found = await _minute(store, number, places, extra.get(number, []), passed + limit - len(out))
        out += found[passed : passed + limit - len(out)]
        passed = max(0, passed - len(found))
    return await _views(store, out[:limit], now)


async def _indexed(store: Store, count: int) -> list[tuple[int, bytes]]:
    """(partition, id) of what near indexes and ready sets name: the first ``count`` of each."""
    pipe = store.client.pipeline(transaction=False)
    for tag in store.tags:
        for near in keys.nears(tag):
            pipe.zrange(near, 0, count - 1)
        for letter in "pshw":
            pipe.zrange(f"{tag}:active:{letter}", 0, -1)
            pipe.zrange(f"{tag}:active:{letter}:critical", 0, -1)
    replies = await pipe.execute()
    found: list[tuple[int, bytes]] = []
    ready: list[tuple[int, str]] = []
    for p, tag in enumerate(store.tags):
        mine = replies[p * 16 : p * 16 + 16]
        for members in mine[:8]:
            found += [(p, member[:16]) for member in members]
        for i, lanes in enumerate(mine[8:]):
            ready += [(p, f"{tag}:ready:{lane.decode()}" + (":critical" if i % 2 else "")) for lane in lanes]
    if ready:
        pipe = store.client.pipeline(transaction=False)
        for _, key in ready:
            pipe.zrange(key, 0, count - 1)
        for (p, _), members in zip(ready, await pipe.execute(), strict=True):
            found += [(p, member) for member in members]
    return list(dict.fromkeys(found))


async def _minute(
    store: Store, number: int, places: Sequence[tuple[int, str]], extra: list[_Entry], count: int
) -> list[_Entry]:
    """The tasks due in one bucket's time over all partitions, sorted by due time, pointers followed."""
    here = list(extra)
    pointers: list[tuple[int, bytes]] = []
    for p, key in places:
        cursor = 0
        while True:
            reply: Any = await store.client.hscan(key, cursor, count=1000)
            cursor = reply[0]
            for task_id, raw in reply[1].items():
                if raw == b"":
                    pointers.append((p, task_id))
                else:
                    here += _read(task_id, raw)
            if cursor == 0 or len(here) > max(SORTED_UP_TO, count):
                break
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
