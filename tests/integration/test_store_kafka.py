"""ingest.lua: records of a topic-partition are stored once, in order, with how far they were read."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.task import NewTask
from delaybox.store import keys
from delaybox.store.fsck import fsck
from delaybox.store.kafka import Ingested, Span, Stream, ingest, watermarks
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from delaybox.wire import body as wire_body
from delaybox.wire.encoded import encode
from tests.lab import Lab
from tests.waiting import PATIENCE_S

STREAM = Stream("AAAAAAAAAAAAAAAAAAAAAA", 3)


def span(start: int, end: int, *, first: bool = False, size: int = 2, holes: tuple[int, ...] = ()) -> Span:
    offsets = [n for n in range(start, end) if n not in holes]
    tasks = [encode(NewTask(payload=b"%d" % n * size, delay_ms=60_000)) for n in offsets]
    return Span(STREAM, start, end, offsets, tasks, first)


async def put(lab: Lab, *spans: Span) -> list[tuple[int, int, bool]]:
    out = []
    for answer in await ingest(lab.store, spans):
        assert isinstance(answer, Ingested), answer
        out.append((answer.watermark, answer.stored, answer.refused))
    return out


async def payloads(lab: Lab) -> list[bytes]:
    """The first six bytes of everything pending, in their order as numbers."""
    found = []
    for bucket in await lab.names("b:*"):
        for task_id, _ in (await lab.client.hgetall(bucket)).items():
            record = await lab.record(task_id)
            body = (await lab.store.bodies(0, [task_id]))[0] if record.stub else record.body
            assert body is not None
            found.append(wire_body.decode(body).payload[:6])
    return sorted(found, key=int)


async def test_what_is_stored_and_the_watermark_move_together(lab: Lab) -> None:
    assert await watermarks(lab.store, [STREAM]) == [None]
    assert await put(lab, span(10, 13, first=True), span(13, 15)) == [(13, 3, False), (15, 2, False)]
    assert await watermarks(lab.store, [STREAM]) == [15]
    assert await payloads(lab) == [b"1010", b"1111", b"1212", b"1313", b"1414"]


async def test_sent_again_it_stores_nothing(lab: Lab) -> None:
    first = span(0, 4, first=True)
    assert await put(lab, first) == [(4, 4, False)]
    before = {name: await lab.client.dump(name) for name in await lab.names("*")}
    assert await put(lab, first, first) == [(4, 0, False)] * 2
    assert before == {name: await lab.client.dump(name) for name in await lab.names("*")}


async def test_only_what_lies_above_the_watermark_is_stored(lab: Lab) -> None:
    assert await put(lab, span(0, 4, first=True), span(2, 7, holes=(3, 5))) == [(4, 4, False), (7, 2, False)]
    assert await payloads(lab) == [b"00", b"11", b"22", b"33", b"44", b"66"]


async def test_a_gap_is_refused_with_where_to_go_on(lab: Lab) -> None:
    assert await put(lab, span(0, 4)) == [(-1, 0, True)], "no watermark, and none was said to be missing"
    assert await put(lab, span(0, 4, first=True), span(5, 6), span(5, 6, first=True)) == [
        (4, 4, False), (4, 0, True), (4, 0, True),
    ]  # fmt: skip
    assert await payloads(lab) == [b"00", b"11", b"22", b"33"]
    assert await watermarks(lab.store, [STREAM]) == [4]


async def test_a_span_without_tasks_moves_the_watermark(lab: Lab) -> None:
    assert await put(lab, Span(STREAM, 0, 9, [], [], True)) == [(9, 0, False)]
    assert await watermarks(lab.store, [STREAM]) == [9]


async def test_large_bodies_lie_apart_and_skipped_ones_leave_none(lab: Lab) -> None:
    assert await put(lab, span(100, 102, first=True)) == [(102, 2, False)]
    assert await put(lab, span(100, 104, size=1_000)) == [(104, 2, False)]
    assert len(await lab.names("body:*")) == 2
    assert await payloads(lab) == [b"100100", b"101101", b"102102", b"103103"]


async def test_offsets_beyond_what_32_bits_hold(lab: Lab) -> None:
    big = 2**51
    assert await put(lab, span(big, big + 2, first=True), span(big + 1, big + 3)) == [
        (big + 2, 2, False), (big + 3, 1, False),
    ]  # fmt: skip
    assert await watermarks(lab.store, [STREAM]) == [big + 3]


async def test_the_owner_is_woken_for_what_is_due_before_its_poll(lab: Lab) -> None:
    channel = lab.client.pubsub()
    await channel.subscribe(lab.store.wakes[0])
    assert (await channel.get_message(timeout=PATIENCE_S))["type"] == "subscribe"
    await lab.claim()
    await put(lab, Span(STREAM, 0, 1, [0], [encode(NewTask(delay_ms=400))], True))
    assert (await channel.get_message(timeout=PATIENCE_S))["data"].decode() == f"{lab.now + 400}"
    await channel.aclose()


async def test_every_stream_has_one_home_and_lives_are_apart(client: Redis, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=8)
    streams = [Stream(topic, p) for topic in ("first", "again") for p in range(6)]
    spans = [Span(s, 0, 2, [0, 1], [encode(NewTask(delay_ms=60_000))] * 2, True) for s in streams]
    for answer in await ingest(store, spans):
        assert answer == Ingested(2, 2, False)
    assert await watermarks(store, [*streams, Stream("third", 0)]) == [2] * 12 + [None]
    homes = {s.home(8) for s in streams}
    assert len(homes) > 1
    counts = await store.counts()
    assert [p for p in range(8) if counts[p].pending] == sorted(homes)
    report = await fsck(store)
    assert report.problems == [] and report.counts["Kafka watermarks"] == 12
    # In another partition than its own nobody would find it.
    home = streams[0].home(8)
    astray: Any = client.hset(keys.kafka(store.tags[(home + 1) % 8]), streams[0].field, "2")
    await astray
    assert [p.partition(":")[0] for p in (await fsck(store)).problems] == ["watermark-wrong"]


async def test_ids_say_where_the_task_lives(client: Any, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=16)
    assert STREAM.home(16) != 0
    await ingest(store, [span(0, 3, first=True)])
    found = [
        task_id
        for bucket in await client.keys(f"{store.tags[STREAM.home(16)]}:b:*")
        for task_id in await client.hkeys(bucket)
    ]
    assert [ids.partition(task_id) for task_id in found] == [STREAM.home(16)] * 3


@pytest.mark.parametrize("field", [b"", b"topic", b"/1", b"topic/", b"topic/x"])
def test_a_field_that_names_no_stream(field: bytes) -> None:
    assert Stream.of_field(field) is None


def test_a_field_names_its_stream() -> None:
    assert Stream.of_field(STREAM.field.encode()) == STREAM
