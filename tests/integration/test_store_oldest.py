"""For how long the first in line of each queue waits, as the store shows it."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core.lane import lane_of
from delaybox.core.limit_keys import KeyLimit
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.service import queues
from delaybox.service.queues import OldestWaits, QueueFigures
from delaybox.service.rules import Rules
from delaybox.store import keys
from delaybox.store.oldest import oldest
from tests.lab import START, Lab

SEND = lane_of(TaskType.WORKER, "mail", "send")
MAIL = (TaskType.WORKER, "mail")


def call(queue: str = "mail", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, queue=queue, name="send", **parts)


async def due(lab: Lab, turn: int = 0) -> dict[bytes, int]:
    """By lane, how many ms after the lab's start the first in line became due."""
    return {lane: ms - START for lane, ms in (await oldest(lab.store, turn)).due_ms.items()}


async def test_nothing_waits_before_it_is_due(lab: Lab) -> None:
    await lab.add(call(delay_ms=100), NewTask(delay_ms=3_600_000))
    assert await due(lab) == {}
    await lab.move(100)
    assert await due(lab) == {SEND: 100}, "in near, where nobody has looked yet"


async def test_each_lane_waits_since_its_first_is_due(lab: Lab) -> None:
    first, *_ = await lab.add(call(), call(delay_ms=300, priority=Priority.CRITICAL), call("other", delay_ms=200))
    await lab.move(500)
    await lab.claim(slots=0)
    assert await due(lab) == {SEND: 0, b"wother:send": 200}
    await lab.store.cancel([first])
    assert await due(lab) == {SEND: 300, b"wother:send": 200}, "a critical task waits in a set of its own"


async def test_what_runs_waits_no_more_and_what_was_put_off_since_its_new_time(lab: Lab) -> None:
    lease = b"\0\0\x27\x10" + b"l" * 16
    (task_id,) = await lab.add(call())
    await lab.lease(lease)
    assert await due(lab) == {}
    await lab.store.fail(0, lease, [(task_id, 5_000, "no")])
    await lab.move(5_000)
    await lab.claim(slots=0)
    await lab.move(700)
    assert await due(lab) == {SEND: 5_000}, "not since its first time, which its id names"


async def test_a_hint_without_a_record_is_passed_over(lab: Lab) -> None:
    await lab.add(call(delay_ms=10))
    await lab.move(10)
    await lab.claim(slots=0)
    await lab.client.zadd(keys.ready(lab.tag, SEND, critical=False), {b"\0" * 16: 1})
    lab.dirty = True
    assert await due(lab) == {SEND: 10}


async def test_what_is_held_back_waits_too(lab: Lab) -> None:
    """Paused, at its limit, and at the limit of a key."""
    rules = Rules(lab.store)
    await rules.set("mail", QueueRules(paused=True))
    await rules.set("slow", QueueRules(concurrency=1))
    await rules.set("keyed", QueueRules(keys=(KeyLimit(by="label:customer", concurrency=1),)))
    await lab.add(call(), call("slow"), call("keyed", labels={"customer": "a"}))
    await lab.move(40)
    await lab.claim()
    assert (await lab.names("parked"), await lab.names("limited"), await lab.names("apart")) == (
        [keys.parked(lab.tag).encode()], [keys.limited(lab.tag).encode()], [keys.apart(lab.tag).encode()]
    )  # fmt: skip
    assert await due(lab) == {SEND: 0, b"wslow:send": 0, b"wkeyed:send": 0}
    shown = {one.queue: (one.wait_ms, one.paused) for one in await QueueFigures(lab.store, rules).waits()}
    assert shown == {"mail": (40, True), "slow": (40, False), "keyed": (40, False)}


async def test_of_very_many_queues_those_next_in_turn_are_seen_and_the_others_after_some_looks(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.add(*(call(f"q{n:03}") for n in range(450)))
    await lab.claim(slots=0)
    await lab.move(5)
    look = await oldest(lab.store, 1)
    assert (len(look.due_ms), look.calls) == (200, 4)
    monkeypatch.setattr(queues, "_FRESH_OF_MANY_S", 0.0)
    waits = OldestWaits(lab.store)
    for _ in range(4):
        found = await waits.ask()
    assert len(found) == 450 and set(found.values()) == {5}


async def test_readers_share_a_look_and_see_no_wait_of_an_empty_queue(lab: Lab) -> None:
    reader = QueueFigures(lab.store, Rules(lab.store))
    (task_id,) = await lab.add(call())
    await lab.claim(slots=0)
    await lab.move(70)
    (shown,) = await reader.every(pending=True)
    assert (shown.queue, shown.ready, shown.oldest_wait_ms) == ("mail", 1, 70)
    await lab.store.cancel([task_id])
    assert await reader.every(pending=True) == []
