"""What each durability mode keeps, with a real primary and its replica behind a cable that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis

from delaybox.cli.doctor_server import replication
from delaybox.core import ids
from delaybox.core.durability import Durability, DurabilityMode
from delaybox.core.errors import ConfigError, StoreRefused, Unconfirmed
from delaybox.core.task import NewTask, Submitted
from delaybox.direct.address import direct_address
from delaybox.service import Service
from delaybox.store import keys
from delaybox.store.address import ServerSettings
from delaybox.store.durability_check import check_durability
from delaybox.store.durability_waits import Confirmation
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from tests.cluster import RealCluster, spread
from tests.engines import until
from tests.faults.harness.proxy import Proxy
from tests.ports import free_ports
from tests.servers import RealServer
from tests.waiting import until_async

SURE = Durability(mode=DurabilityMode.STRICT)
STRICT = replace(SURE, within_ms=150)
"""Where a write is not to be confirmed, or is sent until it is: the machine holds a replica up for as long as that."""
DURABLE = Durability(mode=DurabilityMode.DURABLE)
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@dataclass
class Pair:
    """A primary, and a replica that reaches it through a cable."""

    primary: RealServer
    replica: RealServer
    cable: Proxy
    admins: list[Any] = field(default_factory=list)

    @property
    def settings(self) -> ServerSettings:
        return self.primary.settings

    def promote(self) -> None:
        self.admins[1].execute_command("REPLICAOF", "NO", "ONE")

    async def in_step(self) -> None:
        await until(lambda: self.admins[1].info("replication")["master_link_status"] == "up")


@pytest.fixture
async def pair(make_server: Callable[..., RealServer]) -> AsyncIterator[Pair]:
    port, own = free_ports(2)
    primary = make_server("--port", str(port), "--repl-diskless-sync-delay", "0")
    replica = make_server("--port", str(own))
    cable = Proxy(("127.0.0.1", port), seed=1)
    at = await cable.listen_tcp()
    found = Pair(primary, replica, cable, [redis.Redis(unix_socket_path=one.unix_path) for one in (primary, replica)])
    found.admins[1].execute_command("REPLICAOF", "127.0.0.1", at)
    await found.in_step()
    yield found
    for admin in found.admins:
        admin.close()
    await cable.close()


@contextlib.asynccontextmanager
async def service(settings: ServerSettings, durability: Durability, prefix: str = "d") -> AsyncIterator[Service]:
    store = await Store.open(Servers.connect(settings), prefix=prefix, durability=durability)
    try:
        yield Service(store)
    finally:
        await store.close()


async def produce(service: Service, kind: str, acked: list[str], refused: list[str], stop: asyncio.Event) -> None:
    """Schedules one task after another with keys, and writes down what was answered, outside the store."""
    for n in itertools.count():
        if stop.is_set():
            return
        key = f"{kind}-{n}"
        try:
            await service.submit(NewTask(payload=b"x", delay_ms=3_600_000, idempotency_key=key))
        except Unconfirmed:
            refused.append(key)
        else:
            acked.append(key)


def kept(admin: Any, store: Store, names: list[str]) -> set[str]:
    """Which keys name a task on a server."""
    found = admin.mget([keys.idem(store.tags[store.partition_of(name.encode())], name.encode()) for name in names])
    return {name for name, entry in zip(names, found, strict=True) if entry}


async def test_strict_loses_nothing_where_fast_does(pair: Pair) -> None:
    """T12: the primary is cut off from its replica, goes on, and the replica is promoted. The same run is the negative
    control: what `fast` was answered in the cut is lost."""
    acked: dict[str, list[str]] = {"strict": [], "fast": []}
    refused: dict[str, list[str]] = {"strict": [], "fast": []}
    async with service(pair.settings, STRICT) as strict, service(pair.settings, Durability()) as fast:
        stop = asyncio.Event()
        producers = [
            asyncio.create_task(produce(one, f"{kind}{n}", acked[kind], refused[kind], stop))
            for kind, one in (("strict", strict), ("fast", fast))
            for n in range(8)
        ]
        await until(lambda: len(acked["strict"]) >= 100)
        pair.cable.gate.clear()
        # Each of the strict ones has met the cut.
        before = len(refused["strict"])
        await until(lambda: len(refused["strict"]) >= before + 8)
        stop.set()
        await asyncio.gather(*producers)
        store = strict._opened.store
    pair.promote()
    pair.primary.kill()
    lost = {}
    for kind, found in acked.items():
        lost[kind] = set(found) - kept(pair.admins[1], store, found)
        print(f"T12 mode={kind} acked={len(found)} unknown={len(refused[kind])} lost={len(lost[kind])}")
    assert not lost["strict"], f"{len(lost['strict'])} of {len(acked['strict'])}"
    assert lost["fast"], "the cut must cost something, or the run proves nothing"
    assert not refused["fast"]
    # What was not confirmed is sent again to the new primary, with the same keys.
    async with service(pair.replica.settings, Durability()) as again:
        for key in refused["strict"]:
            await again.submit(NewTask(payload=b"x", delay_ms=3_600_000, idempotency_key=key))
        assert kept(pair.admins[1], store, refused["strict"]) == set(refused["strict"])
        held = kept(pair.admins[1], store, [*acked["strict"], *acked["fast"], *refused["strict"]])
        assert (await again.counts()).pending == len(held), "a task that was sent again is stored once"


async def test_a_repeat_that_writes_nothing_is_not_confirmed_for_nothing(pair: Pair) -> None:
    """A command that the server remembers makes no write, and WAIT on a connection without a write answers at once."""
    async with service(pair.settings, STRICT) as strict, service(pair.settings, STRICT) as again:
        store = strict._opened.store
        task = NewTask(payload=b"x", delay_ms=3_600_000, idempotency_key="k")
        new = Batch(0, [draft(NewTask(payload=b"x", delay_ms=3_600_000))])
        call = store.schedule_call(new, ids.tails(0, bytes(8)))

        async def submitted() -> Submitted | None:
            with contextlib.suppress(Unconfirmed):
                return await strict.submit(task)
            return None

        async def confirmed() -> bool:
            return not isinstance((await store.runner.run_many([call]))[0], Unconfirmed)

        first: Submitted = await until_async(submitted)
        twice: Submitted = await until_async(submitted)
        assert twice.task_id == first.task_id and not twice.created
        pair.cable.gate.clear()
        for at in (strict, again):
            # The second one has connections on which nothing was ever written.
            (answer,) = await at._opened.store.runner.run_many([call])
            assert isinstance(answer, Unconfirmed)
            assert answer.why == "0 of 1 replica had it within 150 ms"
        with pytest.raises(Unconfirmed, match=r"stored here, but not confirmed: .* Send it again with the same"):
            await strict.submit(task)
        with pytest.raises(Unconfirmed):
            await strict.cancel(first.task_id)
        pair.cable.gate.set()
        await until(confirmed)


async def test_one_wait_for_the_calls_that_come_together(pair: Pair) -> None:
    def waits() -> int:
        return int(pair.admins[0].info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"])

    async with service(pair.settings, SURE) as strict:
        before = waits()
        await asyncio.gather(*(strict.submit(NewTask(payload=b"x", delay_ms=3_600_000)) for _ in range(200)))
        assert waits() - before <= 3
        before = waits()
        await strict.submit_many([NewTask(payload=b"x", delay_ms=3_600_000) for _ in range(2_000)])
        assert waits() - before == 4

    # The doctor advises what bounds a cut.
    servers = Servers.connect(pair.settings)
    (report,) = await servers.reports()
    (found,) = replication(report, STRICT)
    assert (found.word, "min-replicas-to-write 1" in found.do) == ("warning", True)
    assert [one.name for one in replication(report, replace(STRICT, replicas=2))] == ["durability", "replicas"]
    pair.admins[0].config_set("min-replicas-to-write", 1)
    (report,) = await servers.reports()
    assert [one.word for one in replication(report, STRICT)] == ["ok"]
    await servers.close()


async def test_what_a_server_cannot_keep_is_refused_at_start(
    pair: Pair, make_server: Callable[..., RealServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delaybox.store.durability_check._PATIENCE_S", 0.3)
    bare = make_server()

    async def refusal(settings: ServerSettings, durability: Durability) -> str:
        servers = Servers.connect(settings)
        try:
            store = await Store.open(servers, prefix="d")
            with pytest.raises(StoreRefused) as caught:
                await check_durability(servers, store.tags, durability)
            return str(caught.value)
        finally:
            await servers.close()

    assert "has no replicas, and durability.replicas asks for 1: give it more" in await refusal(bare.settings, STRICT)
    assert "keeps no append-only file: `CONFIG SET appendonly yes`" in await refusal(bare.settings, DURABLE)
    two = replace(STRICT, replicas=2)
    assert "has 1 replica, and durability.replicas asks for 2" in await refusal(pair.settings, two)
    servers = Servers.connect(pair.settings)
    for mode in (SURE, Durability()):
        await check_durability(servers, ["{d:0}"], mode)
    pair.cable.gate.clear()
    words = await refusal(pair.settings, STRICT)
    assert "a trial write was not confirmed (0 of 1 replica had it within 150 ms): bring its replicas back" in words
    await servers.close()
    admin = redis.Redis(unix_socket_path=bare.unix_path)
    admin.config_set("appendonly", "yes")
    admin.config_set("appendfsync", "no")
    assert "appendfsync no" in await refusal(bare.settings, DURABLE)
    admin.close()


async def test_a_server_that_answers_before_its_disk_is_refused(make_server: Callable[..., RealServer]) -> None:
    """Valkey 9.1.2 with `everysec` says that its disk has a write before it syncs; others take nearly a second."""
    own = make_server("--appendonly", "yes", "--appendfsync", "everysec")
    servers = Servers.connect(own.settings)
    try:
        began = time.monotonic()
        await check_durability(servers, ["{d:0}"], DURABLE)
    except StoreRefused as refused:
        assert "WAITAOF answers before its disk has a write" in str(refused)
        assert "`CONFIG SET appendfsync always`" in str(refused)
    else:
        assert time.monotonic() - began > 0.4
    redis.Redis(unix_socket_path=own.unix_path).config_set("appendfsync", "always")
    await check_durability(servers, ["{d:0}"], DURABLE)
    await servers.close()


async def test_durable_looks_at_the_answer_of_the_disk(make_server: Callable[..., RealServer]) -> None:
    own = make_server(*ALWAYS)
    admin = redis.Redis(unix_socket_path=own.unix_path)
    async with service(own.settings, DURABLE) as durable:
        await durable.submit(NewTask(payload=b"x", delay_ms=3_600_000))
        admin.config_set("appendonly", "no")
        with pytest.raises(Unconfirmed, match=r"not confirmed: the server answered .*WAITAOF"):
            await durable.submit(NewTask(payload=b"x", delay_ms=3_600_000))
    admin.close()


async def test_a_server_without_waitaof_that_syncs_before_it_answers() -> None:
    """Redis before 7.2: nothing is left to wait for."""

    async def send(commands: Any) -> list[Any]:
        return [1] * len(commands)

    nothing = Confirmation(DURABLE, waitaof=False)
    assert await nothing.send(send, [("EVALSHA", "sha", 1, "{d:0}")]) == [1]


async def test_each_primary_of_a_cluster_is_waited_for(prefix: str) -> None:
    cluster = RealCluster(replicas=True)
    try:
        cluster.start()
        name = spread(prefix)
        servers = Servers.connect(cluster.settings)
        store = await Store.open(servers, prefix=name, durability=SURE)
        await check_durability(servers, store.tags, SURE)
        strict = Service(store)
        for n in range(30):
            await strict.submit(NewTask(payload=b"x", delay_ms=3_600_000, idempotency_key=f"k{n}"))
        # The replica of one primary hangs: its keys are not confirmed, those of others are.
        primary, replica = next(cluster.pairs())
        hung = [n for n in range(30, 60) if cluster.primary_of(_tag(store, f"k{n}")) is primary]
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            answers = await asyncio.gather(
                *(
                    strict.submit(NewTask(payload=b"x", delay_ms=3_600_000, idempotency_key=f"k{n}"))
                    for n in range(30, 60)
                ),
                return_exceptions=True,
            )
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        failed = [n for n, answer in zip(range(30, 60), answers, strict=True) if isinstance(answer, Unconfirmed)]
        assert failed == hung
        await store.close()
    finally:
        cluster.close()


def _tag(store: Store, key: str) -> str:
    return store.tags[store.partition_of(key.encode())]


def test_clients_straight_on_redis_name_it_in_their_address() -> None:
    found = direct_address("redis://h:1/2?prefix=p&durability=strict&replicas=2")
    assert found.prefix == "p"
    assert found.durability == Durability(mode=DurabilityMode.STRICT, replicas=2)
    assert found.server is not None
    assert (found.server.host, found.server.db) == ("h", 2)
    for wrong, words in (("durability=safe", "give fast, durable or strict"), ("replicas=0", "a number from 1 to 16")):
        with pytest.raises(ConfigError, match=words):
            direct_address(f"redis://h?{wrong}")
