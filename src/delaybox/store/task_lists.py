"""Lists in pages with a cursor, for any number of tasks: a page examines a bounded part of the store.

Order: running tasks, then waiting ones by minute (inside a minute in the server's own order), then failed and succeeded
ones, newest first. Of one group, those that wait or run come in the order of their ids, partition by partition. A
cursor marks where the last page ended. A task that moves meanwhile can appear twice or not at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.lane import split
from delaybox.core.partition import of_id
from delaybox.core.query import Page, TaskQuery
from delaybox.core.task import TaskState, TaskView
from delaybox.store import buckets, groups, keys, label_index
from delaybox.store.page_cursors import bad, decode, encode, place_in
from delaybox.store.record import Record, UnreadableRecord, read, read_dead, split_result
from delaybox.store.scanning import fields, hscan
from delaybox.store.store import Store
from delaybox.store.views import of_record, pending_state

EXAMINED = 5_000
"""Most records that one page looks at; then it ends with a cursor, however few matched."""

_LEAST = 100
"""Records that a page looks at even where its time is over: a slow server's pages get further, too."""
_AT_ONCE = 500
"""Records read in one round trip."""
_ENDED_AT_ONCE = 100
"""Failed or succeeded tasks read in one round trip."""
_LEASES_AT_ONCE = 20
"""Leases read in one round trip: each may hold 500 tasks."""
_OF_STATE = {
    None: ("running", "waiting"),
    TaskState.SCHEDULED: ("waiting",),
    TaskState.READY: ("waiting",),
    TaskState.RUNNING: ("running",),
    TaskState.FAILED: ("failed",),
    TaskState.SUCCEEDED: ("succeeded",),
    TaskState.CANCELLED: (),
}

_Scanned = tuple[int, dict[bytes, bytes]]
"""The next cursor, and what was found."""
Chunk = tuple[str, list[TaskView]]
"""The cursor behind some tasks, and those of them that match."""
_Found = tuple[list[Any], TaskView | None]
"""Where to go on after this record, and its view (None: examined, but not one to show)."""


async def page(store: Store, wanted: TaskQuery, *, cursor: str, limit: int, in_time_s: float = 0.0) -> Page:
    """The next ``limit`` tasks. InvalidTask for a cursor that is none of ours.

    ``in_time_s``: it ends with a cursor after about this time (0: never for its time), for those who wait for a page.
    """
    phases = _OF_STATE[wanted.state]
    indexed = label_index.asked(wanted)
    scanned = bool(indexed) and not wanted.group
    if wanted.group and phases and phases[0] in ("running", "waiting"):
        phases = ("group",)
    elif indexed and phases and phases[0] in ("running", "waiting"):
        # A list goes on as it began, whatever became of the index.
        by_index = decode(cursor)[0] == "label" if cursor else bool(await label_index.usable(store, indexed))
        phases, scanned = (("label",), False) if by_index else (phases, True)
    phase, place = decode(cursor) if cursor else ("", [])
    if phase:
        if phase not in phases:
            raise bad(cursor)
        phases = phases[phases.index(phase) :]
    items: list[TaskView] = []
    examined = 0
    ends_at = time.monotonic() + in_time_s if in_time_s else math.inf
    store.present()
    try:
        for name in phases:
            walk = _WALKS[name](store, wanted, place if name == phase else [], limit)
            async for place_after, view in walk:
                examined += 1
                if view is not None and matches(wanted, view):
                    items.append(view)
                late = examined >= _LEAST and time.monotonic() >= ends_at
                if len(items) >= limit or examined >= EXAMINED or late:
                    return Page(items, encode(name, place_after), scanned)
    except (TypeError, ValueError, IndexError, KeyError):
        if cursor:
            raise bad(cursor) from None
        raise
    return Page(items, scanned=scanned)


def matches(wanted: TaskQuery, view: TaskView) -> bool:
    """Whether everything that the filter sets holds for a task."""
    return (
        (wanted.state is None or view.state is wanted.state)
        and (wanted.queue is None or view.queue == wanted.queue)
        and (wanted.type is None or view.type is wanted.type)
        and (not wanted.group or view.group == wanted.group)
        and (wanted.name is None or view.name == wanted.name)
        and wanted.due_from_ms <= view.due_ms < wanted.due_to_ms
        and all(view.labels.get(name) == value for name, value in wanted.labels.items())
    )


async def _running(store: Store, wanted: TaskQuery, place: list[Any], limit: int) -> AsyncIterator[_Found]:
    p, after, skip = place or (0, "", 0)
    for partition in range(p, store.partitions):
        tag = store.tags[partition]
        leases: list[bytes] = await store.servers.ask("ZRANGE", keys.leases(tag), 0, -1)
        left = sorted(lid for lid in leases if partition > p or lid.hex() >= after)
        for at in range(0, len(left), _LEASES_AT_ONCE):
            some = left[at : at + _LEASES_AT_ONCE]
            hashes = await store.servers.ask_many([("HGETALL", keys.lease(tag, lease_id)) for lease_id in some])
            for lease_id, held in zip(some, hashes, strict=True):
                text = lease_id.hex()
                done = skip if partition == p and text == after else 0
                for i, (task_id, raw) in enumerate(sorted(held.items())):
                    if i >= done:
                        yield [partition, text, i + 1], await _view(store, tag, task_id, raw, TaskState.RUNNING)


async def _waiting(store: Store, wanted: TaskQuery, place: list[Any], limit: int) -> AsyncIterator[_Found]:
    now = await store.ping()
    width = store.bucket_ms
    # What one HSCAN returns depends on COUNT, so a chunk that was shown in part is read again with the same count.
    number, p, cursor, skip, count = place or (0, 0, 0, 0, limit)
    count = max(10, min(count, 500))
    edges = await horizons(store)
    first, last = wanted.due_from_ms // width, (wanted.due_to_ms - 1) // width
    edge = max(edges) // width + 1
    spans = ((number, _near(wanted, edge, width, now)), (max(number, edge, first), last))
    async for bucket, partition, at, scanned in _first_chunks(store, spans, (number, p, cursor), count):
        tag = store.tags[partition]
        done = skip if (bucket, partition, at) == (number, p, cursor) else 0
        while True:
            after, found = scanned
            views = await _chunk(store, wanted, tag, bucket, found, edges[partition], now)
            for i, view in enumerate(views):
                if i >= done:
                    yield [bucket, partition, at, i + 1, count], view
            at, done = after, 0
            if at == 0:
                break
            # A chunk that showed nothing must still move the cursor on.
            yield [bucket, partition, at, 0, count], None
            scanned = fields(await store.servers.ask(*hscan(keys.bucket(tag, bucket), at, count)))


async def _first_chunks(
    store: Store, spans: Sequence[tuple[int, int]], start: tuple[int, int, int], count: int
) -> AsyncIterator[tuple[int, int, int, _Scanned]]:
    """(number, partition, cursor, what HSCAN brought) of each bucket, those of many small ones in one round trip.

    ``start``: the bucket, partition and cursor to begin with. A round trip for each bucket would make a page of a
    thousand thin ones last a second.
    """
    waiting: list[tuple[int, int, int]] = []
    # A few buckets first, because they may fill the page; then more and more at a time.
    together = min(count, 8)

    async def fetch() -> list[tuple[int, int, int, _Scanned]]:
        scans = [hscan(keys.bucket(store.tags[partition], bucket), at, count) for bucket, partition, at in waiting]
        replies = await store.servers.ask_many(scans)
        return [(*entry, fields(reply)) for entry, reply in zip(waiting, replies, strict=True)]

    async for bucket, partition in _spans(store, spans):
        if bucket == start[0] and partition < start[1]:
            continue
        waiting.append((bucket, partition, start[2] if (bucket, partition) == start[:2] else 0))
        if len(waiting) >= together:
            for found in await fetch():
                yield found
            waiting, together = [], min(2 * together, 64)
    for found in await fetch() if waiting else ():
        yield found


async def waiting_chunks(store: Store, wanted: TaskQuery, cursor: str = "") -> AsyncIterator[Chunk]:
    """The waiting tasks that match, some hundreds at a time. Each is examined once, even while the caller changes
    tasks. A task that is moved meanwhile can appear again at its new time.

    ``cursor``: where to begin. Without one the first chunk is empty, and has the cursor of the beginning. InvalidTask
    for a cursor that is none of ours. StoreUnavailable.
    """
    number, p, begin, _, count = place_in(cursor, "waiting") or (0, 0, 0, 0, _AT_ONCE)
    count = max(10, min(count, _AT_ONCE))
    width = store.bucket_ms
    now = await store.ping()
    edges = await horizons(store)
    first, last = wanted.due_from_ms // width, (wanted.due_to_ms - 1) // width
    edge = max(edges) // width + 1
    if not cursor:
        yield encode("waiting", [0, 0, 0, 0, count]), []
    spans = ((number, _near(wanted, edge, width, now)), (max(number, edge, first), last))
    async for bucket, partition in _spans(store, spans):
        if bucket == number and partition < p:
            continue
        tag = store.tags[partition]
        at = begin if (bucket, partition) == (number, p) else 0
        while True:
            # Goes by the server's own cursor and not by positions in a chunk, which shift when tasks go.
            at, found = fields(await store.servers.ask(*hscan(keys.bucket(tag, bucket), at, count)))
            views = await _chunk(store, wanted, tag, bucket, found, edges[partition], now)
            place = [bucket, partition, at, 0, count] if at else [bucket, partition + 1, 0, 0, count]
            yield encode("waiting", place), [view for view in views if view is not None and matches(wanted, view)]
            if not at:
                break


async def _grouped(store: Store, wanted: TaskQuery, place: list[Any], limit: int) -> AsyncIterator[_Found]:
    p, after = place or (0, "")
    now = await store.ping()
    for partition in await groups.places(store, wanted.group, p):
        tag = store.tags[partition]
        async for page_ in groups.members(
            store, partition, wanted.group, bytes.fromhex(after) if partition == p else b""
        ):
            for record, leased in page_:
                state = TaskState.RUNNING if leased else pending_state(record, now)
                yield [partition, record.task_id.hex()], await _of_record(store, tag, record, state)


async def group_chunks(store: Store, wanted: TaskQuery, cursor: str = "") -> AsyncIterator[Chunk]:
    """As `waiting_chunks`, of one group; bodies are read only where a label must match."""
    p, after = place_in(cursor, "group") or (0, "")
    now = await store.ping()
    if not cursor:
        yield encode("group", [0, ""]), []
    for partition in await groups.places(store, wanted.group, p):
        last = after if partition == p else ""
        async for page_ in groups.members(store, partition, wanted.group, bytes.fromhex(last)):
            views: list[TaskView] = []
            for record, leased in page_:
                last = record.task_id.hex()
                if leased:
                    continue
                state = pending_state(record, now)
                if not wanted.labels:
                    record = replace(record, stub=False, body=b"")
                view = await _of_record(store, store.tags[partition], record, state)
                if view is not None and matches(wanted, view):
                    views.append(view)
            if page_:
                yield encode("group", [partition, last]), views
        yield encode("group", [partition + 1, ""]), []


async def _labelled(store: Store, wanted: TaskQuery, place: list[Any], limit: int) -> AsyncIterator[_Found]:
    indexed = label_index.asked(wanted)
    name, p, after = place or (await label_index.usable(store, indexed) or min(indexed), 0, "")
    now = await store.ping()
    async for members in _with_label(store, wanted, name, p, bytes.fromhex(after)):
        for record, leased in members:
            state = TaskState.RUNNING if leased else pending_state(record, now)
            partition = of_id(record.task_id, store.partitions)
            shown = await _of_record(store, store.tags[partition], record, state)
            yield [name, partition, record.task_id.hex()], shown


async def _with_label(
    store: Store, wanted: TaskQuery, name: str, start: int = 0, after: bytes = b""
) -> AsyncIterator[list[groups.GroupedTask]]:
    """The tasks that seem to have one of the labels, some hundreds at a time, by partition and id."""
    async for found in label_index.candidates(store, name, label_index.asked(wanted)[name], start):
        left = [one for one in found if one > (start, after)]
        for at in range(0, len(left), _AT_ONCE):
            yield await groups.read_members(store, [task_id for _, task_id in left[at : at + _AT_ONCE]])


async def label_chunks(store: Store, wanted: TaskQuery, name: str, cursor: str = "") -> AsyncIterator[Chunk]:
    """As `waiting_chunks`, by the index of one label."""
    begun, p, after = place_in(cursor, "label") or (name, 0, "")
    if begun != name or name not in label_index.asked(wanted):
        raise bad(cursor)
    now = await store.ping()
    place = [name, p, after]
    if not cursor:
        yield encode("label", place), []
    async for members in _with_label(store, wanted, name, p, bytes.fromhex(after)):
        views: list[TaskView] = []
        for record, leased in members:
            partition = of_id(record.task_id, store.partitions)
            place = [name, partition, record.task_id.hex()]
            if not leased:
                view = await _of_record(store, store.tags[partition], record, pending_state(record, now))
                if view is not None and matches(wanted, view):
                    views.append(view)
        yield encode("label", place), views


async def horizons(store: Store) -> list[int]:
    """Of each partition the ms up to which near indexes name its tasks. StoreUnavailable."""
    found = await store.servers.ask_many([("HGET", keys.clock(tag), "horizon") for tag in store.tags])
    return [int(horizon or 0) for horizon in found]


def _near(wanted: TaskQuery, edge: int, width: int, now: int) -> int:
    """The last of the buckets before the horizon that a filter must look at; -1 for none.

    There a task may be due in another minute than it lies in, so these few are all looked at. What is due behind the
    horizon has a pointer in its minute's bucket.
    """
    return -1 if wanted.due_from_ms >= max(edge * width, now + 60_000) else edge - 1


async def _spans(store: Store, spans: Sequence[tuple[int, int]]) -> AsyncIterator[tuple[int, int]]:
    for first, last in spans:
        async for entry in buckets.between(store, first, last):
            yield entry


async def _chunk(
    store: Store, wanted: TaskQuery, tag: str, bucket: int, found: dict[bytes, bytes], horizon: int, now: int
) -> list[TaskView | None]:
    """One view for each field, None where the field must not be shown in this bucket, or its record does not match."""
    width = store.bucket_ms
    entries = list(found.items())
    pointers = [task_id for task_id, raw in entries if raw == b""]
    homes = [("HGET", keys.bucket(tag, ids.bucket(task_id, width)), task_id) for task_id in pointers]
    followed: dict[bytes, bytes | None] = dict(zip(pointers, await store.servers.ask_many(homes), strict=True))
    views: list[TaskView | None] = []
    for task_id, raw in entries:
        real = followed.get(task_id) if raw == b"" else raw
        try:
            record = read(task_id, real or b"")
        except UnreadableRecord:
            views.append(None)
            continue
        elsewhere = record.due_ms // width != bucket
        # A record whose time lies in another bucket is shown there, by its pointer; before the horizon it has none.
        if (raw == b"" and elsewhere) or (raw != b"" and elsewhere and record.due_ms >= max(horizon, now + 60_000)):
            views.append(None)
            continue
        # Most records are left out by what stands in their heads: then their bodies need not be read.
        fits = _fits(wanted, record)
        views.append(await _of_record(store, tag, record, pending_state(record, now)) if fits else None)
    return views


def _fits(wanted: TaskQuery, record: Record) -> bool:
    """Whether a filter holds for what the head of a record states."""
    if not wanted.due_from_ms <= record.due_ms < wanted.due_to_ms:
        return False
    if wanted.queue is None and wanted.type is None and wanted.name is None:
        return True
    try:
        lane = split(record.lane)
    except ValueError:
        return False  # a newer node's task type
    return (
        (wanted.queue is None or lane.queue == wanted.queue)
        and (wanted.type is None or lane.type is wanted.type)
        # A name that is not in the lane may stand in the body.
        and (wanted.name is None or lane.name in ("", wanted.name))
    )


async def _failed(store: Store, wanted: TaskQuery, place: list[Any], limit: int) -> AsyncIterator[_Found]:
    async for some in _newest(store, place, limit, keys.dead_at):
        values = await store.servers.ask_many([("HGET", keys.dead(tag), task_id) for _, tag, task_id in some])
        letters: dict[bytes, tuple[str, Record, str]] = {}
        for (_, tag, task_id), value in zip(some, values, strict=True):
            with suppress(UnreadableRecord):
                if value is not None:
                    _, reason, record = read_dead(task_id, value)
                    # Many are left out by what stands in their heads: then nothing else of them need be read.
                    if _fits(wanted, record):
                        letters[task_id] = tag, record, reason
        kept = await store.servers.ask_many(
            [("HGET", keys.results(tag), task_id) for task_id, (tag, _, _) in letters.items()]
        )
        results = dict(zip(letters, kept, strict=True))
        for after, _, task_id in some:
            view = None
            if task_id in letters:
                tag, record, reason = letters[task_id]
                result = split_result(results[task_id])[0] if results[task_id] else b""
                view = await _of_record(store, tag, record, TaskState.FAILED, reason=reason, result=result)
            yield after, view


async def _succeeded(store: Store, wanted: TaskQuery, place: list[Any], limit: int) -> AsyncIterator[_Found]:
    async for some in _newest(store, place, limit, keys.results_at):
        values = await store.servers.ask_many([("HGET", keys.results(tag), task_id) for _, tag, task_id in some])
        for (after, tag, task_id), value in zip(some, values, strict=True):
            view = None
            if value is not None:
                result, raw = split_result(value)
                if raw:
                    view = await _view(store, tag, task_id, raw, TaskState.SUCCEEDED, result)
            yield after, view


async def _newest(
    store: Store, place: list[Any], limit: int, key_of: Callable[[str], str]
) -> AsyncIterator[list[tuple[list[Any], str, bytes]]]:
    """Members of one zset a partition, highest score first, some at a time: (place after it, tag, id)."""
    score, after = (place[0], bytes.fromhex(place[1])) if place else (10**15, b"\xff" * 17)
    count = limit + 1
    while True:
        how = (score, "-inf", "BYSCORE", "REV", "LIMIT", 0, count, "WITHSCORES")
        replies = await store.servers.ask_many([("ZRANGE", key_of(tag), *how) for tag in store.tags])
        found = [(int(at), task_id, p) for p, reply in enumerate(replies) for task_id, at in reply]
        full = [int(reply[-1][1]) for reply in replies if len(reply) == count]
        edge = max(full) if full else None
        fresh = sorted(
            (f for f in found if (f[0], f[1]) < (score, after) and (edge is None or f[0] > edge)), reverse=True
        )
        step = min(limit, _ENDED_AT_ONCE)
        for start in range(0, len(fresh), step):
            some = fresh[start : start + step]
            yield [([at, task_id.hex()], store.tags[p], task_id) for at, task_id, p in some]
        if edge is None:
            return
        if fresh:
            score, after = fresh[-1][0], fresh[-1][1]
        else:
            # More tasks at one and the same ms than were asked for: ask for more.
            count *= 2


async def _view(
    store: Store, tag: str, task_id: bytes, raw: bytes, state: TaskState, result: bytes = b""
) -> TaskView | None:
    try:
        return await _of_record(store, tag, read(task_id, raw), state, result=result)
    except UnreadableRecord:
        return None


async def _of_record(
    store: Store, tag: str, record: Record, state: TaskState, *, reason: str = "", result: bytes = b""
) -> TaskView | None:
    body = b""
    if record.stub:
        kept: bytes | None = await store.servers.ask("GET", keys.body(tag, record.task_id))
        if kept is None:
            if state is not TaskState.SUCCEEDED:
                return None  # completed between the two reads
            record = replace(record, stub=False, body=b"")
        else:
            body = kept
    try:
        return of_record(record, state, body=body, reason=reason, result=result)
    except UnreadableRecord:
        return None


_WALKS = {
    "running": _running,
    "waiting": _waiting,
    "failed": _failed,
    "succeeded": _succeeded,
    "group": _grouped,
    "label": _labelled,
}
