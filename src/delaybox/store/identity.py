"""Which store this is. A server that comes back empty, or with another store, must not pass for the one that was there.

A store's id stands in its meta key and in each partition's clock hash, which the scripts that store new tasks read
anyway: they refuse where another id stands, or none. So nothing is stored in a stranger's place, at no extra cost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.exceptions import ResponseError

from delaybox.core.errors import StoreLost, StoreRefused
from delaybox.core.limits import MAX_PARTITIONS
from delaybox.core.partition import Shape
from delaybox.store import keys, record
from delaybox.store.loader import ScriptCall, ScriptRunner
from delaybox.store.servers import Servers, milliseconds
from delaybox.wire import members

log = logging.getLogger("delaybox.store")

LIVING_MS = 5_000
"""A node whose last heartbeat is no older than this is alive, and knows which store it works for."""

MOST_REPLACED: Final = 100
"""Of so many lost stores it is remembered that another one was accepted in their place, those that were lost last."""

_BEATS_S: Final = 3.0
"""Within so many seconds a living node has sent a heartbeat, also one that was held up for a moment."""

_MEND = "bring its data back, or run `delaybox store accept` if what is there now is meant"


@dataclass(frozen=True, slots=True)
class Meta:
    """What stands in a store's meta key. ``marked``: its partitions carry its id.

    ``replaces``: ids of lost stores whose place this one takes, because somebody accepted it, the last one lost last.
    """

    shape: Shape
    marked: bool
    replaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """What `accept` did. ``lost``: the ids of stores that living nodes still look for; ``made``: it made the store."""

    shape: Shape
    lost: tuple[str, ...]
    made: bool


async def open_store(servers: Servers, prefix: str, wanted: Shape, *, expected: str = "") -> Shape:
    """Takes the store that is there, or makes one of the ``wanted`` shape where there is none.

    ``expected``: the id of the store that must be there; a store that was accepted in its place is taken as well.
    Without ``expected`` no store is made while living nodes work for one that is gone. StoreLost, StoreRefused,
    StoreUnavailable.
    """
    found = await read_meta(servers, prefix)
    if found is None:
        if expected:
            raise gone(prefix, expected)
        if missed := [shape.store_id for shape in await living_shapes(servers, prefix)]:
            raise gone(prefix, missed[0])
        found = await _make(servers, prefix, wanted)
        log.info(
            "store %r is new: this server held none. Where tasks are missed, it lost them or is another one", prefix
        )
    if expected not in ("", found.shape.store_id) and expected not in found.replaces:
        raise another(prefix, expected, found.shape)
    if not found.marked:
        await mark(servers, prefix, found.shape, new=found.shape.store_id == wanted.store_id)
    return found.shape


async def read_meta(servers: Servers, prefix: str) -> Meta | None:
    """What lies in the meta key; None where there is no store. StoreRefused for what this version cannot use."""
    key = keys.meta(prefix)
    try:
        raw: dict[bytes, bytes] = await servers.ask("HGETALL", key)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        raise _no_store(key, "a key of another type") from None
    return _meta(prefix, raw) if raw else None


async def mark(servers: Servers, prefix: str, shape: Shape, *, new: bool = False) -> None:
    """Writes the store's id into every partition, and then into meta that this is done.

    ``new``: the store was made just now. Its empty partitions need not be looked through, as after a restart.
    """
    runner = ScriptRunner(servers.send)
    tags = [keys.tag(prefix, p) for p in range(shape.partitions)]
    calls = [ScriptCall("stamp", keys.clock(tag), ("store", shape.store_id)) for tag in tags]
    if new:
        calls += [ScriptCall("scrubbed", tag, ("*",)) for tag in tags]
    for reply in await runner.run_many(calls):
        if isinstance(reply, BaseException):
            raise reply
    await runner.run(ScriptCall("stamp", keys.meta(prefix), ("marked", 1)))


async def accept(servers: Servers, prefix: str, wanted: Shape) -> Accepted:
    """Declares what is on the server now to be meant: nodes that look for a lost store go on with it.

    Where there is none, a store is made in the shape that living nodes know, else in the ``wanted`` one. With another
    number of partitions than theirs, these nodes would not find all tasks. A server that was emptied a moment ago knows
    none of them yet, so their heartbeats are waited for. Harmless when repeated.
    """
    found = await read_meta(servers, prefix)
    known = await living_shapes(servers, prefix, 3 * LIVING_MS)
    made = found is None
    until = time.monotonic() + _BEATS_S
    while made and not known and time.monotonic() < until:
        await asyncio.sleep(0.1)
        known = await living_shapes(servers, prefix, 3 * LIVING_MS)
    if found is None:
        shape = known[0] if known else wanted
        found = await _make(servers, prefix, Shape(os.urandom(8).hex(), shape.partitions, shape.bucket_ms))
    lost = tuple(sorted({shape.store_id for shape in known} - {found.shape.store_id}))
    if lost:
        # Those for which nodes look now come last, and stay.
        replaces = " ".join([*(one for one in found.replaces if one not in lost), *lost][-MOST_REPLACED:])
        await ScriptRunner(servers.send).run(ScriptCall("stamp", keys.meta(prefix), ("replaces", replaces)))
    await mark(servers, prefix, found.shape)
    return Accepted(found.shape, lost, made)


def gone(prefix: str, store_id: str) -> StoreLost:
    """The error for a server that is empty where a store was."""
    return StoreLost(
        f"the store {prefix!r} (id {store_id}) is gone: its server answers, and is empty. "
        f"Nothing is stored until you {_MEND}"
    )


def another(prefix: str, store_id: str, found: Shape) -> StoreLost:
    """The error for a server that holds another store."""
    return StoreLost(
        f"the server holds another store {prefix!r} (id {found.store_id}, {found.partitions} partitions) than the one "
        f"that this node works for (id {store_id}). Nothing is stored until you {_MEND}"
    )


def damaged(prefix: str, store_id: str) -> StoreLost:
    """The error for a store of which a part is gone."""
    return StoreLost(
        f"a part of the store {prefix!r} (id {store_id}) is gone from its server. Nothing is stored until you {_MEND}"
    )


def other_shape(prefix: str, mine: Shape, found: Shape) -> StoreLost:
    """The error for an accepted store that has another number of partitions or bucket width than the lost one."""
    return StoreLost(
        f"the accepted store {prefix!r} has {found.partitions} partitions, the one that this node began with had "
        f"{mine.partitions}; start this node again"
    )


async def _make(servers: Servers, prefix: str, wanted: Shape) -> Meta:
    fields = ["format", record.FORMAT, "partitions", wanted.partitions, "bucket_ms", wanted.bucket_ms]
    # Two nodes that start together agree on the first one's.
    flat = await ScriptRunner(servers.send).run(
        ScriptCall("create_store", keys.meta(prefix), [*fields, "id", wanted.store_id])
    )
    return _meta(prefix, dict(zip(flat[0::2], flat[1::2], strict=True)))


def _meta(prefix: str, raw: dict[bytes, bytes]) -> Meta:
    found = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in raw.items()}
    try:
        written = int(found["format"])
        shape = Shape(found["id"], int(found["partitions"]), int(found["bucket_ms"]))
        if not 1 <= shape.partitions <= MAX_PARTITIONS or shape.bucket_ms < 1:
            raise ValueError
    except (KeyError, ValueError):
        raise _no_store(keys.meta(prefix), str(found)) from None
    if written > record.FORMAT:
        raise StoreRefused(
            f"the store under prefix {prefix!r} has format {written}, written by a newer DelayBox; this one knows "
            f"formats up to {record.FORMAT}. Upgrade this node, or give it another storage.prefix"
        )
    return Meta(shape, found.get("marked") == "1", tuple(found.get("replaces", "").split()))


def _no_store(key: str, what: str) -> StoreRefused:
    return StoreRefused(f"key {key!r} exists but is not a DelayBox store ({what}); choose another storage.prefix")


async def living_shapes(servers: Servers, prefix: str, within_ms: int = LIVING_MS) -> Sequence[Shape]:
    """The stores that living nodes work for, that of the latest heartbeat first."""
    clock, beats = await servers.ask_many([("TIME",), ("HGETALL", keys.nodes(prefix))])
    now = milliseconds(clock)
    found: list[tuple[int, Shape]] = []
    for member_id, raw in beats.items():
        try:
            member = members.decode(member_id.decode("utf-8", "replace"), raw)
        except ValueError:
            continue
        # A node of an early version does not state its store.
        if member.store is not None and now - member.seen_ms <= within_ms:
            found.append((member.seen_ms, member.store))
    return [shape for _, shape in sorted(found, key=lambda entry: -entry[0])]
