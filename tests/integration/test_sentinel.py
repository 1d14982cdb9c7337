"""Real sentinels name the primary: it is found, and a new one after a fail-over, with no restart; `strict` keeps what
it acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from delaybox.core.durability import Durability, DurabilityMode
from delaybox.core.errors import StoreRefused, StoreUnavailable
from delaybox.core.task import NewTask, TaskType
from delaybox.service import Service
from delaybox.store import keys
from delaybox.store.address import ServerSettings
from delaybox.store.record import draft
from delaybox.store.sentinel import NamedTcpConnection
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests import waiting
from tests.engines import Recorder, running, until
from tests.ports import free_ports
from tests.servers import RealServer
from tests.spent import Spent

STRICT = Durability(mode=DurabilityMode.STRICT, within_ms=300)
_PASSWORD = "s3cret"


class Watched:
    """A primary, its replica and three sentinels that are their own processes."""

    def __init__(self, make: Callable[..., RealServer]) -> None:
        self.ports = free_ports(5)
        log_in = ("--requirepass", _PASSWORD, "--masterauth", _PASSWORD)
        self.servers = [
            make("--port", str(port), "--repl-diskless-sync-delay", "0", *log_in) for port in self.ports[:2]
        ]
        self.admins: list[Any] = [
            redis.Redis(unix_socket_path=server.unix_path, password=_PASSWORD) for server in self.servers
        ]
        self.admins[1].execute_command("REPLICAOF", "127.0.0.1", self.ports[0])
        self._wait(lambda: self.admins[1].info("replication")["master_link_status"] == "up")
        self.sentinels = []
        for port in self.ports[2:]:
            own = RealServer()
            # A sentinel keeps what it learns in its configuration, which must be a file.
            config = own.folder / "sentinel.conf"
            config.write_text(
                f"port {port}\ndir {own.folder}\nsentinel monitor main 127.0.0.1 {self.ports[0]} 2\n"
                f"sentinel auth-pass main {_PASSWORD}\nsentinel down-after-milliseconds main 500\n"
                "sentinel failover-timeout main 3000\n"
            )
            own.start_as(config, "--sentinel", port=port)
            self.sentinels.append(own)
        admin = redis.Redis(port=self.ports[2], protocol=2)
        self._wait(lambda: admin.execute_command("SENTINEL", "CKQUORUM", "main"))
        admin.close()

    @property
    def settings(self) -> ServerSettings:
        hosts = ",".join(f"127.0.0.1:{port}" for port in (1, *self.ports[2:]))
        return ServerSettings.from_url(f"redis+sentinel://:{_PASSWORD}@{hosts}/main")

    def close(self) -> None:
        for admin in self.admins:
            admin.close()
        for sentinel in self.sentinels:
            sentinel.close()

    @staticmethod
    def _wait(true: Callable[[], Any]) -> None:
        def look() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(true())
            return False

        waiting.until(look)


@pytest.fixture
def watched(make_server: Callable[..., RealServer]) -> Iterator[Watched]:
    made = Watched(make_server)
    yield made
    made.close()


class _Names:
    """Sentinels that name one server."""

    def __init__(self, port: int) -> None:
        self._at = "127.0.0.1", port

    async def primary(self) -> tuple[str, int]:
        return self._at


async def test_a_server_that_is_no_primary_yet_is_not_taken(make_server: Callable[..., RealServer]) -> None:
    """redis-py had ceased to call what looks for it."""
    (port,) = free_ports(1)
    server = make_server("--port", str(port), "--replicaof", "127.0.0.1 1")
    admin = redis.Redis(unix_socket_path=server.unix_path)
    # As docs/security.md has it.
    rights = ("~{delaybox:*", "~delaybox:*", "&{delaybox:*", "&delaybox:*", "+@all", "-@admin", "-@dangerous", "+info")
    admin.execute_command("ACL", "SETUSER", "delaybox", "on", f">{_PASSWORD}", *rights)
    connection = NamedTcpConnection(
        sentinels=_Names(port),  # type: ignore[arg-type]
        protocol=3,
        username="delaybox",
        password=_PASSWORD,
        retry=Retry(NoBackoff(), 0),
    )
    with pytest.raises(redis.ConnectionError, match="is not, or not yet, the primary"):
        await connection.connect()
    admin.execute_command("REPLICAOF", "NO", "ONE")
    admin.close()
    await connection.connect()
    await connection.send_command("PING")
    assert await connection.read_response() == b"PONG"
    await connection.disconnect()


async def test_a_primary_that_stands_still_is_left_for_the_one_that_sentinels_name(
    watched: Watched, prefix: str
) -> None:
    servers = Servers.connect(watched.settings)
    assert not (await servers.probe()).cluster
    store = await Store.open(servers, prefix=prefix, partitions=1)
    target = Recorder()

    async def add() -> bool:
        (answers,) = await store.schedule([Batch(0, [draft(NewTask(type=TaskType.SHELL_CMD))])])
        if isinstance(answers, StoreUnavailable):
            return False
        assert not isinstance(answers, BaseException)
        return True

    unknown = Servers.connect(ServerSettings.from_url(f"redis+sentinel://127.0.0.1:{watched.ports[2]}/other"))
    with pytest.raises(StoreRefused, match=r"know no primary 'other' \(they know: main\)"):
        await unknown.probe()
    await unknown.close()
    strict_store = await Store.open(Servers.connect(watched.settings), prefix=prefix, durability=STRICT)
    strict = Service(strict_store)
    acked: list[str] = []
    over = asyncio.Event()

    async def confirmed(key: str) -> bool:
        with contextlib.suppress(StoreUnavailable):
            await strict.submit(NewTask(type=TaskType.SHELL_CMD, delay_ms=3_600_000, idempotency_key=key))
            acked.append(key)
            return True
        return False

    async def call() -> None:
        for n in itertools.count():
            if over.is_set():
                return
            await confirmed(f"k{n}")

    calling = asyncio.create_task(call())
    async with running(store, {TaskType.SHELL_CMD: target}, channel=""):
        await until(add)
        await until(lambda: len(acked) >= 20)
        await until(lambda: bool(target.got))
        os.kill(watched.servers[0].pid, signal.SIGSTOP)
        try:
            new = watched.admins[1]
            await until(lambda: asyncio.to_thread(lambda: new.info("replication")["role"] == "master"))
            promoted = Spent(lambda: [one.pid for one in (*watched.servers, *watched.sentinels)])
            before = len(target.got)
            await until(add)
            await until(lambda: len(target.got) > before)
            # Three seconds are promised; a busy machine gets some more.
            assert promoted.s() < 9.0
            over.set()
            await calling
            # `strict`: what was acknowledged is on the one that was promoted; without a replica it confirms nothing.
            tag = store.tags[0]
            found = new.mget([keys.idem(tag, key.encode()) for key in acked])
            assert all(found), f"{found.count(None)} of {len(acked)} acknowledged tasks are lost"
            assert not await confirmed("alone")
        finally:
            os.kill(watched.servers[0].pid, signal.SIGCONT)
        # The old primary becomes its replica.
        await until(lambda: confirmed("again"))
    assert watched.admins[1].exists(f"{prefix}:meta")
    await strict.close()
    await strict_store.close()
    await store.close()
