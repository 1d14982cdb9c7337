"""Results and watches, with commands as the tasks: what they leave needs no worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from delaybox import AsyncClient, Client
from delaybox.client import NotFinished, ResultGone, TaskCancelled, TaskFailed, Unreachable
from tests.nodes import Node, node
from tests.spent import Spent
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("results")
    flags = ("--http-port", "0", "--enable-shell", "--data-dir", str(folder / "data"))
    with node(*flags, folder=folder) as started:
        yield started


@pytest.fixture(params=["grpc", "redis"])
def address(request: pytest.FixtureRequest, served: Node) -> str:
    """Of the node, and of the server behind it: both ways do the same."""
    return served.address(request.param)


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as opened:
        yield opened


def test_what_a_command_printed_is_waited_for(client: Client):
    assert client.shell("sleep 0.3; echo done", keep_result="1m").result(PATIENCE_S) == b"done\n"


def test_a_result_that_is_there_already_comes_at_once(client: Client):
    handle = client.shell("echo done", keep_result="1m")
    assert handle.result(PATIENCE_S) == handle.result(5) == handle.result(0) == b"done\n"
    assert [event.state for event in client.watch(handle.id.upper(), timeout=0)] == ["succeeded"]


@pytest.mark.parametrize("nothing", [0, "0s"])
def test_a_result_that_is_switched_off_is_not_kept(client: Client, nothing: Any):
    handle = client.shell("echo done", keep_result=nothing)
    with pytest.raises(ResultGone):
        handle.result(PATIENCE_S)
    assert client.shell("echo done").result(PATIENCE_S) == b"done\n", "commands keep theirs for a day"


def test_and_so_it_is_over_rest(served: Node, client: Client):
    body = {"type": "shell", "payload": "echo done", "keep_result": "0s"}
    status, _, task = served.call("POST", "/v1/tasks", body)
    assert status == 201, task
    with pytest.raises(ResultGone):
        client.result(task["id"], PATIENCE_S)


def test_a_task_that_failed_for_good_says_why(client: Client):
    handle = client.shell("exit 3", retry=0)
    with pytest.raises(TaskFailed, match="3"):
        handle.result(PATIENCE_S)
    assert handle.get().attempt == 1, "0 further attempts means a single one"


def test_nothing_is_waited_for_that_cannot_come(client: Client):
    with pytest.raises(ResultGone):
        client.publish("x").result(PATIENCE_S)


def test_a_task_that_is_cancelled_meanwhile(client: Client):
    handle = client.shell("echo never", delay="1h")
    threading.Timer(0.3, handle.cancel).start()
    with pytest.raises((TaskCancelled, ResultGone)):
        handle.result(PATIENCE_S)


def test_waiting_ends_in_time(client: Client):
    handle = client.shell("echo never", delay="1h")
    began = Spent()
    for limit in (0.5, 0):
        with pytest.raises(NotFinished):
            handle.result(limit)
    assert [event.state for event in client.watch(handle.id, timeout=0)] == ["scheduled"]
    assert list(client.watch(handle.id, timeout=0, ends_only=True)) == []
    assert began.s() < 10
    handle.cancel()


def test_a_watch_shows_the_way_to_the_end(client: Client, tmp_path: Path):
    gate = tmp_path / "gate"
    handle = client.shell(f"while [ ! -e {gate} ]; do sleep 0.02; done; echo done", delay="1h", keep_result="1m")
    events = []
    for event in client.watch(handle.id, timeout=PATIENCE_S):
        events.append(event)
        # Each state lasts until it was shown.
        if event.state == "scheduled":
            handle.run_now()
        elif event.state == "running":
            gate.touch()
    states = [event.state for event in events]
    assert states[0] == "scheduled" and states[-1] == "succeeded" and "running" in states
    assert events[-1].result is not None and events[-1].result.output == b"done\n"


async def test_many_are_awaited_at_once(address: str):
    async with AsyncClient(address) as client:
        handles = [await client.shell(f"echo {n}", keep_result="1m") for n in range(8)]
        results = await asyncio.gather(*(handle.result(60) for handle in handles))
        assert results == [f"{n}\n".encode() for n in range(8)]
        events = [event async for event in client.watch([handle.id for handle in handles], ends_only=True)]
        assert sorted(event.id for event in events) == sorted(handle.id for handle in handles)


def test_a_client_that_was_closed_says_so_at_once(address: str):
    client = Client(address)
    handle = client.shell("echo never", delay="1h")
    events = client.watch(handle.id)
    next(events)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(list, events)
        client.close()
        with pytest.raises(Unreachable, match="has been closed"):
            waiting.result(PATIENCE_S)
    for call in (handle.get, handle.result, lambda: list(client.list()), lambda: list(client.map("f", [1]))):
        with pytest.raises(Unreachable, match="has been closed"):
            call()


async def test_and_so_does_an_asynchronous_one(address: str):
    client = AsyncClient(address)
    handle = await client.shell("echo never", delay="1h")
    events = client.watch(handle.id)
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(Unreachable, match="has been closed"):
        await asyncio.wait_for(waiting, PATIENCE_S)
    for call in (handle.get(), handle.result(), anext(client.list()), anext(client.map("f", [1]))):
        with pytest.raises(Unreachable, match="has been closed"):
            await call
