"""HTTP tasks in near indexes of their own: whoever claims them promises to look, and the others leave them alone."""

from __future__ import annotations

import os
from typing import Any

import pytest
from msgspec.structs import replace

from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, TaskType, UniqueWhile
from delaybox.core.webhook import Webhook
from delaybox.service.rules import Rules
from delaybox.store import keys
from delaybox.store.leftovers import NOTHING, left, promote
from delaybox.store.store import Claimed, Verdict
from tests.lab import Lab, leased

TO = Webhook("https://example.com/hook")
GONE_MS = 3_001
"""A promise that is over for so long counts no more."""


def hook(delay_ms: int = 0, queue: str = "", **more: object) -> NewTask:
    return NewTask(type=TaskType.HTTP, webhook=TO, delay_ms=delay_ms, queue=queue, **more)  # type: ignore[arg-type]


async def sends(lab: Lab, slots: int = 500, **limits: Any) -> Claimed:
    """The claim of a process that sends webhooks."""
    return await lab.claim(types="h", guest=True, slots=slots, **limits)


async def keeps_time(lab: Lab) -> Claimed:
    """The claim of a node's clock."""
    return await lab.claim(types="p", channel="c", looker="clock")


async def places(lab: Lab) -> tuple[int, int]:
    """How many hints there are among those of time keepers, and among those of HTTP tasks."""
    return sum([len(await lab.near(n)) for n in range(4)]), sum([len(await lab.near(n, "h")) for n in range(4)])


async def test_whoever_sends_claims_at_the_due_time_and_the_clock_leaves_it(lab: Lab) -> None:
    await sends(lab)
    (task_id,) = await lab.add(hook(50))
    assert await places(lab) == (0, 1)
    await lab.move(49)
    early = await sends(lab)
    assert (early.leased, early.next_due_ms) == ([], lab.now + 1)
    await lab.move(1)
    clock = await keeps_time(lab)
    assert (clock.promoted, clock.next_due_ms) == (0, -1)
    claimed = await sends(lab)
    assert set(leased(claimed)) == {task_id} and (claimed.promoted, claimed.more) == (0, False)
    assert await lab.names("ready:*") == []


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "label": {"labels": {"a": "b"}},
    "key": {"idempotency_key": "{}"},
    "lock": {"idempotency_key": "{}", "unique_while": UniqueWhile.PENDING},
    "fairness": {"fairness_key": "f"},
    "large": {"payload": b"x" * 2_000},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_alone_is_claimed_as_one_among_others(lab: Lab, kind: str) -> None:
    """Most claims find one task or none, and take a short cut."""

    def one(delay_ms: int) -> NewTask:
        task = hook(delay_ms, **KINDS[kind])
        return task if task.idempotency_key is None else replace(task, idempotency_key=str(delay_ms))

    await sends(lab)
    alone, second, third, _ = await lab.add(one(10), one(20), one(20), hook(40))
    await lab.move(10)
    lease = os.urandom(16)
    found = await sends(lab, lease_id=lease)
    assert set(leased(found)) == {alone} and (found.more, found.next_due_ms) == (False, lab.now + 10)
    assert (await sends(lab, lease_id=lease)).leased == found.leased
    assert await lab.problems() == []
    await lab.move(10)
    both = await sends(lab)
    assert set(leased(both)) == {second, third} and (both.more, both.next_due_ms) == (False, lab.now + 20)
    shapes = [(r.lane, r.flags, r.attempt, r.deliveries, r.stub) for one in (found, both) for r in leased(one).values()]
    assert len(set(shapes)) == 1
    # What has failed is another kind of record.
    assert await lab.store.fail(0, lease, [Verdict(alone, 5, "no")]) == ([], 0)
    await lab.move(5)
    again = leased(await sends(lab))
    assert set(again) == {alone} and (again[alone].attempt, again[alone].deliveries) == (1, 2)
    assert await lab.problems() == []


async def test_without_a_promise_the_clock_makes_it_ready(lab: Lab) -> None:
    """So it is with a sender of the previous version, which knows no other way, and where none runs."""
    (task_id,) = await lab.add(hook())
    assert await places(lab) == (1, 0)
    assert (await keeps_time(lab)).promoted == 1
    claimed = await sends(lab)
    assert set(leased(claimed)) == {task_id}


async def test_a_promise_that_is_broken_for_seconds_counts_no_more(lab: Lab) -> None:
    await sends(lab, poll_ms=1_000)
    await lab.move(1_000 + GONE_MS)
    await lab.add(hook(50))
    assert await places(lab) == (1, 0)
    await sends(lab)
    await lab.add(hook(50))
    assert await places(lab) == (1, 1)


async def test_a_broken_promise_is_not_renewed_by_those_who_store(lab: Lab) -> None:
    """Nodes of the previous version do not look where it would lead."""
    await sends(lab, poll_ms=1_000)
    await lab.move(1_000 + GONE_MS - 1)
    await lab.add(hook(50_000))
    await lab.move(1)
    await lab.add(hook(50_000))
    assert await places(lab) == (1, 1)


async def test_only_what_is_due_before_the_promise_is_announced(lab: Lab) -> None:
    field = keys.clock(lab.tag), "wake:h"
    await sends(lab, poll_ms=1_000)
    await lab.add(hook(2_000))
    assert int(await lab.client.hget(*field)) == lab.now + 1_000
    channel = lab.client.pubsub()
    await channel.subscribe(keys.wake_hooks(lab.tag))
    messages = channel.listen()
    assert (await anext(messages))["type"] == "subscribe"
    await lab.add(hook(500))
    assert int(await lab.client.hget(*field)) == lab.now + 500
    assert int((await anext(messages))["data"]) == lab.now + 500
    await channel.aclose()
    assert (await sends(lab)).next_due_ms == lab.now + 500


async def test_two_hints_are_one_delivery(lab: Lab) -> None:
    """Where versions work side by side, one may leave a hint in either place."""
    await sends(lab)
    (task_id,) = await lab.add(hook())
    ((member, due),) = (await lab.near(2, "h")).items()
    await lab.client.zadd(keys.near(lab.tag, 2), {member: due})
    assert set(leased(await sends(lab))) == {task_id}
    assert (await keeps_time(lab)).promoted == 1
    again = await sends(lab)
    assert (again.leased, again.dropped) == ([], 1)
    assert await places(lab) == (0, 0) and await lab.names("ready:*") == []


@pytest.mark.parametrize("how", ["cancel", "reschedule"])
async def test_what_is_cancelled_or_moved_loses_both_hints(lab: Lab, how: str) -> None:
    await sends(lab)
    (task_id,) = await lab.add(hook(1_000))
    ((member, due),) = (await lab.near(2, "h")).items()
    await lab.client.zadd(keys.near(lab.tag, 2), {member: due})
    if how == "cancel":
        assert await lab.store.cancel([task_id]) == ["cancelled"]
        assert await places(lab) == (0, 0)
    else:
        assert (await lab.store.reschedule(task_id, delay_ms=2_000))[0] == "moved"
        assert await places(lab) == (0, 1)
        await lab.move(1_999)
        assert (await sends(lab)).leased == []


async def test_a_hint_in_either_place_is_enough_and_repaired_where_all_look(lab: Lab) -> None:
    await sends(lab)
    await lab.add(hook(1_000))
    assert await lab.problems() == []
    ((member, due),) = (await lab.near(2, "h")).items()
    await lab.client.zadd(keys.near(lab.tag, 2), {member: due})
    await lab.client.zrem(keys.near(lab.tag, 2, "h"), member)
    assert await lab.problems() == []


async def test_what_nobody_takes_becomes_ready_and_is_called_out(lab: Lab) -> None:
    await sends(lab)
    for maybe in (True, False):
        assert (await left(lab.store, [0], maybe_nothing=maybe))[1] == [NOTHING]
    tasks = await lab.add(*(hook(fairness_key=f"k{n}") for n in range(3)))
    now, (found,) = await left(lab.store, [0])
    assert now and found and (found.first_ms, found.first_hook_ms) == (-1, lab.now)
    assert (await left(lab.store, [0], maybe_nothing=True))[1] == [found]
    await lab.move(499)
    assert (await promote(lab.store, 0, late_ms=500, letter="h")).moved == 0
    await lab.move(1)
    assert (await promote(lab.store, 0, late_ms=500, letter="w")).moved == 0
    answer = await promote(lab.store, 0, late_ms=500, letter="h")
    assert (answer.moved, answer.first_ms) == (3, -1)
    _, (found,) = await left(lab.store, [0])
    assert found and found.for_nodes and not found.ready
    assert set(leased(await sends(lab))) == set(tasks)


async def test_workers_tasks_with_a_fairness_key_that_nobody_takes_become_ready(lab: Lab) -> None:
    await lab.add(NewTask(type=TaskType.WORKER, name="f", fairness_key="k"))
    assert (await promote(lab.store, 0, late_ms=0)).moved == 1


async def test_priorities_slots_and_their_order(lab: Lab) -> None:
    await sends(lab)
    low, normal, critical = await lab.add(
        hook(priority=Priority.LOW), hook(priority=Priority.NORMAL), hook(priority=Priority.CRITICAL)
    )
    first = await sends(lab, slots=1)
    assert list(leased(first)) == [critical] and first.more
    assert [*leased(await sends(lab, slots=1)), *leased(await sends(lab))] == [normal, low]


async def test_a_paused_queue_waits_and_its_limit_holds(lab: Lab) -> None:
    await sends(lab)
    rules = Rules(lab.store)
    await rules.set("mail", QueueRules(paused=True))
    await lab.add(hook(queue="mail"), hook(queue="mail"))
    (other,) = await lab.add(hook(queue="news"))
    assert set(leased(await sends(lab))) == {other}
    assert (await sends(lab)).leased == []
    await rules.set("mail", QueueRules(paused=False))
    assert len(leased(await sends(lab))) == 2
    await rules.set("mail", QueueRules(concurrency=1))
    await lab.add(hook(queue="mail"))
    held = await sends(lab)
    held = held if held.waits else await sends(lab)
    assert held.leased == [] and b"mail" in held.waits


async def test_who_keeps_time_and_sends_takes_from_both(lab: Lab) -> None:
    """An engine with every role looks everywhere, and promises it."""
    (before,) = await lab.add(hook())
    assert set(leased(await lab.claim())) == {before}
    (mine,) = await lab.add(hook())
    (other,) = await lab.add(NewTask())
    assert await places(lab) == (1, 1)
    assert set(leased(await lab.claim())) == {mine, other}
