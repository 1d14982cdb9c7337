"""The servers and the store of a command that works on them itself, without asking a node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from delaybox.core.errors import ConfigError, StoreUnavailable
from delaybox.embedded import EmbeddedServer, has_run, reach
from delaybox.store.address import ServerSettings
from delaybox.store.identity import read_meta
from delaybox.store.servers import Servers
from delaybox.store.store import Store

if TYPE_CHECKING:
    from delaybox.config import Config


class NoServerHere(StoreUnavailable):
    """The configuration names no server, and that of its data folder never ran or does not answer."""


@contextlib.asynccontextmanager
async def running_server(config: Config) -> AsyncIterator[tuple[Servers, str]]:
    """The configured server, or that of the node that runs on the data folder; and the server in words."""
    settings, folder = config.server(), None
    if settings is None:
        folder = config.data_folder
        found = await reach(config.data_folder)
        if found is None:
            raise _no_node(config)
        settings = ServerSettings(unix_path=str(found[0]), password=found[1])
    async with _probed(settings, folder) as servers:
        yield servers, settings.describe()


@contextlib.asynccontextmanager
async def any_server(config: Config) -> AsyncIterator[Servers]:
    """As `running_server`; where no node runs on the data folder, its server is started for the command's time."""
    settings = config.server()
    async with contextlib.AsyncExitStack() as stack:
        if settings is None:
            # Starting one would make a folder wherever a path was mistyped.
            if not has_run(config.data_folder):
                raise _no_node(config)
            embedded = EmbeddedServer(config.data_folder)
            await embedded.start()
            stack.push_async_callback(embedded.stop)
            settings = ServerSettings(unix_path=str(embedded.unix_path), password=embedded.password)
        yield await stack.enter_async_context(_probed(settings))


@contextlib.asynccontextmanager
async def existing_store(config: Config) -> AsyncIterator[Store]:
    """The store that lies on `any_server`; ConfigError where there is none."""
    prefix = config.storage.prefix
    async with any_server(config) as servers:
        # Opening would create it.
        if await read_meta(servers, prefix) is None:
            raise ConfigError(f"there is no store with storage.prefix {prefix!r} on this server; name the right one")
        durability = config.durability.rules()
        yield await Store.open(servers, prefix=prefix, key_keep_ms=config.keys.keep, durability=durability)


def _no_node(config: Config) -> NoServerHere:
    return NoServerHere(
        f"no node has run on the data folder {config.data_folder}; start one with `delaybox serve`, "
        "or name the node's --data-dir or --redis"
    )


@contextlib.asynccontextmanager
async def _probed(settings: ServerSettings, folder: Path | None = None) -> AsyncIterator[Servers]:
    servers = Servers.connect(settings)
    try:
        try:
            await servers.probe()
        except StoreUnavailable as error:
            raise _away(str(error), settings, folder) from None
        yield servers
    finally:
        await servers.close()


def _away(text: str, settings: ServerSettings, folder: Path | None) -> StoreUnavailable:
    """What a server of one's own, or that of the data folder, said or did not say, and what to do about it."""
    if "; " in text:
        return StoreUnavailable(f"{text} ({settings.describe()})")
    if "does not answer" not in text:
        return StoreUnavailable(f"{text} ({settings.describe()}); try again shortly")
    if folder is None:
        return StoreUnavailable(f"{text} ({settings.describe()}); start that server, or correct its address")
    return NoServerHere(
        f"{text} (data folder {folder}); start its node with `delaybox serve`, or name another server with --redis or "
        "--config"
    )
