"""A command whose answer never came is sent again while the server is sure to remember it, and never later."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.errors import StoreUnavailable
from delaybox.core.task import NewTask
from delaybox.store import store as store_module
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.loader import ScriptRunner
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.faults.harness.proxy import CLEAN, Plan, Proxy
from tests.servers import RealServer

MEMORY_MS = 400
"""What the server remembers a command for, here."""

Send = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]


@asynccontextmanager
async def through_proxy(
    server: RealServer, prefix: str, timeout_s: float, memory_ms: int = MEMORY_MS
) -> AsyncIterator[tuple[Store, Proxy]]:
    proxy = Proxy(server.unix_path, seed=1)
    await proxy.listen_tcp()
    client = make_client(ServerSettings.from_url(f"redis://127.0.0.1:{proxy.port}"), timeout_s=timeout_s)
    try:
        store = await Store.open(Servers(client), prefix=prefix, partitions=1)
        store.runner = ScriptRunner(store.servers.send, within_ms=memory_ms // 2)
        yield store, proxy
    finally:
        await client.aclose()
        await proxy.close()


async def add(store: Store) -> Any:
    return (await store.schedule([Batch(0, [draft(NewTask(delay_ms=60_000))])]))[0]


async def stored(client: Redis, store: Store) -> int:
    return sum([await client.hlen(name) for name in await client.keys(f"{store.tags[0]}:b:*")])


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "COMMAND_TTL_MS", MEMORY_MS)


async def test_an_answer_that_was_lost_is_asked_for_again(
    server: RealServer, client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COMMAND_TTL_MS", 60_000)  # a busy machine may take its time
    async with through_proxy(server, prefix, timeout_s=5.0, memory_ms=60_000) as (store, proxy):
        await add(store)
        proxy.plan = Plan(swallow=1.0)
        adding = asyncio.create_task(add(store))
        while not proxy.done["swallow"]:
            await asyncio.sleep(0)
        proxy.plan = CLEAN
        assert (await adding)[0].created
        assert await stored(client, store) == 2


async def test_what_may_be_forgotten_is_not_sent_again(server: RealServer, client: Redis, prefix: str) -> None:
    """A process that was frozen for longer than the server remembers a command: its time-out is up when it wakes."""
    async with through_proxy(server, prefix, timeout_s=5 * MEMORY_MS / 1000) as (store, proxy):
        await add(store)
        proxy.plan = Plan(swallow=1.0, hang=True)
        answer = await add(store)
        assert isinstance(answer, StoreUnavailable) and "unknown" in str(answer)
        assert await stored(client, store) == 2, "the first time it was stored, and once"


async def test_a_freeze_right_before_the_second_sending_is_noticed_by_the_server(
    server: RealServer, client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through_proxy(server, prefix, timeout_s=5.0) as (store, proxy):
        await add(store)
        real: Send = store.runner._send_all

        async def send(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
            if commands[0][0] == "EVAL":
                # As SIGSTOP does: nothing of this process runs.
                time.sleep(2 * MEMORY_MS / 1000)
            return await real(commands)

        monkeypatch.setattr(store.runner, "_send_all", send)
        proxy.plan = Plan(swallow=1.0)
        adding = asyncio.create_task(add(store))
        while not proxy.done["swallow"]:
            await asyncio.sleep(0)
        proxy.plan = CLEAN
        assert isinstance(await adding, StoreUnavailable)
        assert await stored(client, store) == 2


async def test_every_script_can_be_sent_again(server: RealServer, client: Redis, prefix: str) -> None:
    """What stands before a repeated script leaves its arguments as they were."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    call = store.claim_call(0, os.urandom(16), store_module.ClaimLimits(slots=1, types="p", lanes=(b"pmail",)))
    (reply,) = await store.runner._again([call], time.monotonic())
    assert not isinstance(reply, BaseException) and reply[2] == []
