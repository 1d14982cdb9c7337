"""A whole node on a cluster: REST, gRPC, a worker, a channel, the commands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from delaybox.client import Client
from delaybox.wire.gen.task_pb2 import Task
from delaybox.worker import Worker
from tests.cluster import RealCluster, spread
from tests.command import Command
from tests.nodes import node
from tests.waiting import until


def test_a_node_on_a_cluster(
    cluster: RealCluster,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = spread(prefix)
    config = tmp_path / "config.yaml"
    channel = f"{prefix}-out"
    config.write_text(
        f"storage:\n  redisUrl: {cluster.url}\n  prefix: {name}\n  taskExecutionChanel: {channel}\npartitions: 64\n"
        "httpServer:\n  port: 0\n"
    )
    # A subscriber may listen at any server: this is not the one that the node was given.
    listener = redis.Redis(port=cluster.servers[2].port).pubsub()
    listener.subscribe(channel)
    with node("--config", str(config), folder=tmp_path) as started:
        until(lambda: listener.get_message(timeout=0.1))
        tasks = [{"type": "pub_sub", "payload": f"p{i}", "idempotency_key": f"k{i}"} for i in range(12)]
        for task in tasks:
            status, _, answer = started.call("POST", "/v1/tasks", task)
            assert status == 201, answer
        got: set[bytes] = set()

        def all_came() -> bool:
            message = listener.get_message(ignore_subscribe_messages=True, timeout=0.1)
            if message is not None:
                got.add(Task.FromString(message["data"]).payload)
            return len(got) == len(tasks)

        started.until(all_came)

        worker = Worker("crew", servers=f"127.0.0.1:{started.grpc_port}")

        @worker.task
        async def double(n: int) -> int:
            return 2 * n

        async def work() -> Any:
            async with worker.running():
                with Client(f"127.0.0.1:{started.grpc_port}") as client:
                    sent = await asyncio.to_thread(client.schedule, "double", 21, keep_result="1m")
                    return await asyncio.to_thread(sent.result, 20)

        assert asyncio.run(work()) == 42
        delaybox = Command(monkeypatch, capsys)
        done = delaybox("doctor", "--json", "--config", str(config), "--server", f"http://127.0.0.1:{started.port}")
        assert done.out.count("slots, 1 replica") == 3 and "64 on 3 primaries" in done.out, done
    listener.close()
