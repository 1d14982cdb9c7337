"""Reads the list of waiting tasks in pages by offset, with plain commands. Pages are snapshots piece by piece, not one
moment; lists with a cursor are in `pages.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.partition import of_id
from delaybox.core.task import TaskView
from delaybox.store import buckets, keys
from delaybox.store.record import Record, UnreadableRecord, of_hint, read
from delaybox.store.scanning import fields, hscan
from delaybox.store.store import Store
from delaybox.store.task_lists import horizons
from delaybox.store.views import of_record, pending_state

_Entry = tuple[int, bytes, Record]
"""due ms, id, record"""
_Scanned = tuple[int, dict[bytes, bytes]]
"""The next cursor, and what was found."""

MOST_REACHED = 100_000
"""Pages go no further than this many tasks: what a page passes over must be counted each time."""
_LAST = 10**15
_MINUTES_AT_ONCE = 200
_FIELDS_AT_ONCE = 1_000
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
    return await _pending(store, limit, skip)


async def _pending(store: Store, limit: int, skip: int) -> list[TaskView]:
    width = store.bucket_ms
    now = await store.ping()
    edge = min(await horizons(store)) // width

    named = await _indexed(store, skip + limit)
    before = sorted((due, task_id) for task_id, (_, due) in named.items() if due < edge * width)
    here = [(named[task_id][0], task_id) for _, task_id in before[skip : skip + limit]]
    out = sorted(await _records(store, here), key=_order)
    passed = max(0, skip - len(before))
    # What is indexed past the edge may have its record in a bucket of another minute (rescheduled, retried).
    moved = [
        (p, task_id)
        for task_id, (p, due) in named.items()
        if due >= edge * width and due // width != ids.bucket(task_id, width)
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


_Minute = tuple[int, list[tuple[int, str]]]
"""A minute: its bucket number, and (partition, bucket's key) of each partition that has tasks in it."""


async def _minutes(store: Store, edge: int, extra: Mapping[int, object]) -> AsyncIterator[list[_Minute]]:
    """The minutes from ``edge`` on in order, those of ``extra`` among them, some hundred at a time."""
    others = sorted(extra)
    group: list[_Minute] = []
    async for number, p in buckets.between(store, edge, _LAST):
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
    sizes = iter(await store.servers.ask_many([("HLEN", key) for _, places in minutes for _, key in places]))
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
    scans = [hscan(key, 0, _FIELDS_AT_ONCE) for _, places in minutes for _, key in places]
    firsts = map(fields, await store.servers.ask_many(scans))
    out: list[list[_Entry]] = []
    for number, places in minutes:
        begun = [(*place, next(firsts)) for place in places]
        out.append(await _minute(store, number, begun, extra.get(number, []), count))
    return out


async def _indexed(store: Store, count: int) -> dict[bytes, tuple[int, int]]:
    """Id -> (partition, due ms) of the first ``count`` entries of each near index and each ready set.

    The due time of a ready task is only approximate, because its set is ordered by virtual deadline.
    """
    actives = [("ZRANGE", active, 0, -1) for tag in store.tags for active, _ in keys.actives(tag)]
    replies = iter(await store.servers.ask_many(actives))
    sets: list[tuple[int, str]] = []
    for p, tag in enumerate(store.tags):
        sets += [(p, near) for near in keys.nears(tag)]
        for _, critical in keys.actives(tag):
            sets += [(p, keys.ready(tag, lane, critical=critical)) for lane in next(replies)]
    found: dict[bytes, tuple[int, int]] = {}
    at = 0
    while sets and at < count:
        most = min(_NAMED_AT_ONCE, count - at)
        more: list[tuple[int, str]] = []
        for from_ in range(0, len(sets), _SETS_AT_ONCE):
            some = sets[from_ : from_ + _SETS_AT_ONCE]
            named = await store.servers.ask_many([("ZRANGE", key, at, at + most - 1, "WITHSCORES") for _, key in some])
            for (p, key), members in zip(some, named, strict=True):
                for member, score in members:
                    found.setdefault(of_hint(member)[0], (p, int(score)))
                if len(members) == most:
                    more.append((p, key))
        sets, at = more, at + most
    return found


async def _minute(
    store: Store, number: int, places: Sequence[tuple[int, str, _Scanned]], extra: list[_Entry], count: int
) -> list[_Entry]:
    """The tasks due in one bucket's time over all partitions, sorted by due time, pointers followed.

    ``places``: partition, key and what its first HSCAN brought.
    """
    here = list(extra)
    pointers: list[tuple[int, bytes]] = []
    for p, key, (cursor, found) in places:
        while True:
            for task_id, raw in found.items():
                if raw == b"":
                    pointers.append((p, task_id))
                else:
                    here += _read(task_id, raw)
            if cursor == 0 or len(here) > max(SORTED_UP_TO, count):
                break
            cursor, found = fields(await store.servers.ask(*hscan(key, cursor, _FIELDS_AT_ONCE)))
    here += await _records(store, pointers)
    width = store.bucket_ms
    unique = {entry[1]: entry for entry in here if entry[0] // width == number}
    return sorted(unique.values(), key=lambda r: (r[0], r[1]))


async def _records(store: Store, places: Sequence[tuple[int, bytes]]) -> list[_Entry]:
    homes = [(keys.bucket(store.tags[p], ids.bucket(task_id, store.bucket_ms)), task_id) for p, task_id in places]
    found = await store.servers.ask_many([("HGET", home, task_id) for home, task_id in homes])
    out: list[_Entry] = []
    for (_, task_id), raw in zip(places, found, strict=True):
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
    apart = [keys.body(store.tags[of_id(task_id, store.partitions)], task_id) for _, task_id, _ in stubs]
    found = await store.servers.ask_many([("GET", key) for key in apart])
    bodies = {task_id: body for (_, task_id, _), body in zip(stubs, found, strict=True) if body is not None}
    # A stub whose body is gone was completed between the two reads.
    views: list[TaskView] = []
    for _, task_id, r in entries:
        if not r.stub or task_id in bodies:
            with suppress(UnreadableRecord):  # one strange task must not hide the others
                views.append(of_record(r, pending_state(r, now), body=bodies.get(task_id, b"")))
    return views
