"""How tasks ended, as it is stored: the one speller of entries, and the reads.

scripts/lib/history_keys.lua says where entries lie.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from heapq import heapify, heappop
from operator import attrgetter
from struct import Struct, error
from typing import Any

from delaybox.core import ids, texts
from delaybox.core.delivery import Delivery
from delaybox.core.errors import InvalidTask
from delaybox.core.history import EndedTask, HistoryPage, HistoryQuery, HistoryRules
from delaybox.core.lane import split
from delaybox.core.partition import of_id
from delaybox.core.task import Priority, TaskState
from delaybox.store import keys, record
from delaybox.store.loader import ScriptCall
from delaybox.store.record import Record
from delaybox.store.store import Store

MOST_NOTED = 1_000
"""Entries in one call of ``note``."""
_CHUNK = 500
EXAMINED = 10_000
"""Most entries that one page looks at; then it ends with a cursor."""
_REASON_BYTES = 200
_VERSION = 1
_HEAD = Struct(">BcBHIHIHIHIBB")
_DUE = slice(9, 15)
_ENDED = slice(21, 27)
"""Where its due time and the moment of its end stand in an entry."""
_LANE_BYTES = 27
"""The place of the lane's length."""
_OF_DELIVERY = attrgetter("lane", "priority", "attempt", "token", "fired_ms")
_LETTERS = {TaskState.SUCCEEDED: b"s", TaskState.FAILED: b"f", TaskState.CANCELLED: b"c"}
_STATES = {letter: state for state, letter in _LETTERS.items()}
_FAILED = ord("f")
_SIZES = tuple(size.to_bytes(2, "big") for size in range(_HEAD.size + 2 * 255 + _REASON_BYTES + 1))
"""The length of each entry that there may be, as it stands before one in a chunk."""
_PRIORITIES = tuple(sorted(Priority))
_FAMILIES = {None: "sf", TaskState.FAILED: "f", TaskState.SUCCEEDED: "s", TaskState.CANCELLED: "s"}
_HASHES = 1_000
"""Hashes of one partition that a page may choose from, the latest ones."""
_LATE_MS = 10_000
"""An end may be written down this much later; after a longer time without a store it is not written down at all."""


def entry(
    state: TaskState,
    lane: bytes,
    node: bytes,
    reason: str,
    *,
    due_ms: int,
    fired_ms: int,
    ended_ms: int,
    priority: int,
    attempt: int,
    deliveries: int,
) -> bytes:
    """One end as it is stored. A reason is cut at 200 bytes."""
    head = _HEAD.pack(
        _VERSION,
        _LETTERS[state],
        priority,
        min(attempt, 65_535),
        deliveries,
        due_ms >> 32,
        due_ms & 0xFFFFFFFF,
        fired_ms >> 32,
        fired_ms & 0xFFFFFFFF,
        ended_ms >> 32,
        ended_ms & 0xFFFFFFFF,
        len(lane),
        len(node),
    )
    why = texts.head(reason, _REASON_BYTES).encode("utf-8", "replace") if reason else b""
    return head + lane + node + why


def of_deliveries(
    deliveries: Iterable[Delivery], state: TaskState, node: bytes, reason: str, *, ended_ms: int
) -> dict[bytes, bytes]:
    """Id -> entry of tasks that ended together, for the same reason."""
    failed = 1 if state is TaskState.FAILED else 0

    def whole(lane: bytes, priority: int, attempt: int, token: int, fired_ms: int) -> bytes:
        return entry(
            state,
            lane,
            node,
            reason,
            due_ms=0,
            fired_ms=fired_ms,
            ended_ms=ended_ms,
            priority=priority,
            attempt=attempt + failed,
            deliveries=token,
        )

    return _entries(deliveries, _OF_DELIVERY, whole)


def of_fired(named: Sequence[bytes], node: bytes, *, fired_ms: int) -> dict[bytes, bytes]:
    """Id -> entry of tasks that a claim published itself. ``named``: each id, and its record before that, or only the
    record's head. The tasks of one lane that were never put off differ in their times alone."""
    found: dict[bytes, bytes] = {}
    moment = fired_ms.to_bytes(6, "big")
    fired = moment + moment
    for task_id, raw in zip(named[::2], named[1::2], strict=True):
        if head := record.plain_head(raw):
            before, after = _around_times(head, node)
            found[task_id] = before + task_id[:6] + fired + after
        else:
            found[task_id] = _fired(record.read(task_id, raw), node, fired_ms)
    return found


def _fired(r: Record, node: bytes, fired_ms: int) -> bytes:
    return entry(
        TaskState.SUCCEEDED,
        r.lane,
        node,
        "",
        due_ms=r.due_ms,
        fired_ms=fired_ms,
        ended_ms=fired_ms,
        priority=r.priority,
        attempt=r.attempt,
        deliveries=r.deliveries + 1,
    )


@lru_cache(maxsize=1_024)
def _around_times(head: bytes, node: bytes) -> tuple[bytes, bytes]:
    """What stands before and behind the three times in the entry of a task whose record starts like this."""
    raw = _fired(record.read(bytes(ids.ID_BYTES), head), node, 0)
    return raw[: _DUE.start], raw[_ENDED.stop :]


def _entries(
    seen: Iterable[Delivery], shape_of: Callable[[Delivery], tuple[Any, ...]], whole: Callable[..., bytes]
) -> dict[bytes, bytes]:
    """Tasks that end together mostly differ in nothing but their due time, so the rest is encoded once."""
    found: dict[bytes, bytes] = {}
    shape: tuple[Any, ...] = ()
    before = after = b""
    for one in seen:
        its = shape_of(one)
        if its != shape:
            shape, raw = its, whole(*its)
            before, after = raw[: _DUE.start], raw[_DUE.stop :]
        found[one.task_id] = before + one.due_ms.to_bytes(6, "big") + after
    return found


def read(task_id: bytes, raw: bytes) -> EndedTask | None:
    """An entry; None for what this version cannot read."""
    try:
        version, letter, priority, attempt, deliveries, d1, d0, f1, f0, e1, e0, lane_n, node_n = _HEAD.unpack_from(raw)
        if version != _VERSION:
            return None
        at = _HEAD.size
        lane = split(raw[at : at + lane_n])
        return EndedTask(
            task_id=ids.render(task_id),
            state=_STATES[letter],
            due_ms=d1 << 32 | d0,
            fired_ms=f1 << 32 | f0,
            ended_ms=e1 << 32 | e0,
            type=lane.type,
            queue=lane.queue,
            name=lane.name,
            priority=_PRIORITIES[priority],
            attempt=attempt,
            deliveries=deliveries,
            node=raw[at + lane_n : at + lane_n + node_n].decode("utf-8", "replace"),
            reason=raw[at + lane_n + node_n :].decode("utf-8", "replace"),
        )
    except (error, KeyError, IndexError, ValueError, LookupError):
        return None


def note_call(
    store: Store,
    partition: int,
    rules: HistoryRules,
    entries: Iterable[tuple[bytes, bytes]],
    beyond: Sequence[int] = (0, 0, 0),
) -> ScriptCall:
    """Remembers at most MOST_NOTED ends. ``beyond``: how many more succeeded, failed and were cancelled."""
    parts = store.partitions
    args: list[bytes | int] = [
        rules.keep_ms,
        max(rules.keep_ms, rules.keep_failed_ms),
        max(1, rules.entries // parts),
        max(1, rules.bytes // parts),
        *beyond,
    ]
    groups: dict[tuple[bytes, int], list[bytes]] = {}
    width = store.bucket_ms
    group: list[bytes] = []
    first, past, letter = b"", b"", -1
    for task_id, raw in entries:
        # Most ends are of one minute, and then are told apart from others by two comparisons.
        if letter != raw[1] or not first <= task_id < past:
            letter, bucket = raw[1], ids.bucket(task_id, width)
            first, past = (bucket * width).to_bytes(6, "big"), ((bucket + 1) * width).to_bytes(6, "big")
            group = groups.setdefault((b"f" if letter == _FAILED else b"s", bucket), [])
        group += (task_id, _SIZES[len(raw)], raw)
    for (family, bucket), group in groups.items():
        for at in range(0, len(group), 3 * _CHUNK):
            some = group[at : at + 3 * _CHUNK]
            args += (b"%b%d" % (family, bucket), len(some) // 3, b"".join(some))
    return ScriptCall("note", store.tags[partition], args)


def _ends(chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(id, entry) of each end in a chunk."""
    at = 0
    while at + ids.ID_BYTES + 2 <= len(chunk):
        behind = at + ids.ID_BYTES + 2
        size = int.from_bytes(chunk[behind - 2 : behind], "big")
        yield chunk[at : at + ids.ID_BYTES], chunk[behind : behind + size]
        at = behind + size


async def fade(store: Store, partition: int, rules: HistoryRules) -> int:
    """Unlinks hashes whose last entry is older than the rules keep; returns how many, 50 of each family at most."""
    args = (rules.keep_ms, max(rules.keep_ms, rules.keep_failed_ms))
    return int(await store.runner.run(ScriptCall("fade", store.tags[partition], args)))


async def find(store: Store, task_id: bytes) -> EndedTask | None:
    """How a task ended; None where that is not remembered. StoreUnavailable."""
    partition = of_id(task_id, store.partitions)
    reply = await store.runner.run(ScriptCall("recall", store.tags[partition], (store.bucket_ms, task_id)))
    return read(task_id, reply) if reply else None


async def page(store: Store, wanted: HistoryQuery, *, cursor: str, limit: int) -> HistoryPage:
    """The next ends, the newest first. InvalidTask for a cursor that is none of ours. StoreUnavailable."""
    before = _decode(cursor) if cursor else (10**15, b"\xff" * 17)
    families = _FAMILIES[wanted.state]
    store.present()
    how = ("+inf", wanted.from_ms, "BYSCORE", "REV", "LIMIT", 0, _HASHES, "WITHSCORES")
    asked = [("ZRANGE", keys.history_at(tag, family), *how) for tag in store.tags for family in families]
    sums = [("HMGET", keys.history(tag), "beyond:s", "beyond:f", "beyond:c") for tag in store.tags]
    replies = await store.servers.ask_many([*asked, *sums])
    listed, counted = replies[: len(asked)], replies[len(asked) :]
    # Newest last entry first. Every entry of a hash ended before the hash's last entry was written.
    hashes: list[tuple[int, str, bytes]] = []
    for i, reply in enumerate(listed):
        hashes += [(-int(score), store.tags[i // len(families)], name) for name, score in reply]
    heapify(hashes)
    beyond = {state: sum(int(row[i] or 0) for row in counted) for i, state in enumerate(_LETTERS)}
    letters = {letter: wanted.state in (None, state) for letter, state in _STATES.items()}
    found: list[tuple[int, bytes, bytes]] = []
    examined = 0
    while hashes:
        _, tag, name = heappop(hashes)
        if cursor and _first_ms(await store.servers.ask("HGET", keys.history_sizes(tag), name)) > before[0] + _LATE_MS:
            continue
        for chunk in await store.servers.ask("HVALS", keys.history_hash(tag, name)):
            for task_id, raw in _ends(chunk):
                examined += 1
                ended_ms = int.from_bytes(raw[_ENDED], "big")
                if (ended_ms, task_id) < before and letters.get(raw[1:2]) and _matches(wanted, raw, ended_ms):
                    found.append((ended_ms, task_id, raw))
        edge = -hashes[0][0] if hashes else -1
        sure = sum(1 for ended_ms, _, _ in found if ended_ms > edge)
        # However many were looked at, a page gets further than the one before it.
        if sure >= limit or (examined >= EXAMINED and hashes and edge + 1 < before[0]):
            found.sort(reverse=True)
            shown = found[: min(sure, limit)]
            last = shown[-1][:2] if len(shown) == limit else (edge + 1, b"")
            return HistoryPage(_read_all(shown), _encode(*last), beyond)
    found.sort(reverse=True)
    more = _encode(*found[limit - 1][:2]) if len(found) > limit else ""
    return HistoryPage(_read_all(found[:limit]), more, beyond)


def _matches(wanted: HistoryQuery, raw: bytes, ended_ms: int) -> bool:
    """As `HistoryQuery.matches`, of an entry in the right state: of all that a list looks at only the lane is read."""
    if not wanted.from_ms <= ended_ms < wanted.to_ms:
        return False
    if wanted.queue is None and wanted.type is None and wanted.name is None:
        return True
    try:
        lane = split(raw[_HEAD.size : _HEAD.size + raw[_LANE_BYTES]])
    except (ValueError, IndexError):
        return False
    return (
        (wanted.queue is None or lane.queue == wanted.queue)
        and (wanted.type is None or lane.type is wanted.type)
        and (wanted.name is None or lane.name == wanted.name)
    )


def _read_all(found: Iterable[tuple[int, bytes, bytes]]) -> list[EndedTask]:
    return [one for _, task_id, raw in found if (one := read(task_id, raw)) is not None]


def _first_ms(size: bytes | None) -> int:
    """When the first entry of a hash was written, by what `history_sizes` holds of it."""
    return int.from_bytes(size[8:14], "big") if size else 0


def _encode(ended_ms: int, task_id: bytes) -> str:
    text = json.dumps(["h", ended_ms, task_id.hex()], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[int, bytes]:
    try:
        kind, ended_ms, task_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if kind != "h" or type(ended_ms) is not int or not 0 <= ended_ms < 2**64:
            raise ValueError
        return ended_ms, bytes.fromhex(task_id)
    except (ValueError, TypeError):
        raise InvalidTask(
            "cursor", f"cursor {cursor[:40]!r} is not one of this list; start again without a cursor"
        ) from None
