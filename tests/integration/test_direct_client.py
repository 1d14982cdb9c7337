"""Clients straight on Redis, where they differ from those over gRPC: addresses, stores that are made or away, the end.

That both ways do the same is shown by test_client.py, test_client_map.py and test_client_results.py: they run over
both.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from delaybox import AsyncClient, Client, NewTask
from delaybox.client import OutcomeUnknown, StoreUnavailable, TaskState
from delaybox.core import ids
from delaybox.core.errors import ConfigError
from delaybox.direct.address import direct_address
from tests.servers import RealServer


def at(server: RealServer, prefix: str) -> str:
    return f"{server.url}?prefix={prefix}"


def test_the_first_call_makes_the_store_and_threads_share_a_client(server: RealServer, prefix: str) -> None:
    others = set(threading.enumerate())
    with Client(at(server, prefix)) as client:
        with ThreadPoolExecutor(8) as pool:
            handles = list(pool.map(lambda n: client.publish(str(n), delay="1h"), range(200)))
        assert len({handle.id for handle in handles}) == 200
        assert {handle.get().state for handle in handles[:3]} == {TaskState.SCHEDULED}
        mine = [one.name for one in threading.enumerate() if one not in others and one.name.startswith("delaybox")]
        assert mine == ["delaybox-direct"], "one thread a client, not one a call"
    with Client(at(server, prefix)) as another:
        assert another.cancel_many(everything=True).changed == 200


def test_a_folder_holds_a_server_that_clients_share(tmp_path: Path) -> None:
    with Client.embedded(tmp_path / "da ta") as first:
        handle = first.publish("x", delay="1h")
        with Client(f"file:{tmp_path}/da%20ta") as second:
            assert second.get(handle.id).payload == b"x"
    with Client.embedded(tmp_path / "da ta") as again:
        assert again.get(handle.id).payload == b"x", "it was written before the server ended"


async def test_calls_wait_for_a_server_that_comes_back(make_server: Callable[..., RealServer], prefix: str) -> None:
    server = make_server("--appendonly", "yes", "--appendfsync", "always")
    async with AsyncClient(at(server, prefix)) as client:
        before = await client.publish("before", delay="1h")
        server.kill()
        with pytest.raises(StoreUnavailable):
            await AsyncClient(at(server, prefix), retries=0).get(before.id)
        with pytest.raises(OutcomeUnknown):
            await client.publish("perhaps", delay="1h")
        # In this thread: on Linux a server ends with the thread that started it.
        began = time.monotonic()
        asyncio.get_running_loop().call_later(0.5, server.start)
        kept = await client.publish("kept", delay="1h", key="once")
        assert time.monotonic() - began > 0.4, "it was tried again until the server was there"
        assert (await before.get()).payload == b"before" and (await kept.get()).payload == b"kept"
        assert (await client.schedule_many([NewTask.publish("x", delay="1h")] * 10)).created == 10


def test_what_a_client_ended_last_is_remembered_when_it_is_closed(server: RealServer, prefix: str) -> None:
    """Ends that follow one another closely are written together, a moment later."""
    with Client(at(server, prefix)) as client:
        gone = [client.publish("x", delay="1h") for _ in range(3)]
        assert all(task.cancel() for task in gone)
    with Client(at(server, prefix)) as another:
        assert {one.id for one in another.history()} == {task.id for task in gone}
    # A script that ends without closing its client.
    code = f"""
from delaybox import Client
client = Client({at(server, prefix)!r})
assert client.publish("x", delay="1h").cancel()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with Client(at(server, prefix)) as another:
        assert len(list(another.history())) == 4


async def test_a_client_that_is_closed_leaves_nothing_running(server: RealServer, prefix: str) -> None:
    before = asyncio.all_tasks()
    async with AsyncClient(at(server, prefix)) as client:
        await client.publish("x", delay="1h")
    assert asyncio.all_tasks() == before


def test_addresses_that_cannot_be_used_are_named() -> None:
    for servers, words in (
        (["redis://a", "b:9088"], "give that one alone"),
        ("redis://a?prefix=a b", "prefix 'a b' is not one"),
        ("redis://:secret@a:port", "bad host or port"),
        ("redis://a?nothing=1", "unknown option 'nothing'"),
        ("unix://nowhere", "three slashes"),
        ("valkey://a?partitions=12", "partitions is '12'; give a power of two from 1 to"),
        ("file:data?partitions=0", "partitions is '0'"),
        ("file:data?partitions=%D9%A4", "partitions is '٤'"),
        (f"file:data?replicas={'9' * 5_000}", "replicas is '9999"),
    ):
        with pytest.raises(ConfigError, match=words) as wrong:
            Client(servers)
        assert "secret" not in str(wrong.value)
    with pytest.raises(ConfigError, match="a token is what a node asks for"):
        Client("redis://a", token="t")
    with pytest.raises(ConfigError, match="no TLS"):
        Client("file:data", tls=True)
    assert "secret" not in repr(Client("redis://:secret@a:1/2"))


def test_what_an_address_leads_to() -> None:
    found = direct_address("redis://u:p@a:1/2?prefix=shop", ca_file="ca.pem")
    assert found.server is not None and (found.server.tls, found.server.tls_ca_file) == (True, "ca.pem")
    assert (found.server.host, found.server.port, found.server.db, found.prefix) == ("a", 1, 2, "shop")
    assert direct_address("file:///var/x").folder == Path("/var/x") and direct_address("file:x").folder == Path("x")
    assert direct_address("file:").folder.name == "delaybox"
    valkey = direct_address("valkeys://a,b:2/1?partitions=64&prefix=shop")
    assert valkey.server is not None and valkey.server.describe() == "a:6379, b:2 (TLS), db 1"
    assert (valkey.partitions, found.partitions) == (64, None)
    assert str(Client("unix:///run/x.sock")) == "<Client unix socket /run/x.sock>"
    assert str(Client("unix:/run/x.sock")) == "<Client unix:/run/x.sock>", "without slashes it is gRPC's, as before"


def test_the_extra_that_is_missing_is_named() -> None:
    code = """
import sys
sys.modules["redis"] = None
from delaybox import Client
Client("localhost:9088")
Client("redis://localhost")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "the package 'redis', which is not installed; pip install 'delaybox[redis]'" in done.stderr


def test_a_store_is_made_with_as_many_partitions_as_its_address_says(server: RealServer, prefix: str) -> None:
    def used(partitions: str) -> set[int]:
        with Client(f"{at(server, prefix)}{partitions}") as client:
            handles = [client.publish("x", delay="1h") for _ in range(20)]
        return {ids.partition(ids.parse(handle.id)) for handle in handles}

    assert used("&partitions=2") == used("") == used("&partitions=2") == {0, 1}
    with pytest.raises(ConfigError, match=r"\?partitions=4: store '.*' has 2, which is fixed at creation; take it out"):
        used("&partitions=4")


def test_a_process_that_is_forked_goes_on_with_its_clients(server: RealServer, prefix: str) -> None:
    """As those of servers and task queues that load a program before they fork."""
    code = f"""
import os
from delaybox import Client
from delaybox.client import Unreachable

client = Client({at(server, prefix)!r})
before = client.publish("before", delay="1h")
stream = client.watch(before.id)
next(stream)
child = os.fork()
if not child:
    good = [client.publish(str(n), delay="1h").get().payload for n in range(3)] == [b"0", b"1", b"2"]
    good = good and client.get(before.id).payload == b"before"
    try:
        next(stream)
    except Unreachable:
        pass
    else:
        good = False
    client.close()
    os._exit(0 if good else 1)
_, status = os.waitpid(child, 0)
print(status, client.cancel_many(everything=True).changed)
client.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "4"], done.stderr
