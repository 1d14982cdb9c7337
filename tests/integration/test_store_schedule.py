"""schedule.lua: what it stores, what it answers, and that asking again changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from delaybox.core import ids
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.store import keys
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, Store
from delaybox.wire import body as wire_body
from tests.lab import Lab
from tests.waiting import PATIENCE_S


async def test_the_id_carries_the_effective_due_time(lab: Lab) -> None:
    future, past, delayed, at_once = await lab.add(
        NewTask(due_ms=lab.now + 5_000),
        NewTask(due_ms=lab.now - 5_000),
        NewTask(delay_ms=700),
        NewTask(),
    )
    assert ids.due_ms(future) == lab.now + 5_000
    assert ids.due_ms(past) == ids.due_ms(at_once) == lab.now
    assert ids.due_ms(delayed) == lab.now + 700
    assert {ids.partition(i) for i in (future, past, delayed, at_once)} == {0}


async def test_the_answer_is_what_was_stored(lab: Lab) -> None:
    batch = Batch(0, [draft(NewTask(delay_ms=i * 1_000)) for i in range(500)])
    answers = (await lab.store.schedule([batch]))[0]
    assert not isinstance(answers, BaseException)
    for i, answer in enumerate(answers):
        assert answer.created and answer.due_ms == lab.now + i * 1_000
        assert (await lab.find(answer.task_id)).place == "home"


@pytest.mark.parametrize("due48", [0, ids.RELATIVE | 3_000])
async def test_a_command_sent_again_answers_the_same_and_stores_nothing(lab: Lab, due48: int) -> None:
    new = [
        draft(NewTask(payload=b"x" * 2_000, idempotency_key="k")),
        draft(NewTask(idempotency_key="k")),
        draft(NewTask()),
    ]
    for d in new:
        d.due48 = due48
    batch = Batch(0, new)
    call = lab.store.schedule_call(batch, ids.tails(0, bytes(range(24))))
    first = await lab.store.runner.run(call)
    before = await snapshot(lab)
    await lab.move(2_000)  # the repeat comes later, and still answers with the first one's time
    assert await lab.store.runner.run(call) == first
    assert await snapshot(lab) == before


async def snapshot(lab: Lab) -> dict[bytes, Any]:
    out: dict[bytes, Any] = {}
    for name in await lab.names("*"):
        out[name] = await lab.client.dump(name)
    return out


async def test_the_same_key_and_task_is_the_first_one(lab: Lab) -> None:
    task = NewTask(payload=b"pay", due_ms=lab.now + 9_000, idempotency_key="order-1")
    (first,) = await lab.add(task)
    await lab.move(60_000)
    answer = (await lab.store.schedule([Batch(0, [draft(task)])]))[0]
    assert not isinstance(answer, BaseException)
    assert (answer[0].task_id, answer[0].created, answer[0].conflict) == (first, False, False)
    assert answer[0].due_ms == ids.due_ms(first)
    assert (await lab.store.counts())[0].pending == 1


@pytest.mark.parametrize(
    "other",
    [
        NewTask(payload=b"other", due_ms=10**13, idempotency_key="k"),
        NewTask(payload=b"pay", due_ms=10**13 + 1, idempotency_key="k"),
        NewTask(payload=b"pay", due_ms=10**13, idempotency_key="k", queue="mail"),
        NewTask(payload=b"pay", due_ms=10**13, idempotency_key="k", priority=Priority.HIGH),
        NewTask(payload=b"pay", due_ms=10**13, idempotency_key="k", type=TaskType.WORKER),
        NewTask(payload=b"pay", due_ms=10**13, idempotency_key="k", header={"a": b"b"}),
    ],
)
async def test_the_same_key_with_another_task_is_a_conflict(lab: Lab, other: NewTask) -> None:
    (first,) = await lab.add(NewTask(payload=b"pay", due_ms=10**13, idempotency_key="k"))
    answer = (await lab.store.schedule([Batch(0, [draft(other)])]))[0]
    assert not isinstance(answer, BaseException)
    assert (answer[0].task_id, answer[0].created, answer[0].conflict) == (first, False, True)


async def test_one_key_twice_in_one_batch(lab: Lab) -> None:
    new = [NewTask(payload=p, idempotency_key="k", due_ms=10**13) for p in (b"a", b"a", b"b")]
    answers = (await lab.store.schedule([Batch(0, [draft(t) for t in new])]))[0]
    assert not isinstance(answers, BaseException)
    assert [(a.created, a.conflict) for a in answers] == [(True, False), (False, False), (False, True)]
    assert len({a.task_id for a in answers}) == 1
    assert (await lab.store.counts())[0].pending == 1


async def end_by_ack(lab: Lab, task_id: bytes) -> None:
    await lab.lease(b"L")
    assert await lab.store.ack(0, b"L", [task_id]) == []


async def end_by_cancel(lab: Lab, task_id: bytes) -> None:
    assert await lab.store.cancel([task_id]) == ["cancelled"]


async def end_in_place(lab: Lab, task_id: bytes) -> None:
    assert (await lab.claim(channel="c", slots=1)).lateness_ms == [0]


async def end_by_discard(lab: Lab, task_id: bytes) -> None:
    await lab.lease(b"L")
    await lab.store.fail(0, b"L", [(task_id, None, "no")])
    assert await lab.ttl_of("k") is None, "a dead letter keeps its key"
    assert await lab.store.discard(0, [task_id]) == 1


async def end_by_the_cap(lab: Lab, task_id: bytes) -> None:
    (other,) = await lab.add(NewTask())
    await lab.lease(b"L")
    await lab.store.fail(0, b"L", [(task_id, None, "no")])
    await lab.move(1)
    assert await lab.store.fail(0, b"L", [(other, None, "no")], dead_cap=1) == ([], 1)


@pytest.mark.parametrize("end", [end_by_ack, end_by_cancel, end_in_place, end_by_discard, end_by_the_cap])
async def test_a_key_has_no_ttl_while_its_task_lives_and_a_day_after(lab: Lab, end: Any) -> None:
    task = NewTask(idempotency_key="k")
    (task_id,) = await lab.add(task)
    assert await lab.ttl_of("k") is None
    await end(lab, task_id)
    ttl = await lab.ttl_of("k")
    assert ttl is not None and 86_000 < ttl <= 86_400
    answer = (await lab.store.schedule([Batch(0, [draft(task)])]))[0]
    assert not isinstance(answer, BaseException)
    assert not answer[0].created, "within the window the key still answers with the first task"


async def test_a_large_body_lies_apart(lab: Lab) -> None:
    small, large = await lab.add(NewTask(payload=b"s" * 1_000), NewTask(payload=b"L" * 5_000))
    record = await lab.record(large)
    assert record.stub and record.body == b""
    assert not (await lab.record(small)).stub
    assert await lab.store.bodies(0, [large, small]) == [wire_body.encode(NewTask(payload=b"L" * 5_000)), None]
    assert await lab.store.cancel([large]) == ["cancelled"]
    assert await lab.names("body:*") == []


async def test_it_wakes_the_owner_only_for_something_earlier(lab: Lab) -> None:
    channel = lab.client.pubsub()
    await channel.subscribe(lab.store.wakes[0])
    assert (await channel.get_message(timeout=PATIENCE_S))["type"] == "subscribe"
    await lab.claim()  # the owner now waits for its poll, in a second
    await lab.add(NewTask(delay_ms=1_500))
    await lab.add(NewTask(delay_ms=500), NewTask(delay_ms=400))
    await lab.add(NewTask(delay_ms=450))
    await lab.add(NewTask(delay_ms=300))
    wakeups = [await channel.get_message(timeout=PATIENCE_S) for _ in range(2)]
    assert [m["data"].decode() for m in wakeups] == [f"{lab.now + 400}", f"{lab.now + 300}"]
    assert await channel.get_message(timeout=0.05) is None
    await channel.aclose()


async def test_those_who_serve_workers_are_woken_apart(lab: Lab) -> None:
    channel = lab.client.pubsub()
    workers = keys.wake_workers(lab.tag).encode()
    await channel.subscribe(lab.store.wakes[0], keys.wake_workers(lab.tag))
    for _ in range(2):
        assert (await channel.get_message(timeout=PATIENCE_S))["type"] == "subscribe"
    await lab.claim(types="", channel="c")
    await lab.claim(types="w", guest=True)
    await lab.add(NewTask(type=TaskType.WORKER, name="f", delay_ms=300), NewTask(delay_ms=400))
    await lab.add(NewTask(type=TaskType.WORKER, name="f", delay_ms=350), NewTask(delay_ms=200))
    messages = [await channel.get_message(timeout=PATIENCE_S) for _ in range(3)]
    assert {(m["channel"] == workers, int(m["data"]) - lab.now) for m in messages} == {
        (True, 300),
        (False, 400),
        (False, 200),
    }
    assert await channel.get_message(timeout=0.05) is None
    await channel.aclose()


async def test_a_promise_of_workers_that_was_not_kept_counts_no_more(lab: Lab) -> None:
    """Whoever made it was killed. The owner looks after what is announced."""
    channel = lab.client.pubsub()
    await channel.subscribe(keys.wake_workers(lab.tag))
    assert (await channel.get_message(timeout=PATIENCE_S))["type"] == "subscribe"
    task = NewTask(type=TaskType.WORKER, name="f")
    await lab.claim(types="w", guest=True, poll_ms=1_000)
    await lab.move(1_050)
    await lab.add(task)
    assert await channel.get_message(timeout=0.05) is None, "it is only late"
    await lab.move(100)
    await lab.add(task)
    await lab.add(task)
    assert int((await channel.get_message(timeout=PATIENCE_S))["data"]) == lab.now
    assert await channel.get_message(timeout=0.05) is None, "once in a while is enough"
    await channel.aclose()


async def test_batches_of_several_partitions_share_a_round_trip(client: Any, prefix: str) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=4)
    batches = [Batch(p, [draft(NewTask(delay_ms=60_000)) for _ in range(p + 1)]) for p in range(4)]
    answers = await store.schedule(batches)
    for p, some in enumerate(answers):
        assert not isinstance(some, BaseException)
        assert [ids.partition(a.task_id) for a in some] == [p] * (p + 1)


async def test_the_same_key_from_many_callers_at_once_is_one_task(lab: Lab) -> None:
    task = NewTask(due_ms=10**13, idempotency_key="k")
    replies = await asyncio.gather(*(lab.store.schedule([Batch(0, [draft(task)])]) for _ in range(50)))
    answers = [a for r in replies if not isinstance(r[0], BaseException) for a in r[0]]
    assert len(answers) == 50 and len({a.task_id for a in answers}) == 1 and sum(a.created for a in answers) == 1


async def test_thin_buckets_are_listed_each_once(lab: Lab) -> None:
    await lab.add(*(NewTask(delay_ms=i * 10_000) for i in range(20)))
    numbers = await lab.client.zrange(keys.buckets(lab.tag), 0, -1, withscores=True)
    assert [int(n) for n, _ in numbers] == [int(s) for _, s in numbers]
    assert len(numbers) == len(await lab.names("b:*")) == 20
