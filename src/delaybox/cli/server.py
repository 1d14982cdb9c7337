"""A client for a command that talks to the store of a node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from delaybox.core.errors import StoreUnavailable
from delaybox.embedded import EmbeddedServer, has_run, reach
from delaybox.store.connect import ServerSettings, make_client, probe

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from delaybox.config import Config


@contextlib.asynccontextmanager
async def running_server(config: Config) -> AsyncIterator[tuple[Redis, str]]:
    """A client of the configured server, or of the node that runs on the data folder; and the server in words."""
    settings = config.server()
    if settings is None:
        found = await reach(config.data_folder)
        if found is None:
            raise _no_node(config)
        settings = ServerSettings(unix_path=str(found[0]), password=found[1])
    async with _client(settings) as client:
        yield client, settings.describe()


@contextlib.asynccontextmanager
async def any_server(config: Config) -> AsyncIterator[Redis]:
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
        yield await stack.enter_async_context(_client(settings))


def _no_node(config: Config) -> StoreUnavailable:
    return StoreUnavailable(
        f"no node has run on the data folder {config.data_folder}; start one with `delaybox serve`, "
        "or name the node's --data-dir or --redis"
    )


@contextlib.asynccontextmanager
async def _client(settings: ServerSettings) -> AsyncIterator[Redis]:
    client = make_client(settings)
    try:
        try:
            await probe(client)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error} ({settings.describe()}); is the node running?") from None
        yield client
    finally:
        await client.aclose()
