"""Engines that send webhooks: each claims its share when it is due, and takes from the others what they leave."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.delivery import DONE, Delivery, Report
from delaybox.core.task import NewTask, TaskType
from delaybox.core.webhook import Webhook
from delaybox.engine import due_share
from delaybox.engine.engine import Engine
from delaybox.service import Service
from delaybox.store import keys, nodes
from delaybox.store.fsck import fsck
from delaybox.store.loader import ScriptCall
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, ClaimLimits, Store
from tests.engines import Recorder, running, until
from tests.waiting import Gate

TO = Webhook("https://example.com/hook")
SENDS = {"kind": "webhook", "clock": False, "channel": ""}
CLOCK = {"kind": "clock", "channel": "c"}


def hooks(count: int, delay_ms: int = 0) -> list[NewTask]:
    return [NewTask(type=TaskType.HTTP, webhook=TO, delay_ms=delay_ms) for _ in range(count)]


class Silent:
    """A target that answers nothing until it is let go."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []
        self.go = asyncio.Event()

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        self.got += batch
        await self.go.wait()
        report(batch, DONE)


async def shares(store: Store, *engines: Engine) -> None:
    """Returns when the engines have shared the partitions out."""
    members = {f"m{n}" for n in range(len(engines))}

    async def known() -> bool:
        found = await nodes.MemberList(store).read()
        return members <= {m.id for m in found.members if m.activity.claims_due == "h"}

    await until(known)
    await until(lambda: sum(len(engine._due_share._mine) for engine in engines) == store.partitions)


async def test_two_share_the_partitions_and_each_task_is_sent_once(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=8)
    one, other = Recorder(), Recorder()
    async with (
        running(store, {TaskType.HTTP: one}, node_id="m0", **SENDS) as first,
        running(store, {TaskType.HTTP: other}, node_id="m1", **SENDS) as second,
    ):
        await shares(store, first, second)
        service, made = Service(store), list[str]()

        async def both() -> bool:
            made.extend([(await service.submit(task)).task_id for task in hooks(8, delay_ms=50)])
            await until(lambda: len(one.got) + len(other.got) >= len(made))
            return bool(one.got and other.got)

        # Nobody keeps time, so nothing is made ready for them.
        await until(both)
        assert sorted(d.id for _, d in [*one.got, *other.got]) == sorted(made)
        assert all(at >= d.due_ms for at, d in [*one.got, *other.got]), "nothing early"
        await until(lambda: first.in_flight + second.in_flight == 0)
    assert (await fsck(store)).problems == []


async def test_who_ends_sends_for_a_moment_what_others_have_by_now(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may read the list of members later."""
    # Only this test ends the moment, however slow the machine is.
    monkeypatch.setattr(due_share, "OVERLAP_S", 600.0)
    store, heirs = [await Store.open(Servers(client), prefix=prefix, partitions=8) for _ in range(2)]
    gate, run_many = Gate(), heirs.runner.run_many

    async def held_up(calls: Sequence[ScriptCall]) -> list[Any]:
        if calls[0].script == "claim":
            await gate.passed()
        return await run_many(calls)

    monkeypatch.setattr(heirs.runner, "run_many", held_up)
    sent, sent_later = Recorder(), Recorder()
    async with (
        running(heirs, {TaskType.HTTP: sent_later}, node_id="m0", **SENDS) as heir,
        running(store, {TaskType.HTTP: sent}, node_id="m1", **SENDS) as former,
    ):
        await shares(store, heir, former)
        lost = former._due_share._mine
        ending = asyncio.create_task(former.stop(1.0))
        await until(lambda: len(heir._due_share._mine) == store.partitions)
        for answer in await store.schedule([Batch(p, [draft(*hooks(1))]) for p in sorted(lost)]):
            assert not isinstance(answer, BaseException), answer
        await until(lambda: len(sent.got) == len(lost) or ending.done())
        assert {d.partition for _, d in sent.got} == lost and not ending.done()
        gate.open()
        former._due_share.settle()
        await ending
        assert former._due_share.kept == frozenset()
    assert not sent_later.got
    assert (await fsck(store)).problems == []


async def test_one_without_room_calls_the_other(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    full, other = Silent(), Recorder()
    async with (
        running(store, {TaskType.HTTP: full}, node_id="m0", concurrency=1, **SENDS) as first,
        running(store, {TaskType.HTTP: other}, node_id="m1", **SENDS) as second,
    ):
        await shares(store, first, second)
        (partition,) = first._due_share._mine
        await store.schedule([Batch(partition, [draft(hook) for hook in hooks(40)])])
        # No clock runs, so only a call brings the other what is the first one's.
        await until(lambda: len(full.got) == 1 and len(other.got) == 39)
        full.go.set()
        await until(lambda: first.in_flight == 0)
    assert (await fsck(store)).problems == []


async def test_what_a_killed_process_leaves_the_clock_makes_ready(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    # The claim of a process that is gone: its promise stands.
    await store.claim(0, os.urandom(16), ClaimLimits(types="h", guest=True, slots=1))
    await Service(store).submit_many(hooks(3))
    assert await client.zcard(keys.near(store.tags[0], 2, "h")) == 3
    async with running(store, {}, node_id="clock", **CLOCK):

        async def ready() -> bool:
            return bool(await store.servers.ask("EXISTS", keys.active(store.tags[0], "h", critical=False)))

        await until(ready)
        sent = Recorder()
        async with running(store, {TaskType.HTTP: sent}, node_id="m0", **SENDS):
            await until(lambda: len(sent.got) == 3)
    assert (await fsck(store)).problems == []


async def test_hints_of_the_previous_version_are_found(client: Redis, prefix: str) -> None:
    """A node of it stores a task while ours send: the clock makes it ready, and calls."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=1)
    near = keys.near(store.tags[0], 2)
    sent = Recorder()
    async with (
        running(store, {}, node_id="clock", **CLOCK),
        running(store, {TaskType.HTTP: sent}, node_id="m0", **SENDS) as engine,
    ):
        await shares(store, engine)
        # So far ahead that it is moved before it is due.
        await Service(store).submit_many(hooks(1, delay_ms=2_000))
        ours = keys.near(store.tags[0], 2, "h")
        ((member, due),) = await store.servers.ask("ZRANGE", ours, 0, -1, "WITHSCORES")
        # As it would have left it, with its message.
        moved = [("ZREM", ours, member), ("ZADD", near, due, member), ("PUBLISH", keys.wake(store.tags[0]), int(due))]
        await store.servers.ask_many(moved)
        await until(lambda: len(sent.got) == 1)
        assert sent.got[0][0] >= due
        await until(lambda: engine.in_flight == 0)
    assert (await fsck(store)).problems == []
