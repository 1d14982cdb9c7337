"""The store of an API process, opened at its start or, where Redis is away, as soon as it is back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from delaybox import metrics
from delaybox.api.settings import ServingSettings
from delaybox.core.errors import StoreUnavailable
from delaybox.service import Service
from delaybox.service.shedding import Shedding
from delaybox.store.asyncio_end import end
from delaybox.store.presence import keep_looking
from delaybox.store.servers import Servers
from delaybox.store.store import Store

_REOPEN_S = 0.5

OnOpen = Callable[[Store], Awaitable[None]]
"""Called once, when the store is there and before the first call is answered."""


class Opening:
    """Opens the store of ``settings`` for ``service``, whose calls raise StoreUnavailable until then."""

    def __init__(self, settings: ServingSettings, log: logging.Logger, on_open: OnOpen | None = None) -> None:
        self.service = Service(
            node_id=settings.node_id or None,
            engines=settings.engines,
            on_scheduled=metrics.scheduled,
            topics=settings.topics,
            queues=settings.queues,
            history=settings.history,
            events=settings.events,
            shedding=Shedding(settings.wait_ms / 1000, on_refused=metrics.shed),
        )
        self._settings = settings
        self._log = log
        self._on_open = on_open
        self._servers = Servers.connect(settings.server)
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> asyncio.Task[None] | None:
        """Opens the store; where that is not possible yet, returns the task that goes on trying.

        Both raise when a store lies there that this version may not touch.
        """
        try:
            await self._open()
        except StoreUnavailable as error:
            self._log.warning("the store cannot be opened yet: %s", error)
            self.service.not_open(str(error))
            return asyncio.create_task(self._keep_opening())
        return None

    async def close(self) -> None:
        """Closes the connections."""
        if self._looking is not None:
            await end(self._looking)
        with contextlib.suppress(Exception):
            await self._servers.close()
        # The process ends without running what its loop was to do later.
        metrics.add_all()

    async def _open(self) -> None:
        s = self._settings
        store = await Store.open(
            self._servers,
            prefix=s.prefix,
            expected=s.store_id,
            observe=metrics.script_took,
            on_lost=metrics.store_lost,
            key_keep_ms=s.key_keep_ms,
            durability=s.durability,
        )
        if self._on_open is not None:
            await self._on_open(store)
        self.service.open(store)
        self._looking = asyncio.create_task(keep_looking(store.presence, store.look), name="delaybox-store-look")

    async def _keep_opening(self) -> None:
        while True:
            await asyncio.sleep(_REOPEN_S)
            try:
                await self._open()
            except StoreUnavailable as error:
                self.service.not_open(str(error))
            else:
                self._log.info("the store is open")
                return
