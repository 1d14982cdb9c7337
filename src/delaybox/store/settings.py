"""What a process that works on a store is given."""

from __future__ import annotations

from dataclasses import dataclass, field

from delaybox.processes.settings import ProcessSettings
from delaybox.store.address import ServerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings(ProcessSettings):
    """The server and the store on it."""

    server: ServerSettings = field(default_factory=ServerSettings)
    prefix: str = "delaybox"
    store_id: str = ""
    """Of the store that the node works for; "" takes whichever is there."""
    partitions: int = 0
    """Of a store that is made where there is none; 0: this process makes none."""
    roles: tuple[str, ...] = ()
    """What the node is for; for the heartbeat."""
