"""claim.lua for takers that serve some lanes of a type only, and for guests, which keep no time."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core import ids
from delaybox.core.lane import lane_of
from delaybox.core.needs import WorkerNeeds
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.service.rules import Rules
from delaybox.store import keys, lanes
from delaybox.store.lanes import queues
from tests.lab import Lab, leased

SEND = lane_of(TaskType.WORKER, "mail", "send")


def call(name: str = "send", queue: str = "mail", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, queue=queue, name=name, **parts)


def shell(name: str = "", queue: str = "default", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.SHELL_CMD, queue=queue, name=name, **parts)


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize("ready", [False, True])
async def test_only_named_lanes_are_taken(lab: Lab, guest: bool, ready: bool) -> None:
    mine, *others = await lab.add(call(), call("other"), call(queue="default"), shell())
    if ready:
        await lab.claim(slots=0)
    assert set(leased(await lab.claim(types="w", lanes=(SEND,), guest=guest))) == {mine}
    assert set(leased(await lab.claim())) == set(others)
    assert await lab.problems() == []


@pytest.mark.parametrize("ready", [False, True])
async def test_a_guest_that_claims_nothing_learns_what_waits_for_it(lab: Lab, ready: bool) -> None:
    """What came between its look and this claim was found a hundred milliseconds later, by others."""

    async def waits() -> bool:
        claimed = await lab.claim(types="w", lanes=(SEND,), guest=True, slots=0)
        assert not claimed.leased
        return 0 <= claimed.next_due_ms <= lab.now

    await lab.add(call("other"), call(queue="default"), call(delay_ms=60_000))
    if ready:
        await lab.claim(slots=0)
    assert not await waits()
    await lab.add(call())
    if ready:
        await lab.claim(slots=0)
    assert await waits()
    await Rules(lab.store).set("mail", QueueRules(paused=True), whole=True)
    assert not await waits()
    assert await lab.problems() == []


async def test_any_queue_is_said_with_a_star(lab: Lab) -> None:
    a, b, payload, other = await lab.add(shell("backup"), shell("backup", "night"), shell(), shell("report"))
    assert set(leased(await lab.claim(types="s", lanes=(b"s*:backup",)))) == {a, b}
    assert set(leased(await lab.claim(types="s", lanes=(b"s*",)))) == {payload}
    assert set(leased(await lab.claim())) == {other}


async def test_commands_that_cost_several_places_are_met_and_taken_behind_any_number_of_others(lab: Lab) -> None:
    """Whoever runs them names them when it has met them; 300 other lanes have ready work, and more of those that nobody
    has places for."""
    await lab.add(*(shell("other", f"q{n}") for n in range(300)))
    await lab.add(*(shell("backup", f"q{n}", needs=WorkerNeeds(9)) for n in range(40)))
    await lab.claim(slots=0)
    await lab.move(1)
    (mine,) = await lab.add(shell("backup", "late", needs=WorkerNeeds(2)))
    await lab.claim(slots=0)
    claimed = await lab.claim(types="s", lanes=(b"s*:backup",))
    assert claimed.leased == [] and {lane.partition(b":")[2] for lane in claimed.met} == {b"backup!2", b"backup!9"}
    assert set(leased(await lab.claim(types="s", lanes=(b"s*:backup", b"s*:backup!2")))) == {mine}
    assert await lab.problems() == []


async def test_types_without_a_lane_are_not_limited(lab: Lab) -> None:
    mine, published, *_ = await lab.add(call(), NewTask(), call("other"))
    assert set(leased(await lab.claim(types="pw", lanes=(SEND,)))) == {mine, published}


async def test_a_guest_leaves_what_is_not_its_own_where_it_lies(lab: Lab) -> None:
    published, mine = await lab.add(NewTask(), call())
    claimed = await lab.claim(types="w", lanes=(SEND,), guest=True)
    assert set(leased(claimed)) == {mine} and claimed.promoted == 0
    assert set(await lab.near()) == {published + b"p"}
    assert claimed.next_due_ms == -1, "what it left is not for it to wait for"


async def test_a_time_keeper_leaves_worker_tasks_to_those_who_serve_them(lab: Lab) -> None:
    (task_id,) = await lab.add(call(priority=Priority.HIGH))
    claimed = await lab.claim(types="s", channel="c")
    assert (claimed.promoted, claimed.next_due_ms) == (0, -1)
    assert set(await lab.near(Priority.HIGH, "w")) == {task_id + SEND} and await lab.near(Priority.HIGH) == {}
    assert set(leased(await lab.claim(types="w", lanes=(SEND,), guest=True))) == {task_id}


async def test_whoever_serves_all_types_takes_by_virtual_deadline_from_both(lab: Lab) -> None:
    low, high = await lab.add(NewTask(priority=Priority.LOW), call(priority=Priority.HIGH))
    await lab.move(1)
    critical, other = await lab.add(call(priority=Priority.CRITICAL), NewTask(priority=Priority.CRITICAL))
    await lab.move(1)
    (normal,) = await lab.add(NewTask())
    got = list(leased(await lab.claim(slots=20)))
    assert set(got[:2]) == {critical, other} and got[2:] == [high, normal, low]


async def test_what_lay_in_near_before_workers_had_their_own_is_found(lab: Lab) -> None:
    """Left there by a node of before."""
    (task_id,) = await lab.add(call())
    await lab.client.rename(keys.near(lab.tag, 2, "w"), keys.near(lab.tag, 2))
    assert (await lab.claim(types="s", channel="c")).promoted == 1
    assert set(leased(await lab.claim(types="w", lanes=(SEND,), guest=True))) == {task_id}
    assert await lab.problems() == []


async def test_a_guest_leaves_others_calls_for_a_second_and_then_they_are_ready(lab: Lab) -> None:
    mine, others = await lab.add(call(), call("other"))
    claimed = await lab.claim(types="w", lanes=(SEND,), guest=True)
    assert set(leased(claimed)) == {mine} and claimed.promoted == 0
    assert (claimed.next_due_ms, claimed.more) == (lab.now + 1_000, False)
    assert set(await lab.near(2, "w")) == {others + b"wmail:other"}
    clock = await lab.client.hgetall(keys.clock(lab.tag))
    assert int(clock[b"wake:w"]) == lab.now + 1_000, "its poll, not the second look of its own"
    await lab.move(1_000)
    claimed = await lab.claim(types="w", lanes=(SEND,), guest=True)
    assert (claimed.leased, claimed.promoted, await lab.near(2, "w")) == ([], 1, {})
    assert await lab.ready("wmail:other") == [others]
    assert set(leased(await lab.claim(types="w", lanes=(b"wmail:other",), guest=True))) == {others}


async def test_a_herd_of_others_calls_does_not_hide_a_guests_own(lab: Lab) -> None:
    await lab.add(*(call("other") for _ in range(60)))
    await lab.move(1)
    (mine,) = await lab.add(call())
    claimed = await lab.claim(types="w", lanes=(SEND,), guest=True, slots=1)
    assert (claimed.leased, claimed.more, claimed.next_due_ms) == ([], False, lab.now + 20)
    await lab.move(1_000)
    claimed = await lab.claim(types="w", lanes=(SEND,), guest=True, slots=1)
    assert (claimed.leased, claimed.promoted, claimed.next_due_ms) == ([], 34, lab.now), "it looks on at once"
    assert set(leased(await lab.claim(types="w", lanes=(SEND,), guest=True, slots=1))) == {mine}


async def test_what_a_full_guest_leaves_stays_in_near(lab: Lab) -> None:
    added = await lab.add(*(call() for _ in range(5)))
    got = leased(await lab.claim(types="w", lanes=(SEND,), guest=True, slots=2))
    assert {m[:16] for m in await lab.near(2, "w")} == set(added) - set(got) and len(got) == 2
    assert await lab.names("ready:*") == []


async def test_what_waits_for_a_worker_is_shown_as_ready(lab: Lab) -> None:
    await lab.add(call(), call("later", delay_ms=20_000))
    (q,) = await queues(lab.store)
    assert (q.pending, q.ready, q.ready_lanes) == (2, 1, (SEND,))


async def test_in_a_large_store_the_first_of_each_index_stand_for_all(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_ALL_UP_TO", 10)
    await lab.add(*(NewTask(delay_ms=20_000, queue="a" if n % 2 else "b") for n in range(60)), *[call()] * 20)
    exact = {q.queue: (q.pending, q.ready, q.complete) for q in await queues(lab.store)}
    assert exact == {"a": (30, 0, False), "b": (30, 0, False), "mail": (20, 20, False)}
    monkeypatch.setattr(lanes, "_SAMPLE", 50)
    about = {q.queue: q for q in await queues(lab.store)}
    assert about["mail"].ready == 20 and 55 <= about["a"].pending + about["b"].pending <= 65


async def test_a_guest_that_is_full_is_told_that_there_may_be_more(lab: Lab) -> None:
    await lab.add(*(call() for _ in range(5)))
    first = await lab.claim(types="w", lanes=(SEND,), guest=True, slots=3)
    assert len(leased(first)) == 3 and first.more
    rest = await lab.claim(types="w", lanes=(SEND,), guest=True, slots=3)
    assert len(leased(rest)) == 2 and not rest.more


async def test_a_guest_takes_ready_and_near_together(lab: Lab) -> None:
    ready = await lab.add(*(call() for _ in range(3)))
    await lab.claim(slots=0)
    near = await lab.add(*(call() for _ in range(3)))
    assert set(leased(await lab.claim(types="w", lanes=(SEND,), guest=True))) == {*ready, *near}
    assert await lab.names("active:*") == [] and await lab.near() == {}


async def test_a_guest_takes_critical_first(lab: Lab) -> None:
    normal, critical = await lab.add(call(), call(priority=Priority.CRITICAL))
    assert list(leased(await lab.claim(types="w", lanes=(SEND,), guest=True, slots=1))) == [critical]
    assert list(leased(await lab.claim(types="w", lanes=(SEND,), guest=True, slots=1))) == [normal]


@pytest.mark.parametrize("critical", [False, True])
@pytest.mark.parametrize("served", [SEND, b"w*:send"])
async def test_a_served_lane_behind_2_000_others_is_found_at_once(lab: Lab, served: bytes, critical: bool) -> None:
    priority = Priority.CRITICAL if critical else Priority.NORMAL
    for n in range(0, 2_000, 250):
        await lab.add(*(call(f"f{n + i}", priority=priority) for i in range(250)))
        await lab.claim(slots=0)
    mine = await lab.add(*(call(priority=priority) for _ in range(3)))
    await lab.claim(slots=0)
    assert await lab.client.zcard(f"{lab.tag}:active:w" + (":critical" if critical else "")) == 2_001
    assert set(leased(await lab.claim(types="w", lanes=(served,), guest=True))) == set(mine)
    assert await lab.problems() == []


async def test_lanes_that_became_ready_before_they_stood_by_name_are_found(lab: Lab) -> None:
    """Left there by a node of before: a window that moves with time finds them, and the scrubber puts them right."""
    await lab.add(*(call(f"f{i}") for i in range(300)))
    (mine,) = await lab.add(call())
    await lab.move(60_000)
    await lab.expand()
    await lab.claim(slots=0, items=500)
    await lab.client.delete(f"{lab.tag}:active:w:name:send")
    assert await lab.kinds() == ["no-hint"]
    for _ in range(46):
        got = leased(await lab.claim(types="w", lanes=(b"w*:send",)))
        if got:
            break
        await lab.move(1)
    assert set(got) == {mine}


async def test_the_scrubber_puts_a_lane_back_where_workers_look(lab: Lab) -> None:
    (mine,) = await lab.add(call())
    await lab.move(60_000)
    await lab.expand()
    await lab.claim(slots=0)
    await lab.client.delete(f"{lab.tag}:active:w:name:send", f"{lab.tag}:active:w")
    assert await lab.kinds() == ["no-hint"]
    await lab.index(ids.due_ms(mine) // 1_000)
    assert await lab.problems() == []
    assert set(leased(await lab.claim(types="w", lanes=(SEND,)))) == {mine}


async def test_what_nobody_serves_waits_as_ready_and_is_no_backlog(lab: Lab) -> None:
    await lab.add(call("unserved"))
    await lab.claim(slots=0)
    (published,) = await lab.add(NewTask())
    claimed = await lab.claim(types="pw", lanes=(SEND,))
    assert set(leased(claimed)) == {published}
    # Straight from near: nothing that is served was ready.
    assert claimed.promoted == 0 and not claimed.more
    assert await lab.ready("wmail:unserved") != []


async def test_a_hint_of_a_guest_that_names_nothing_goes(lab: Lab) -> None:
    (mine,) = await lab.add(call())
    await lab.client.delete(keys.bucket(lab.tag, lab.now // 1_000), keys.buckets(lab.tag))
    claimed = await lab.claim(types="w", lanes=(SEND,), guest=True)
    assert claimed.leased == [] and claimed.dropped == 1
    assert await lab.near() == {}
    assert mine


async def test_making_ready_what_is_not_served_is_progress(lab: Lab) -> None:
    """Or the owner would pause before it comes to what stands behind a herd of others' tasks."""
    await lab.add(*(shell() for _ in range(200)))
    await lab.move(1)
    await lab.add(NewTask())
    first = await lab.claim(types="", channel="c", items=150)
    assert (first.promoted, first.lateness_ms, first.next_due_ms) == (150, [], lab.now - 1)
    second = await lab.claim(types="", channel="c", items=150)
    assert second.promoted == 50 and len(second.lateness_ms) == 1
