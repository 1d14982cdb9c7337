"""The engine on a real server: what a target sees, and what becomes of what it says."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.delivery import DONE, Delivery, Done, Failed, HandBack, Outcome, Report, Target
from delaybox.core.errors import TaskFinished
from delaybox.core.retry import RetryPolicy
from delaybox.core.task import NewTask, Priority, Submitted, TaskResult, TaskState, TaskType
from delaybox.engine.engine import Engine
from delaybox.engine.options import EngineOptions
from delaybox.engine.reaper import Reaper
from delaybox.engine.retention import Retention
from delaybox.service import Service
from delaybox.store import keys, nodes
from delaybox.store.fsck import fsck
from delaybox.store.loader import ScriptCall, ScriptRunner, load, names
from delaybox.store.servers import Servers
from delaybox.store.store import ClaimLimits, Store
from delaybox.targets.pubsub import PubSubTarget
from delaybox.wire import body as wire_body
from delaybox.wire import result as wire_result
from tests.servers import RealServer
from tests.waiting import until_async

OPTIONS = EngineOptions(node_id="test", channel="", lease_ms=1_500, heartbeat_ms=300, reap_ms=40)
QUICK = RetryPolicy(max_attempts=3, initial_ms=1, max_ms=5)
TIMEOUT_S = 90.0


class Recorder:
    """A target that notes every delivery, answers by ``answer`` and lets a test wait for a number of them."""

    def __init__(self, answer: Callable[[Delivery], Outcome | None] = lambda d: DONE) -> None:
        self.seen: list[Delivery] = []
        self._answer = answer
        self._changed = asyncio.Condition()

    async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
        for d in batch:
            self.seen.append(d)
            if (outcome := self._answer(d)) is not None:
                report([d], outcome)
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, count: int) -> list[Delivery]:
        async with asyncio.timeout(TIMEOUT_S), self._changed:
            await self._changed.wait_for(lambda: len(self.seen) >= count)
        return self.seen

    def payloads(self) -> list[bytes]:
        return [wire_body.decode(d.body).payload for d in self.seen]


class Rig:
    """A store, its service and one engine that serves WORKER tasks."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.service = Service(store)
        self.engine: Engine | None = None

    async def start(self, target: Target, options: EngineOptions = OPTIONS) -> None:
        self.engine = Engine(self.store, {TaskType.WORKER: target}, options)
        await self.engine.start()

    async def add(self, **task: object) -> str:
        answer = await self.service.submit(NewTask(**{"type": TaskType.WORKER, **task}))  # type: ignore[arg-type]
        return answer.task_id

    async def settled(self) -> None:
        """Returns when nothing is in flight, here and in the store."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.engine and (self.engine.in_flight or (await self.service.counts()).in_flight):
                await asyncio.sleep(0)


@pytest.fixture
async def rig(client: Redis, prefix: str) -> AsyncIterator[Rig]:
    rig = Rig(await Store.open(Servers(client), prefix=prefix, partitions=4))
    yield rig
    if rig.engine is not None:
        await rig.engine.stop(0.0)
    assert (await fsck(rig.store)).problems == []


async def test_a_task_is_delivered_with_all_it_carries_and_completed(rig: Rig) -> None:
    target = Recorder()
    await rig.start(target)
    made = await rig.add(payload=b"x" * 50_000, delay_ms=20, queue="mail", header={"a": b"b"})
    (d,) = await target.wait_for(1)
    assert (d.id, d.token, d.attempt, d.losses, d.lane) == (made, 1, 0, 0, b"wmail")
    assert wire_body.decode(d.body).payload == b"x" * 50_000
    await rig.settled()
    counts = await rig.service.counts()
    assert (counts.pending, counts.in_flight, counts.dead) == (0, 0, 0)


async def test_the_heartbeat_tells_what_was_carried_out_by_queue(rig: Rig) -> None:
    target = Recorder(lambda d: DONE if d.lane.startswith(b"wmail") else Failed("no", retryable=False))
    await rig.start(target)
    for name in ("f", "g"):
        await rig.add(queue="mail", name=name)
        await rig.add(name=name)
    await target.wait_for(4)

    async def rates() -> dict[str, float]:
        member = await nodes.find(rig.store, "test")
        return dict(member.activity.fired_per_s) if member else {}

    fired = await until_async(rates)
    assert fired.keys() == {"wmail"} and 0 < fired["wmail"] <= 2


async def test_a_reaper_that_starts_after_an_outage_takes_nothing_back(rig: Rig) -> None:
    """What the partition noted decides: this reaper remembers nothing, and the leases were over before it came."""
    due = [await rig.add(name="f") for _ in range(rig.store.partitions)]
    for task_id in due:
        p = ids.partition(ids.parse(task_id))
        claimed = await rig.store.claim(p, b"L" * 16, ClaimLimits(slots=5, types="w", lease_ms=1))
        assert claimed.leased
        await rig.store.servers.ask("HSET", keys.clock(rig.store.tags[p]), "reaped", (await rig.store.ping()) - 60_000)
    await _clock_past(rig, (await rig.store.ping()) + 1)
    await Reaper(rig.store, replace(OPTIONS, lease_ms=15_000)).step()
    assert {(await rig.service.get(task_id)).state for task_id in due} == {TaskState.RUNNING}
    for task_id in due:
        assert await rig.store.extend(ids.partition(ids.parse(task_id)), [b"L" * 16], 15_000) == []


async def test_results_and_dead_letters_go_when_their_time_is_over(rig: Rig) -> None:
    done, dead = await rig.add(name="f"), await rig.add(name="f")
    for task_id in (done, dead):
        raw = ids.parse(task_id)
        p = ids.partition(raw)
        await rig.store.claim(p, raw, ClaimLimits(slots=1, types="w"))
        if task_id == done:
            result = wire_result.encode(TaskResult(ok=True, finished_ms=1))
            assert await rig.store.complete(p, raw, [(raw, 1, result)]) == []
        else:
            assert (await rig.store.fail(p, raw, [(raw, None, "no")]))[0] == []
    await _clock_past(rig, (await rig.store.ping()) + 2)
    await Retention(rig.store, replace(OPTIONS, dead_age_ms=60_000)).step()
    assert (await rig.service.get(dead)).state is TaskState.FAILED
    with pytest.raises(TaskFinished):
        await rig.service.get(done)
    await Retention(rig.store, replace(OPTIONS, dead_age_ms=1)).step()
    with pytest.raises(TaskFinished):
        await rig.service.get(dead)


async def _clock_past(rig: Rig, moment_ms: int) -> None:
    while await rig.store.ping() <= moment_ms:
        await asyncio.sleep(0)


async def test_a_failure_is_retried_and_then_dead_lettered_with_its_reason(rig: Rig) -> None:
    target = Recorder(lambda d: Failed(f"no {d.attempt}"))
    await rig.start(target)
    made = await rig.add(payload=b"p", retry=QUICK)
    seen = await target.wait_for(3)
    await rig.settled()
    assert [(d.attempt, d.token) for d in seen] == [(0, 1), (1, 2), (2, 3)]
    view = await rig.service.get(made)
    assert (view.state, view.reason, view.attempt, view.payload) == (TaskState.FAILED, "no 2", 3, b"p")


async def test_what_cannot_succeed_is_not_retried(rig: Rig) -> None:
    target = Recorder(lambda d: Failed("never", retryable=False))
    await rig.start(target)
    made = await rig.add()
    await target.wait_for(1)
    await rig.settled()
    assert (await rig.service.get(made)).reason == "never"


async def test_a_replayed_dead_letter_runs_again(rig: Rig) -> None:
    outcomes: list[Outcome] = [Failed("once", retryable=False), DONE]
    target = Recorder(lambda d: outcomes.pop(0))
    await rig.start(target)
    made = await rig.add()
    await target.wait_for(1)
    await rig.settled()
    await rig.service.replay(made)
    seen = await target.wait_for(2)
    assert [(d.attempt, d.token) for d in seen] == [(0, 1), (0, 2)]
    await rig.settled()


async def test_handing_back_charges_nothing(rig: Rig) -> None:
    outcomes: list[Outcome] = [HandBack(1), HandBack(1), DONE]
    target = Recorder(lambda d: outcomes.pop(0))
    await rig.start(target)
    await rig.add()
    seen = await target.wait_for(3)
    assert [(d.attempt, d.losses, d.token) for d in seen] == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
    await rig.settled()


async def test_a_result_is_kept_for_as_long_as_the_task_asks(rig: Rig) -> None:
    result = TaskResult(ok=True, finished_ms=1, output=b"42")
    target = Recorder(lambda d: Done(result, keep_ms=60_000))
    await rig.start(target)
    made = await rig.add(keep_result_ms=120_000)
    await target.wait_for(1)
    await rig.settled()
    view = await rig.service.get(made)
    assert (view.state, view.result) == (TaskState.SUCCEEDED, result)


async def test_a_target_that_raises_fails_its_tasks_and_not_the_node(rig: Rig) -> None:
    class Broken(Recorder):
        async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
            await super().deliver(batch, report)
            if wire_body.decode(batch[0].body).payload == b"bad":
                raise RuntimeError("oops")

    target = Broken(lambda d: None if wire_body.decode(d.body).payload == b"bad" else DONE)
    await rig.start(target)
    made = await rig.add(payload=b"bad", retry=replace(QUICK, max_attempts=1))
    await target.wait_for(1)
    await rig.settled()
    assert (await rig.service.get(made)).reason == "RuntimeError: oops"
    await rig.add(payload=b"good")
    await target.wait_for(2)


async def test_a_stop_hands_back_what_has_not_finished(rig: Rig) -> None:
    entered = asyncio.Event()

    class Stuck:
        async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
            entered.set()
            await asyncio.Event().wait()

    await rig.start(Stuck())
    made = await rig.add()
    await asyncio.wait_for(entered.wait(), TIMEOUT_S)
    assert rig.engine is not None
    await rig.engine.stop(0.0)
    view = await rig.service.get(made)
    assert (view.state, view.attempt, view.losses, view.deliveries) == (TaskState.READY, 0, 0, 1)
    await rig.engine.stop(0.0)  # twice is harmless


async def test_a_lease_that_nobody_keeps_alive_runs_again_and_the_late_ack_is_refused(rig: Rig) -> None:
    made = await rig.add()
    raw = ids.parse(made)
    limits = ClaimLimits(slots=1, types="w", lease_ms=1)
    claimed = await rig.store.claim(ids.partition(raw), b"dead node's lease", limits)
    assert claimed.leased[0] == raw
    target = Recorder()
    await rig.start(target)
    (d,) = await target.wait_for(1)
    assert (d.losses, d.token, d.attempt) == (0, 2, 0), "a node was lost, no worker"
    assert await rig.store.ack(ids.partition(raw), b"dead node's lease", [raw]) == [raw]
    await rig.settled()


async def test_more_than_there_are_slots_all_run(rig: Rig) -> None:
    running = peak = 0

    class Slow(Recorder):
        async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
            nonlocal running, peak
            running += len(batch)
            peak = max(peak, running)
            await asyncio.sleep(0)
            running -= len(batch)
            await super().deliver(batch, report)

    target = Slow()
    answers = await rig.service.submit_many([NewTask(type=TaskType.WORKER, payload=b"%d" % i) for i in range(300)])
    assert all(isinstance(a, Submitted) for a in answers)
    await rig.start(target, replace(OPTIONS, concurrency=7))
    await target.wait_for(300)
    assert peak <= 7
    assert len(set(target.payloads())) == 300
    await rig.settled()


async def test_critical_work_goes_first_when_slots_are_short(rig: Rig) -> None:
    target = Recorder()
    await rig.service.submit_many(
        [
            NewTask(type=TaskType.WORKER, priority=p, payload=p.name.encode())
            for p in (Priority.LOW, Priority.NORMAL, Priority.CRITICAL)
            for _ in range(40)
        ]
    )
    await rig.start(target, replace(OPTIONS, concurrency=4))
    await target.wait_for(120)
    first = target.payloads()[:40]
    # all in one partition (one call), four at a time, of which at most one is left to the others
    assert first.count(b"CRITICAL") >= 28
    await rig.settled()


async def test_something_earlier_wakes_the_owner(rig: Rig) -> None:
    target = Recorder()
    # With a poll of ten minutes only the wake-up can bring this about in time.
    await rig.start(target, replace(OPTIONS, poll_ms=600_000))
    later = await rig.add(delay_ms=600_000)
    sooner = await rig.add(delay_ms=10)
    seen = await target.wait_for(1)
    assert [d.id for d in seen] == [sooner]
    await rig.service.run_now(later)
    await target.wait_for(2)
    await rig.settled()


async def test_pub_sub_is_fired_in_place_and_a_large_one_is_leased(rig: Rig, client: Redis, prefix: str) -> None:
    channel = f"{prefix}-execution"
    pubsub = client.pubsub()
    await pubsub.subscribe(channel)
    target = PubSubTarget(rig.store, channel=channel)
    rig.engine = Engine(rig.store, {TaskType.PUB_SUB: target}, replace(OPTIONS, channel=channel))
    await rig.engine.start()
    made = [await rig.add(type=TaskType.PUB_SUB, payload=p) for p in (b"small", b"large" * 1_000)]
    got: dict[str, bytes] = {}
    async with asyncio.timeout(TIMEOUT_S):
        while len(got) < 2:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=1.0)
            if message is not None:
                task = wire_body.decode(message["data"])
                got[task.taskUuid] = task.payload
    assert got == dict(zip(made, (b"small", b"large" * 1_000), strict=True))
    await rig.settled()
    with contextlib.suppress(Exception):
        await pubsub.aclose()


class ClaimsSeen(ScriptRunner):
    """Notes which partitions are being claimed from at once, and how many slots the claims under way ask for."""

    def __init__(self, store: Store, concurrency: int, in_flight: Callable[[], int]) -> None:
        super().__init__(store.servers.send)
        self.under_way: list[set[str]] = []
        self.most = 0
        self.wrong: list[str] = []
        self._concurrency = concurrency
        self._in_flight = in_flight
        self._asked = 0

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[object]:
        if calls[0].script != "claim":
            return await super().run_many(calls)
        tags = {call.tag for call in calls}
        if len(tags) < len(calls) or any(tags & others for others in self.under_way):
            self.wrong.append("a partition is claimed from twice at once")
        asked = sum(min(int(call.args[3]), int(call.args[4])) for call in calls)
        self.under_way.append(tags)
        self.most = max(self.most, len(self.under_way))
        self._asked += asked
        if self._in_flight() + self._asked > self._concurrency:
            self.wrong.append("more is asked for than there are slots")
        try:
            return await super().run_many(calls)
        finally:
            self.under_way.remove(tags)
            self._asked -= asked


@pytest.mark.parametrize("stopped", [False, True])
async def test_claims_overlap_when_there_is_much_to_do(client: Redis, prefix: str, stopped: bool) -> None:
    store = await Store.open(Servers(client), prefix=prefix, partitions=16)
    service = Service(store)
    count, concurrency = 9_600, 3_000
    answers = await service.submit_many([NewTask(type=TaskType.WORKER, delay_ms=1) for _ in range(count)])
    ran: Counter[str] = Counter()
    some = asyncio.Event()

    class Slow:
        async def deliver(self, batch: Sequence[Delivery], report: Report) -> None:
            # Something is said to be due in each partition while it is being claimed from, as a wake-up would.
            engine._tracker.kick(None, 0.0)
            await asyncio.sleep(0)
            ran.update(d.id for d in batch)
            some.set()
            report(batch, DONE)

    # On a slow machine a claim whose answer comes after the end of its lease leaves its tasks to others.
    engine = Engine(store, {TaskType.WORKER: Slow()}, replace(OPTIONS, concurrency=concurrency, lease_ms=60_000))
    seen = store.runner = ClaimsSeen(store, concurrency, lambda: engine.in_flight)
    await engine.start()
    async with asyncio.timeout(TIMEOUT_S):
        if stopped:
            await some.wait()
        else:
            while len(ran) < count:
                await asyncio.sleep(0)
    await engine.stop(TIMEOUT_S)
    assert (seen.most == 2 or stopped) and seen.wrong == []
    made = {a.task_id for a in answers if isinstance(a, Submitted)}
    assert set(ran) <= made and set(ran.values()) == {1}
    counts = await service.counts()
    assert counts.in_flight == 0 and counts.pending == count - len(ran), "what was claimed ran, or went back"
    assert (await fsck(store)).problems == []


async def test_scripts_are_compiled_before_tasks_come_due(make_server: Callable[..., RealServer], prefix: str) -> None:
    server = make_server()
    store = await Store.open(Servers.connect(server.settings), prefix=prefix, partitions=1)
    engine = Engine(store, {TaskType.PUB_SUB: Recorder()}, OPTIONS)
    await engine.start()
    try:
        shas = [load(name, usual=True).sha for name in ("claims", "ack", "reap", "extend")]
        assert await store.servers.ask("SCRIPT", "EXISTS", *shas) == [1] * len(shas)
    finally:
        await engine.stop()
        await store.close()


@pytest.mark.parametrize("channel", ["out", ""])
async def test_the_server_compiles_what_tasks_need_and_nothing_else(
    make_server: Callable[..., RealServer], channel: str
) -> None:
    """Its collector visits all that is compiled again and again, and tasks that are due then wait: a third of a
    millisecond for what is never run."""
    store = await Store.open(Servers.connect(make_server().settings), prefix="d", partitions=2)
    recorder = Recorder()
    engine = Engine(store, {} if channel else {TaskType.PUB_SUB: recorder}, replace(OPTIONS, channel=channel))
    await engine.start()
    service = Service(store)
    await service.submit_many([NewTask(payload=b"x", delay_ms=50)])
    await until_async(lambda: engine._dispatcher.tally.fired_per_s())

    async def compiled() -> set[str]:
        some = [name for name in names() if name not in ("hold", "stamp", "sweep")]
        flags = await store.servers.ask("SCRIPT", "EXISTS", *(load(name, usual=True).sha for name in some))
        return {name for name, there in zip(some, flags, strict=True) if there}

    await until_async(compiled)
    found = await compiled()
    assert {"claims", "index", "expand", "note"} <= found
    assert not found & {"claim", "complete", "fail", "release", "snooze", "survey", "cancel", "lose"}
    assert ("ack" in found) is (not channel) and ("reap" in found) is (not channel)
    await engine.stop()
    await store.close()
