"""A real cluster for tests: server processes in cluster mode."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import redis

from delaybox.store import keys
from delaybox.store.address import ServerSettings
from delaybox.store.slots import SLOTS, slot_of
from tests.ports import free_ports
from tests.servers import RealServer
from tests.waiting import until

NODE_TIMEOUT_MS = 1_000
_PATIENCE_S = 60.0
# How long a server tries a fail-over that it was asked for (source: CLUSTER_MF_TIMEOUT of Redis and Valkey).
_FAILOVER_S = 5.0
_ENDED = {"success", "failed", "cancelled"}
"""Of the states of a move of slots."""
_BASE = (
    "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-require-full-coverage", "no",
    "--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration",
    "no", "--appendonly", "no", "--enable-debug-command", "local",
)  # fmt: skip


def spread(prefix: str, partitions: int = 16) -> str:
    """A prefix whose partitions lie at all three primaries of a fresh cluster, at least three at each."""
    for suffix in range(1_000):
        found = f"{prefix}{suffix}"
        at = [slot_of(keys.tag(found, p)) * 3 // SLOTS for p in range(partitions)]
        if all(at.count(shard) >= 3 for shard in range(3)):
            return found
    raise AssertionError("no prefix spreads")


class ClusterServer(RealServer):
    """One server of a cluster. ``admin``: a client of it that follows no redirection."""

    def __init__(self, port: int, bus: int, arguments: Sequence[str] = ()) -> None:
        super().__init__((*_BASE, "--port", str(port), "--cluster-port", str(bus), *arguments))
        self.port = port
        self.admin: Any = None

    def start(self) -> None:
        super().start()
        self.admin = redis.Redis(unix_socket_path=self.unix_path, protocol=3)

    @property
    def node_id(self) -> str:
        return str(self.admin.execute_command("CLUSTER", "MYID").decode())

    def close(self) -> None:
        if self.admin is not None:
            self.admin.close()
        super().close()


class RealCluster:
    """``primaries`` servers with a part of the slots each, and as many replicas, if ``replicas``."""

    def __init__(self, *, primaries: int = 3, replicas: bool = False, arguments: Sequence[str] = ()) -> None:
        count = primaries * (2 if replicas else 1)
        ports = free_ports(2 * count)
        self.servers = [ClusterServer(ports[2 * i], ports[2 * i + 1], arguments) for i in range(count)]
        self._primaries = primaries
        self._replicas = replicas
        self._buses = ports[1::2]

    @property
    def settings(self) -> ServerSettings:
        return ServerSettings(port=self.servers[0].port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.servers[0].port}"

    def start(self) -> None:
        """Returns when all slots are served and all replicas are in step."""
        # Each gets the file that it would have written after they had met, because meeting takes seconds.
        ids = [f"{i + 1:02x}" * 20 for i in range(len(self.servers))]
        share = SLOTS // self._primaries
        lines = []
        for i, (server, bus) in enumerate(zip(self.servers, self._buses, strict=True)):
            of = i % self._primaries
            last = SLOTS - 1 if of == self._primaries - 1 else (of + 1) * share - 1
            role = f"slave {ids[of]}" if i >= self._primaries else "master -"
            slots = "" if i >= self._primaries else f" {of * share}-{last}"
            place = f"127.0.0.1:{server.port}@{bus},,tls-port=0,shard-id={of + 1:02x}" + f"{of + 1:02x}" * 19
            lines.append(f"{ids[i]} {place} {role} 0 0 {of + 1} connected{slots}")
        for i, server in enumerate(self.servers):
            mine = [
                line.replace(" master ", " myself,master ").replace(" slave ", " myself,slave ") if i == at else line
                for at, line in enumerate(lines)
            ]
            text = "\n".join([*mine, f"vars currentEpoch {len(ids)} lastVoteEpoch 0", ""])
            (server.folder / "nodes.conf").write_text(text)
            server.start()
        self.whole()

    def whole(self) -> None:
        """Returns when all slots are served, nobody is held for dead and all replicas are in step."""
        self.until(lambda: all(self._ok(server) for server in self.servers))
        self.until(lambda: all(self._knows(server) == len(self.servers) for server in self.servers))
        if self._replicas:
            self.until(lambda: all(self._in_step(server) for server in self.servers))

    def pairs(self) -> Iterator[tuple[ClusterServer, ClusterServer]]:
        """Primaries as they were at the start, and the replica of each."""
        half = self._primaries
        return zip(self.servers[:half], self.servers[half:], strict=True)

    def primary_of(self, key: str) -> ClusterServer:
        """The server that has a key's slot now, as most servers know it."""
        return self.primary_of_slot(slot_of(key))

    def primary_of_slot(self, slot: int) -> ClusterServer:
        """The same by slot."""
        votes: dict[int, int] = {}
        for server in self.servers:
            with contextlib.suppress(redis.RedisError):
                for first, last, (_, port, *_), *_ in server.admin.execute_command("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        votes[port] = votes.get(port, 0) + 1
        port = max(votes, key=lambda one: votes[one])
        return next(server for server in self.servers if server.port == port)

    def other_than(self, server: ClusterServer) -> ClusterServer:
        """Another primary."""
        return next(one for one in self.servers if one is not server and self.role(one) == "master")

    def promote(self, server: ClusterServer, how: str = "") -> None:
        """CLUSTER FAILOVER on a replica, and waits until it has taken over.

        A server refuses while it has no link to its primary, and forgets after five seconds what it could not do: it is
        asked until it has done it.
        """
        asked = -_FAILOVER_S

        def taken() -> bool:
            nonlocal asked
            if self.role(server) != "master" and time.monotonic() - asked > _FAILOVER_S:
                server.admin.execute_command("CLUSTER", "FAILOVER", *([how] if how else []))
                asked = time.monotonic()
            return self.role(server) == "master"

        self.until(taken)

    def replica_of(self, primary: ClusterServer) -> ClusterServer:
        """The replica that a primary has, once one says that it is."""
        found: list[ClusterServer] = []

        def known() -> bool:
            mine = primary.node_id
            for server in self.servers:
                for line in server.admin.execute_command("CLUSTER", "NODES").decode().splitlines():
                    words = line.split()
                    if "myself" in words[2] and words[3] == mine:
                        found.append(server)
            return bool(found)

        self.until(known)
        return found[0]

    def move_slot(self, slot: int, source: ClusterServer, target: ClusterServer) -> Iterator[str]:
        """Moves a slot key by key, as `valkey-cli --cluster reshard` does; yields before each step."""
        ids = source.node_id, target.node_id
        self._told(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        self._told(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        yield "begun"
        while found := source.admin.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.admin.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 60_000, "KEYS", *found)
            yield "key"
        for server in (target, source, *self.servers):
            if self.role(server) == "master":
                self._told(server, "CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        yield "done"

    def migrate_slot(self, slot: int, source: ClusterServer, target: ClusterServer) -> bool:
        """Moves a slot at once, as Valkey 9 can, and waits until it lies there; False where the server cannot."""
        words = ("SLOTSRANGE", slot, slot, "NODE", target.node_id)
        try:
            source.admin.execute_command("CLUSTER", "MIGRATESLOTS", *words)
        except redis.ResponseError as refused:
            if "unknown" in str(refused).lower():
                return False

        def moved() -> bool:
            if self.primary_of_slot(slot) is target:
                return True
            jobs = _states(source.admin.execute_command("CLUSTER", "GETSLOTMIGRATIONS"))
            if all(state in _ENDED for state in jobs):
                # It may fail, as where the servers' connection to each other breaks, and is then as if never asked for.
                source.admin.execute_command("CLUSTER", "MIGRATESLOTS", *words)
            return False

        self.until(moved)
        return True

    def _told(self, server: ClusterServer, *command: Any) -> None:
        """Says it until the server takes it: what its replicas have to confirm it refuses while one of them is slow."""
        self.until(lambda: _done(server.admin, *command))

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def until(self, true: Any, *, within_s: float = _PATIENCE_S) -> None:
        def holds() -> bool:
            with contextlib.suppress(redis.RedisError, OSError):
                return bool(true())
            return False

        until(holds, lambda: [self._state(server) for server in self.servers], within_s=within_s)

    async def soon(self, true: Any, *, within_s: float = _PATIENCE_S) -> None:
        """As `until`, while the event loop goes on."""
        await asyncio.to_thread(self.until, true, within_s=within_s)

    def _knows(self, server: ClusterServer) -> int:
        lines = server.admin.execute_command("CLUSTER", "NODES").decode().splitlines()
        return sum("handshake" not in line and "fail" not in line.split()[2] for line in lines)

    def _ok(self, server: ClusterServer) -> bool:
        info = _info(server.admin.execute_command("CLUSTER", "INFO"))
        return info["cluster_state"] == "ok" and int(info["cluster_slots_ok"]) == SLOTS

    def _in_step(self, server: ClusterServer) -> bool:
        info = server.admin.info("replication")
        if info["role"] == "master":
            return int(info["connected_slaves"]) == 1
        return bool(info["master_link_status"] == "up")

    def role(self, server: ClusterServer) -> str:
        """``master`` or ``slave``; ``away`` when it does not answer."""
        try:
            return str(server.admin.info("replication")["role"])
        except (redis.RedisError, OSError):
            return "away"

    def _state(self, server: ClusterServer) -> str:
        try:
            return str(server.admin.execute_command("CLUSTER", "NODES").decode())
        except (redis.RedisError, OSError) as error:
            return str(error)


def _info(reply: Any) -> dict[str, str]:
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    return dict(line.partition(":")[::2] for line in text.splitlines() if ":" in line)


def _states(reply: Any) -> list[str]:
    """The state of each move of slots that a server knows of."""
    return [job[b"state"].decode() for job in reply]


def _done(admin: Any, *command: Any) -> bool:
    admin.execute_command(*command)
    return True
