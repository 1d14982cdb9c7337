"""Several nodes, of which one is killed: calls go on with the others."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from delaybox import AsyncClient, Client, NewTask
from delaybox.client import OutcomeUnknown, Unreachable
from tests.nodes import Node, node
from tests.ports import free_port
from tests.servers import RealServer
from tests.waiting import PATIENCE_S, until

LATER = "1h"


@pytest.fixture
def store() -> Iterator[RealServer]:
    own = RealServer()
    own.start()
    yield own
    own.close()


@pytest.fixture
def nodes(tmp_path: Path, store: RealServer) -> Iterator[list[Node]]:
    """Two nodes on one store."""
    with _node(tmp_path, store) as first, _node(tmp_path, store) as second:
        yield [first, second]


def _node(folder: Path, store: RealServer, *more: str, port: int = 0) -> contextlib.AbstractContextManager[Node]:
    """``port``: of another one, in whose place it comes."""
    ports = ("--http-port", "0", "--grpc-port", str(port or free_port()))
    return node(*ports, "--redis", store.url, *more, folder=folder)


def _endpoints(nodes: list[Node]) -> list[str]:
    return [f"127.0.0.1:{one.grpc_port}" for one in nodes]


def _kill(one: Node) -> None:
    """Everything of it at once, as a machine that goes away."""
    one.process.send_signal(signal.SIGKILL)
    one.process.wait(PATIENCE_S)


def test_calls_take_turns_and_go_on_when_a_node_is_killed(nodes: list[Node]):
    queue = f"q-{uuid4().hex[:12]}"
    with Client(_endpoints(nodes)) as client:
        ids = [client.publish(str(n), queue=queue, delay=LATER, key=f"{queue}-{n}").id for n in range(20)]
        _kill(nodes[0])
        ids += [client.publish(str(n), queue=queue, delay=LATER, key=f"{queue}-{n}").id for n in range(20, 60)]
        assert len(set(ids)) == 60
        assert {task.id for task in client.list(queue=queue)} == set(ids)


def test_a_stream_of_tasks_survives_a_killed_node(nodes: list[Node]):
    queue = f"q-{uuid4().hex[:12]}"

    def tasks(count: int) -> Iterator[NewTask]:
        for n in range(count):
            if n == count // 2:
                _kill(nodes[0])
            yield NewTask.publish(str(n), queue=queue, delay=LATER)

    with Client(_endpoints(nodes)) as client:
        done = client.schedule_many(tasks(20_000), safe=True)
        assert (done.created, done.refused) == (20_000, 0), done.errors[:3]
        assert sum(1 for _ in client.list(queue=queue)) == 20_000, "none lost, none twice"


def test_without_keys_what_nobody_knows_is_said_and_nothing_is_created_twice(nodes: list[Node]):
    queue = f"q-{uuid4().hex[:12]}"

    outcomes: list[Any] = []

    def tasks(count: int) -> Iterator[NewTask]:
        for n in range(count):
            if n == count // 2:
                until(lambda: outcomes)
                _kill(nodes[0])
                _kill(nodes[1])
            yield NewTask.publish(str(n), queue=queue, delay=LATER)

    with Client(_endpoints(nodes), retries=1) as client:
        with pytest.raises(Unreachable):
            for outcome in client.schedule_each(tasks(20_000)):
                outcomes.append(outcome)
        stored = [one for one in outcomes if not isinstance(one, Exception)]
        assert stored
        assert all(isinstance(one, OutcomeUnknown) for one in outcomes[len(stored) :])


async def test_the_asynchronous_client_goes_on_too(nodes: list[Node]):
    queue = f"q-{uuid4().hex[:12]}"
    async with AsyncClient(_endpoints(nodes), safe=True) as client:
        ids = {(await client.publish(str(n), queue=queue, delay=LATER)).id for n in range(20)}
        _kill(nodes[1])
        ids |= {(await client.publish(str(n), queue=queue, delay=LATER)).id for n in range(40)}
        assert len(ids) == 60
        assert (
            await client.schedule_many(NewTask.publish(b"", queue=queue, delay=LATER) for _ in range(5_000))
        ).created
        assert len([task async for task in client.list(queue=queue)]) == 5_060


def test_a_node_that_comes_back_is_used_again(nodes: list[Node], tmp_path: Path, store: RealServer):
    with Client(_endpoints(nodes)[:1], retries=100) as client:
        client.queues()
        _kill(nodes[0])
        with pytest.raises(Unreachable), Client(_endpoints(nodes)[:1], retries=0) as other:
            other.queues()
        with _node(tmp_path, store, port=nodes[0].grpc_port):
            assert client.publish("x", delay=LATER, key=uuid4().hex).created


def test_what_can_be_repeated_outlives_a_restart(tmp_path: Path, store: RealServer):
    with _node(tmp_path, store, "--enable-shell") as first, ThreadPoolExecutor() as pool:
        address = f"127.0.0.1:{first.grpc_port}"
        with Client(address) as client:
            handle = client.shell("echo later", delay=LATER, keep_result="1m")
            events = client.watch(handle.id, timeout=60)
            assert next(events).state == "scheduled"
            calls = [pool.submit(list, events), pool.submit(handle.result, 60)]
            _kill(first)
            key = uuid4().hex
            calls.append(pool.submit(client.publish, "x", delay=LATER, key=key))
            calls.append(pool.submit(client.schedule_many, [NewTask.publish("y", delay=LATER, key=f"{key}-y")]))
            failures = client._session.endpoints._failures
            until(lambda: failures[0] >= 8 + len(calls), lambda: calls)
            assert not any(call.done() for call in calls), calls
            with _node(tmp_path, store, "--enable-shell", port=first.grpc_port):
                seen, output, stored, many = calls
                assert stored.result(60).created and many.result(60).created == 1
                handle.run_now()
                assert output.result(60) == b"later\n"
                assert seen.result(60)[-1].state == "succeeded"
