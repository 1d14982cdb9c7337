"""A server that lost its data, or came back as another one, does not pass for the store that was there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.errors import StoreLost
from delaybox.core.membership import Member
from delaybox.core.partition import Shape
from delaybox.core.task import NewTask
from delaybox.store import identity, keys, nodes
from delaybox.store.connect import make_client
from delaybox.store.kafka import Span, Stream, ingest
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from delaybox.wire.encoded import encode
from tests.nodes import JSON, node
from tests.proc import children_of
from tests.servers import RealServer
from tests.spent import Spent
from tests.waiting import until

LATER = 3_600_000


async def schedule(store: Store) -> object:
    return (await store.schedule([Batch(0, [draft(NewTask(delay_ms=LATER))])]))[0]


@pytest.fixture
async def empty(make_server: Callable[..., RealServer]) -> AsyncIterator[Redis]:
    """A client of a server that the test may empty."""
    made = make_client(make_server().settings)
    yield made
    await made.aclose()


async def test_nothing_new_is_stored_on_a_server_that_was_emptied(empty: Redis, prefix: str) -> None:
    store = await Store.open(Servers(empty), prefix=prefix)
    assert not isinstance(await schedule(store), BaseException)
    await empty.flushall()
    assert isinstance(await schedule(store), StoreLost), "no look was needed to see it"
    span = Span(Stream("topic", 0), 0, 1, [0], [encode(NewTask(delay_ms=LATER))], first=True)
    assert isinstance((await ingest(store, [span]))[0], StoreLost)
    with pytest.raises(StoreLost, match="delaybox store accept"):
        await store.ping()
    assert await empty.keys(f"*{prefix}*") == []


async def test_another_store_in_its_place_is_not_taken_for_it(empty: Redis, prefix: str) -> None:
    store = await Store.open(Servers(empty), prefix=prefix, partitions=4)
    await empty.flushall()
    other = await Store.open(Servers(empty), prefix=prefix, partitions=4)
    assert isinstance(await schedule(store), StoreLost)
    assert not isinstance(await schedule(other), BaseException)
    # A process that is started again by its node knows what it is to work for.
    with pytest.raises(StoreLost):
        await Store.open(Servers(empty), prefix=prefix, expected=store.store_id)


async def test_a_new_store_is_called_new_once(empty: Redis, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A node that is started alone cannot know of an earlier store: whoever misses one reads it in the log."""
    caplog.set_level("INFO", "delaybox.store")
    for _ in range(2):
        await Store.open(Servers(empty), prefix=prefix)
    assert [r.getMessage() for r in caplog.records].count(
        f"store {prefix!r} is new: this server held none. Where tasks are missed, it lost them or is another one"
    ) == 1


async def test_a_store_that_comes_back_is_gone_on_with(empty: Redis, prefix: str) -> None:
    store = await Store.open(Servers(empty), prefix=prefix)
    copy = {key: await empty.dump(key) or b"" for key in await empty.keys("*")}
    await empty.flushall()
    with pytest.raises(StoreLost):
        await store.ping()
    for key, value in copy.items():
        await empty.restore(key, 0, value)
    await store.ping()
    assert not isinstance(await schedule(store), BaseException)


async def test_an_accepted_store_has_the_partitions_that_nodes_know(empty: Redis, prefix: str) -> None:
    store = await Store.open(Servers(empty), prefix=prefix, partitions=4)
    await empty.flushall()
    await nodes.beat(store, Member(id="n", seen_ms=await store.look(), store=store.presence.shape))
    with pytest.raises(StoreLost, match="is gone"):
        await Store.open(Servers(empty), prefix=prefix, partitions=16)
    assert not await empty.exists(keys.meta(prefix)), "no second store beside the living nodes' one"
    done = await identity.accept(Servers(empty), prefix, Shape("other", 16, 60_000))
    assert (done.made, done.shape.partitions, done.lost) == (True, 4, (store.store_id,))
    # A process that nobody asks goes on with its next task.
    await asyncio.sleep(0.6)
    assert not isinstance(await schedule(store), BaseException)
    assert store.store_id == done.shape.store_id


async def test_a_store_of_before_is_marked_and_gone_on_with(empty: Redis, prefix: str) -> None:
    store = await Store.open(Servers(empty), prefix=prefix, partitions=2)
    await empty.hdel(keys.meta(prefix), "marked")
    for tag in store.tags:
        await empty.hdel(keys.clock(tag), "store")
    again = await Store.open(Servers(empty), prefix=prefix)
    assert again.store_id == store.store_id
    assert not isinstance(await schedule(again), BaseException)


async def test_who_accepts_at_once_waits_for_the_heartbeats_of_living_nodes(empty: Redis, prefix: str) -> None:
    store = await Store.open(Servers(empty), prefix=prefix, partitions=4)
    await empty.flushall()
    accepting = asyncio.create_task(identity.accept(Servers(empty), prefix, Shape("other", 16, 60_000)))
    await asyncio.sleep(0.3)  # it has looked, and found nobody
    assert not accepting.done() and not await empty.exists(keys.meta(prefix))
    await nodes.beat(store, Member(id="n", seen_ms=await store.look(), store=store.presence.shape))
    done = await accepting
    assert (done.made, done.shape.partitions, done.lost) == (True, 4, (store.store_id,))


def test_every_process_of_a_node_holds_until_the_store_is_accepted(
    make_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    server = make_server()

    def redis(*words: str) -> None:
        asyncio.run(_command(server, *words))

    with node("--redis", server.url, "--http-port", "0", "--set", "partitions=4", folder=tmp_path) as one:
        task = {"delay": "1h", "payload": "x"}
        assert one.call("POST", "/v1/tasks", task)[0] == 201
        redis("FLUSHALL")
        emptied = Spent(lambda: [server.pid, one.process.pid, *children_of(one.process.pid)])
        status, _, problem = one.call("POST", "/v1/tasks", task)
        assert (status, problem["code"]) == (503, "store_lost")
        while one.call("GET", "/readyz")[0] == 200:
            # Five seconds are promised; a busy machine gets some more.
            assert emptied.s() < 15, "not seen within 5 s"
        assert b"delaybox store accept" in one.call("GET", "/readyz")[2]
        one.wait_for("is gone")
        scraped = one.call("GET", "/metrics")[2].decode()
        assert "delaybox_store_lost 1.0" in scraped
        assert "delaybox_store_up 0.0" in scraped
        assert one.call("GET", "/v1/tasks")[0] == 503, "an empty list would say that all is done"
        assert one.call("GET", "/livez")[0] == 200
        from grpc import RpcError, StatusCode, insecure_channel

        from delaybox.wire.gen import scheduler_pb2 as pb
        from delaybox.wire.gen.scheduler_pb2_grpc import SchedulerStub

        with insecure_channel(f"127.0.0.1:{one.grpc_port}") as channel:
            stub: Any = SchedulerStub(channel)  # type: ignore[no-untyped-call]
            request = pb.ScheduleRequest(task=pb.NewTask(delay_ms=LATER))
            with pytest.raises(RpcError) as refused:
                stub.Schedule(request)
            assert refused.value.code() is StatusCode.UNAVAILABLE

            answer = _accept(server, tmp_path)
            assert answer["made"] and answer["partitions"] == 4

            def stored() -> bool:
                with contextlib.suppress(RpcError):
                    stub.Schedule(request)
                    return one.call("POST", "/v1/tasks", task, JSON)[0] == 201
                return False

            # Each process finds it by itself.
            until(lambda: stored() and one.call("GET", "/readyz")[0] == 200)
        assert "delaybox_store_lost 0.0" in one.call("GET", "/metrics")[2].decode()
        # A mark of a living node may name the lost store until the node marks again.
        until(lambda: _accept(server, tmp_path)["instead_of"] == [], lambda: "something is lost still")


async def _command(server: RealServer, *words: str) -> None:
    client = make_client(server.settings)
    await client.execute_command(*words)
    await client.aclose()


def _accept(server: RealServer, folder: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "delaybox", "store", "accept", "--redis", server.url, "--json"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found
