"""Finds a task by its idempotency key."""

from __future__ import annotations

from delaybox.core.errors import TaskNotFound
from delaybox.core.words import show
from delaybox.store import keys
from delaybox.store.record import id_of_key
from delaybox.store.store import Store


async def id_of(store: Store, key: str) -> bytes:
    """The id of the task that the key names, wherever that stands. TaskNotFound."""
    store.present()
    raw = key.encode()
    entry = await store.servers.ask("GET", keys.idem(store.tags[store.partition_of(raw)], raw))
    if entry is None:
        raise TaskNotFound(f"no task has the idempotency key {show(key)}: it was never used, or its time is over")
    return id_of_key(entry)
