"""Permits of queues with limits, as they are stored: what each partition may use, and the record of each pool.

The record of a pool (`core.queue_limits.Ledger`) lies in the partition that its name decides: its home.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from delaybox.core.errors import PartAway
from delaybox.core.limit_keys import read_name
from delaybox.core.partition import of_key
from delaybox.core.queue_limits import GRANT_MS, Grant, Ledger, Needs, Pool, Share
from delaybox.store import keys
from delaybox.store.apart import Apart
from delaybox.store.loader import ScriptCall
from delaybox.store.scanning import hash_pages, zset_members
from delaybox.store.servers import Command, milliseconds
from delaybox.store.store import Store

_PART = 200
"""Pools in one call of a script."""
MOST_SERVED = 500
MOST_UNABLE = 500
"""Lanes in one call: those that are served, and those with needs that nobody can run."""
_FOREVER = 1e15
"""Until a task leaves its lease, among times."""
_decode = msgspec.msgpack.Decoder(dict[int, tuple[int, int, int, int, int]]).decode


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What one partition reports of a pool. ``gave_back``: it has fewer permits than before; ``free_ms``: when one that
    it must give back comes free by time; -1: not by time alone. ``unserved``: tasks wait there that nobody serves."""

    pool: bytes
    report: Needs
    gave_back: bool
    free_ms: int
    unserved: bool


@dataclass(frozen=True, slots=True)
class Visited:
    """One partition. ``place``: where a sweep goes on; b"": it is done. ``with_needs``: lanes with needs in which tasks
    wait that counted as served."""

    now_ms: int
    place: bytes
    with_needs: Sequence[bytes]
    pools: tuple[PoolReport, ...]


Ask = Mapping[bytes, Grant | None]
"""What to do in one partition, by pool; None: report only."""


def visit_calls(
    store: Store,
    partition: int,
    ask: Ask,
    now_ms: int,
    *,
    sweep: bytes = b"",
    served: Sequence[bytes] = (),
    unable: Sequence[bytes] = (),
) -> list[ScriptCall]:
    """Scripts that bring grants and report; read each reply with `visited`. ``served``: lanes, as the script has them;
    none: all are served, but for those of ``unable``, lanes with needs that nobody can run."""
    items = list(ask.items())
    calls: list[ScriptCall] = []
    lanes = [*served, *(b"-" + lane for lane in unable)]
    for at in range(0, max(len(items), 1), _PART):
        args: list[Any] = [b"" if at else sweep, len(lanes), *lanes]
        for pool, grant in items[at : at + _PART]:
            if grant is None:
                args += (pool, 0, 0, 0, -1)
            else:
                cap = -2 if grant.cap is None else grant.cap
                args += (pool, grant.seq, grant.budget, now_ms + GRANT_MS, cap)
        calls.append(ScriptCall("permits", store.tags[partition], args))
    return calls


def visited(partition: int, reply: Sequence[Any]) -> Visited:
    """The reply of such a script."""
    now, place, with_needs, *found = reply
    return Visited(
        now,
        place,
        with_needs,
        tuple(
            PoolReport(
                pool,
                Needs(partition=partition, budget=budget, seq=seq, want=want, deadline=int(deadline), at=now),
                gave == 1,
                free,
                unserved == 1,
            )
            for pool, budget, seq, want, deadline, gave, free, unserved in found
        ),
    )


def home(store: Store, pool: bytes) -> int:
    """The partition in which a pool's record lies."""
    return of_key(pool, store.partitions)


async def records(store: Store, pools: Sequence[bytes], apart: Apart | None = None) -> list[bytes | PartAway]:
    """The stored records of some pools; b"" for none. Of one whose home is on its way to another server that is the
    answer. ``apart``: servers that hang are not waited for. StoreUnavailable."""
    homes = [home(store, pool) for pool in pools]
    commands: list[Command] = [("HGET", keys.ledger(store.tags[p]), pool) for p, pool in zip(homes, pools, strict=True)]
    found: list[bytes | PartAway] = []
    for raw in await _read(store, apart, homes, commands):
        if isinstance(raw, BaseException) and not isinstance(raw, PartAway):
            raise raw
        found.append(raw or b"")
    return found


def decode(raw: bytes) -> Ledger:
    """A stored record. One that cannot be read counts as none: its partitions report what they have."""
    if not raw:
        return {}
    try:
        return {p: Share(*one) for p, one in _decode(raw).items()}
    except msgspec.MsgspecError:
        return {}


def encode(ledger: Ledger) -> bytes:
    """The record to store; b"" where nothing is dealt or wanted."""
    found = {p: (s.dealt, s.seq, s.want, s.deadline, s.at) for p, s in ledger.items()}
    return msgspec.msgpack.encode(found) if found else b""


async def _read(store: Store, apart: Apart | None, partitions: Sequence[int], commands: Sequence[Command]) -> list[Any]:
    if apart is None:
        return await store.servers.replies(commands)
    return await apart.send(store.servers.replies, list(zip(partitions, commands, strict=True)))


async def swap(store: Store, changes: Iterable[tuple[bytes, bytes, bytes]], apart: Apart) -> Collection[bytes]:
    """Stores new records (pool, as it was read, new one). Returns the pools whose record was another one by then, or
    whose home is on its way to another server, or has not answered: some of these may have been stored.

    StoreUnavailable: some may have been stored.
    """
    by_home: dict[int, list[tuple[bytes, bytes, bytes]]] = {}
    for change in changes:
        by_home.setdefault(home(store, change[0]), []).append(change)
    groups = [(p, some[at : at + _PART]) for p, some in by_home.items() for at in range(0, len(some), _PART)]
    calls = [ScriptCall("ledger", store.tags[p], [part for change in group for part in change]) for p, group in groups]
    late: set[bytes] = set()
    problem: BaseException | None = None
    sent = [(p, call) for (p, _), call in zip(groups, calls, strict=True)]
    for (_, group), reply in zip(groups, await apart.send(store.runner.run_many, sent), strict=True):
        if isinstance(reply, PartAway):
            late |= {change[0] for change in group}
            continue
        if isinstance(reply, BaseException):
            problem = reply
            continue
        late |= {change[0] for change, done in zip(group, reply, strict=True) if not done}
    if problem is not None:
        raise problem
    return late


def keep_call(store: Store, partition: int, tasks: Sequence[tuple[bytes, bytes]], keep_ms: int) -> ScriptCall:
    """Keeps the permits of tasks (name of the queue or limit key, id) that were acked before they were handed out; 0:
    gives them back."""
    return ScriptCall("keep", store.tags[partition], [keep_ms, *(part for task in tasks for part in task)])


async def in_use(store: Store, partitions: Sequence[int], apart: Apart) -> list[bool]:
    """Whether a partition has anything to do with limits; not of one that is on its way to another server, or whose
    server hangs. StoreUnavailable."""
    tags = [store.tags[p] for p in partitions]
    commands: list[Command] = [("EXISTS", keys.permits(tag), keys.held(tag), keys.held_keys(tag)) for tag in tags]
    found: list[bool] = []
    for reply in await _read(store, apart, partitions, commands):
        if isinstance(reply, BaseException) and not isinstance(reply, PartAway):
            raise reply
        found.append(not isinstance(reply, PartAway) and bool(reply))
    return found


@dataclass(frozen=True, slots=True)
class Use:
    """A pool over all partitions. ``used``: permits in use; ``next_ms``: when the next comes free by time; -1: not by
    time. ``waiting``: whether work waits for them."""

    used: int
    next_ms: int
    waiting: bool


async def use(store: Store, queue: bytes, pools: Sequence[Pool]) -> list[Use]:
    """How much of each pool of a queue (as lanes spell it), or of a limit key, is used now. StoreUnavailable."""
    now = milliseconds(await store.servers.ask("TIME"))
    held = keys.held if read_name(queue) is None else keys.held_keys
    commands: list[Command] = [("ZSCORE", held(tag), queue) for tag in store.tags]
    for pool in pools:
        for tag in store.tags:
            key = keys.used(tag, pool.name)
            commands += [
                ("ZCOUNT", key, now, "+inf"),
                ("ZRANGE", key, now, "+inf", "BYSCORE", "LIMIT", 0, 1, "WITHSCORES"),
            ]
    replies = iter(await store.servers.ask_many(commands))
    waiting = sum(next(replies) is not None for _ in store.tags) > 0
    found: list[Use] = []
    for _ in pools:
        used, next_ms = 0, -1
        for _ in store.tags:
            used += next(replies)
            head = next(replies)
            if head and (at := float(head[0][1])) < _FOREVER:
                next_ms = min(next_ms if next_ms >= 0 else int(at) + 1, int(at) + 1)
        found.append(Use(used, next_ms, waiting))
    return found


async def waiting_keys(store: Store, queue: bytes) -> list[bytes]:
    """Limit keys of a queue (as lanes spell it) for which tasks wait: some, where there are many. StoreUnavailable."""
    commands: list[Command] = [
        ("ZRANGE", keys.apart(tag), b"[" + queue + b"\1", b"(" + queue + b"\2", "BYLEX", "LIMIT", 0, _PART)
        for tag in store.tags
    ]
    return sorted({keys.apart_key(one) for found in await store.servers.ask_many(commands) for one in found})


async def over(store: Store, partition: int, pool: bytes) -> str | None:
    """What is wrong if a partition may use more of a pool than is dealt to it; None: nothing. StoreUnavailable.

    It is looked at until it stands still, because grants come and go between two reads.
    """
    tag = store.tags[partition]
    for _ in range(5):
        before: bytes | None = await store.servers.ask("HGET", keys.permits(tag), pool)
        (record,) = await records(store, [pool])
        if isinstance(record, PartAway):
            raise record
        again: bytes | None = await store.servers.ask("HGET", keys.permits(tag), pool)
        if before != again:
            continue
        budget = int(before.split()[0]) if before else 0
        dealt = decode(record).get(partition, Share()).dealt
        if budget <= dealt:
            return None
    return f"{budget} may be in use, {dealt} are dealt" if before == again else None


async def problems(
    store: Store, partition: int, pools: Iterable[bytes], leased: Collection[bytes]
) -> list[tuple[str, str]]:
    """What `fsck` finds wrong in a partition: the kind, and what it is about. ``pools``: those with permits in use;
    ``leased``: tasks that were seen in leases. StoreUnavailable."""
    tag, found = store.tags[partition], list[tuple[str, str]]()
    for pool in pools:
        if pool[:1] != b"c":
            continue
        async for member in zset_members(store.servers, keys.used(tag, pool), _PART):
            if member in leased:
                continue
            until, lease_id = await store.servers.together(
                [("ZSCORE", keys.used(tag, pool), member), ("HGET", keys.leased(tag), member)]
            )
            if until == math.inf and lease_id is None:
                found.append(("permit-stray", f"id {member.hex()}"))
    async for member in zset_members(store.servers, keys.apart(tag), _PART):
        set_, held = keys.waits(tag, member), keys.held_keys(tag)
        there, looked_at = await store.servers.together([("EXISTS", set_), ("ZSCORE", held, keys.apart_key(member))])
        if there and looked_at is None:
            found.append(("key-not-held", f"key {member.decode(errors='replace')!r}"))
    async for page in hash_pages(store.servers, keys.permits(tag), _PART):
        for pool, _ in page:
            if (wrong := await over(store, partition, pool)) is not None:
                found.append(("permits-over", f"pool {pool.decode(errors='replace')!r}: {wrong}"))
    return found
