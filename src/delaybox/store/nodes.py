"""Heartbeats of nodes, which show who is alive: a hash with one small JSON for each node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from delaybox.store import keys
from delaybox.store.loader import Call
from delaybox.store.store import Store


async def beat(store: Store, node_id: str, facts: Mapping[str, Any]) -> None:
    """Writes this node's heartbeat; ``facts`` must hold ``seen_ms`` by Redis's clock."""
    await store.runner.run(Call("beat", keys.nodes(store.prefix), (node_id, json.dumps(facts))))


async def leave(store: Store, node_id: str) -> None:
    """Takes this node off the list."""
    await store.servers.ask("HDEL", keys.nodes(store.prefix), node_id)


async def live(store: Store) -> dict[str, dict[str, Any]]:
    """Every node's last heartbeat."""
    flat: dict[bytes, bytes] = await store.servers.ask("HGETALL", keys.nodes(store.prefix))
    return {k.decode(): json.loads(v) for k, v in flat.items()}


async def forget(store: Store, now_ms: int, after_ms: int) -> int:
    """Deletes the heartbeats of nodes that have not beaten for ``after_ms``; returns how many."""
    flat: dict[bytes, bytes] = await store.servers.ask("HGETALL", keys.nodes(store.prefix))
    old: list[bytes] = []
    for node_id, raw in flat.items():
        # A heartbeat ahead of the clock was written before the clock was set back; a living node has written again
        # since.
        if abs(now_ms - _seen_ms(raw)) > after_ms:
            old += (node_id, raw)
    gone = 0
    for at in range(0, len(old), 1_000):
        gone += int(await store.runner.run(Call("sweep", keys.nodes(store.prefix), old[at : at + 1_000])))
    return gone


def _seen_ms(raw: bytes) -> int:
    try:
        return int(json.loads(raw)["seen_ms"])
    except (ValueError, TypeError, KeyError):
        return 0


async def facts(store: Store, node_id: str) -> dict[str, Any] | None:
    """This node's last heartbeat; None if its engine never wrote one."""
    raw: bytes | None = await store.servers.ask("HGET", keys.nodes(store.prefix), node_id)
    return None if raw is None else dict(json.loads(raw))
