"""The proxy does what it says, seen by redis-py on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.faults.harness.proxy import CLEAN, Plan, Proxy
from tests.faults.harness.server import Server

pytestmark = pytest.mark.faults


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    proxy = Proxy(str(server.socket), seed=1)
    await proxy.listen_tcp()
    yield proxy
    await proxy.close()


@pytest.fixture
def timeout_s() -> float:
    """Of the client: no test waits for it but the one that says so."""
    return 60.0


@pytest.fixture
async def client(proxy: Proxy, timeout_s: float) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis(port=proxy.port, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))
    await client.ping()
    yield client
    proxy.plan = CLEAN
    await client.aclose()


async def test_clean_and_split_bytes_change_nothing(proxy: Proxy, client: redis.asyncio.Redis) -> None:
    await client.set("k", b"x" * 5000)
    proxy.plan = Plan(split=True, latency_s=0.01, jitter_s=0.01)
    assert await client.get("k") == b"x" * 5000


@pytest.mark.parametrize(("hang", "timeout_s"), [(False, 60.0), (True, 3.0)], ids=["cut", "hangs"])
async def test_a_swallowed_reply_was_executed(
    proxy: Proxy, client: redis.asyncio.Redis, server: Server, hang: bool
) -> None:
    proxy.plan = Plan(swallow=1.0, hang=hang)
    with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        await client.incr("n")
    with server.client() as direct:
        assert direct.get("n") == b"1"
    assert proxy.done["swallow"] >= 1


async def test_a_reset_is_not_executed(proxy: Proxy, client: redis.asyncio.Redis, server: Server) -> None:
    proxy.plan = Plan(rst=1.0)
    with pytest.raises(redis.ConnectionError):
        await client.incr("n")
    with server.client() as direct:
        assert direct.get("n") is None


@pytest.mark.parametrize("plan", [Plan(cut=1.0), Plan(half_close=1.0)])
async def test_a_reply_cut_short_is_an_error_not_an_answer(
    proxy: Proxy, client: redis.asyncio.Redis, plan: Plan
) -> None:
    await client.set("k", b"y" * 2000)
    proxy.plan = plan
    with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        await client.get("k")


async def test_the_gate_holds_everything_back(proxy: Proxy, client: redis.asyncio.Redis) -> None:
    proxy.gate.clear()
    waiting = asyncio.ensure_future(client.incr("n"))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    proxy.gate.set()
    assert await waiting == 1


async def test_the_same_seed_draws_the_same_fates() -> None:
    plan = Plan(swallow=0.1, cut=0.1, rst=0.1, half_close=0.1)
    first, second = (Proxy("nowhere", seed=7, plan=plan) for _ in range(2))
    fates = [first.draw() for _ in range(500)]
    assert fates == [second.draw() for _ in range(500)]
    assert set(fates) == {"", "swallow", "cut", "rst", "half_close"}
