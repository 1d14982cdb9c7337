"""The input channel: what is published there is scheduled once, however many nodes there are and whatever it holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox import metrics
from delaybox.api.channel.intake import ROLE, ChannelIntake, ChannelSettings
from delaybox.core.delivery import Target
from delaybox.core.membership import Activity, Member
from delaybox.core.task import Priority, TaskType, TaskView
from delaybox.store import keys, nodes
from delaybox.store.fsck import fsck
from delaybox.store.offset_pages import pending
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire.gen import task_pb2
from tests.engines import Recorder, running, until

DUE = b"4000000000000"


def message(payload: bytes = b"", *, uuid: str = "same", **header: bytes) -> bytes:
    return task_pb2.Task(taskUuid=uuid, header=header, payload=payload).SerializeToString()


def counted() -> dict[str, float]:
    found = re.findall(r'delaybox_input_messages_total{outcome="(\w+)"} ([0-9.]+)', metrics.render().decode())
    return {"refused": 0.0, "accepted": 0.0, **{outcome: float(n) for outcome, n in found}}


class Input:
    """A store and its input channel."""

    def __init__(self, client: Redis, store: Store, channel: str) -> None:
        self.client: Any = client
        self.store = store
        self.channel = channel

    @contextlib.asynccontextmanager
    async def node(
        self, node_id: str, targets: Mapping[TaskType, Target] | None = None
    ) -> AsyncIterator[ChannelIntake]:
        """An engine, and the channel's intake beside it."""
        async with running(self.store, targets or {}, node_id=node_id) as engine:
            intake = ChannelIntake(
                self.store, ChannelSettings(channel=self.channel, node_id=node_id, types=engine.serves)
            )
            intake.start()
            try:
                yield intake
            finally:
                await intake.stop()

    async def listeners(self) -> int:
        flat = await self.client.execute_command("PUBSUB", "NUMSUB", self.channel)
        return int(flat[1] if isinstance(flat, list) else next(iter(flat.values())))

    async def received(self) -> None:
        """Returns when a node listens."""
        await until(lambda: self._listened())

    async def _listened(self) -> bool:
        return await self.listeners() == 1

    async def publish(self, *messages: bytes) -> None:
        for raw in messages:
            assert await self.client.publish(self.channel, raw) == 1, "one node hears it, never two"

    async def tasks(self, count: int) -> list[TaskView]:
        async def there() -> bool:
            return len(await pending(self.store, limit=1_000, skip=0)) >= count

        await until(there)
        return await pending(self.store, limit=1_000, skip=0)


@pytest.fixture
async def given(client: Redis, prefix: str) -> AsyncIterator[Input]:
    store = await Store.open(Servers(client), prefix=prefix)
    yield Input(client, store, f"{prefix}-in")
    assert (await fsck(store)).problems == []


async def test_times_types_and_our_own_fields_are_heeded(given: Input) -> None:
    async with given.node("a", targets={TaskType.SHELL_CMD: Recorder()}):
        await given.received()
        ours = task_pb2.Task(header={"executionTimestamp": DUE}, payload=b"ours", expire_after_ms=5, labels={"a": "b"})
        await given.publish(
            message(b"at", executionTimestamp=DUE, extra=b"\xff"),
            message(b"in", delay=b"3600000", queue=b"mail", priority=b"high"),
            message(b"cmd", executionTimestamp=DUE, taskType=b"SHELL_CMD"),
            message(b"odd", executionTimestamp=DUE, taskType=b"ODD"),
            ours.SerializeToString(),
        )
        tasks = {t.payload: t for t in await given.tasks(5)}
    assert tasks[b"at"].due_ms == int(DUE) and tasks[b"at"].header["extra"] == b"\xff"
    assert (tasks[b"in"].queue, tasks[b"in"].priority) == ("mail", Priority.HIGH)
    assert (tasks[b"cmd"].type, tasks[b"odd"].type) == (TaskType.SHELL_CMD, TaskType.PUB_SUB)
    assert (tasks[b"ours"].expire_after_ms, tasks[b"ours"].labels) == (5, {"a": "b"})


async def test_each_message_is_one_task_with_several_nodes_and_equal_ones_are_two(given: Input) -> None:
    async with given.node("a"), given.node("b"), given.node("c"):
        await given.received()
        twice = message(b"twice", executionTimestamp=DUE)
        await given.publish(twice, *(message(b"%d" % n, executionTimestamp=DUE) for n in range(200)), twice)
        tasks = await given.tasks(202)
        await asyncio.sleep(0.1)
        assert len(await pending(given.store, limit=1_000, skip=0)) == 202
    assert sorted(t.payload for t in tasks).count(b"twice") == 2


async def test_bad_messages_are_counted_and_named_without_what_they_carry(
    given: Input, caplog: pytest.LogCaptureFixture
) -> None:
    before = counted()
    with caplog.at_level(logging.INFO, logger="delaybox"):
        async with given.node("a"):
            await given.received()
            await given.publish(
                b"\xff\xffcanary",
                message(b"canary", executionTimestamp=b"canary"),
                message(b"canary", executionTimestamp=b"\xff"),
                message(b"canary", executionTimestamp=DUE, delay=b"5"),
                message(b"canary", executionTimestamp=b"1721672590"),
                message(b"canary", taskType=b"SHELL_CMD"),
                message(b"canary" * 300_000, executionTimestamp=DUE),
                message(b"good", executionTimestamp=DUE),
            )
            assert [t.payload for t in await given.tasks(1)] == [b"good"]
    after = counted()
    assert [after[o] - before[o] for o in ("refused", "accepted")] == [7, 1]
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "messages refused" in logged and "canary" not in logged


async def test_a_command_is_accepted_where_any_live_node_runs_commands(given: Input) -> None:
    async with given.node("a") as intake:
        await given.received()
        seen_ms = await given.store.ping()
        await nodes.beat(given.store, Member(id="shell-node", seen_ms=seen_ms, activity=Activity(types="s")))
        await until(lambda: TaskType.SHELL_CMD in intake._rules.types)
        await given.publish(message(b"cmd", executionTimestamp=DUE, taskType=b"SHELL_CMD"))
        assert [t.type for t in await given.tasks(1)] == [TaskType.SHELL_CMD]


async def test_the_next_node_listens_when_one_stops(given: Input) -> None:
    async with given.node("a"):
        await given.received()
        async with given.node("b"):
            pass
        assert await given.client.get(keys.role(given.store.prefix, ROLE)) == b"a"
    assert await given.client.get(keys.role(given.store.prefix, ROLE)) is None
    async with given.node("b"):
        await given.received()
        await given.publish(message(b"1", executionTimestamp=DUE))
        await given.tasks(1)


async def test_the_role_of_a_node_that_died_runs_out(given: Input) -> None:
    role = keys.role(given.store.prefix, ROLE)
    assert await given.store.hold_role(ROLE, "dead", 60_000)
    assert not await given.store.hold_role(ROLE, "other", 60_000)
    assert 0 < await given.client.pttl(role) <= 60_000
    await given.client.pexpire(role, 400)
    async with given.node("b"):
        await given.received()
        assert await given.client.get(role) == b"b"


async def test_a_node_whose_role_was_taken_hears_no_more(given: Input) -> None:
    async with given.node("a"):
        await given.received()
        await given.client.set(keys.role(given.store.prefix, ROLE), "z", px=60_000)

        async def nobody() -> bool:
            return await given.listeners() == 0

        await until(nobody)
