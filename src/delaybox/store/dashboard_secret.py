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
    _, found = await store.servers.ask_many([("SET", key, secrets.token_hex(32), "NX"), ("GET", key)])
    return bytes(found).decode()
