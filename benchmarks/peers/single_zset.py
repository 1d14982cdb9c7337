"""The usual design, done well: one sorted set of due times and one hash of bodies, each step one script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio

from benchmarks.harness.server import BenchServer
from benchmarks.peers.bare import chunks
from benchmarks.workload import Item, due_of

NAME = "single ZSET"
KEYS = ("zset:due", "zset:tasks", "zset:leases")

SCHEDULE = """
local z, h = {}, {}
for i = 1, #ARGV, 3 do
  z[#z + 1] = ARGV[i + 1]; z[#z + 1] = ARGV[i]
  h[#h + 1] = ARGV[i];     h[#h + 1] = ARGV[i + 2]
end
redis.call('ZADD', KEYS[1], unpack(z))
redis.call('HSET', KEYS[2], unpack(h))
return redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
"""
CLAIM = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local due = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
local bodies = {}
if #due > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #due - 1)
  redis.call('RPUSH', KEYS[3] .. ':' .. ARGV[2], unpack(due))
  redis.call('ZADD', KEYS[3], now + 15000, ARGV[2])
  bodies = redis.call('HMGET', KEYS[2], unpack(due))
end
local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return { due, bodies, head[2] or '0' }
"""
ACK = """
local ids = redis.call('LRANGE', KEYS[3] .. ':' .. ARGV[1], 0, -1)
if #ids > 0 then redis.call('HDEL', KEYS[2], unpack(ids)) end
redis.call('DEL', KEYS[3] .. ':' .. ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return #ids
"""
CLAIM_ALL = """
local due = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE')
redis.call('ZREM', KEYS[1], unpack(due))
return redis.call('HMGET', KEYS[2], unpack(due))
"""
FILL = """
local z, h = {}, {}
math.randomseed(tonumber(ARGV[1]))
local from, n, first, span = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
for i = from + 1, from + n do
  local due = first + math.floor(math.random() * span)
  local id = struct.pack('>I2I4I4I6', math.floor(due / 4294967296), due % 4294967296, math.random(0, 2 ^ 30), i)
  z[#z + 1] = due; z[#z + 1] = id
  h[#h + 1] = id;  h[#h + 1] = ARGV[5]
  if #z >= 4000 then
    redis.call('ZADD', KEYS[1], unpack(z)); redis.call('HSET', KEYS[2], unpack(h)); z, h = {}, {}
  end
end
if #z > 0 then redis.call('ZADD', KEYS[1], unpack(z)); redis.call('HSET', KEYS[2], unpack(h)) end
return n
"""


class SingleZset:
    """Blocking client: bulk scheduling, filling, the drain of a herd."""

    def __init__(self, server: BenchServer) -> None:
        self._client = redis.Redis(unix_socket_path=server.unix, protocol=3, socket_timeout=None)

    def _run(self, script: str, *arguments: object) -> Any:
        return self._client.execute_command("EVAL", script, len(KEYS), *KEYS, *arguments)

    def schedule(self, items: Sequence[Item], *, chunk: int) -> float:
        """Seconds taken."""
        started = time.perf_counter()
        for part in chunks(items, chunk):
            self._run(SCHEDULE, *(word for item in part for word in item))
        return time.perf_counter() - started

    def fill(self, count: int, *, have: int, first_ms: int, span_ms: int, payload: bytes) -> None:
        """Pending tasks made inside the server; ``have`` are there already."""
        step = 20_000
        for at in range(have, have + count, step):
            self._run(FILL, at, min(step, have + count - at), first_ms, span_ms, payload)

    def drain(self, *, batch: int) -> tuple[int, float]:
        """Claim with a lease and ack, until nothing is due; (tasks, seconds)."""
        taken, started, lease = 0, time.perf_counter(), 0
        while True:
            lease += 1
            due = self._run(CLAIM, batch, lease)[0]
            if not due:
                return taken, time.perf_counter() - started
            taken += int(self._run(ACK, lease))

    def claim_all(self, *, now_ms: int) -> int:
        """Everything due in one script, as the Go original does it; raises where Lua's stack ends."""
        return len(self._run(CLAIM_ALL, now_ms))


async def lateness(server: BenchServer, *, count: int, until_s: float) -> list[float]:
    """An owner loop on the single set: sleep until the head is due, claim, note when the batch is in hand, ack."""
    client = redis.asyncio.Redis(unix_socket_path=server.unix, protocol=3)
    late: list[float] = []
    lease, acks = 0, set[asyncio.Task[Any]]()
    deadline = time.time() + until_s
    while len(late) < count and time.time() < deadline:
        lease += 1
        due, _, head = await client.execute_command("EVAL", CLAIM, len(KEYS), *KEYS, 500, lease)
        if due:
            now = time.time() * 1000
            late += [now - due_of(task_id) for task_id in due]
            ack = asyncio.ensure_future(client.execute_command("EVAL", ACK, len(KEYS), *KEYS, lease))
            acks.add(ack)
            ack.add_done_callback(acks.discard)
        wait_s = float(head) / 1000 - time.time()
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, 0.25))
    await asyncio.gather(*acks)
    await client.aclose()
    return late
