"""How tasks ended: written down beside acks, bounded, looked up and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox import Client
from delaybox.core import ids
from delaybox.core.delivery import DONE, Delivery, Done, Failed, Outcome, Report
from delaybox.core.errors import InvalidTask, TaskFinished, TaskNotFound
from delaybox.core.history import HistoryQuery, HistoryRules
from delaybox.core.query import TaskQuery
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import DeliveryMode, NewTask, Priority, Submitted, TaskResult, TaskState, TaskType
from delaybox.service import Selection, Service
from delaybox.service import recorder as recorder_module
from delaybox.service.recorder import BURST, PAUSE_S, Recorder
from delaybox.store import history, keys
from delaybox.store.fsck import fsck
from delaybox.store.loader import ScriptRunner
from delaybox.store.servers import Servers
from delaybox.store.store import Store
from tests.command import Command
from tests.engines import running
from tests.engines import until as until_true
from tests.nodes import Node, node
from tests.waiting import until

RULES = HistoryRules(keep_ms=60_000, keep_failed_ms=600_000, entries=10_000)
Outcomes = Callable[[Delivery], Outcome]


class Target:
    def __init__(self, outcome: Outcomes = lambda _: DONE) -> None:
        self.outcome = outcome

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        for d in batch:
            report([d], self.outcome(d))


async def opened(client: Redis, prefix: str, rules: HistoryRules = RULES) -> tuple[Store, Service]:
    store = await Store.open(Servers(client), prefix=prefix, partitions=2)
    return store, Service(store, history=rules)


def worker(**options: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, name="f", **options)


async def submit(service: Service, *tasks: NewTask) -> list[str]:
    answers = await service.submit_many(tasks)
    return [a.task_id for a in answers if isinstance(a, Submitted)]


def entry(n: int, state: TaskState = TaskState.SUCCEEDED) -> bytes:
    return history.entry(
        state, b"wmail:f", b"n", "why", due_ms=n, fired_ms=n, ended_ms=n, priority=2, attempt=0, deliveries=1
    )


async def remembered(service: Service, task_id: str) -> bool:
    try:
        return (await service.get(task_id)).ended_ms > 0
    except TaskNotFound:
        return False


async def test_what_is_fired_in_place_is_remembered(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    async with running(store, {}, channel=f"{prefix}:out", history=RULES):
        (task_id,) = await submit(service, NewTask(payload=b"x" * 100, queue="mail"))
        await until_true(lambda: remembered(service, task_id))
    view = await service.get(task_id)
    assert (view.state, view.queue, view.node, view.deliveries) == (TaskState.SUCCEEDED, "mail", "test", 1)
    assert view.due_ms <= view.fired_ms == view.ended_ms


async def test_each_end_is_answered_with_its_times(client: Redis, prefix: str) -> None:
    def outcome(d: Delivery) -> Outcome:
        match d.body[-4:]:
            case b"fail":
                return Failed("broke", retryable=False)
            case b"kept":
                return Done(TaskResult(ok=True, finished_ms=1, output=b"1"))
        return DONE

    store, service = await opened(client, prefix)
    fine, failed, kept, once = await submit(
        service,
        worker(queue="mail", priority=Priority.HIGH, payload=b"fine"),
        worker(payload=b"fail"),
        worker(payload=b"kept"),
        worker(payload=b"once", delivery=DeliveryMode.AT_MOST_ONCE),
    )
    (waits,) = await submit(service, worker(delay_ms=900_000))
    await service.cancel(waits)
    view = await service.get(waits)
    assert (view.state, view.fired_ms, view.node, view.remembered) == (TaskState.CANCELLED, 0, "", True)
    async with running(store, {TaskType.WORKER: Target(outcome)}, node_id="me", history=RULES):
        for task_id in (fine, failed, kept, once):
            await until_true(partial(remembered, service, task_id))
    view = await service.get(fine)
    assert (view.state, view.queue, view.name, view.node) == (TaskState.SUCCEEDED, "mail", "f", "me")
    assert view.priority is Priority.HIGH and view.remembered and view.payload == b""
    assert view.due_ms <= view.fired_ms <= view.ended_ms <= await store.ping() + 1_000
    dead = await service.get(failed)
    assert (dead.state, dead.reason, dead.attempt, dead.remembered) == (TaskState.FAILED, "broke", 1, False)
    assert dead.ended_ms and dead.payload == b"fail"
    done = await service.get(kept)
    assert done.result is not None and done.ended_ms and not done.remembered
    assert (await service.get(once)).state is TaskState.SUCCEEDED
    page = await service.history(HistoryQuery())
    assert {one.task_id for one in page.items} == {fine, failed, kept, once, waits}
    assert [one.ended_ms for one in page.items] == sorted((one.ended_ms for one in page.items), reverse=True)
    only = await service.history(HistoryQuery(state=TaskState.FAILED))
    assert [(one.task_id, one.reason) for one in only.items] == [(failed, "broke")]
    assert [one.task_id for one in (await service.history(HistoryQuery(queue="mail", name="f"))).items] == [fine]
    assert (await service.history(HistoryQuery(name="g"))).items == []
    assert (await fsck(store)).problems == []


async def test_without_rules_nothing_is_written(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix, HistoryRules())
    (task_id,) = await submit(service, worker())
    (waits,) = await submit(service, worker(delay_ms=900_000))
    await service.cancel(waits)
    async with running(store, {TaskType.WORKER: Target()}):
        await until_true(lambda: gone(store, task_id))
    with pytest.raises(TaskFinished):
        await service.get(task_id)
    with pytest.raises(TaskNotFound, match="cancelled, or never was"):
        await service.get(waits)
    assert [key async for key in client.scan_iter(match=f"*{prefix}*history*")] == []


async def gone(store: Store, task_id: str) -> bool:
    return not (await store.get(ids.parse(task_id))).place


async def test_a_retry_that_succeeds_is_one_end(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    (task_id,) = await submit(service, worker(retry=RetryPolicy(max_attempts=3, initial_ms=1, max_ms=1)))
    target = Target(lambda d: Failed("again") if d.attempt == 0 else DONE)
    async with running(store, {TaskType.WORKER: target}, history=RULES):
        await until_true(lambda: remembered(service, task_id))
    view = await service.get(task_id)
    assert (view.state, view.attempt, view.deliveries) == (TaskState.SUCCEEDED, 1, 2)
    assert len((await service.history(HistoryQuery())).items) == 1


async def test_a_dead_letter_that_was_replayed_is_answered_by_its_last_end(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    (task_id,) = await submit(service, worker())
    fails = [True]
    target = Target(lambda _: Failed("broke", retryable=False) if fails[0] else DONE)
    async with running(store, {TaskType.WORKER: target}, history=RULES):
        await until_true(lambda: remembered(service, task_id))
        fails[0] = False
        await service.replay(task_id)

        async def succeeded() -> bool:
            return (await service.get(task_id)).state is TaskState.SUCCEEDED

        await until_true(succeeded)


async def test_cancelled_by_filter_and_by_id(client: Redis, prefix: str) -> None:
    _, service = await opened(client, prefix)
    made = await submit(service, *(worker(delay_ms=900_000, queue="q") for _ in range(6)))
    await service.bulk.cancel(Selection(wanted=TaskQuery(queue="q"), limit=4))
    await service.bulk.cancel_ids(made)
    await service.close()
    page = await service.history(HistoryQuery(state=TaskState.CANCELLED, queue="q"))
    assert sorted(one.task_id for one in page.items) == sorted(made)


async def test_pages_show_every_end_once(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    now = await store.ping()
    made = []
    for p in range(2):
        some = [_id(now - i * 40_000, p, i) for i in range(60)]
        made += some
        await store.runner.run(history.note_call(store, p, RULES, [(i, entry(now - n)) for n, i in enumerate(some)]))
    for limit in (7, 50, 200):
        seen: list[str] = []
        cursor = ""
        while True:
            page = await service.history(HistoryQuery(), cursor=cursor, limit=limit)
            seen += [one.task_id for one in page.items]
            cursor = page.cursor
            if not cursor:
                break
        assert sorted(seen) == sorted(map(ids.render, made)), limit
    with pytest.raises(InvalidTask, match="not one of this list"):
        await service.history(HistoryQuery(), cursor="WzEsMl0")


def _id(due_ms: int, partition: int, n: int) -> bytes:
    return due_ms.to_bytes(6, "big") + ids.tails(partition, n.to_bytes(8, "big"))[0]


async def test_it_is_bounded_by_number_and_failures_go_last(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    small = HistoryRules(keep_ms=60_000, entries=200)
    now = await store.ping()
    failed = [(_id(now, 0, n), entry(now, TaskState.FAILED)) for n in range(20)]
    await store.runner.run(history.note_call(store, 0, small, failed))
    for minute in range(1, 11):
        some = [(_id(now + minute * 60_000, 0, n), entry(now + minute)) for n in range(30)]
        await store.runner.run(history.note_call(store, 0, small, some))
    page = await service.history(HistoryQuery(), limit=1000)
    assert sum(one.state is TaskState.FAILED for one in page.items) == 20
    assert 60 <= len(page.items) <= 100, "the oldest others are forgotten"
    assert (await fsck(store)).problems == []


async def test_more_ends_in_a_minute_than_fit_are_counted(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    now = await store.ping()
    tag = store.tags[0]
    # As if 50 hashes of this minute were full.
    bucket = f"s{now // store.bucket_ms}"
    await client.hset(keys.history(tag), bucket, "49")
    await client.hset(keys.history_sizes(tag), f"{bucket}:49", (1_000).to_bytes(4, "big") + bytes(14))
    some = [(_id(now, 0, n), entry(now)) for n in range(3)]
    assert await store.runner.run(history.note_call(store, 0, RULES, some, (5, 0, 0))) == 3
    assert (await service.history(HistoryQuery())).beyond[TaskState.SUCCEEDED] == 8


async def test_of_very_many_successes_most_are_only_counted_and_failures_are_not(
    client: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Or in the seconds that a busy machine takes all of them could be noted.
    monkeypatch.setattr(recorder_module, "A_SECOND", 30)
    store, service = await opened(client, prefix)
    recorder = Recorder(store, HistoryRules(keep_ms=60_000, entries=100_000), store.now_ms)
    now = await store.ping()
    pauses: list[float] = []
    for at in range(0, 20_000, 500):
        some = [Delivery(_id(now, 0, at + n), 0, b"", 1, 0, 0, now, b"w:f", False, b"") for n in range(500)]
        recorder.ended(some, TaskState.SUCCEEDED)
        if at % 1_000 == 0:
            pauses.append(await recorder.step())
    recorder.ended(
        [Delivery(_id(now, 1, n), 1, b"", 1, 0, 0, now, b"w:f", False, b"") for n in range(9)], TaskState.FAILED
    )
    await recorder.close()
    page = await service.history(HistoryQuery(), limit=1000)
    assert sum(one.state is TaskState.FAILED for one in page.items) == 9
    noted = 20_000 - page.beyond[TaskState.SUCCEEDED]
    assert BURST <= noted < 20_000
    assert pauses[0] == PAUSE_S < max(pauses), "it writes less often while more end than are noted"
    assert (await fsck(store)).counts["ended tasks"] == noted + 9


async def test_ends_of_one_batch_are_as_if_each_was_noted_alone(client: Redis, prefix: str) -> None:
    store, service = await opened(client, prefix)
    now = await store.ping()
    some = [
        Delivery(
            _id(now + n % 3 * 60_000, 0, n), 0, b"", 1 + n % 2, n % 5 // 4, 0, now + n, b"wmail:f" if n % 7 else b"p",
            False, b"", priority=n % 4, fired_ms=now + n,
        )
        for n in range(40)
    ]  # fmt: skip
    recorder = Recorder(store, RULES, lambda _: now + 50, "me")
    recorder.ended(some[:30], TaskState.SUCCEEDED)
    recorder.ended(some[30:], TaskState.FAILED, "broke")
    await recorder.close()
    shown = {one.task_id: one for one in (await service.history(HistoryQuery(), limit=1000)).items}
    assert len(shown) == 40
    for n, d in enumerate(some):
        one = shown[d.id]
        assert (one.due_ms, one.fired_ms, one.ended_ms) == (now + n, now + n, now + 50)
        assert (one.type, one.queue, one.name) == (
            (d.type, "mail", "f") if n % 7 else (TaskType.PUB_SUB, "default", "")
        )
        assert one.priority is sorted(Priority)[n % 4] and one.deliveries == d.token and one.node == "me"
        assert (one.attempt, one.reason) == ((d.attempt, "") if n < 30 else (d.attempt + 1, "broke"))
        assert await history.find(store, d.task_id) == one
    assert (await fsck(store)).problems == []


async def test_ends_that_are_noted_one_after_the_other_stand_as_those_noted_at_once(client: Redis, prefix: str) -> None:
    found: list[list[Any]] = []
    for at_once in (True, False):
        store, _ = await opened(client, f"{prefix}-{at_once}")
        now = await store.ping() // store.bucket_ms * store.bucket_ms
        ends = [
            (_id(now, 0, n), entry(now, TaskState.FAILED if n % 4 == 3 else TaskState.SUCCEEDED)) for n in range(40)
        ]
        for some in [ends] if at_once else [[one] for one in ends]:
            assert await store.runner.run(history.note_call(store, 0, RULES, some)) == 0
        assert (await fsck(store)).problems == []
        tag = store.tags[0]
        sums: dict[Any, Any] = await client.hgetall(keys.history(tag))
        sizes: dict[Any, Any] = await client.hgetall(keys.history_sizes(tag))
        lived = [await client.pttl(keys.history_hash(tag, name)) > RULES.keep_ms for name in sizes]
        found.append([len(sums), sorted(sums.values()), sorted(size[:8] for size in sizes.values()), lived])
        assert sum(int.from_bytes(size[14:], "big") for size in sizes.values()) == (2 if at_once else 40)
    assert found[0] == found[1]


async def test_the_owner_unlinks_what_is_old_and_an_expiry_is_the_fallback(client: Redis, prefix: str) -> None:
    store, _ = await opened(client, prefix)
    now = await store.ping()
    tag = store.tags[0]
    await store.runner.run(history.note_call(store, 0, RULES, [(_id(now, 0, 1), entry(now))]))
    await store.runner.run(history.note_call(store, 0, RULES, [(_id(now, 0, 2), entry(now, TaskState.FAILED))]))
    name = f"s{now // store.bucket_ms}:0".encode()
    assert await client.zrange(keys.history_at(tag, "s"), 0, -1) == [name]
    # A part of it may be over by now.
    others = await client.pttl(keys.history_hash(tag, name))
    assert RULES.keep_ms + 600_000 - 60_000 <= others <= RULES.keep_ms + 1_200_000
    failed = await client.pttl(keys.history_hash(tag, b"f" + name[1:]))
    assert RULES.keep_failed_ms + 600_000 - 60_000 <= failed <= RULES.keep_failed_ms + 1_200_000
    assert await history.fade(store, 0, RULES) == 0
    clock = (
        f"local function now_ms() return {now + 70_000} end\nlocal function int(n) return string.format('%.0f', n) end"
    )
    store.runner = ScriptRunner(store.servers.send, clock=clock)
    assert await history.fade(store, 0, RULES) == 1
    assert await client.zcard(keys.history_at(tag, "f")) == 1
    assert await client.exists(keys.history_hash(tag, name)) == 0
    assert (await fsck(store)).problems == []


async def test_an_end_that_the_store_refuses_holds_nothing_up(client: Redis, prefix: str) -> None:
    """A server of another's keys: what is remembered is best effort."""
    store, service = await opened(client, prefix)
    for tag in store.tags:
        await client.set(keys.history(tag), "no hash")
    made = await submit(service, *(worker() for _ in range(5)))
    async with running(store, {TaskType.WORKER: Target()}, history=RULES) as engine:
        await until_true(lambda: engine.in_flight == 0)
        for task_id in made:
            await until_true(partial(gone, store, task_id))


def _ended(served: Node, task_id: str) -> bool:
    return "ended" in served.call("GET", f"/v1/tasks/{task_id}")[2]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("history")
    with node("--http-port", "0", "--data-dir", str(folder / "data"), "--enable-shell", folder=folder) as started:
        yield started


def test_a_node_answers_over_rest_grpc_python_and_the_command_line(served: Node, command: Command) -> None:
    """With the configuration's default: remembered for an hour."""
    with Client(f"127.0.0.1:{served.grpc_port}") as api:
        fine = api.shell("exit 0", keep_result=0)
        failed = api.shell("exit 3", retry=0)
        waits = api.publish("x", delay="1h")
        waits.cancel()
        for handle, state in ((fine, "succeeded"), (failed, "failed"), (waits, "cancelled")):
            until(partial(_ended, served, handle.id))
            status, _, answer = served.call("GET", f"/v1/tasks/{handle.id}")
            assert (status, answer["state"]) == (200, state)
            assert api.get(handle.id).state == state
        task = api.get(waits.id)
        assert task.remembered and task.ended is not None and task.fired is None and task.node == ""
        assert [one.id for one in api.history(state="failed", type="shell")] == [failed.id]
        assert {one.id for one in api.history(limit=10)} >= {failed.id, waits.id}
        status, _, page = served.call("GET", "/v1/history?state=cancelled&limit=1")
        assert (status, [one["id"] for one in page["tasks"]], page["beyond"]) == (200, [waits.id], {})
        assert served.call("GET", "/v1/history?state=ready")[0] == 400
        done = command("history", "--state", "failed", "--server", f"http://127.0.0.1:{served.port}")
        assert failed.id in done.out and "exit code 3" in done.out
        assert "cancelled" in command("get", waits.id, "--server", f"http://127.0.0.1:{served.port}").out
