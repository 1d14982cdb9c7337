"""Opens the store at the start of a process. A node's first process checks the server, and makes the store if need
be."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TypeVar

from delaybox import metrics
from delaybox.core.errors import ConfigError, StoreUnavailable
from delaybox.core.limits import BY_SERVER
from delaybox.core.partition import chosen
from delaybox.processes.child import Stopping
from delaybox.store import label_index, rules
from delaybox.store.durability_check import check_durability
from delaybox.store.servers import Servers
from delaybox.store.settings import StoreSettings
from delaybox.store.store import Store

log = logging.getLogger("delaybox.node")

WAIT_FOR_SERVER_S = 15.0
_LOOK_EVERY_S = 0.5

Settings = TypeVar("Settings", bound=StoreSettings)


async def prepared(settings: Settings) -> Settings:
    """The settings with the store's id. If ``partitions`` is set, this process makes the store where there is none.

    Waits for a server that does not answer yet. StoreUnavailable when it does not answer within 15 s; StoreRefused
    and ConfigError for one that cannot be used.
    """
    if not settings.partitions:
        return settings
    servers = Servers.connect(settings.server)
    server = settings.server.describe()
    try:
        deadline = asyncio.get_running_loop().time() + WAIT_FOR_SERVER_S
        last = ""
        while True:
            try:
                features = await servers.probe()
                store = await Store.open(servers, prefix=settings.prefix, partitions=settings.partitions)
                await rules.begin(store, settings.first_rules)
                await label_index.declare(store, settings.index_labels, functions=settings.index_functions)
                await check_durability(servers, store.tags, settings.durability)
                break
            except StoreUnavailable as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise StoreUnavailable(
                        f"{error} ({server}); gave up after {WAIT_FOR_SERVER_S:.0f} s. Start that server, "
                        "or correct its address: --redis, storage.redisUrl or storage.redisHost"
                    ) from None
                if last != str(error):
                    last = str(error)
                    log.warning("waiting up to %.0f s for %s: %s", WAIT_FOR_SERVER_S, server, error)
            await asyncio.sleep(_LOOK_EVERY_S)
    finally:
        await servers.close()
    if not features.aof:
        log.warning(
            "%s keeps no append-only file: tasks are lost when it stops. Set `appendonly yes` on it",
            server,
        )
    log.info("store %r on %s %s at %s", store.prefix, features.kind, features.version, server)
    if settings.durability.waits:
        log.info("durability is %s: callers are answered when their tasks are confirmed", settings.durability.mode)
    if settings.partitions not in (BY_SERVER, store.partitions):
        raise ConfigError(
            f"partitions is {settings.partitions}, but store {store.prefix!r} has {store.partitions}, which is fixed "
            "at creation: take it out, name another store with storage.prefix, or move the tasks with "
            "delaybox export and import"
        )
    if store.partitions != chosen(settings.partitions, cluster=servers.sharded):
        log.info("the store has %d partitions; that is fixed at creation", store.partitions)
    return replace(settings, store_id=store.store_id)


async def opened(settings: StoreSettings, stopping: Stopping) -> Store | None:
    """Opens the node's store, trying until it succeeds; None when the process must end meanwhile.

    StoreRefused and ConfigError when another store lies there.
    """
    servers = Servers.connect(settings.server)
    last = ""
    while not stopping.is_set():
        try:
            return await Store.open(
                servers,
                prefix=settings.prefix,
                expected=settings.store_id,
                observe=metrics.script_took,
                on_lost=metrics.store_lost,
                key_keep_ms=settings.key_keep_ms,
                durability=settings.durability,
            )
        except StoreUnavailable as error:
            if last != str(error):
                last = str(error)
                log.warning("the store cannot be opened yet: %s", error)
        await asyncio.wait({waiting := asyncio.create_task(stopping.wait())}, timeout=_LOOK_EVERY_S)
        waiting.cancel()
    await servers.close()
    return None
