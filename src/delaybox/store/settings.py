"""The settings of a process that works on a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from delaybox.core.durability import FAST, Durability
from delaybox.core.events import NO_EVENTS, EventRules
from delaybox.core.history import NO_HISTORY, HistoryRules
from delaybox.core.limits import KEY_KEEP_MS
from delaybox.core.queue import QueueRules
from delaybox.processes.settings import ProcessSettings
from delaybox.store.address import ServerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings(ProcessSettings):
    """The server and the store on it."""

    server: ServerSettings = field(default_factory=ServerSettings)
    prefix: str = "delaybox"
    store_id: str = ""
    """The id of the store that the node works for; "" takes the one that is there."""
    partitions: int = 0
    """The number of partitions of a store that is made where there is none, or `BY_SERVER`; 0: this process makes
    none."""
    key_keep_ms: int = KEY_KEEP_MS
    """How long idempotency keys outlive their task."""
    index_labels: tuple[str, ...] = ()
    """Labels by which tasks are indexed."""
    index_functions: bool = False
    """Whether tasks are indexed by their function."""
    history: HistoryRules = NO_HISTORY
    """How long it is remembered how tasks ended."""
    durability: Durability = FAST
    """When callers are answered that their tasks are stored."""
    events: EventRules = NO_EVENTS
    """How the feed of events is kept."""
    first_rules: Mapping[str, QueueRules] = field(default_factory=dict)
    """Rules of queues for a store in which none were ever set."""
    roles: tuple[str, ...] = ()
    """The node's roles, for the heartbeat."""
