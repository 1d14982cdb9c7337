"""Whether all records of a partition were looked through since its server became the one that it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from delaybox.core.errors import PartAway
from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.servers import Command
from delaybox.store.store import Store

_FIELD = "scrubbed"


async def run_id(store: Store, partition: int) -> bytes:
    """The run id of a partition's server: another one after a restart or a fail-over; b"" where it is hidden from us.
    StoreUnavailable."""
    run: bytes = (await store.runner.run(ScriptCall("scrubbed", store.tags[partition], ("",))))[0]
    return run


async def lacking(store: Store, partitions: Sequence[int], run: bytes) -> list[int]:
    """Those of the partitions of one server that were not looked through since it has this run id. StoreUnavailable."""
    asks: list[Command] = [("HGET", keys.clock(store.tags[p]), _FIELD) for p in partitions]
    noted = await store.servers.ask_many(asks)
    return [p for p, one in zip(partitions, noted, strict=True) if one != run]


async def note(store: Store, partition: int, run: bytes) -> None:
    """All records of a partition were looked through while its server had this run id. StoreUnavailable."""
    await store.runner.run(ScriptCall("scrubbed", store.tags[partition], (run,)))


class Held(NamedTuple):
    """What lies in a partition: tasks at home, leases or leased tasks, tasks of groups."""

    home: bool
    leased: bool
    groups: bool


async def held(store: Store, partitions: Sequence[int]) -> list[Held]:
    """What there is to look through in each partition: where the server answers with an error anything, and who looks
    meets it there. StoreUnavailable."""
    tags = [store.tags[p] for p in partitions]
    asked: list[Command] = []
    for tag in tags:
        asked += [
            ("EXISTS", keys.buckets(tag)),
            ("EXISTS", keys.leases(tag), keys.leased(tag)),
            ("EXISTS", keys.groups(tag)),
        ]
    there = [isinstance(one, BaseException) or bool(one) for one in await store.servers.replies(asked)]
    return [Held(*there[i : i + 3]) for i in range(0, len(there), 3)]


async def sizes(store: Store, partition: int, numbers: Sequence[int]) -> list[int]:
    """How many records some buckets hold. StoreUnavailable."""
    asks: list[Command] = [("HLEN", keys.bucket(store.tags[partition], number)) for number in numbers]
    return await store.servers.ask_many(asks)


async def index(store: Store, partition: int, numbers: Sequence[int], *, count: int) -> list[tuple[int, bytes]]:
    """As `Store.index`, of several small buckets in one round trip: those that have more, each with its next cursor.
    StoreUnavailable."""
    calls = [ScriptCall("index", store.tags[partition], (number, b"0", count, store.bucket_ms)) for number in numbers]
    left: list[tuple[int, bytes]] = []
    for number, reply in zip(numbers, await store.runner.run_many(calls), strict=True):
        if isinstance(reply, PartAway):
            # Its server is away for a moment, as right after a fail-over: `Store.index` waits for it.
            left.append((number, b"0"))
            continue
        if isinstance(reply, BaseException):
            raise reply
        if reply[0] != b"0":
            left.append((number, reply[0]))
    return left
