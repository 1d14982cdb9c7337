"""The floor: the bare commands that any scheduler on Redis must send, one Python client, nothing around them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import redis
import redis.asyncio

from benchmarks.harness.server import BenchServer
from benchmarks.workload import Item

NAME = "bare HSET+ZADD"


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


def pipelined(server: BenchServer, items: Sequence[Item], *, chunk: int) -> float:
    """One HSET and one ZADD a task, pipelined by the chunk; seconds taken."""
    client = redis.Redis(unix_socket_path=server.unix, protocol=3)
    started = time.perf_counter()
    for part in chunks(items, chunk):
        pipe = client.pipeline(transaction=False)
        for task_id, due, payload in part:
            pipe.execute_command("HSET", "tasks", task_id, payload)
            pipe.execute_command("ZADD", "due", due, task_id)
        pipe.execute()
    seconds = time.perf_counter() - started
    client.close()
    return seconds


def variadic(server: BenchServer, items: Sequence[Item], *, chunk: int) -> float:
    """One HSET and one ZADD a chunk: the least that a client can send; seconds taken."""
    client = redis.Redis(unix_socket_path=server.unix, protocol=3)
    started = time.perf_counter()
    for part in chunks(items, chunk):
        fields: list[bytes] = []
        scores: list[bytes | int] = []
        for task_id, due, payload in part:
            fields += (task_id, payload)
            scores += (due, task_id)
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("HSET", "tasks", *fields)
        pipe.execute_command("ZADD", "due", *scores)
        pipe.execute()
    seconds = time.perf_counter() - started
    client.close()
    return seconds


async def one_by_one(server: BenchServer, items: Sequence[Item], *, callers: int) -> float:
    """``callers`` connections, each storing one task at a time and waiting for the answer; seconds taken."""
    clients = [redis.asyncio.Redis(unix_socket_path=server.unix, protocol=3) for _ in range(callers)]
    source = iter(items)

    async def caller(client: redis.asyncio.Redis) -> None:
        for task_id, due, payload in source:
            pipe = client.pipeline(transaction=False)
            pipe.execute_command("HSET", "tasks", task_id, payload)
            pipe.execute_command("ZADD", "due", due, task_id)
            await pipe.execute()

    started = time.perf_counter()
    await asyncio.gather(*(caller(client) for client in clients))
    seconds = time.perf_counter() - started
    for client in clients:
        await client.aclose()
    return seconds


def drain(server: BenchServer, *, now_ms: int, chunk: int) -> tuple[int, float]:
    """Take everything due: read a chunk, fetch the bodies, delete both. No lease: a crash loses what it holds."""
    client = redis.Redis(unix_socket_path=server.unix, protocol=3)
    taken, started = 0, time.perf_counter()
    while True:
        head = client.execute_command("ZRANGE", "due", "-inf", now_ms, "BYSCORE", "LIMIT", 0, chunk)
        if not head:
            break
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("ZREM", "due", *head)
        pipe.execute_command("HMGET", "tasks", *head)
        pipe.execute_command("HDEL", "tasks", *head)
        taken += len(pipe.execute()[1])
    seconds = time.perf_counter() - started
    client.close()
    return taken, seconds
