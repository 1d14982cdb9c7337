"""Keys of a fixed size, of docs/bounds.md: however much goes through a store, they do not grow."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core.durability import Durability, DurabilityMode
from delaybox.core.events import EventRules
from delaybox.core.membership import Member
from delaybox.core.partition import Shape
from delaybox.core.queue import QueueRules
from delaybox.core.queue_limits import rate_of
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.service import Service
from delaybox.service.rules import Rules
from delaybox.store import events, identity, keys, label_index, nodes, roster
from delaybox.store.address import ServerSettings
from delaybox.store.connect import make_client
from delaybox.store.kafka import Ingested, Span, Stream, ingest
from delaybox.store.leftovers import promote
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from delaybox.targets import event_mover
from delaybox.targets.event_mover import EventMover
from delaybox.targets.stream_events import EventStream
from delaybox.wire.encoded import encode
from tests.engines import until
from tests.lab import Lab
from tests.servers import RealServer

STORAGE = Path(__file__).parents[2] / "docs/storage.md"


def named(section: str) -> set[str]:
    """The names in the first column of a table of docs/storage.md."""
    rows = STORAGE.read_text().partition(f"**{section}**")[2].partition("\n\n**")[0]
    return {name for row in re.findall(r"^\| ([^|]+) \|", rows, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


async def test_no_field_of_the_clock_is_named_after_what_goes_through(lab: Lab) -> None:
    service, known = Rules(lab.store), named("Fields of `clock`")
    assert 20 < len(known) < 40
    await label_index.declare(lab.store, ["customer"], functions=True)
    await label_index.completed(lab.store, 0, ["customer"])
    lab.dirty = True  # these are stored without entries
    for n in range(40):
        one = NewTask(
            type=tuple(TaskType)[n % len(TaskType)], queue=f"q{n}", name="" if n % 4 == 0 else f"f{n}", group=f"g{n}",
            fairness_key=f"k{n}", priority=tuple(Priority)[n % 4], labels={"customer": f"c{n}"},
        )  # fmt: skip
        if one.type in (TaskType.PUB_SUB, TaskType.HTTP):
            one = NewTask(type=one.type, queue=one.queue, group=one.group, priority=one.priority)
        limits = QueueRules(concurrency=1 + n, rate=rate_of("5/s"), resume_rate=rate_of("1/s"), weight=1.0 + n)
        await service.set(f"q{n}", limits)
        await lab.add(one, one, one, NewTask(queue=f"q{n}", delay_ms=90_000))
        await promote(lab.store, 0, late_ms=0)
        for types, guest in (("pshw", False), ("w", True), ("h", True)):
            lease = os.urandom(20)
            taken = list(await lab.lease(lease, slots=5, types=types, guest=guest))
            await lab.store.fail(0, lease, [(task_id, 1_000, "why") for task_id in taken[:1]])
            await lab.store.lose(0, lease, taken[1:2], losses_cap=3)
            await lab.store.ack(0, lease, taken[2:3])
        await lab.store.reap(0, lease_ms=15_000, losses_cap=3)
        await lab.expand()
        await lab.move(20_000)
    fields = {field.decode() for field in await lab.client.hkeys(keys.clock(lab.tag))}
    assert fields <= known and len(fields) > 15, fields - known


async def test_the_feed_has_three_sums_whatever_is_dropped(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    service = Service(store, events=EventRules(always=True, entries=100))
    for n in range(5):
        await service.submit_many([NewTask(delay_ms=60_000, queue=f"q{n}-{m}") for m in range(120)])
        await store.events.flush()
    sums = await client.hgetall(keys.events_sums(store.tags[0]))
    assert set(sums) == {b"events", b"bytes", b"dropped"} and int(sums[b"events"]) <= 500
    assert sum(map(len, [*sums, *sums.values()])) <= 100
    await service.close()


async def test_the_sender_of_events_that_was_killed_is_followed_by_another(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long, for this process may stand still as long as it likes: a place runs out when this test says so.
    monkeypatch.setattr(event_mover, "HOLD_MS", 600_000)
    monkeypatch.setattr(event_mover, "_HOLD_AGAIN_S", 0.1)
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    service = Service(store, events=EventRules(always=True))
    await events.keep_position(store.servers, store.tags[0], "stream", "0-0.0")
    holder = keys.events_sender(store.tags[0], "stream")
    movers = [EventMover(store, EventStream(store, length=100, source="/"), member=name) for name in ("a", "b")]

    async def arrived(subject: str) -> None:
        async def there() -> bool:
            found: Any = await client.xrevrange(keys.events_stream(prefix), count=1)
            return bool(found) and json.loads(found[0][1][b"event"])["subject"] == subject

        await until(there)

    try:
        movers[0].start()
        await arrived((await service.submit(NewTask(delay_ms=60_000))).task_id)
        movers[1].start()
        assert await client.get(holder) == b"a"
        assert 0 < await client.pttl(holder) <= event_mover.HOLD_MS
        # Killed: it gives nothing back.
        task = movers[0]._task
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
        assert await client.pexpire(holder, 50)
        await arrived((await service.submit(NewTask(delay_ms=60_000))).task_id)
        assert await client.get(holder) == b"b"
    finally:
        for mover in reversed(movers):
            await mover.stop()
        await service.close()
    assert not await client.exists(holder), "who ends gives the place back"


async def test_a_sender_of_events_that_ends_while_it_asks_for_its_place_gives_it_back(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one would wait until it has run out."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    mover = EventMover(store, EventStream(store, length=100, source="/"), member="a")
    taken, take_place = asyncio.Event(), events.take_place

    async def answered_late(*asked: Any) -> bool:
        assert await take_place(*asked)
        taken.set()
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(events, "take_place", answered_late)
    mover.start()
    await taken.wait()
    holder = keys.events_sender(store.tags[0], "stream")
    assert await client.get(holder) == b"a"
    await mover.stop()
    assert not await client.exists(holder)


async def test_watermarks_are_as_many_as_partitions_of_topics(lab: Lab) -> None:
    streams = [Stream("AAAAAAAAAAAAAAAAAAAAAA", n) for n in range(3)]
    for at in range(0, 40, 4):
        tasks = [encode(NewTask(payload=b"x", delay_ms=60_000)) for _ in range(4)]
        spans = [Span(stream, at, at + 4, list(range(at, at + 4)), tasks, at == 0) for stream in streams]
        assert all(isinstance(one, Ingested) and one.stored == 4 for one in await ingest(lab.store, spans))
    marks = await lab.client.hgetall(keys.kafka(lab.tag))
    assert len(marks) == 3 and set(marks.values()) == {b"40"}
    assert max(len(field) + len(value) for field, value in marks.items()) <= 50


async def test_the_mark_of_what_was_confirmed_is_one_and_expires(make_server: Callable[..., RealServer]) -> None:
    own = make_server("--appendonly", "yes", "--appendfsync", "always")
    settings: ServerSettings = own.settings
    durable = Durability(mode=DurabilityMode.DURABLE)
    store = await Store.open(Servers.connect(settings), prefix="d", partitions=4, durability=durable)
    admin = make_client(settings)
    try:
        for _ in range(3):
            new = [Batch(p, [draft(NewTask(delay_ms=60_000))]) for p in range(4)]
            assert not any(isinstance(one, BaseException) for one in await store.schedule(new))
        marks = await admin.keys("*:confirm")
        assert 1 <= len(marks) <= 4
        for mark in marks:
            assert 0 < await admin.ttl(mark) <= 60 and await admin.strlen(mark) == 1
    finally:
        await admin.aclose()
        await store.close()


async def test_meta_remembers_the_stores_that_were_lost_last(
    make_server: Callable[..., RealServer], prefix: str
) -> None:
    own = make_client(make_server().settings)
    servers = Servers(own)
    store = await Store.open(servers, prefix=prefix, partitions=2)
    former = [f"{n:016x}" for n in range(identity.MOST_REPLACED + 5)]
    before = await own.hkeys(keys.meta(prefix))
    for lost in former:
        shape = Shape(lost, 2, store.bucket_ms)
        await nodes.beat(store, Member(id="n", seen_ms=await store.look(), store=shape))
        assert (await identity.accept(servers, prefix, shape)).lost == (lost,)
    meta = await identity.read_meta(servers, prefix)
    assert meta is not None and list(meta.replaces) == former[-identity.MOST_REPLACED :]
    assert set(await own.hkeys(keys.meta(prefix))) == {*before, b"replaces"}
    # Who looks for one of these takes the store that is there.
    assert (await Store.open(servers, prefix=prefix, expected=former[-1])).store_id == store.store_id
    await own.aclose()


async def test_the_list_of_members_has_the_same_fields_however_many_come_and_go(lab: Lab) -> None:
    for turn in range(4):
        for n in range(25):
            await roster.beat(lab.store, f"m{turn}-{n}", b"record")
        await lab.move(500)
        for n in range(0, 25, 2):
            await roster.leave(lab.store, f"m{turn}-{n}")
        for _ in range(160):
            # The others are silent, and forgotten later.
            await lab.move(500)
            await roster.beat(lab.store, "stays", b"record")
    found = await lab.client.hgetall(f"{{{keys.nodes(lab.store.prefix)}}}:list")
    assert set(found) == {b"version", b"noted", b"beat", b"calm", b"swept", b"returned"}
    assert sum(map(len, [*found, *found.values()])) <= 100
    assert set((await roster.read(lab.store)).records) == {"stays"}
