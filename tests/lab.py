"""A store on a test's server whose time the test moves, and short words for what tests do with it."""

from __future__ import annotations

import os
from typing import Any

from redis.asyncio import Redis

from delaybox.core.task import NewTask
from delaybox.store import keys
from delaybox.store.fsck import fsck
from delaybox.store.loader import ScriptRunner
from delaybox.store.record import Record, draft, read
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Claimed, ClaimLimits, Found, Store

CLOCK_KEY = "tests:now"
CLOCK = f"""
local function now_ms() return tonumber(redis.call('GET', '{CLOCK_KEY}')) end
local function int(n) return string.format('%.0f', n) end
"""
"""Stands in for lib/time.lua, so that no test waits for time to pass."""

START = 1_800_000_000_000


class Lab:
    """One store. ``now`` is what its scripts take for the time; it moves by `move` alone."""

    def __init__(self, client: Redis, store: Store) -> None:
        self.client: Any = client
        self.store = store
        self.now = START
        self.tag = store.tags[0]
        self.dirty = False
        """Set by a test that leaves the store broken on purpose."""

    @classmethod
    async def open(cls, client: Redis, prefix: str, *, partitions: int = 1, bucket_ms: int = 1_000) -> Lab:
        store = await Store.open(Servers(client), prefix=prefix, partitions=partitions, bucket_ms=bucket_ms)
        store.runner = ScriptRunner(store.servers.send, clock=CLOCK)
        lab = cls(client, store)
        await lab.move(0)
        return lab

    async def move(self, by_ms: int) -> None:
        self.now += by_ms
        # A script, for a plain SET is refused by a server that is full.
        await self.client.eval("#!lua flags=allow-oom\nredis.call('SET', KEYS[1], ARGV[1])", 1, CLOCK_KEY, self.now)

    async def add(self, *tasks: NewTask, partition: int = 0) -> list[bytes]:
        """Schedules in one call; the ids."""
        answers = (await self.store.schedule([Batch(partition, [draft(t) for t in tasks])]))[0]
        assert not isinstance(answers, BaseException), answers
        return [a.task_id for a in answers]

    async def claim(self, lease_id: bytes | None = None, **limits: Any) -> Claimed:
        limits = {"slots": 500, "types": "pshw", **limits}
        return await self.store.claim(0, lease_id or os.urandom(16), ClaimLimits(**limits))

    async def lease(self, lease_id: bytes, **limits: Any) -> dict[bytes, Record]:
        """Claims under ``lease_id``; what was leased."""
        return leased(await self.claim(lease_id, **limits))

    async def expand(self, lead_ms: int = 60_000, count: int = 250) -> None:
        """Expands and indexes all there is."""
        done = -1
        while (look := await self.store.expand(0, lead_ms=lead_ms, done=done)).bucket >= 0:
            await self.index(look.bucket, count)
            done = look.bucket

    async def index(self, bucket: int, count: int = 250) -> None:
        cursor = b"0"
        while True:
            cursor, _, _ = await self.store.index(0, bucket, cursor, count=count)
            if cursor == b"0":
                return

    async def find(self, task_id: bytes) -> Found:
        return await self.store.get(task_id)

    async def record(self, task_id: bytes) -> Record:
        """The record where it lies, pending or leased."""
        found = await self.find(task_id)
        assert found.place in ("home", "lease"), found
        return read(task_id, found.value)

    async def near(self, priority: int = 2, letter: str = "") -> dict[bytes, int]:
        """id + lane -> score; ``letter`` w, h: of WORKER, HTTP tasks."""
        entries = await self.client.zrange(keys.near(self.tag, priority, letter), 0, -1, withscores=True)
        return {member: int(score) for member, score in entries}

    async def ready(self, lane: str) -> list[bytes]:
        members: list[bytes] = await self.client.zrange(f"{self.tag}:ready:{lane}", 0, -1)
        return members

    async def ttl_of(self, key: str) -> int | None:
        """Of an idempotency key's entry: None without TTL, -2 when there is none."""
        ttl: int = await self.client.ttl(f"{self.tag}:idem:{key}")
        return None if ttl == -1 else ttl

    async def names(self, pattern: str) -> list[bytes]:
        found: list[bytes] = await self.client.keys(f"{self.tag}:{pattern}")
        return found

    async def problems(self) -> list[str]:
        return (await fsck(self.store)).problems

    async def kinds(self) -> list[str]:
        return sorted(p.partition(":")[0] for p in await self.problems())


def leased(claimed: Claimed) -> dict[bytes, Record]:
    flat = claimed.leased
    assert len(set(flat[0::2])) == len(flat) // 2, "one task twice in a claim"
    return {i: read(i, raw) for i, raw in zip(flat[0::2], flat[1::2], strict=True)}
