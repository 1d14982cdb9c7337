"""The secret by which all nodes of a store sign the dashboard's cookies where none is configured, so that a page of one
node leads to the next, and a restart logs nobody out."""

from __future__ import annotations

import secrets

from delaybox.store import keys
from delaybox.store.store import Store


async def shared(store: Store) -> str:
    """The store's secret, made by whoever asks first. StoreUnavailable; StoreLost: nothing is written then."""
    store.present()
    key = keys.dashboard_secret(store.prefix)
    # A server that takes no writes, such as a full one, refuses a SET also where NX would leave all as it is.
    found = await store.servers.ask("GET", key)
    if found is None:
        mine = secrets.token_hex(32)
        found = await store.servers.ask("SET", key, mine, "NX", "GET") or mine.encode()
    return bytes(found).decode()
