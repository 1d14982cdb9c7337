"""Whether the servers of a store would take a new task now."""

from __future__ import annotations

from typing import NamedTuple

from delaybox.core.errors import DelayBoxError
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
    now_ms = 0
    for reply in replies:
        if isinstance(reply, DelayBoxError):
            refusing.append(reply)
        elif isinstance(reply, BaseException):
            raise reply
        else:
            now_ms = await store.presence.judge(int(reply[0]), reply[1])
    if len(refusing) == len(groups):
        raise refusing[0]
    store.present()
    count = f"of {len(groups)} servers " if len(groups) > 1 else ""
    return Writable(now_ms, tuple(f"one {count}takes no tasks: {error}" for error in refusing))
