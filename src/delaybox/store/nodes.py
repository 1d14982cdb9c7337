"""Heartbeats of nodes: who lives. A hash of one small JSON a node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError

from delaybox.store import keys
from delaybox.store.loader import Call, translate
from delaybox.store.store import Store


async def beat(store: Store, node_id: str, facts: Mapping[str, Any]) -> None:
    """Writes this node's heartbeat; ``facts`` must hold ``seen_ms`` by Redis's clock."""
    await store.runner.run(Call("beat", keys.nodes(store.prefix), (node_id, json.dumps(facts))))


async def leave(store: Store, node_id: str) -> None:
    """Takes this node off the list."""
    await _call(store, "HDEL", keys.nodes(store.prefix), node_id)


async def live(store: Store) -> dict[str, dict[str, Any]]:
    """Every node's last heartbeat."""
    flat = await _call(store, "HGETALL", keys.nodes(store.prefix))
    return {k.decode(): json.loads(v) for k, v in flat.items()}


async def facts(store: Store, node_id: str) -> dict[str, Any] | None:
    """This node's last heartbeat; None if its engine never wrote one."""
    raw = await _call(store, "HGET", keys.nodes(store.prefix), node_id)
    return None if raw is None else dict(json.loads(raw))


async def _call(store: Store, *command: str) -> Any:
    try:
        return await store.client.execute_command(*command)
    except (RedisError, OSError) as error:
        raise translate(error) from error
