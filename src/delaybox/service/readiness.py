"""Whether this node can take and fire tasks now, and if not, why."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from delaybox.core.errors import DelayBoxError, StoreLost, StoreUnavailable
from delaybox.core.membership import together
from delaybox.service.why_waiting import Serving
from delaybox.store import keys, nodes
from delaybox.store.apart import Apart
from delaybox.store.store import Store
from delaybox.store.writable import writable

STALE_HEARTBEAT_MS = 5_000
_LOOKS_S = 0.75
"""For so long heartbeats and counts are waited for where there are several servers. With the look at these it is less
than whoever probes waits."""
_SLOW = f"a server of the store has not answered within {_LOOKS_S:g} s"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this node can take and fire tasks, and if not, why. Also problems in spite of which it can.

    ``store``: whether the store answers, and takes new tasks.
    """

    ok: bool
    reason: str = ""
    store: bool = True


async def look(
    store: Store, serving: Serving, node_id: str | None, engines: Collection[str], apart: Apart
) -> Readiness:
    """Asks each server of the store by a real script. ``node_id``: None where this process belongs to no node, and only
    the store is looked at. ``engines``: the ids of the node's members that must be alive. ``apart``: for how long one
    of several servers is waited for.

    What lies at a server that does not answer cannot be looked at; then only that is said.
    """
    refusing: tuple[str, ...] = ()
    try:
        now, refusing, silent = await writable(store, apart)
        if store.servers.shard_of(keys.nodes(store.prefix)) in silent:
            return Readiness(True, "; ".join(refusing))
        async with asyncio.timeout(_LOOKS_S if store.shards.several else None):
            beats = {} if node_id is None else {m.id: m for m in await nodes.live(store)}
            missing = node_id is not None and any(engine not in beats for engine in engines)
            # Not before this node's engines have reported what they serve. That is looked for in every partition.
            waits = [] if missing or silent else await serving.unserved()
    except TimeoutError:
        # A server that answered a moment ago; the next look says which.
        return Readiness(True, "; ".join([*refusing, _SLOW]))
    except DelayBoxError as error:
        # New tasks go to the other servers. Heartbeats and counts may lie at one that does not answer.
        if refusing and isinstance(error, StoreUnavailable) and not isinstance(error, StoreLost):
            return Readiness(True, "; ".join(refusing))
        return Readiness(False, str(error), store=False)
    if node_id is None:
        return Readiness(True, "; ".join([*refusing, *waits]))
    if missing:
        return Readiness(False, "the engine of this node has not reported yet")
    ago = now - min((beats[engine].seen_ms for engine in engines), default=now)
    if ago > STALE_HEARTBEAT_MS:
        return Readiness(False, f"the engine of this node was last heard of {ago / 1000:.1f} s ago")
    mine = [member.activity for member in beats.values() if member.parent == node_id]
    return Readiness(True, "; ".join([*refusing, *(together(mine).troubles if mine else ()), *waits]))
