"""A whole node on a cluster: REST, gRPC, a worker, a channel; programs straight on it; the commands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from delaybox.client import Client
from delaybox.wire.gen.task_pb2 import Task
from delaybox.worker import Worker
from tests.cluster import RealCluster, spread
from tests.command import Command
from tests.nodes import node
from tests.waiting import PATIENCE_S, until


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
        f"storage:\n  redisUrl: {cluster.url}\n  prefix: {name}\n  taskExecutionChanel: {channel}\n"
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
                    return await asyncio.to_thread(sent.result, PATIENCE_S)

        assert asyncio.run(work()) == 42
        delaybox = Command(monkeypatch, capsys)
        done = delaybox("doctor", "--json", "--config", str(config), "--server", f"http://127.0.0.1:{started.port}")
        assert done.out.count("slots, 1 replica") == 3 and "64 on 3 primaries" in done.out, done
    listener.close()


async def test_programs_straight_on_a_cluster(cluster: RealCluster, prefix: str) -> None:
    """No node anywhere: the worker's child keeps time at all primaries."""
    # The first server that is named is away.
    others = ",".join(f"127.0.0.1:{server.port}" for server in cluster.servers[1:3])
    url = f"redis://127.0.0.1:1,{others}?prefix={spread(prefix)}"
    worker = Worker("crew", servers=url)

    @worker.task(keep_result="1m")
    async def double(n: int) -> int:
        return 2 * n

    def use() -> None:
        with Client(url) as client:
            assert client.schedule("double", 21, delay=0.2).result(PATIENCE_S) == 42
            assert list(client.map("double", range(40))) == [2 * n for n in range(40)]
            group = [client.schedule("double", n, delay=3_600, group="later") for n in range(20)]
            assert sorted(task.id for task in client.list(group="later")) == sorted(sent.id for sent in group)
            assert client.cancel_many(group="later").changed == 20

    async with worker.running():
        await asyncio.to_thread(use)


def test_commands_on_a_store_on_a_cluster(
    cluster: RealCluster,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    delaybox = Command(monkeypatch, capsys)
    name, old, file = spread(prefix), f"{prefix}-old", str(tmp_path / "out.ndjson")
    at = ("--redis", cluster.url, "--set", f"storage.prefix={name}")
    members = [Task(taskUuid=str(uuid4()), payload=b"x").SerializeToString() for _ in range(50)]
    holder = cluster.primary_of(old).admin
    holder.zadd(old, dict.fromkeys(members, 4_000_000_000_000))
    done = delaybox("import-legacy", *at, "--key", old, "--json")
    assert done.code == 0 and done.json()["created"] == 50, done
    assert not holder.exists(old)
    assert delaybox("fsck", *at).code == 0
    done = delaybox("export", file, *at, "--json")
    assert done.code == 0 and done.json()["tasks"] == 50, done
    other = ("--redis", cluster.url, "--set", f"storage.prefix={spread(f'{prefix}-b')}", "--set", "partitions=16")
    done = delaybox("import", file, *other, "--json")
    assert done.code == 0 and done.json()["stored"] == 50, done
    assert delaybox("fsck", *other).code == 0
    assert delaybox("quarantine", "list", *other, "--json").code == 0
