"""One store on a real cluster: every part of it is found, whichever server has it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import AskError

from delaybox.cli import doctor_server
from delaybox.core import ids
from delaybox.core.errors import StoreRefused
from delaybox.core.query import TaskQuery
from delaybox.core.task import NewTask, Submitted, TaskType
from delaybox.service import Service
from delaybox.store import keys, nodes
from delaybox.store.address import ServerSettings
from delaybox.store.fsck import fsck
from delaybox.store.loader import load
from delaybox.store.record import draft
from delaybox.store.replies import MAX_ITEMS
from delaybox.store.servers import Servers
from delaybox.store.slots import slot_of
from delaybox.store.store import Batch, Store
from tests.cluster import RealCluster, spread
from tests.engines import Recorder, running, until
from tests.waiting import PATIENCE_S

PARTITIONS = 16


@pytest.fixture
async def store(cluster: RealCluster, prefix: str) -> AsyncIterator[Store]:
    servers = Servers.connect(cluster.settings, timeout_s=PATIENCE_S)
    found = await Store.open(servers, prefix=spread(prefix), partitions=PARTITIONS)
    yield found
    assert (await fsck(found)).problems == []
    await found.close()


def one(delay_ms: int = 0, **what: Any) -> NewTask:
    return NewTask(type=TaskType.SHELL_CMD, delay_ms=delay_ms, **what)


async def everywhere(store: Store, *tasks: NewTask) -> list[bytes]:
    """Schedules the tasks in every partition; their ids."""
    found = await store.schedule([Batch(p, [draft(task) for task in tasks]) for p in range(store.partitions)])
    stored: list[bytes] = []
    for answers in found:
        assert not isinstance(answers, BaseException), answers
        stored += [answer.task_id for answer in answers]
    return stored


async def test_the_server_has_the_same_slots(cluster: RealCluster) -> None:
    admin = cluster.servers[0].admin
    for key in ("123456789", "foo", "{}x", "x{}y{z}", "{a:1}:b", "{delaybox:nodes}:beats"):
        assert admin.execute_command("CLUSTER", "KEYSLOT", key) == slot_of(key)


async def test_any_server_leads_to_all(cluster: RealCluster) -> None:
    for server in (cluster.servers[1], cluster.servers[-1]):
        away = ServerSettings(port=1, more=(("127.0.0.1", server.port),))
        servers = Servers.connect(away)
        try:
            features = await servers.probe()
            assert features.cluster and len(servers.primaries()) == 3
            assert sum(primary.slots for primary in servers.primaries()) == 16_384
        finally:
            await servers.close()


async def test_a_database_that_a_cluster_lacks_is_refused(cluster: RealCluster) -> None:
    servers = Servers.connect(ServerSettings(port=cluster.servers[0].port, db=1))
    try:
        with pytest.raises(StoreRefused, match="database"):
            await servers.probe()
    finally:
        await servers.close()


async def test_tasks_of_all_servers_fire_in_time_and_are_listed(store: Store) -> None:
    ids = await everywhere(store, one(50), one(3_600_000), one(0))
    assert len(set(store.shards.of)) == 3
    assert sum(count.pending for count in await store.counts()) == len(ids)
    target = Recorder()
    began = time.time() * 1000
    async with running(store, {TaskType.SHELL_CMD: target}, channel="", node_id="m1"):
        await until(lambda: len(target.got) == 2 * PARTITIONS)
        late = [at - d.due_ms for at, d in target.got if d.due_ms > began]
        assert all(ms >= 0 for ms in late)
        # A wake-up comes from the partition's own server: without it a task would wait for the poll.
        again = await everywhere(store, one(0))
        await until(lambda: len(target.got) == 3 * PARTITIONS)
        assert {d.task_id for _, d in target.got} >= set(again)
        assert [member.id for member in await nodes.live(store)] == ["m1"]
    now = store.now_ms()
    steps = await store.forecast(now // 60_000, (now + 7_200_000) // 60_000 + 1, 1)
    assert sum(steps.values()) == PARTITIONS


async def test_the_service_works_over_all_servers(store: Store) -> None:
    service = Service()
    service.open(store)
    target = Recorder()
    try:
        stored = [await service.submit(one(60_000, idempotency_key=f"k{i}")) for i in range(8)]
        again = await service.submit(one(60_000, idempotency_key="k3"))
        assert (again.task_id, again.created) == (stored[3].task_id, False)
        page = await service.list_tasks(TaskQuery())
        assert {task.task_id for task in page.items} == {task.task_id for task in stored}
        assert (await service.counts()).pending == 8
        assert sum(queue.pending for queue in await service.queues()) == 8
        assert (await service.check()).ok
        await service.cancel(stored[0].task_id)
        ends = await service.watch([task.task_id for task in stored[1:]], ends_only=True)
        async with running(store, {TaskType.SHELL_CMD: target}, channel=""):
            for task in stored[1:]:
                await service.run_now(task.task_id)
            seen = 0
            async for changes in ends:
                seen += len(changes)
            assert seen == 7 and len(target.got) == 7
    finally:
        await service.close()


async def test_bulk_is_spread_over_all_partitions(store: Store) -> None:
    """A call of many batches, of which a server gets several in a row, reaches partitions of all servers. How a round
    goes on while a server stays behind, as here on a busy machine, is in unit/test_turns.py."""
    service = Service(store)
    tasks = [NewTask(delay_ms=3_600_000) for _ in range(MAX_ITEMS * PARTITIONS)]
    answers = await service.submit_many(tasks)
    stored = [ids.partition(ids.parse(one.task_id)) for one in answers if isinstance(one, Submitted)]
    assert len(stored) == len(tasks)
    chunks = [set(stored[at : at + MAX_ITEMS]) for at in range(0, len(stored), MAX_ITEMS)]
    assert all(len(chunk) == 1 for chunk in chunks), "each chunk of a call is of one partition"
    reached = set().union(*chunks)
    assert {store.shards.of[p] for p in reached} == set(store.shards.of) and len(reached) > PARTITIONS // 2


async def test_fsck_and_scripts_of_the_whole_store(store: Store, cluster: RealCluster) -> None:
    await everywhere(store, one(3_600_000), one(60_000))
    key = keys.bucket(store.tags[3], 1)
    cluster.primary_of(key).admin.hset(key, b"x" * 16, b"junk")
    report = await fsck(store)
    assert report.counts["pending"] == 2 * PARTITIONS and any("partition 3" in problem for problem in report.problems)
    cluster.primary_of(key).admin.unlink(key)


async def test_the_tag_stands_for_all_keys_while_their_slot_moves(store: Store, cluster: RealCluster) -> None:
    """lib/guard.lua asks for it in place of every bucket that schedule.lua will write."""
    await everywhere(store, one(3_600_000))
    tag = store.tags[0]
    source, slot = cluster.primary_of(tag), slot_of(tag)
    target = cluster.other_than(source)
    call = store.schedule_call(Batch(0, [draft(one(3_600_000))]), ids.tails(0, os.urandom(8)))
    script = store.runner.source("schedule")
    for step in cluster.move_slot(slot, source, target):
        if step == "begun":
            # What is there still is answered by the server that had the slot, so that a script would be, too.
            assert source.admin.execute_command("EXISTS", keys.clock(tag), keys.buckets(tag)) == 2
        if step != "done":
            for command in (("EXISTS", tag), ("EVAL", script, 1, tag, *call.args)):
                with pytest.raises(AskError):
                    source.admin.execute_command(*command)
    for _ in cluster.move_slot(slot, target, source):
        pass
    await cluster.soon(lambda: cluster.primary_of(tag) is source)
    await until(lambda: store.servers.shard_of(tag) == store.shards.of[0])
    assert (await fsck(store)).counts["pending"] == PARTITIONS


async def test_doctor_shows_the_primaries(store: Store) -> None:
    found = doctor_server.primaries(store.servers.primaries(), await store.servers.reports())
    assert [finding.word for finding in found] == ["ok"] * 3
    assert all("1 replica" in finding.says for finding in found)
    assert doctor_server.partitions([22, 21, 21]).word == "ok"
    assert doctor_server.partitions([12, 2, 2]).word == "warning"


async def test_together_and_channels_of_no_partition(store: Store) -> None:
    name = keys.functions(store.prefix)
    assert await store.servers.together([("HSET", name, "f", "q"), ("HGET", name, "f")]) == [1, b"q"]
    subscription = store.subscribe(keys.members_channel(store.prefix), *store.wakes)
    await subscription.open()
    try:
        opened: set[str] = set()
        while len(opened) < 1 + PARTITIONS:
            message = await subscription.next(PATIENCE_S)
            assert message is not None and message.opened
            opened.add(message.channel)
        await store.servers.publish(keys.members_channel(store.prefix), "7")
        message = await subscription.next(PATIENCE_S)
        assert message is not None and message.data == b"7"
        await subscription.change(store.wakes[:1])
        await asyncio.sleep(0)
    finally:
        await subscription.close()


async def test_the_documented_user_is_enough(cluster: RealCluster, prefix: str) -> None:
    """The line of docs/security.md, with another prefix."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("ACL SETUSER delaybox"))
    name = spread(prefix)
    words = line.replace("delaybox:", f"{name}:").replace("SETUSER delaybox", f"SETUSER {name}").split()
    for server in cluster.servers:
        server.admin.execute_command(*words)
    settings = ServerSettings(port=cluster.servers[0].port, username=name, password="PASSWORD")
    servers = Servers.connect(settings, timeout_s=PATIENCE_S)
    target = Recorder()
    try:
        await servers.probe()
        store = await Store.open(servers, prefix=name, partitions=PARTITIONS)
        assert len(servers.primaries()) == 3
        async with running(store, {TaskType.SHELL_CMD: target}, channel="") as engine:
            for server in cluster.servers:
                shas = [load(name, None, True, True).sha for name in ("claim", "ack", "reap")]
                known = server.admin.script_exists(*shas)
                assert all(known) or server.admin.info("replication")["role"] != "master", (
                    "compiled before it is needed"
                )
            await everywhere(store, one(0))
            await until(lambda: len(target.got) == PARTITIONS)
            assert engine.in_flight <= PARTITIONS
    finally:
        await servers.close()
        for server in cluster.servers:
            server.admin.execute_command("ACL", "DELUSER", name)
