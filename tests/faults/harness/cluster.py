"""A real cluster for a run: three primaries with a replica each, killed, replaced and resharded at will."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis

from delaybox.store.slots import slot_of
from tests.cluster import ClusterServer, RealCluster
from tests.faults.harness.nemesis import Nemesis
from tests.faults.harness.oracle import now_us
from tests.faults.harness.server import Server

_UNDER_WAY_US = 200_000
"""By how much a replica may be behind its primary on a busy machine, and a handler behind a claim's reply."""
KINDS = ("kill", "failover", "force", "takeover", "key by key", "at once")


class Cluster(Server):
    """As `Server`, of several processes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.of = RealCluster(replicas=True)

    @property
    def url(self) -> str:
        # Any of them leads to all, and the first one may be dead.
        return "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in self.of.servers)

    @property
    def pid(self) -> int:
        return self.of.servers[0].pid

    def start(self) -> float:
        began = time.monotonic()
        self.of.start()
        return time.monotonic() - began

    def stop(self) -> None:
        self.of.close()

    def client(self) -> redis.Redis:
        """Of one of the primaries."""
        return next(iter(self._primaries()))

    @contextlib.contextmanager
    def clients(self) -> Iterator[Sequence[redis.Redis]]:
        """Of each primary."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(client) for client in self._primaries()]

    def _primaries(self) -> Iterator[redis.Redis]:
        for server in self.of.servers:
            if self.of.role(server) == "master":
                yield redis.Redis(unix_socket_path=server.unix_path, socket_timeout=30)

    async def strike(self, nemesis: Nemesis, kind: str, key: str) -> tuple[int, int]:
        """Does one of `KINDS` of harm to the primary that has ``key``, and mends it. From when until when (µs) it was
        away or moved: until another one is the primary, or all keys of the slot have arrived."""
        primary = await asyncio.to_thread(self.of.primary_of, key)
        began = now_us()
        async with nemesis.during(kind):
            if kind in ("key by key", "at once"):
                await asyncio.to_thread(self._move, slot_of(key), primary, at_once=kind == "at once")
            elif kind == "kill":
                replica = await asyncio.to_thread(self.of.replica_of, primary)
                began = now_us()
                primary.kill()
                self._forgot(nemesis, began)
                await self.of.soon(lambda: self.of.primary_of(key) is replica)
            else:
                replica = await asyncio.to_thread(self.of.replica_of, primary)
                began = now_us()
                how = "" if kind == "failover" else kind.upper()
                await asyncio.to_thread(self.of.promote, replica, how)
                await self.of.soon(lambda: self.of.role(primary) == "slave")
                if how:
                    # Nobody has asked the old primary: what it took meanwhile is gone.
                    self._forgot(nemesis, began)
        ended = now_us()
        if kind == "kill":
            await asyncio.to_thread(primary.start)
        await asyncio.to_thread(self.of.whole)
        return began, ended

    @staticmethod
    def _forgot(nemesis: Nemesis, from_us: int) -> None:
        # What it claimed at the last moment begins a little later.
        nemesis.note("rollback", from_us=from_us - _UNDER_WAY_US, to_us=now_us() + _UNDER_WAY_US)

    def _move(self, slot: int, source: ClusterServer, *, at_once: bool) -> None:
        """To another primary, and not back. Key by key as `valkey-cli --cluster reshard` does; at once as Valkey 9
        can."""
        target = self.of.other_than(source)
        if at_once and self.of.migrate_slot(slot, source, target):
            return
        for step in self.of.move_slot(slot, source, target):
            if step == "begun":
                time.sleep(0.1)  # so that callers meet it
