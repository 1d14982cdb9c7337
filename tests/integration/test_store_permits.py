"""Limits of queues in the store: what has no permit waits apart, and permits come back when tasks leave their lease."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core.lane import lane_of
from delaybox.core.limit_keys import KeyLimit
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.queue_limits import Grant, Needs, rate_of
from delaybox.core.task import DeliveryMode, NewTask, Priority, TaskType
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.service.rules import Rules
from delaybox.store import keys, permits, rules, settling
from delaybox.store.lanes import queues
from delaybox.store.leases import adopt
from delaybox.store.replies import CRITICAL, NONE
from delaybox.store.store import Verdict
from tests.lab import Lab, leased
from tests.waiting import PATIENCE_S

SEND = lane_of(TaskType.WORKER, "mail", "send")


def call(queue: str = "mail", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, queue=queue, name="send", **parts)


class Bench:
    """A lab with limits on the queue `mail`, and one who brings permits."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.live = LiveRules()
        self.dealer = PermitDealer(lab.store, self.live, Ownership(lab.store.partitions), Clocks(), keeps=True)

    async def set(self, **limits: Any) -> None:
        await Rules(self.lab.store).set("mail", QueueRules(**limits), whole=True)
        number, found = await rules.every(self.lab.store, {})
        self.live.take(number, {queue: one.rules for queue, one in found.items()})

    async def settle(self, *, sweep: bool = False) -> None:
        pools = [pool.name for pool in self.live.of("mail").pools("mail")]
        await self.dealer._settle({0: dict.fromkeys(pools)}, [0] if sweep else [])

    async def visit(self, ask: permits.Ask) -> Needs:
        """What the partition reports of one pool."""
        (one,) = permits.visit_calls(self.lab.store, 0, ask, self.lab.now)
        (found,) = permits.visited(0, await self.lab.store.runner.run(one)).pools
        return found.report

    async def claim(self, **limits: Any) -> dict[bytes, Any]:
        """What a claim takes after permits were brought to where work waits."""
        took: dict[bytes, Any] = {}
        for _ in range(3):
            claimed = await self.lab.claim(**{"types": "w", **limits})
            took |= leased(claimed)
            if claimed.waits:
                await self.settle()
        return took

    async def used(self, kind: bytes = b"c") -> int:
        count: int = await self.lab.client.zcard(keys.used(self.lab.tag, kind + b"mail"))
        return count


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab)


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize("ready", [False, True])
async def test_no_more_run_than_the_concurrency_and_others_are_not_held_up(
    bench: Bench, ready: bool, guest: bool
) -> None:
    lab = bench.lab
    tasks = await lab.add(call(priority=Priority.HIGH), call(priority=Priority.CRITICAL), call(), call(), call())
    (other,) = await lab.add(call("other"))
    if ready:
        await lab.claim(slots=0)
    await bench.set(concurrency=2)
    await lab.move(5_000)
    lanes = (SEND, lane_of(TaskType.WORKER, "other", "send")) if guest else ()
    lease = b"l" * 20
    first = leased(await lab.claim(types="w", lanes=lanes, guest=guest))
    first |= leased(await lab.claim(types="w", lanes=lanes, guest=guest))
    assert set(first) == {other}, "without a permit nothing of the queue begins, and nothing else waits for it"
    await bench.settle()
    took: dict[bytes, Any] = leased(await lab.claim(lease, types="w", lanes=lanes, guest=guest))
    assert list(took) == [tasks[1], tasks[0]]
    assert await bench.claim(lanes=lanes, guest=guest) == {}
    assert await bench.used() == 2 and await lab.problems() == []
    (mail,) = [q for q in await queues(lab.store) if q.queue == "mail"]
    assert (mail.ready, mail.in_flight) == (3, 2)
    assert (await lab.store.counts())[0].due == 3
    await lab.store.ack(0, lease, [tasks[1]])
    assert list(await bench.claim(lanes=lanes, guest=guest)) == [tasks[2]]
    assert await lab.problems() == []
    await bench.set()
    assert set(await bench.claim(lanes=lanes, guest=guest)) == set(tasks[3:]), "without a limit all of them begin"


@pytest.mark.parametrize("guest", [False, True])
async def test_a_critical_task_of_a_queue_with_limits_does_not_wait_behind_others(bench: Bench, guest: bool) -> None:
    lab = bench.lab
    # It has no such label, so it needs no permit.
    await bench.set(keys=(KeyLimit(by="label:customer", concurrency=1),))
    others = await lab.add(*(call("other") for _ in range(40)))
    (critical,) = await lab.add(call(priority=Priority.CRITICAL))
    lanes = (SEND, lane_of(TaskType.WORKER, "other", "send")) if guest else ()
    took = leased(await lab.claim(b"m" * 20, types="w", slots=20, lanes=lanes, guest=guest))
    assert critical in took and len(took) == 20
    took |= leased(await lab.claim(b"n" * 20, types="w", slots=100, lanes=lanes, guest=guest))
    assert set(took) == {critical, *others} and await lab.problems() == []


@pytest.mark.parametrize("how", ["ack", "complete", "fail", "bury", "release", "lose", "reap"])
async def test_a_permit_comes_back_however_a_task_leaves_its_lease(bench: Bench, how: str) -> None:
    lab, store = bench.lab, bench.lab.store
    await bench.set(concurrency=1)
    await lab.add(call(), call())
    lease = b"\0\0\x27\x10" + b"l" * 16
    await lab.claim(types="w")
    await bench.settle()
    (task_id,) = leased(await lab.claim(lease, types="w"))
    assert (await lab.record(task_id)).permit
    if how == "ack":
        await store.ack(0, lease, [task_id])
    elif how == "complete":
        await store.complete(0, lease, [(task_id, 60_000, b"r")])
    elif how in ("fail", "bury"):
        await store.fail(0, lease, [Verdict(task_id, 100_000 if how == "fail" else None, "no")])
    elif how == "release":
        await store.release(0, lease, [task_id], delay_ms=100_000)
    elif how == "lose":
        await store.lose(0, lease, [task_id], losses_cap=1)
    else:
        await store.reap(0, lease_ms=10_000, losses_cap=3)
        for _ in range(15):
            await lab.move(2_000)
            await store.reap(0, lease_ms=10_000, losses_cap=3)
    assert await bench.used() == 0 and await lab.problems() == []
    assert len(leased(await lab.claim(types="w"))) == 1, "whoever waits is found again at once"
    if how not in ("ack", "complete", "reap"):
        found = await lab.find(task_id)
        assert found.place in ("home", "dead")


async def test_who_adopts_a_task_adopts_its_permit(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(concurrency=1)
    await lab.add(call(), call())
    old, new = b"o" * 20, b"n" * 20
    await lab.claim(types="w")
    await bench.settle()
    (task_id,) = leased(await lab.claim(old, types="w"))
    await adopt(lab.store, 0, old, new, [task_id], lease_ms=10_000)
    assert await lab.store.ack(0, old, [task_id]) == [task_id] and await bench.used() == 1
    assert await bench.claim() == {} and await lab.problems() == []
    await lab.store.ack(0, new, [task_id])
    assert len(await bench.claim()) == 1


async def test_a_task_that_is_acked_first_has_its_permit_until_it_ends_or_its_holder_is_gone(bench: Bench) -> None:
    lab, store = bench.lab, bench.lab.store
    await bench.set(concurrency=1)
    await lab.add(*(call(delivery=DeliveryMode.AT_MOST_ONCE) for _ in range(3)))
    lease = b"\0\0\x27\x10" + b"l" * 16

    async def begin() -> bytes:
        while not (took := leased(await lab.claim(lease, types="w"))):
            await bench.settle()
        (task_id,) = took
        await store.ack(0, lease, [task_id])
        assert await bench.claim() == {}
        return task_id

    first = await begin()
    await lab.move(9_000)
    await store.runner.run(permits.keep_call(store, 0, [(b"mail", first)], 10_000))
    await lab.move(9_000)
    assert await bench.claim() == {}, "its holder keeps it"
    await store.runner.run(permits.keep_call(store, 0, [(b"mail", first)], 0))
    await begin()
    await lab.move(10_001)
    assert len(await bench.claim()) == 1, "its holder is gone"
    assert await lab.problems() == []


@pytest.mark.parametrize("burst", [None, 2])
async def test_no_more_begin_in_any_interval_than_the_rate(bench: Bench, burst: int | None) -> None:
    lab = bench.lab
    await bench.set(rate=rate_of("4/s"), burst=burst)
    await lab.add(*(call() for _ in range(12)))
    began: list[int] = []
    for _ in range(160):
        began += [lab.now] * len(await bench.claim())
        await lab.move(25)
    assert len(began) == 12
    for first in began:
        assert sum(first <= at < first + 1_000 for at in began) <= 4
        assert burst is None or began.count(first) <= burst
    assert began[-1] - began[0] <= (2_100 if burst is None else 2_700), "the rate is used"
    assert await lab.problems() == []


async def test_a_rate_holds_for_what_is_fired_in_place_and_the_claim_says_when_to_look(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(rate=rate_of("2/s"))
    await lab.add(*(NewTask(queue="mail") for _ in range(3)))
    assert (await lab.claim(channel="c", slots=0)).waits == {b"mail": NONE}
    await bench.settle()
    claimed = await lab.claim(channel="c", slots=0)
    assert len(claimed.lateness_ms) == 2 and claimed.next_due_ms == lab.now + 1_001
    await lab.move(1_000)
    assert (await lab.claim(channel="c", slots=0)).lateness_ms == []
    await lab.move(1)
    async with lab.client.pubsub() as listener:
        await listener.subscribe(keys.wake(lab.tag))
        assert len((await lab.claim(channel="c", slots=0)).lateness_ms) == 1
        await lab.client.publish(keys.wake(lab.tag), "end")
        await listener.get_message(timeout=PATIENCE_S)
        assert (await listener.get_message(timeout=PATIENCE_S))["data"] == b"end", (
            "a claim calls nobody for what it fires itself"
        )
    assert await bench.used(b"r") == 1


@pytest.mark.parametrize("guest", [False, True])
async def test_a_claim_calls_others_for_what_it_leaves_alone(bench: Bench, guest: bool) -> None:
    """It called them before it took the task itself, so a claim that found nothing followed each of these."""
    lab = bench.lab
    await bench.set(rate=rate_of("1/s"))
    await lab.add(*(call() for _ in range(4)))
    assert len(await bench.claim()) == 1
    other = lane_of(TaskType.WORKER, "mail", "other")
    async with lab.client.pubsub() as listener:
        channel = keys.wake_workers(lab.tag)
        await listener.subscribe(channel)
        await listener.get_message(timeout=PATIENCE_S)
        for lanes, count, calls in (((SEND,), 1, 0), ((other,), 0, 1)):
            await lab.move(1_001)
            took = leased(await lab.claim(types="w", lanes=lanes, guest=guest))
            await lab.client.publish(channel, "end")
            heard = []
            while (message := await listener.get_message(timeout=PATIENCE_S))["data"] != b"end":
                heard.append(int(message["data"]))
            # Messages about what is due later are for those who serve other lanes.
            assert (len(took), sum(at <= lab.now for at in heard)) == (count, calls)
    assert len(leased(await lab.claim(types="w", lanes=(SEND,), guest=guest))) == 1
    assert await lab.problems() == []


@pytest.mark.parametrize("what", ["a faster rate", "a clock that was set back"])
async def test_what_was_used_for_longer_than_the_rate_says_holds_nobody_up(bench: Bench, what: str) -> None:
    """Else the queue would stand still for the former interval, or for as long as the step of the clock."""
    lab = bench.lab
    await bench.set(rate=rate_of("5/s" if what == "a clock that was set back" else "5/h"))
    await lab.add(*(call() for _ in range(5)))
    assert len(await bench.claim()) == 5
    if what == "a clock that was set back":
        await lab.move(-3_600_000)
    await bench.set(rate=rate_of("5/s"))
    await lab.add(*(call() for _ in range(8)))
    began: list[int] = []
    for _ in range(60):
        began += [lab.now] * len(await bench.claim())
        await bench.settle(sweep=True)
        await lab.move(100)
    assert len(began) == 8 and began[-1] - began[0] <= 1_200
    for first in began:
        assert sum(first <= at < first + 1_000 for at in began) <= 5, "the rate holds"
    assert await lab.problems() == []


async def test_a_permit_whose_task_left_unnoticed_is_found_by_the_sweep(bench: Bench) -> None:
    """As an earlier version's node acks: its scripts know nothing of permits."""
    lab = bench.lab
    await bench.set(concurrency=1)
    await lab.add(call(), call())
    lease = b"l" * 20
    await lab.claim(types="w")
    await bench.settle()
    (task_id,) = leased(await lab.claim(lease, types="w"))
    await lab.client.delete(keys.lease(lab.tag, lease))
    await lab.client.zrem(keys.leases(lab.tag), lease)
    await lab.client.hdel(keys.leased(lab.tag), task_id)
    assert await lab.kinds() == ["permit-stray"]
    await bench.settle(sweep=True)
    assert await lab.problems() == [] and len(await bench.claim()) == 1


async def test_nothing_is_left_when_all_has_ended_and_the_limit_is_gone(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(concurrency=3, rate=rate_of("5/s"))
    tasks = await lab.add(*(call() for _ in range(4)))
    lease = b"l" * 20
    await lab.claim(types="w")
    await bench.settle()
    took = leased(await lab.claim(lease, types="w"))
    assert len(took) == 3
    await lab.store.cancel([task_id for task_id in tasks if task_id not in took])
    await lab.store.ack(0, lease, list(took))
    await lab.move(2_000)
    await bench.settle(sweep=True)
    await bench.settle(sweep=True)
    assert not await lab.client.exists(keys.permits(lab.tag), keys.ledger(lab.tag), keys.limited(lab.tag))
    await bench.set()
    await lab.claim(types="w")
    found = await lab.client.exists(keys.steered(lab.tag), keys.held(lab.tag))
    assert not found and not await lab.client.hexists(keys.clock(lab.tag), "steered")


async def test_a_queue_that_is_held_and_has_no_limit_any_more_is_let_go(bench: Bench) -> None:
    """Else scripts would look rules up for ever."""
    lab = bench.lab
    await bench.set(concurrency=1)
    await lab.client.zadd(keys.held(lab.tag), {b"mail": lab.now + 3_600_000})
    await bench.set()
    assert not await lab.client.exists(keys.held(lab.tag), keys.steered(lab.tag))
    await lab.client.zadd(keys.held(lab.tag), {b"mail": lab.now + 3_600_000})
    await bench.settle(sweep=True)
    assert not await lab.client.exists(keys.held(lab.tag))


async def test_a_task_that_runs_without_its_permit_is_a_problem(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(concurrency=1)
    await lab.add(call())
    (task_id,) = await bench.claim()
    await lab.client.zrem(keys.used(lab.tag, b"cmail"), task_id)
    assert await lab.kinds() == ["permit-missing"]
    lab.dirty = True


async def test_more_than_is_dealt_is_a_problem(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(concurrency=1)
    await lab.add(call(), call())
    await lab.claim(types="w")
    await bench.settle()
    await lab.client.hset(keys.permits(lab.tag), "cmail", f"2 {lab.now} 0 0")
    assert await lab.kinds() == ["permits-over"]
    lab.dirty = True


async def test_a_claim_says_that_there_is_more_only_while_there_are_permits(bench: Bench) -> None:
    await bench.lab.add(*(call() for _ in range(5)))
    await bench.set(concurrency=2)
    await bench.claim(slots=0)
    for slots, more in ((1, True), (5, False)):
        claimed = await bench.lab.claim(types="w", slots=slots)
        assert (len(leased(claimed)), claimed.more) == (1, more)


async def test_a_claim_says_that_a_critical_task_waits_though_there_are_permits(bench: Bench) -> None:
    """Others give up permits for it, so it is reported at once, and not with what is on record already."""
    lab = bench.lab
    await bench.set(concurrency=1)
    await lab.add(call(), call())
    assert (await lab.claim(types="w")).waits == {b"mail": NONE}
    await bench.settle()
    assert (await lab.claim(types="w")).waits == {b"mail": 0}
    dealer, later = bench.dealer, {b"cmail": 1e15}
    dealer._due[0], dealer._on_record[0] = dict(later), {b"cmail"}
    dealer.waits(0, {b"mail": 0})
    assert dealer._due[0] == later, "that it could use more is on record"
    await lab.add(call(priority=Priority.CRITICAL))
    claimed = await lab.claim(types="w")
    assert claimed.waits == {b"mail": CRITICAL}
    dealer.waits(0, claimed.waits)
    assert dealer._due[0][b"cmail"] < 1e15


async def test_where_a_lone_task_is_due_the_rules_of_its_own_queue_hold(bench: Bench) -> None:
    """A claim that finds one due task takes a shorter way, also where other queues have rules."""
    lab = bench.lab

    async def claimed(queue: str) -> int:
        await lab.add(call(queue))
        return len(leased(await lab.claim(types="w", guest=True, slots=10)))

    assert await claimed("post") == 1
    await bench.set(concurrency=1)
    assert await claimed("post") == 1
    assert await claimed("mail") == 0, "it has no permit"
    assert await claimed("post") == 1, "and holds up no other queue"
    await bench.settle()
    assert len(await bench.claim()) == 1
    await Rules(lab.store).set("mail", QueueRules(paused=True), whole=True)
    assert await claimed("mail") == 0
    await Rules(lab.store).set("*", QueueRules(concurrency=1), whole=True)
    assert await claimed("news") == 0, "what holds for all others holds for it"
    assert await lab.problems() == []


async def test_a_lone_task_takes_the_short_way_while_what_is_held_has_no_permits(bench: Bench) -> None:
    """What a limited queue holds back costs the claims of other queues nothing, until its time has come."""
    lab = bench.lab
    await bench.set(rate=rate_of("1/s"))

    async def lone() -> tuple[int, int, int]:
        """Tasks, when to look again after so many ms, and commands of the claim."""
        await lab.add(call("post"))
        await lab.client.config_resetstat()
        claimed = await lab.claim(types="w", guest=True, slots=10)
        calls = sum(one["calls"] for one in (await lab.client.info("commandstats")).values())
        return len(leased(claimed)), claimed.next_due_ms - lab.now, calls

    await lone()
    tasks, _, free = await lone()
    assert tasks == 1
    await lab.add(*(call() for _ in range(3)))
    assert len(await bench.claim(guest=True)) == 1
    tasks, again_ms, held = await lone()
    assert (tasks, 0 < again_ms <= 1_001) == (1, True), "the queue is looked at when its permit is free again"
    assert held == free - 1, "the same, but that its bucket is not empty behind it"
    await lab.move(1_001)
    assert (await lone())[0] == 2
    assert await lab.problems() == []


@pytest.mark.parametrize("how", ["acked", "kept"])
async def test_a_permit_of_a_holder_that_died_is_back_soon_though_the_clock_was_set_back(
    bench: Bench, how: str
) -> None:
    """It was acked before it was handed out: without its holder nothing but time brings the permit back."""
    lab = bench.lab
    await bench.set(concurrency=1)
    first, second = await lab.add(*(call(delivery=DeliveryMode.AT_MOST_ONCE) for _ in range(2)))
    lease = (20_000).to_bytes(4, "big") + b"l" * 16
    await lab.claim(types="w")
    await bench.settle()
    assert list(leased(await lab.claim(lease, types="w"))) == [first]
    await lab.store.ack(0, lease, [first])
    if how == "kept":
        await lab.store.runner.run(permits.keep_call(lab.store, 0, [(b"mail", first)], 30_000))
    await lab.move(-1_800_000)
    # By this clock it is not due yet.
    await lab.store.reschedule(second, due_ms=lab.now)
    await bench.settle(sweep=True)
    assert await bench.claim() == {}, "its holder may live"
    await lab.move(20_001 if how == "acked" else 30_001)
    assert list(await bench.claim()) == [second]
    assert await lab.problems() == []


@pytest.mark.parametrize("how", ["ack", "complete"])
async def test_an_end_says_whether_others_may_use_the_permit(bench: Bench, how: str) -> None:
    """A visit for each end, and a new record of the pool, were most of what a hot queue cost others."""
    lab, store = bench.lab, bench.lab.store
    await bench.set(concurrency=3)
    await lab.add(*(call() for _ in range(5)))
    lease, none = b"\0\0\x27\x10" + b"l" * 16, list[bytes]()
    await lab.claim(types="w")
    await bench.settle()
    running = list(leased(await lab.claim(lease, types="w")))
    assert len(running) == 3

    async def end(task_id: bytes) -> list[bytes]:
        one = store.ack_call(0, lease, [task_id])
        if how == "complete":
            one = store.complete_call(0, lease, [(task_id, 60_000, b"r")])
        stale, freed = settling.acked(await store.runner.run(one))
        assert stale == []
        return freed

    assert await end(running[0]) == none, "two more wait here"
    running += leased(await lab.claim(lease[:-1] + b"m", types="w"))
    report = await bench.visit({b"cmail": None})
    assert report.budget == 3
    await bench.visit({b"cmail": Grant(0, report.budget, report.seq, cap=1)})
    assert await end(running[1]) == [b"mail"], "somebody has asked for it"
    await lab.move(2_000)
    assert await end(running[2]) == none, "that was long ago"
    (last,) = leased(await lab.claim(lease[:-1] + b"n", types="w"))
    lease = lease[:-1] + b"m"
    assert await end(running[3]) == [b"mail"], "nothing waits here any more"
    assert settling.acked(await store.runner.run(store.ack_call(0, lease, [last]))) == ([last], none)
    assert await lab.problems() == []
