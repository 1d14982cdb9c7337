"""Probing real servers: what is trusted with tasks and what is refused, in words that mend it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.errors import StoreRefused, StoreUnavailable
from delaybox.core.task import NewTask
from delaybox.service import Service
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.probe import ServerFeatures, probe
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.servers import RealServer
from tests.waiting import PATIENCE_S


async def _probe(settings: ServerSettings) -> ServerFeatures:
    client = make_client(settings, timeout_s=5.0)
    try:
        return await probe(client)
    finally:
        await client.aclose()


async def test_a_plain_server_is_accepted_and_described(client: Redis, server: RealServer) -> None:
    features = await probe(client)
    assert features.policy == "noeviction"
    assert features.kind in ("redis", "valkey")
    assert features.version[0].isdigit()
    assert len(features.run_id) == 40
    assert not features.cluster
    info = await client.info("server")
    assert features.run_id == info["run_id"]


async def test_features_are_found_by_asking_for_the_commands(client: Redis) -> None:
    features = await probe(client)
    for name, found in (("WAITAOF", features.waitaof), ("HEXPIRE", features.hexpire)):
        (entry,) = await client.execute_command("COMMAND INFO", name)
        assert found == (entry is not None)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_an_evicting_policy_is_refused_with_the_mend(make_server: Callable[..., RealServer], policy: str) -> None:
    own = make_server("--maxmemory-policy", policy)
    with pytest.raises(StoreRefused, match=f"{policy}.*CONFIG SET maxmemory-policy noeviction"):
        await _probe(own.settings)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"password": None}, r"a password is needed, and none is configured; set storage\.redisPass"),
        ({"password": "wrong"}, r"invalid username-password pair.*; set storage\.redisPass \(and storage\.redisUser"),
        ({"username": "hunter2"}, r"invalid username-password pair.*; set storage\.redisPass"),
        ({"db": 99}, r"no such database.*; correct storage\.redisDb"),
    ],
)
async def test_a_refused_connection_names_the_server_and_the_mend(
    make_server: Callable[..., RealServer], wrong: dict[str, Any], words: str
) -> None:
    own = make_server("--requirepass", "right")
    right = replace(own.settings, password="right")
    with pytest.raises(StoreRefused, match=f"the server at unix socket {own.unix_path} refuses.*{words}") as caught:
        await _probe(replace(right, **wrong))
    assert "hunter2" not in str(caught.value)


async def _with_user(own: RealServer, *rules: str) -> ServerSettings:
    admin = make_client(own.settings)
    await admin.execute_command("ACL SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", *rules)
    await admin.aclose()
    return ServerSettings(unix_path=own.unix_path, username="limited", password="secret")


async def test_config_forbidden_by_acl_is_no_obstacle(make_server: Callable[..., RealServer]) -> None:
    own = make_server("--maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreRefused, match="allkeys-lru"):
        await _probe(await _with_user(own, "-config", "-command"))


async def test_config_tells_the_policy_where_info_is_forbidden(make_server: Callable[..., RealServer]) -> None:
    features = await _probe(await _with_user(make_server(), "-info"))
    assert features.policy == "noeviction"


async def test_a_policy_that_cannot_be_read_is_not_trusted(make_server: Callable[..., RealServer]) -> None:
    with pytest.raises(StoreRefused, match=r"neither INFO nor CONFIG.*\+info"):
        await _probe(await _with_user(make_server(), "-info", "-config"))


async def test_an_acl_without_scripts_is_refused(make_server: Callable[..., RealServer]) -> None:
    with pytest.raises(StoreRefused, match=r"ACL forbids.*eval"):
        await _probe(await _with_user(make_server(), "-eval"))


async def test_a_channel_that_scripts_may_not_use_is_named_as_the_acls(make_server: Callable[..., RealServer]) -> None:
    servers = Servers.connect(await _with_user(make_server(), "resetchannels"))
    service = Service(await Store.open(servers))
    with pytest.raises(StoreRefused, match=r"ACL forbids what DelayBox needs.*channel.*docs/security\.md"):
        await service.submit(NewTask(payload=b"x"))
    await servers.close()


async def test_a_replica_is_refused(make_server: Callable[..., RealServer]) -> None:
    own = make_server("--replicaof", "localhost", "1")
    with pytest.raises(StoreRefused, match=r"replica of localhost:1.*primary"):
        await _probe(own.settings)


@pytest.mark.parametrize("password", [None, "wrong-hunter2"])
async def test_a_bad_password_is_refused_and_not_repeated(
    make_server: Callable[..., RealServer], password: str | None
) -> None:
    own = make_server("--requirepass", "right")
    with pytest.raises(StoreRefused, match="password") as caught:
        await _probe(ServerSettings(unix_path=own.unix_path, password=password))
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_is_away_is_unavailable_not_refused() -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await _probe(ServerSettings(unix_path="/nonexistent/socket"))


async def test_the_client_sends_a_command_once_even_when_no_answer_comes() -> None:
    received = bytearray()
    arrived = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Answers the handshake, then never again.
        while data := await reader.read(4096):
            received.extend(data)
            if b"HELLO" in data:
                writer.write(b"%1\r\n+proto\r\n:3\r\n")
            if b"CLIENT" in data:
                writer.write(b"+OK\r\n" * data.count(b"SETINFO"))
            if b"INCR" in data:
                arrived.set()
        writer.close()

    async with await asyncio.start_server(swallow, "127.0.0.1", 0, family=socket.AF_INET) as listening:
        client = make_client(ServerSettings(port=listening.sockets[0].getsockname()[1]), timeout_s=PATIENCE_S)
        # Only the answer is missed so soon: a connection takes as long as the machine likes.
        connection = await client.connection_pool.get_connection()
        connection.socket_timeout = 0.3
        await client.connection_pool.release(connection)
        with pytest.raises(Exception, match=r"(?i)timeout"):
            await client.incr("x")
        await arrived.wait()
        await client.aclose()
    assert received.count(b"INCR") == 1


async def test_calls_beyond_the_connections_wait_for_one(server: RealServer) -> None:
    client = make_client(server.settings, max_connections=2)
    assert all(await asyncio.gather(*(client.ping() for _ in range(50))))
    await client.aclose()
