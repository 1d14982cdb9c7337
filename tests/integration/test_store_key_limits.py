"""Limits by key in the store: what has no permit stands apart, stands in nobody's way, and comes back."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from delaybox.core import ids
from delaybox.core.lane import lane_of
from delaybox.core.limit_keys import KeyLimit, name_of
from delaybox.core.membership import Activity, ConnectedWorker, Member
from delaybox.core.needs import NO_NEEDS, WorkerNeeds
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.queue_limits import rate_of
from delaybox.core.task import DeliveryMode, NewTask, OnConflict, Priority, TaskType
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.service import Service
from delaybox.service.rules import Rules
from delaybox.store import keys, permits, rules
from delaybox.store.lanes import queues
from delaybox.store.record import draft
from delaybox.store.replies import Batch
from tests.lab import Lab, leased

SEND = lane_of(TaskType.WORKER, "mail", "send")
BY = "label:customer"
LEASE = b"\0\0\x27\x10" + b"l" * 16


def call(customer: str = "", **parts: Any) -> NewTask:
    labels = {"a": "b", "customer": customer, "z": "y"} if customer else {}
    return NewTask(type=TaskType.WORKER, queue="mail", name="send", labels=labels, **parts)


class Bench:
    """A lab with limits by key on the queue `mail`, and one who brings permits."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.live = LiveRules()
        self.dealer = PermitDealer(lab.store, self.live, Ownership(lab.store.partitions), Clocks(), keeps=True)

    async def set(self, *limits: KeyLimit, **more: Any) -> None:
        await Rules(self.lab.store).set("mail", QueueRules(keys=limits or None, **more), whole=True)
        number, found = await rules.every(self.lab.store, {})
        self.live.take(number, {queue: one.rules for queue, one in found.items()})

    async def settle(self, names: Any = (), *, sweep: bool = False) -> None:
        pools = [pool for name in names for pool in self.dealer._pools(name)]
        await self.dealer._settle({0: dict.fromkeys(pools)} if pools else {}, [0] if sweep else [])

    async def claim(self, lease: bytes | None = None, **limits: Any) -> list[bytes]:
        """What claims take after permits were brought to where work waits."""
        took: list[bytes] = []
        for _ in range(1_000):
            claimed = await self.lab.claim(lease if not took else None, **{"types": "w", **limits})
            took += leased(claimed)
            if claimed.waits:
                await self.settle(claimed.waits)
            elif not claimed.leased and not claimed.more and not 0 <= claimed.next_due_ms <= self.lab.now:
                return took
        raise AssertionError("claims find no end")


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab)


def key(customer: str) -> bytes:
    return name_of(b"mail", BY, customer)


@pytest.mark.parametrize("guest", [False, True])
async def test_a_key_without_room_stands_in_nobodys_way(bench: Bench, guest: bool) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, concurrency=2))
    busy = await lab.add(*(call("acme", priority=Priority.CRITICAL) for _ in range(600)))
    others = await lab.add(call("b"), call("c"), call())
    lanes: dict[str, Any] = {"lanes": (SEND,), "guest": True} if guest else {}
    took = await bench.claim(slots=10, **lanes)
    assert set(took) == {*busy[:2], *others}
    assert await lab.problems() == []
    assert (await lab.store.counts())[0].due == 598
    (mail,) = [q for q in await queues(lab.store) if q.queue == "mail"]
    assert (mail.ready, mail.in_flight, mail.pending) == (598, 5, 598)
    assert await lab.ready("wmail:send:critical") == [], "it costs claims nothing while it waits"
    await lab.index(lab.now // lab.store.bucket_ms)
    assert await lab.near(0, "w") == {}, "the scrubber knows where it stands"


def listed(*lanes: bytes) -> list[Member]:
    worker = ConnectedWorker(concurrency=9)
    activity = Activity(types="w", lanes=lanes, lane_count=len(lanes), workers=(worker,), worker_count=1)
    return [Member(id="a", seen_ms=1, activity=activity)]


@pytest.mark.parametrize("needs", [NO_NEEDS, WorkerNeeds(requires=("gpu",))])
async def test_what_stands_apart_and_nobody_serves_keeps_no_key_from_others(bench: Bench, needs: WorkerNeeds) -> None:
    """Its worker is gone. It was the earliest, so it was let go first, a task a second, and the others waited."""
    lab = bench.lab
    name = "send" if needs.requires else "gone"
    gone = lane_of(TaskType.WORKER, "mail", name + needs.text())
    await bench.set(KeyLimit(by=BY, concurrency=1))
    first = await lab.add(*(replace(call("acme"), name=name, needs=needs) for _ in range(30)))
    assert await bench.claim(LEASE, lanes=(SEND, gone), guest=True, slots=9) == first[:1]
    bench.dealer.listed(listed(SEND))
    await lab.store.ack(0, LEASE, first[:1])
    later = await lab.add(*(call("acme") for _ in range(9)))
    await bench.settle(sweep=True)
    await bench.settle(sweep=True)
    for n, one in enumerate(later):
        lease = LEASE[:-1] + bytes([n])
        assert await bench.claim(lease, lanes=(SEND,), guest=True, slots=9) == [one]
        await lab.store.ack(0, lease, [one])
    # Its worker is back.
    bench.dealer.listed(listed(SEND, gone))
    await bench.settle(sweep=True)
    assert not await lab.client.exists(keys.unserved(lab.tag))
    await lab.move(1_001)
    assert await bench.claim(LEASE, lanes=(SEND, gone), guest=True, slots=9) == first[1:2]
    assert await lab.problems() == []


async def test_lanes_that_nobody_serves_are_bounded(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, concurrency=1))
    new = [replace(call("acme"), name=f"gone{n}") for n in range(520)]
    lanes = [lane_of(TaskType.WORKER, "mail", one.name) for one in new]
    await lab.add(call("acme"), *new)
    for at in range(0, 520, 20):
        await bench.claim(lanes=(SEND, *lanes[at : at + 20]), guest=True, slots=40)
    assert await lab.client.zcard(keys.apart(lab.tag)) == 520
    bench.dealer.listed(listed(SEND))
    await bench.settle(sweep=True)
    assert await lab.client.zcard(keys.unserved(lab.tag)) == 500
    assert 0 < await lab.client.pttl(keys.unserved(lab.tag)) <= 5_000


@pytest.mark.parametrize("how", ["ack", "complete", "release", "lose", "reap"])
async def test_a_permit_of_a_key_comes_back_however_its_task_leaves_its_lease(bench: Bench, how: str) -> None:
    lab, store = bench.lab, bench.lab.store
    await bench.set(KeyLimit(by=BY, concurrency=1), KeyLimit(by="group", concurrency=9))
    tasks = await lab.add(call("acme", group="g"), call("acme", group="g"))
    await bench.claim(slots=0)
    assert await bench.claim(LEASE) == [tasks[0]]
    assert (await lab.record(tasks[0])).limit_keys == (key("acme"), name_of(b"mail", "group", "g"))
    if how == "ack":
        await store.ack(0, LEASE, [tasks[0]])
    elif how == "complete":
        await store.complete(0, LEASE, [(tasks[0], 60_000, b"r")])
    elif how == "release":
        await store.release(0, LEASE, [tasks[0]], delay_ms=100_000)
    elif how == "lose":
        await store.lose(0, LEASE, [tasks[0]], losses_cap=1)
    else:
        for _ in range(15):
            await store.reap(0, lease_ms=10_000, losses_cap=3)
            await lab.move(2_000)
    assert await lab.problems() == []
    took = leased(await lab.claim(types="w", slots=1))
    assert len(took) == 1, "who waits is found in the next claim"
    if how == "release":
        assert (await lab.record(tasks[0])).limit_keys == ()


async def test_a_task_that_is_acked_first_keeps_the_permit_of_its_key(bench: Bench) -> None:
    lab, store = bench.lab, bench.lab.store
    await bench.set(KeyLimit(by=BY, concurrency=1))
    first, second = await lab.add(*(call("acme", delivery=DeliveryMode.AT_MOST_ONCE) for _ in range(2)))
    assert await bench.claim(LEASE) == [first]
    await store.ack(0, LEASE, [first])
    assert await bench.claim() == []
    await store.runner.run(permits.keep_call(store, 0, [(key("acme"), first)], 0))
    assert await bench.claim() == [second]


async def test_rates_of_keys_and_of_the_queue_hold_together(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, rate=rate_of("4/s"), burst=2), rate=rate_of("10/s"))
    names = {i: c for c in "abcd" for i in await lab.add(*(call(c) for _ in range(8)))}
    began: list[tuple[int, str]] = []
    for _ in range(200):
        claimed = await lab.claim(types="w")
        await bench.settle(claimed.waits)
        began += [(lab.now, names[i]) for i in leased(claimed)]
        await lab.move(25)
    assert len(began) == 32
    for first, customer in began:
        within = [c for at, c in began if first <= at < first + 1_000]
        assert len(within) <= 10 and within.count(customer) <= 4
        assert began.count((first, customer)) <= 2
    assert began[-1][0] - began[0][0] <= 3_500, "the rate of the queue is used"
    assert await lab.problems() == []


async def test_a_key_is_found_in_a_body_that_lies_apart_and_in_the_head(bench: Bench) -> None:
    lab = bench.lab
    long = "x" * 200
    await bench.set(KeyLimit(by=BY, concurrency=1), KeyLimit(by="fairness_key", concurrency=1))
    parts: dict[str, Any] = {"payload": random.randbytes(9_000), "header": {f"h{n}": b"v" * 700 for n in range(5)}}
    big = await lab.add(*(call(long, **parts) for _ in range(2)))
    fair = await lab.add(*(call(fairness_key="f\tg") for _ in range(2)))
    assert set(await bench.claim()) == {big[0], fair[0]}
    held = await lab.client.zrange(keys.held_keys(lab.tag), 0, -1)
    assert set(held) == {key(long), name_of(b"mail", "fairness_key", "f\tg")}


async def test_what_is_cancelled_or_moved_does_not_keep_others_waiting(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, concurrency=1))
    tasks = await lab.add(*(call("acme") for _ in range(20)))
    assert await bench.claim(LEASE) == [tasks[0]]
    await lab.store.cancel(tasks[1:18])
    await lab.store.reschedule(tasks[18], due_ms=lab.now + 100_000)
    await lab.store.ack(0, LEASE, [tasks[0]])
    assert await bench.claim(LEASE) == [tasks[19]]
    await lab.store.ack(0, LEASE, [tasks[19]])
    await bench.claim()
    assert not await lab.client.exists(keys.apart(lab.tag), keys.held_keys(lab.tag))
    await bench.settle(sweep=True)
    await bench.settle(sweep=True)
    assert not await lab.client.exists(keys.permits(lab.tag), keys.ledger(lab.tag))
    assert await lab.problems() == []


@pytest.mark.parametrize("how", ["cancel", "reschedule", "update", "replace"])
async def test_what_goes_without_a_claim_stands_apart_no_more(bench: Bench, how: str) -> None:
    """Else it would count among what waits, and draw permits, for as long as its key has no room."""
    lab, store = bench.lab, bench.lab.store
    await bench.set(KeyLimit(by=BY, concurrency=1), KeyLimit(by="group", concurrency=1))
    # The label of some is found in a body that lies apart.
    parts: list[dict[str, Any]] = [{}, {"payload": random.randbytes(9_000)}, {"priority": Priority.CRITICAL}]
    runs = (await lab.add(call("acme")))[0]
    assert await bench.claim(LEASE) == [runs]
    tasks = [await _put(lab, n, "acme", **parts[n % 3]) for n in range(9)]
    assert await bench.claim() == []
    assert await _apart(lab) == set(tasks)
    far = lab.now + 100_000
    for n, task_id in enumerate(tasks):
        if how == "cancel":
            assert await store.cancel([task_id]) == ["cancelled"]
        elif how == "reschedule":
            await store.reschedule(task_id, due_ms=far)
        elif how == "replace":
            assert await _put(lab, n, "other", delay_ms=100_000) == task_id
        else:
            await Service(store).update(ids.render(task_id), labels={}, due_ms=far)
        assert await _apart(lab) == set(tasks[n + 1 :])
        assert await lab.problems() == []
    assert not await lab.client.exists(keys.apart(lab.tag), keys.held_keys(lab.tag))
    (mail,) = [q for q in await queues(store) if q.queue == "mail"]
    assert (mail.ready, mail.in_flight) == (0, 1)


async def _put(lab: Lab, n: int, customer: str, **parts: Any) -> bytes:
    """Stores a task, or puts it in place of that with the same number."""
    d = draft(call(customer, idempotency_key=f"k{n}", on_conflict=OnConflict.REPLACE, **parts))
    (answers,) = await lab.store.schedule([Batch(0, [d], d.replace)])
    assert not isinstance(answers, BaseException), answers
    return answers[0].task_id


async def _apart(lab: Lab) -> set[bytes]:
    sets = await lab.client.zrange(keys.apart(lab.tag), 0, -1)
    return {one for member in sets for one in await lab.client.zrange(keys.waits(lab.tag, member), 0, -1)}


async def test_without_the_limit_all_of_them_begin(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, concurrency=1))
    tasks = await lab.add(*(call(c) for c in "aaabbb"))
    assert len(await bench.claim()) == 2
    await bench.set(KeyLimit(by="group", concurrency=1), paused=True)
    assert await bench.claim() == []
    await bench.set(KeyLimit(by="group", concurrency=1))
    assert len(await bench.claim()) == len(tasks) - 2
    await bench.set()
    assert await lab.problems() == []
    await bench.claim()
    assert not await lab.client.exists(keys.apart(lab.tag), keys.held_keys(lab.tag), keys.steered(lab.tag))


async def test_tasks_of_keys_past_the_bound_wait_until_there_is_a_place(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, concurrency=1))
    await lab.client.hset(keys.permits(lab.tag), mapping={f"cx\1by\1{n}": "0 0 0 0" for n in range(99_999)})
    tasks = await lab.add(call("a"), call("b"))
    (first,) = await bench.claim()
    (second,) = {*tasks} - {first}
    assert await lab.client.zrange(keys.held_keys(lab.tag), 0, -1) == [key("a" if second == tasks[0] else "b")]
    await lab.client.hdel(keys.permits(lab.tag), *(f"cx\1by\1{n}" for n in range(99_999)))
    await bench.settle(sweep=True)
    assert await bench.claim() == [second]


async def test_fairness_keys_take_turns_whatever_stands_apart(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by="fairness_key", concurrency=1))
    await lab.add(*(call(fairness_key="big") for _ in range(300)))
    small = await lab.add(*(call(fairness_key=f"k{n}") for n in range(20)))
    took = await bench.claim(slots=4)
    assert len(took) == 21 and set(small) < set(took)
    assert await lab.problems() == []


async def test_a_key_that_nobody_looks_at_is_a_problem(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, concurrency=1))
    await lab.add(call("a"), call("a"))
    await bench.claim()
    await lab.client.delete(keys.held_keys(lab.tag))
    assert await lab.kinds() == ["key-not-held"]
    lab.dirty = True


async def test_what_stands_apart_by_a_rule_that_is_no_more_is_no_problem_and_comes_back(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, concurrency=1))
    tasks = await lab.add(call("a"), call("a"), call("a"))
    took = await bench.claim()
    assert len(took) == 1
    await bench.set()
    assert await lab.problems() == [], "the next claim looks at its key"
    assert {*took, *await bench.claim()} == set(tasks)


async def test_what_stands_apart_is_found_again_where_the_clock_went_back(bench: Bench) -> None:
    """As after a fail-over to a server whose clock is behind: what had come due has not, and has no other hint."""
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, concurrency=1))
    first, second = await lab.add(call("acme"), call("acme", delay_ms=5))
    await lab.move(10)
    await bench.claim(slots=0)
    assert await bench.claim(LEASE) == [first]
    await lab.move(-8)
    await lab.store.ack(0, LEASE, [first])
    assert await bench.claim() == []
    assert await lab.problems() == [], "something finds it when it is due"
    await lab.move(3)
    assert await bench.claim(b"m" * 16) == [second]


async def test_a_key_goes_on_where_the_clock_went_back(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(KeyLimit(by=BY, rate=rate_of("5/s")))
    await lab.add(*(call("a") for _ in range(5)))
    assert len(await bench.claim()) == 5
    await lab.move(-3_600_000)
    await lab.add(*(call("a") for _ in range(5)))
    assert await bench.claim() == []
    for _ in range(3):
        await bench.settle(sweep=True)
        await lab.move(500)
    assert len(await bench.claim()) == 5
    assert await lab.problems() == []


@pytest.mark.parametrize("moved", [{"queue": "news"}, {"priority": Priority.CRITICAL}])
async def test_what_stands_apart_and_is_replaced_is_not_taken_through_its_former_lane(
    bench: Bench, moved: dict[str, Any]
) -> None:
    lab = bench.lab

    async def put(**parts: Any) -> bytes:
        how = {"type": TaskType.WORKER, "name": "send", "queue": "mail", "labels": {"customer": "acme"}, **parts}
        d = draft(NewTask(idempotency_key="k", on_conflict=OnConflict.REPLACE, **how))
        (answers,) = await lab.store.schedule([Batch(0, [d], d.replace)])
        assert not isinstance(answers, BaseException), answers
        return answers[0].task_id

    await bench.set(KeyLimit(by=BY, concurrency=1))
    (first,) = await lab.add(call("acme"))
    await lab.move(1)
    second = await put()
    await bench.claim(slots=0)
    assert await bench.claim(LEASE) == [first]
    assert await put(**moved) == second
    await lab.store.ack(0, LEASE, [first])
    await lab.claim(types="w", slots=0)
    assert await lab.ready("wmail:send") == []
    if "queue" in moved:
        assert await bench.claim(b"m" * 16, lanes=(SEND,)) == []
    assert await bench.claim(b"n" * 16) == [second]
    assert await lab.problems() == []
