"""Whether the servers of a store would take a new task now."""

from __future__ import annotations

from typing import NamedTuple

from delaybox.core.errors import DelayBoxError, PartAway
from delaybox.store import identity
from delaybox.store.apart import SILENT, Apart
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store

SERVER_PATIENCE_S = 1.0
"""For so long one of several servers is waited for. Whoever probes waits for little more."""


class Writable(NamedTuple):
    """``now_ms``: the clock of a server that takes tasks. ``refusing``: why other servers of a cluster take none.
    ``silent``: the numbers (`Shards.of`) of those among them that were not waited for."""

    now_ms: int
    refusing: tuple[str, ...] = ()
    silent: frozenset[int] = frozenset()


async def writable(store: Store, apart: Apart) -> Writable:
    """Asks each server by a script that is refused where a new task would be. ``apart``: for how long one of several
    servers is waited for.

    StoreFull, or StoreUnavailable with the reason, where no server takes any: with a cluster new tasks go to the
    partitions of those that do. StoreLost where the store is not there any more.
    """
    groups = [group[0] for group in store.shards.group(range(store.partitions)).values()]
    calls = [(p, ScriptCall("ready", store.tags[p], ())) for p in groups]
    replies = await apart.send(store.runner.run_many, calls)
    refusing: list[DelayBoxError] = []
    silent: set[int] = set()
    there: list[bytes] = []
    now_ms = 0
    for p, reply in zip(groups, replies, strict=True):
        if reply is SILENT:
            silent.add(store.shards.of[p])
            refusing.append(_unanswered(store, p, apart.patience_s))
        elif isinstance(reply, DelayBoxError):
            refusing.append(reply)
        elif isinstance(reply, BaseException):
            raise reply
        else:
            there.append(reply[1])
            # As every look does, by partition 0: what each server has by itself must not pass for all of the store.
            now_ms = await store.presence.judge(int(reply[0]), reply[1]) if p == 0 else now_ms or int(reply[0])
    if len(refusing) == len(groups):
        raise refusing[0]
    store.present()
    if any(one.decode(errors="replace") != store.store_id for one in there):
        raise identity.damaged(store.prefix, store.store_id)
    count = f"of {len(groups)} servers " if len(groups) > 1 else ""
    return Writable(now_ms, tuple(f"one {count}takes no tasks: {error}" for error in refusing), frozenset(silent))


def _unanswered(store: Store, partition: int, within_s: float) -> PartAway:
    shard = store.shards.of[partition]
    names = [f"{one.address[0]}:{one.address[1]}" for one in store.servers.primaries() if one.shard == shard]
    which = f"the server {names[0]}" if names else "it"
    return PartAway(f"{which} has not answered within {within_s:g} s")
