"""What becomes of connections that are kept when the server behind the address changes, or goes without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from redis.asyncio import Redis

from delaybox.cli.listen import Source
from delaybox.core.task import NewTask, TaskType
from delaybox.engine.engine import DEAF
from delaybox.store import nodes, subscription
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.engines import Recorder, running, until
from tests.faults.harness.proxy import Proxy
from tests.ports import free_port
from tests.servers import RealServer
from tests.spent import Spent
from tests.waiting import PATIENCE_S


@pytest.fixture
async def proxy(server: RealServer) -> AsyncIterator[Proxy]:
    made = Proxy(server.unix_path, seed=1)
    await made.listen_tcp()
    yield made
    await made.close()


async def through(proxy: Proxy, *, timeout_s: float = 2.0) -> Redis:
    return make_client(ServerSettings(port=proxy.port), timeout_s=timeout_s)


async def warm(client: Redis, count: int) -> None:
    """So many connections are open and idle."""
    await asyncio.gather(*(client.execute_command("CLIENT", "ID") for _ in range(count)))


async def add(store: Store) -> None:
    (answers,) = await store.schedule([Batch(0, [draft(NewTask(type=TaskType.SHELL_CMD))])])
    if isinstance(answers, BaseException):
        raise answers


async def test_after_a_failover_kept_connections_find_the_new_primary(
    make_server: Callable[..., RealServer], proxy: Proxy, prefix: str
) -> None:
    ports = free_port(), free_port()
    old, new = (make_server("--port", str(port), "--repl-diskless-sync-delay", "0") for port in ports)
    admins = old_admin, new_admin = make_client(old.settings), make_client(new.settings)
    await new_admin.execute_command("REPLICAOF", "127.0.0.1", str(ports[0]))
    proxy.lead_to(old.unix_path)
    client = await through(proxy, timeout_s=PATIENCE_S)
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    target = Recorder()
    async with running(store, {TaskType.SHELL_CMD: target}, channel=""):
        await warm(client, 8)
        await add(store)
        await until(lambda: len(target.got) == 1)

        async def in_step() -> bool:
            info = await new_admin.info("replication")
            return bool(info["master_link_status"] == "up")

        await until(in_step)
        assert await old_admin.wait(1, 60_000) == 1
        await new_admin.execute_command("REPLICAOF", "NO", "ONE")
        await old_admin.execute_command("REPLICAOF", "127.0.0.1", str(ports[1]))
        proxy.lead_to(new.unix_path)
        await add(store)
        await until(lambda: len(target.got) == 2)

        async def listens_there() -> bool:
            (_, listeners) = (await new_admin.pubsub_numsub(store.wakes[0]))[0]
            return listeners >= 1

        await until(listens_there)
    for each in (client, *admins):
        await each.aclose()


async def test_the_first_connection_that_is_silent_speaks_for_all(
    server: RealServer, proxy: Proxy, prefix: str
) -> None:
    client = await through(proxy, timeout_s=2.5)
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    await asyncio.gather(*(store.ping() for _ in range(6)))
    await warm(client, 6)
    assert proxy.silence() >= 6
    began = Spent(lambda: [server.pid])
    await store.ping()
    assert await client.ping()
    assert began.s() < 12.0, "each of them was waited for"
    await client.aclose()


async def test_a_half_open_subscription_is_noticed_and_made_anew(
    proxy: Proxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "QUIET_S", 0.2)
    monkeypatch.setattr(subscription, "ANSWER_S", 0.3)
    client = await through(proxy)
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    target = Recorder()
    # Without a wake-up it is found by the next poll, later than this test waits.
    async with running(store, {TaskType.SHELL_CMD: target}, channel="", poll_ms=600_000):
        await add(store)
        await until(lambda: len(target.got) == 1)
        # Where the machine holds them up, they are made anew even now.
        await until(lambda: proxy.subscriptions == 2)
        assert proxy.silence(subscriptions=True) == 2, "to wake-ups, and to the list of members"
        await add(store)
        await until(lambda: len(target.got) == 2)
    await client.aclose()


async def test_the_listen_command_subscribes_again_when_its_connection_is_half_open(
    proxy: Proxy, prefix: str, monkeypatch: pytest.MonkeyPatch, client: Redis
) -> None:
    monkeypatch.setattr(subscription, "QUIET_S", 0.2)
    monkeypatch.setattr(subscription, "ANSWER_S", 0.3)
    over = await through(proxy)
    source = Source(Servers(over), prefix)
    assert await source.next() is None, "it listens"
    await until(lambda: proxy.subscriptions == 1)
    assert proxy.silence(subscriptions=True) == 1
    assert await source.next() is None, "it listens again"
    # Once more where the machine held it up meanwhile: what is published then is not heard.
    heard = None
    async with asyncio.timeout(PATIENCE_S):
        while heard is None:
            await client.publish(prefix, b"heard")
            heard = await source.next()
    assert heard == b"heard"
    await source.close()
    await over.aclose()


async def test_readiness_says_when_wakeups_are_not_heard(make_server: Callable[..., RealServer], prefix: str) -> None:
    server = make_server()
    admin = make_client(server.settings)
    await admin.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    client = make_client(ServerSettings(unix_path=server.unix_path, username="deaf", password="secret"))
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)

    async def troubles() -> Sequence[str]:
        member = await nodes.find(store, "test")
        return () if member is None else member.activity.troubles

    async with running(store, {TaskType.SHELL_CMD: Recorder()}, channel=""):

        async def is_reported() -> bool:
            return DEAF in await troubles()

        async def is_over() -> bool:
            return not await troubles()

        await until(is_reported)
        await admin.execute_command("ACL", "SETUSER", "deaf", "allchannels")
        await until(is_over)
    await client.aclose()
    await admin.aclose()
