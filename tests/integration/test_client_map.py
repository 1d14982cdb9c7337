"""`client.map` and results, with a node and a worker process as a user has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from delaybox import AsyncClient, Call, Client
from delaybox.client import ResultGone, TaskFailed
from tests.nodes import Node, node

APP = """
from delaybox import Worker

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
            assert worker.wait(30) == 0


@pytest.fixture
def client(served: Node) -> Iterator[Client]:
    with Client(f"127.0.0.1:{served.grpc_port}") as opened:
        yield opened


def test_what_a_function_returned(client: Client):
    assert client.schedule("double", [21], keep_result="1m").result(60) == 42
    assert client.schedule("double", {"n": 2, "times": 5}, keep_result="1m").result(60) == 10
    assert client.schedule("double", Call(2, times=4), keep_result="1m").result(60) == 8
    assert client.schedule("size", b"\x00\xff", keep_result="1m").result(60) == 2
    for value in (None, b"\x00\xff", {"a": [1, None]}, "é"):
        assert client.schedule("echo", Call(value), keep_result="1m").result(60) == value


def test_why_a_function_failed(client: Client):
    with pytest.raises(TaskFailed, match="ValueError: unlucky") as caught:
        client.schedule("double", [13], retry=0, keep_result="1m").result(60)
    assert b"Traceback" in caught.value.output


def test_a_result_that_nobody_wanted_is_not_kept(client: Client):
    with pytest.raises(ResultGone):
        client.schedule("double", [1]).result(60)


def test_thousands_come_back_in_order(client: Client):
    told: list[tuple[int, int | None]] = []
    count = 5_000
    results = client.map("double", range(20, 20 + count), progress=lambda at, of: told.append((at, of)))
    assert list(results) == [2 * n for n in range(20, 20 + count)]
    assert told[-1] == (count, count)


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


async def test_asynchronously_from_an_asynchronous_source(served: Node):
    async def items() -> AsyncIterator[int]:
        for n in range(20, 1_520):
            yield n

    async with AsyncClient(f"127.0.0.1:{served.grpc_port}") as client:
        assert [value async for value in client.map("double", items())] == [2 * n for n in range(20, 1_520)]
        assert sorted([value async for value in client.map("double", range(20, 90), ordered=False, window=10)]) == [
            2 * n for n in range(20, 90)
        ]
        with pytest.raises(TaskFailed):
            _ = [value async for value in client.map("double", [13], retry=0)]
        results = client.map("double", range(20, 10_000), window=1_000)
        assert await anext(results) == 40
        await results.aclose()  # type: ignore[attr-defined]
