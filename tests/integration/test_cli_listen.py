"""`delaybox listen` as a process on a real server."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from delaybox.cli.listen import Source
from delaybox.core.errors import StoreRefused
from delaybox.store.servers import Servers
from delaybox.wire.gen.task_pb2 import Task
from tests.servers import RealServer


async def test_it_prints_what_is_published(server: RealServer, client: Redis, prefix: str) -> None:
    command = [sys.executable, "-m", "delaybox", "listen", "--redis", server.url, "--channel", prefix, "--json"]
    listener = await asyncio.create_subprocess_exec(
        *command, "--count", "2", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert listener.stderr is not None
    assert b"listening on channel" in await listener.stderr.readline()
    seconds, micros = await client.time()
    due_ms = seconds * 1000 + micros // 1000
    header = {"executionTimestamp": str(due_ms).encode()}
    await client.publish(prefix, Task(taskUuid="u1", header=header, payload=b"hello").SerializeToString())
    await client.publish(prefix, b"")
    out, err = await listener.communicate()
    assert listener.returncode == 0, err
    first, second = map(json.loads, out.splitlines())
    assert first["taskUuid"] == "u1"
    assert first["pyload"] == "aGVsbG8="
    assert 0 <= first["lateMs"] < 5_000
    assert second["lateMs"] is None


async def test_a_channel_that_an_acl_forbids_is_named_a_refusal(make_server: Callable[..., RealServer]) -> None:
    server = make_server()
    servers = Servers.connect(server.settings)
    await servers.ask("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
    await servers.close()
    deaf = Servers.connect(replace(server.settings, username="deaf", password="secret"))
    source = Source(deaf, "x")
    with pytest.raises(StoreRefused, match=r"ACL forbids .*channel.*ACL SETUSER"):
        await source.next()
    await source.close()
    await deaf.close()
