"""Opens the store of an address, and makes it on a server that holds none yet."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from delaybox import metrics
from delaybox.core.errors import ConfigError
from delaybox.core.events import EventRules
from delaybox.core.history import KEEP_MS, HistoryRules
from delaybox.core.limits import BY_SERVER
from delaybox.direct.address import DirectAddress
from delaybox.embedded import EmbeddedServer
from delaybox.store.address import ServerSettings
from delaybox.store.asyncio_end import end
from delaybox.store.durability_check import check_durability
from delaybox.store.presence import keep_looking
from delaybox.store.servers import Servers
from delaybox.store.store import Store

log = logging.getLogger("delaybox.direct")

CONNECTIONS: Final = 32
HISTORY: Final = HistoryRules(keep_ms=KEEP_MS)
"""How ends are remembered, as by a node that is not configured otherwise."""
EVENTS: Final = EventRules()
"""How the feed of events is kept, likewise."""


@dataclass(slots=True)
class OpenedStore:
    """A store that was opened, with what stands behind it."""

    store: Store
    server: ServerSettings
    embedded: EmbeddedServer | None = None
    _looking: asyncio.Task[None] | None = field(default=None, repr=False)

    @classmethod
    async def open(cls, address: DirectAddress, *, looks: bool) -> OpenedStore:
        """``looks``: looks once a second whether the store is still there, where no engine does.

        StoreUnavailable while the server does not answer; StoreRefused for one that cannot be used;
        EmbeddedServerError.
        """
        embedded = None
        server = address.server
        if server is None:
            embedded = EmbeddedServer(address.folder)
            await embedded.start()
            server = ServerSettings(unix_path=str(embedded.unix_path), password=embedded.password)
        try:
            servers = Servers.connect(server, max_connections=CONNECTIONS)
            try:
                features = await servers.probe()
                store = await Store.open(
                    servers,
                    prefix=address.prefix,
                    partitions=address.partitions or BY_SERVER,
                    observe=metrics.script_took,
                    on_lost=metrics.store_lost,
                    durability=address.durability,
                )
                await check_durability(servers, store.tags, address.durability)
                await store.look()
                if address.partitions not in (None, store.partitions):
                    raise ConfigError(
                        f"?partitions={address.partitions}: store {store.prefix!r} has {store.partitions}, which is "
                        "fixed at creation; take it out, or name another store with ?prefix="
                    )
            except BaseException:
                await servers.close()
                raise
        except BaseException:
            if embedded is not None:
                await embedded.stop()
            raise
        if not features.aof and not looks:
            # Where work is done, and not by every program that schedules.
            log.warning(
                "%s keeps no append-only file: tasks are lost when it stops. Set `appendonly yes` on it",
                address.describe(),
            )
        opened = cls(store, server, embedded)
        if looks:
            opened._looking = asyncio.create_task(keep_looking(store.presence, store.look), name="delaybox-store-look")
        return opened

    async def close(self) -> None:
        """Closes the connections, and ends the embedded server if it is ours."""
        if self._looking is not None:
            await end(self._looking)
        await self.store.close()
        if self.embedded is not None:
            await self.embedded.stop()
