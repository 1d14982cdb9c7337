"""Whether the servers of a store would take a new task now."""

from __future__ import annotations

from typing import NamedTuple

from delaybox.core.errors import DelayBoxError
from delaybox.store import identity
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store


class Writable(NamedTuple):
    """``now_ms``: the clock of a server that takes tasks. ``refusing``: why other servers of a cluster take none."""

    now_ms: int
    refusing: tuple[str, ...] = ()


async def writable(store: Store) -> Writable:
    """Asks each server by a script that is refused where a new task would be.

    StoreFull, or StoreUnavailable with the reason, where no server takes any: with a cluster new tasks go to the
    partitions of those that do. StoreLost where the store is not there any more.
    """
    groups = [group[0] for group in store.shards.group(range(store.partitions)).values()]
    replies = await store.runner.run_many([ScriptCall("ready", store.tags[p], ()) for p in groups])
    refusing: list[DelayBoxError] = []
    there: list[bytes] = []
    now_ms = 0
    for p, reply in zip(groups, replies, strict=True):
        if isinstance(reply, DelayBoxError):
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
    return Writable(now_ms, tuple(f"one {count}takes no tasks: {error}" for error in refusing))
