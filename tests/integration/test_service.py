"""The use-cases of the service on a real server: pages, results, changes, forecast, queues."""

from __future__ import annotations

import asyncio
import os

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.errors import InvalidTask, PastDue, TaskFinished, TaskNotFound, TaskRunning
from delaybox.core.membership import Activity, Member
from delaybox.core.query import TaskQuery
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, Submitted, TaskResult, TaskState, TaskType
from delaybox.service import Selection, Service, arrivals
from delaybox.service.arrivals import Arrivals, ArrivingCall
from delaybox.service.submit import Submitter
from delaybox.store import keys, lanes, nodes, task_lists
from delaybox.store.fsck import fsck
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store, Verdict
from delaybox.wire import result as wire_result
from delaybox.wire.json import rendering
from delaybox.wire.proto import views
from tests.waiting import PATIENCE_S

LEASE = ClaimLimits(slots=100, types="wsp")


async def _open(client: Redis, prefix: str) -> tuple[Store, Service, int]:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    return store, Service(store), await store.ping()


async def _ids(service: Service, tasks: list[NewTask]) -> list[str]:
    answers = await service.submit_many(tasks)
    assert all(isinstance(a, Submitted) for a in answers)
    return [a.task_id for a in answers if isinstance(a, Submitted)]


async def _all(service: Service, wanted: TaskQuery, limit: int) -> list[str]:
    seen: list[str] = []
    cursor = ""
    while True:
        page = await service.list_tasks(wanted, cursor=cursor, limit=limit)
        assert len(page.items) <= limit
        seen += [view.task_id for view in page.items]
        cursor = page.cursor
        if not cursor:
            return seen


async def test_pages_show_every_waiting_task_once(client: Redis, prefix: str) -> None:
    _, service, now = await _open(client, prefix)
    tasks = [NewTask(payload=b"x" * (i % 3 * 900), due_ms=now + 120_000 + i * 7_000) for i in range(500)]
    made = await _ids(service, tasks)
    for limit in (7, 100, 1000):
        assert sorted(await _all(service, TaskQuery(), limit)) == sorted(made)
    some = await _all(service, TaskQuery(due_from_ms=now + 300_000, due_to_ms=now + 600_000), 9)
    expected = [i for i, t in zip(made, tasks, strict=True) if now + 300_000 <= (t.due_ms or 0) < now + 600_000]
    assert sorted(some) == sorted(expected)


async def test_tasks_of_calls_that_are_on_their_way_share_a_round_trip(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_WAIT_S", PATIENCE_S)
    scripts: list[str] = []
    store = await Store.open(Servers(client), prefix=prefix, observe=lambda script, _: scripts.append(script))
    arriving = Arrivals()
    submitter = Submitter(store, arriving=arriving)
    taken = 0

    async def call(turns: int) -> Submitted:
        nonlocal taken
        for _ in range(turns):
            await asyncio.sleep(0)
        ArrivingCall(arriving).take()
        taken += 1
        return await submitter.submit(NewTask(delay_ms=60_000, queue="mail"))

    for _ in range(20):
        arriving.came()
    # As grpc hands them over: one after the other, with turns between in which nothing comes.
    made = await asyncio.gather(*(call(4 * number) for number in range(20)))
    assert len({one.task_id for one in made}) == taken == 20
    assert scripts.count("schedule") == 1


async def test_a_moved_task_is_listed_at_its_new_time(client: Redis, prefix: str) -> None:
    _, service, now = await _open(client, prefix)
    near, far = await _ids(service, [NewTask(due_ms=now + 300_000), NewTask(due_ms=now + 7_200_000)])
    await service.reschedule(near, due_ms=now + 10_000_000)
    await service.reschedule(far, due_ms=now + 200_000)
    assert await _all(service, TaskQuery(due_to_ms=now + 1_000_000), 10) == [far]
    assert await _all(service, TaskQuery(due_from_ms=now + 9_000_000), 10) == [near]
    assert sorted(await _all(service, TaskQuery(), 1)) == sorted([near, far])


async def test_a_list_of_later_tasks_does_not_look_at_those_before_the_horizon(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_lists, "EXAMINED", 5)
    store, service, now = await _open(client, prefix)
    for tag in store.tags:
        await client.hset(keys.clock(tag), "horizon", str((now // 60_000 + 20) * 60_000))
    moved, *_ = await _ids(service, [NewTask(due_ms=now + 300_000 + i) for i in range(30)])
    (later,) = await _ids(service, [NewTask(due_ms=now + 7_200_000)])
    await service.reschedule(moved, due_ms=now + 7_500_000)
    page = await service.list_tasks(TaskQuery(due_from_ms=now + 6_000_000))
    assert [view.task_id for view in page.items] == [later, moved]
    assert len(await _all(service, TaskQuery(), 10)) == 31


async def test_filters(client: Redis, prefix: str) -> None:
    _, service, now = await _open(client, prefix)
    mail, other = await _ids(
        service,
        [
            NewTask(due_ms=now + 90_000, queue="mail", labels={"customer": "7"}),
            NewTask(due_ms=now + 90_000, type=TaskType.WORKER, labels={"customer": "8"}),
        ],
    )
    assert await _all(service, TaskQuery(queue="mail"), 10) == [mail]
    assert await _all(service, TaskQuery(type=TaskType.WORKER), 10) == [other]
    assert await _all(service, TaskQuery(labels={"customer": "8"}), 10) == [other]
    assert await _all(service, TaskQuery(labels={"customer": "8"}, queue="mail"), 10) == []
    assert await _all(service, TaskQuery(state=TaskState.READY), 10) == []


@pytest.mark.parametrize("cursor", ["nonsense", "W10", "WzEsOSwwXQ", "WzEsMSwieCJd", "WzEsMSw1LDAsLTMsMCwxMF0"])
async def test_a_bad_cursor_is_refused(client: Redis, prefix: str, cursor: str) -> None:
    _, service, now = await _open(client, prefix)
    await _ids(service, [NewTask(due_ms=now + 90_000)])
    with pytest.raises(InvalidTask, match="cursor"):
        await service.list_tasks(TaskQuery(), cursor=cursor)


async def test_results_are_kept_and_shown(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    made = await _ids(service, [NewTask(type=TaskType.SHELL_CMD, payload=b"p%d" % i) for i in range(2)])
    raw = ids.parse(made[0])
    partition, lease_id = ids.partition(raw), os.urandom(16)
    await store.claim(partition, lease_id, LEASE)
    assert [v.state for v in (await service.list_tasks(TaskQuery(state=TaskState.RUNNING))).items] == [
        TaskState.RUNNING,
        TaskState.RUNNING,
    ]
    with pytest.raises(TaskRunning):
        await service.update(made[0], payload=b"late")
    good = TaskResult(ok=True, finished_ms=now, duration_ms=5, exit_code=0, output=b"out")
    bad = TaskResult(ok=False, finished_ms=now, duration_ms=6, exit_code=3, output=b"err", reason="exit code 3")
    assert await store.complete(partition, lease_id, [(raw, 60_000, wire_result.encode(good))]) == []
    stale, _ = await store.fail(
        partition,
        lease_id,
        [Verdict(ids.parse(made[1]), None, "exit code 3", wire_result.encode(bad), 60_000)],
    )
    assert stale == []
    done, failed = await service.get(made[0]), await service.get(made[1])
    assert (done.state, done.result, done.payload) == (TaskState.SUCCEEDED, good, b"p0")
    assert (failed.state, failed.result, failed.reason) == (TaskState.FAILED, bad, "exit code 3")
    assert await _all(service, TaskQuery(state=TaskState.SUCCEEDED), 1) == [made[0]]
    assert await _all(service, TaskQuery(state=TaskState.FAILED), 1) == [made[1]]
    assert await store.complete(partition, lease_id, [(raw, 60_000, b"")]) == [raw]
    assert (await fsck(store)).problems == []


async def test_an_old_result_is_deleted(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    (made,) = await _ids(service, [NewTask(type=TaskType.WORKER)])
    raw = ids.parse(made)
    await store.claim(ids.partition(raw), b"L" * 16, LEASE)
    kept = wire_result.encode(TaskResult(ok=True, finished_ms=now))
    await store.complete(ids.partition(raw), b"L" * 16, [(raw, 0, kept)])
    assert await store.expire(ids.partition(raw)) == 1
    with pytest.raises(TaskFinished):
        await service.get(made)


async def test_update_replaces_parts_and_keeps_the_rest(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    (made,) = await _ids(
        service, [NewTask(payload=b"a", due_ms=now + 500_000, labels={"k": "v"}, idempotency_key="one")]
    )
    big = b"b" * 5_000
    changed = await service.update(made, payload=big, labels={"k": "w"}, priority=Priority.HIGH, due_ms=now + 900_000)
    assert (changed.payload, changed.labels, changed.priority) == (big, {"k": "w"}, Priority.HIGH)
    assert changed.due_ms == now + 900_000
    changed = await service.update(made, payload=b"small", delay_ms=700_000)
    assert (changed.payload, changed.labels, changed.state) == (b"small", {"k": "w"}, TaskState.SCHEDULED)
    assert (await fsck(store)).problems == []
    await service.cancel(made)
    with pytest.raises(TaskNotFound):
        await service.update(made, payload=b"gone")
    assert (await fsck(store)).problems == []


async def test_forecast_counts_by_step(client: Redis, prefix: str) -> None:
    _, service, now = await _open(client, prefix)
    start = (now // 60_000 + 100) * 60_000
    await _ids(service, [NewTask(due_ms=start + i * 30_000) for i in range(10)])
    steps = await service.forecast(start, start + 600_000, 120_000)
    assert [s.count for s in steps] == [4, 4, 2, 0, 0]
    assert [s.start_ms for s in steps] == [start + i * 120_000 for i in range(5)]
    for arguments, field in (((start, start, 60_000), "to"), ((start, start + 1, 1_000), "step")):
        with pytest.raises(InvalidTask) as refused:
            await service.forecast(*arguments)
        assert refused.value.field == field


async def test_all_that_waits_is_counted_by_queue_while_it_is_little(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, service, now = await _open(client, prefix)
    far, near = now + 30 * 86_400_000, now
    await _ids(service, [NewTask(due_ms=due, queue=q) for q, due in (("a", far), ("a", near), ("b", far))])
    await _ids(service, [NewTask(type=TaskType.WORKER, name="f", queue="a", due_ms=far, payload=b"x" * 5_000)])
    assert {(q.queue, q.type.name, q.pending, q.complete) for q in await service.queues()} == {
        ("a", "PUB_SUB", 2, True), ("b", "PUB_SUB", 1, True), ("a", "WORKER", 1, True)
    }  # fmt: skip
    monkeypatch.setattr(lanes, "_ALL_UP_TO", 3)
    found = await service.queues()
    assert {(q.queue, q.pending, q.complete) for q in found} == {("a", 1, False)}
    # "b" has a task, in a month: that none is counted must not read as if it had none.
    nothing = QueueRules()
    shown = rendering.queue("b", found, own=nothing, effect=nothing, waits="", newer=())
    assert (shown.pending, shown.pending_complete) == (0, False)
    assert not rendering.queues(found).pending_complete
    assert views.queues(found, "b").due_soon


async def test_what_living_nodes_fired_is_summed_by_queue(client: Redis, prefix: str) -> None:
    store, service, now = await _open(client, prefix)
    for name, seen_ms, fired in (
        ("n1", now, {"w": 1.5, "smail": 0.25, "znew": 9.0}),
        ("n2", now, {"w": 2.0}),
        ("gone", now - 60_000, {"w": 100.0}),
        ("old", now, {}),
    ):
        await nodes.beat(store, Member(id=name, seen_ms=seen_ms, activity=Activity(fired_per_s=fired)))
    await _ids(service, [NewTask()])
    assert {(q.queue, q.type.name, q.pending, q.fired_per_s) for q in await service.queues()} == {
        ("default", "WORKER", 0, 3.5), ("mail", "SHELL_CMD", 0, 0.25), ("default", "PUB_SUB", 1, 0.0)
    }  # fmt: skip


async def test_queues_and_replay_of_many(client: Redis, prefix: str) -> None:
    store, service, _ = await _open(client, prefix)
    made = await _ids(service, [NewTask(type=TaskType.WORKER, queue=q) for q in ("a", "a", "b")])
    assert {(q.queue, q.pending) for q in await service.queues()} == {("a", 2), ("b", 1)}
    partition = ids.partition(ids.parse(made[0]))
    await store.claim(partition, b"L" * 16, LEASE)
    assert {(q.queue, q.in_flight) for q in await service.queues()} == {("a", 2), ("b", 1)}
    await store.fail(partition, b"L" * 16, [(ids.parse(i), None, "no") for i in made])
    assert len((await service.dead_letters(TaskQuery(), limit=2)).items) == 2
    assert (await service.bulk.replay(Selection(wanted=TaskQuery(queue="a")))).changed == 2
    assert [v.queue for v in (await service.dead_letters(TaskQuery())).items] == ["b"]


async def test_a_past_time_is_refused_where_asked(client: Redis, prefix: str) -> None:
    _, service, now = await _open(client, prefix)
    with pytest.raises(PastDue):
        await service.submit(NewTask(due_ms=now - 5_000, reject_past=True))
    answers = await service.submit_many([NewTask(due_ms=now - 5_000, reject_past=True), NewTask(delay_ms=60_000)])
    assert isinstance(answers[0], PastDue)
    assert isinstance(answers[1], Submitted)


async def test_what_cannot_be_read_is_not_called_cancelled(client: Redis, prefix: str) -> None:
    store, service, _ = await _open(client, prefix)
    torn, newer = await _ids(service, [NewTask(delay_ms=3_600_000), NewTask(delay_ms=3_600_000)])
    for task_id, value in ((torn, b"\x10\x02\x01"), (newer, b"\xff from another time")):
        raw = ids.parse(task_id)
        bucket = keys.bucket(store.tags[ids.partition(raw) % 2], ids.due_ms(raw) // store.bucket_ms)
        await client.hset(bucket, raw, value)
    with pytest.raises(TaskNotFound, match="is there, but was written by a newer DelayBox or is damaged"):
        await service.get(newer)
    with pytest.raises(TaskNotFound, match="cannot be read: see `delaybox quarantine list`"):
        await service.run_now(torn)
    tag, raw = store.tags[ids.partition(ids.parse(torn)) % 2], ids.parse(torn)
    await client.hdel(keys.bucket(tag, ids.due_ms(raw) // store.bucket_ms), raw)
    await client.hset(keys.quarantine(tag), raw, b"\x10\x02\x01")
    with pytest.raises(TaskNotFound, match="cannot be read: see `delaybox quarantine list`"):
        await service.get(torn)
