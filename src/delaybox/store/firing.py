"""How the nodes of a store publish PUB_SUB tasks, for time keepers that have no configuration of their own."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from delaybox.store import keys
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store

_FIELD = "pubsub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """``channel``, ``stream`` (its length, 0: none), ``in_place``, ``require_subscriber``: as a clock's settings.

    ``kafka``: they go to Kafka, which only a node can do.
    """

    channel: str = "TaskExecution"
    stream: int = 0
    in_place: bool = True
    require_subscriber: bool = False
    kafka: bool = False


async def note(store: Store, how: Firing) -> None:
    """Stores how the nodes do it; the last one counts, for all are configured alike. StoreUnavailable."""
    await store.runner.run(ScriptCall("stamp", keys.meta(store.prefix), (_FIELD, msgspec.json.encode(how))))


async def noted(store: Store) -> Firing:
    """How the nodes do it; the defaults where no node ever stored it. StoreUnavailable."""
    raw = await store.servers.ask("HGET", keys.meta(store.prefix), _FIELD)
    try:
        return msgspec.json.decode(raw, type=Firing) if raw else Firing()
    except (msgspec.DecodeError, msgspec.ValidationError):
        # A newer node's, which cannot be read: it alone knows where these tasks go.
        return Firing(kafka=True)
