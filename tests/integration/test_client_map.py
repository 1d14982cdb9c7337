"""`client.map` and results, with a node and a worker process as a user has them."""

from __future__ import annotations

import asyncio
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from delaybox import AsyncClient, Call, Client
from delaybox.client import InvalidTask, ResultGone, TaskFailed, mapping
from delaybox.client.chunks import LINGER_S
from tests.nodes import Node, node
from tests.waiting import PATIENCE_S, until, until_async

APP = """
import asyncio
import os
import uuid

from delaybox import Retry, Worker
from delaybox.worker import Context, Reject

worker = Worker("mapper")

@worker.task
async def double(n, times=2):
    if n == 13:
        raise ValueError("unlucky")
    return n * times

@worker.task
def size(data):
    return len(data) if isinstance(data, bytes) else "no bytes"

@worker.task
async def echo(value):
    return value

@worker.task
def blob(data):
    return data * 2

begun = 0

@worker.task
async def position(n):
    global begun
    begun += 1
    return begun

@worker.task
async def once(n):
    return uuid.uuid4().hex

@worker.task
async def held(path):
    while not os.path.exists(path):
        await asyncio.sleep(0.05)
    return path

@worker.task(keep_result="1m")
async def told(path, ctx: Context):
    ctx.progress(0.25, "a quarter")
    while not os.path.exists(path):
        await asyncio.sleep(0.05)
    ctx.progress(1.0, "all of it")

tried = {}

@worker.task(retries=Retry(3, initial=0.01, maximum=0.01))
def flaky(n):
    tried[n] = tried.get(n, 0) + 1
    if n % 10 == 3 and tried[n] < 3:
        raise ValueError(f"{n} failed")
    if n == 7:
        raise Reject("seven is no number")
    return n
"""

LEFT = """
import sys
from delaybox import Client

client = Client(sys.argv[1])
for value in client.map("nobody", range(2_000), queue=sys.argv[2]):
    pass
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node, and a worker of it."""
    folder = tmp_path_factory.mktemp("map")
    (folder / "app.py").write_text(APP)
    with node("--http-port", "0", "--data-dir", str(folder / "data"), folder=folder) as started:
        command = [sys.executable, "-m", "delaybox.worker", "app:worker", "--server", f"127.0.0.1:{started.grpc_port}"]
        worker = subprocess.Popen(command, cwd=folder)
        try:
            yield started
        finally:
            worker.terminate()
            assert worker.wait(PATIENCE_S) == 0


@pytest.fixture(params=["grpc", "redis"])
def address(request: pytest.FixtureRequest, served: Node) -> str:
    """Of the node, and of the server behind it: both ways do the same."""
    return served.address(request.param)


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as opened:
        yield opened


def test_what_a_function_returned(client: Client):
    assert client.schedule("double", [21], keep_result="1m").result(PATIENCE_S) == 42
    assert client.schedule("double", {"n": 2, "times": 5}, keep_result="1m").result(PATIENCE_S) == 10
    assert client.schedule("double", Call(2, times=4), keep_result="1m").result(PATIENCE_S) == 8
    assert client.schedule("size", b"\x00\xff", keep_result="1m").result(PATIENCE_S) == 2
    for value in (None, b"\x00\xff", {"a": [1, None]}, "é"):
        assert client.schedule("echo", Call(value), keep_result="1m").result(PATIENCE_S) == value


def test_why_a_function_failed(client: Client):
    with pytest.raises(TaskFailed, match="ValueError: unlucky") as caught:
        client.schedule("double", [13], retry=0, keep_result="1m").result(PATIENCE_S)
    assert b"Traceback" in caught.value.output


def test_a_result_that_nobody_wanted_is_not_kept(client: Client):
    with pytest.raises(ResultGone):
        client.schedule("double", [1]).result(PATIENCE_S)


def test_thousands_come_back_in_order(client: Client):
    reports: list[tuple[int, int | None]] = []
    count = 5_000
    results = client.map("double", range(20, 20 + count), progress=lambda at, of: reports.append((at, of)))
    assert list(results) == [2 * n for n in range(20, 20 + count)]
    assert reports[-1] == (count, count)


def test_as_they_end_in_a_small_window(client: Client):
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for n in range(20, 520):
            taken += 1
            yield n

    seen = []
    for value in client.map("double", items(), ordered=False, window=40):
        seen.append(value)
        assert taken <= len(seen) + 2 * 40, "no more than a window ahead"
    assert sorted(seen) == [2 * n for n in range(20, 520)]


def test_failed_items_are_raised_or_yielded(client: Client):
    got = []
    with pytest.raises(TaskFailed, match="unlucky"):
        for value in client.map("double", range(11, 16), retry=0):
            got.append(value)
    assert got == [22, 24]
    outcomes = list(client.map("double", range(11, 16), retry=0, return_exceptions=True))
    assert [isinstance(one, TaskFailed) for one in outcomes] == [False, False, True, False, False]


def test_it_can_be_left_early_and_the_client_goes_on(client: Client):
    results = client.map("double", range(20, 10_000), window=1_000)
    assert next(results) == 40
    results.close()  # type: ignore[attr-defined]
    assert list(client.map("double", [20])) == [40]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_source_may_need_results(client: Client, ordered: bool):
    results: queue.SimpleQueue[int] = queue.SimpleQueue()

    def items() -> Iterator[int]:
        yield 20
        for _ in range(5):
            yield results.get(timeout=PATIENCE_S) + 1

    seen = []
    for value in client.map("double", items(), ordered=ordered):
        seen.append(value)
        results.put(value)
    assert seen == [40, 82, 166, 334, 670, 1342]


def test_a_slow_source_costs_few_threads_and_streams(client: Client, tmp_path: Path):
    before = threading.active_count()
    most = 0

    def items() -> Iterator[str]:
        nonlocal most
        for _ in range(20):
            yield str(tmp_path / "go")
            # Longer than a chunk waits for more.
            time.sleep(LINGER_S * 1.5)
            most = max(most, threading.active_count() - before)
        (tmp_path / "go").touch()

    assert len(list(client.map("held", items()))) == 20
    assert most <= 12, "one who reads, one who stores, six who watch, and gRPC's own"


def test_tasks_run_in_the_order_of_the_items(client: Client, monkeypatch: pytest.MonkeyPatch):
    # They leave together, however slow the machine is: claims of several batches may overlap.
    monkeypatch.setattr(mapping, "LINGER_S", PATIENCE_S)
    positions = list(client.map("position", range(400)))
    positions = [position - min(positions) + 1 for position in positions]
    # At random it would be 133.
    assert sum(abs(position - 1 - n) for n, position in enumerate(positions)) / 400 < 40


def test_many_items_make_one_task(client: Client):
    assert list(client.map("double", range(20, 1_020), chunksize=100)) == [2 * n for n in range(20, 1_020)]
    data = [b"\x00", "a", [1], b"\xff"]
    assert list(client.map("blob", data, chunksize=3)) == [b"\x00\x00", "aa", [1, 1], b"\xff\xff"]
    calls = [Call(n, times=3) for n in range(20, 30)]
    assert list(client.map("double", calls, chunksize=4, ordered=True)) == [3 * n for n in range(20, 30)]


def test_an_item_that_fails_in_a_chunk_is_tried_again_alone(client: Client):
    outcomes = list(client.map("flaky", range(40), chunksize=10, return_exceptions=True))
    assert isinstance(outcomes[7], TaskFailed) and "seven is no number" in str(outcomes[7])
    assert [one for n, one in enumerate(outcomes) if n != 7] == [n for n in range(40) if n != 7]
    with pytest.raises(TaskFailed, match="unlucky"):
        list(client.map("double", range(10, 20), chunksize=5, retry=0))


def test_with_keys_a_map_goes_on_where_another_ended(client: Client):
    run = uuid4().hex

    def key(n: int) -> str:
        return f"{run}-{n}"

    first = client.map("once", range(30), key=key)
    done = [next(first) for _ in range(10)]
    first.close()  # type: ignore[attr-defined]
    again = list(client.map("once", range(30), key=key))
    assert again[:10] == done and len(set(again)) == 30
    assert list(client.map("once", range(30), key=key)) == again


def test_what_a_map_that_is_left_had_scheduled_is_cancelled(address: str, client: Client):
    name = f"q-{uuid4().hex[:12]}"
    for left in (True, False):
        command = [sys.executable, "-c", LEFT, address, name]
        program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        until(lambda: len(list(client.list(queue=name))) == 2_000)
        program.send_signal(signal.SIGINT if left else signal.SIGKILL)
        _, output = program.communicate(timeout=PATIENCE_S)
        assert len(list(client.list(queue=name))) == (0 if left else 2_000), output
        assert not left or "KeyboardInterrupt" in output


async def test_and_so_is_what_an_asynchronous_one_had_scheduled(address: str):
    name = f"q-{uuid4().hex[:12]}"
    async with AsyncClient(address) as client:
        for leave in (True, False):
            results = client.map("nobody", range(500), queue=name, cancel_on_exit=leave)
            waiting = asyncio.ensure_future(anext(results))

            async def all_there() -> bool:
                return len([task async for task in client.list(queue=name)]) == 500

            await until_async(all_there)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert len([task async for task in client.list(queue=name)]) == (0 if leave else 500)


def test_mistakes_of_a_map_are_named(client: Client):
    wrong: Any
    for wrong, words in (
        ({"chunksize": 0}, "chunksize 0 is not in range"),
        ({"window": 0}, "window 0 is not in range"),
        ({"chunksize": 2, "key": str}, "give key or chunksize"),
        ({"key": "k"}, "give a function that says the key"),
        ({"total": -1}, "total -1 is negative"),
    ):
        with pytest.raises(InvalidTask, match=words):
            client.map("double", [1], **wrong)


def test_a_watch_carries_progress(client: Client, tmp_path: Path):
    handle = client.schedule("told", [str(tmp_path / "go")], keep_result="1m")
    shown = []
    for event in client.watch(handle.id, timeout=60):
        if event.progress is not None:
            assert event.state == "running"
            shown.append((event.progress.fraction, event.progress.message))
            (tmp_path / "go").touch()
    assert shown[0] == (0.25, "a quarter") and event.state == "succeeded"


async def test_asynchronously_from_an_asynchronous_source(address: str):
    async def items() -> AsyncIterator[int]:
        for n in range(20, 1_520):
            yield n

    async with AsyncClient(address) as client:
        assert [value async for value in client.map("double", items())] == [2 * n for n in range(20, 1_520)]
        assert sorted([value async for value in client.map("double", range(20, 90), ordered=False, window=10)]) == [
            2 * n for n in range(20, 90)
        ]
        with pytest.raises(TaskFailed):
            _ = [value async for value in client.map("double", [13], retry=0)]
        results = client.map("double", range(20, 10_000), window=1_000)
        assert await anext(results) == 40
        await results.aclose()  # type: ignore[attr-defined]
