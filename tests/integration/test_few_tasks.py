"""A claim of nothing or of a few plain tasks takes a way of its own (lib/few.lua). It does what all others do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from delaybox.core.lane import lane_of
from delaybox.core.queue import QueueRules
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.service.rules import Rules
from delaybox.store import keys
from delaybox.store.replies import ClaimLimits
from tests.lab import Lab
from tests.ways import ANOTHER, FEW, both, claim_by, content, ways

FEW_ALONE = ways(FEW)
SEND, OTHER = (lane_of(TaskType.WORKER, "mail", name) for name in ("send", "other"))
KEEPER = ClaimLimits(slots=100, types="shw", channel="c", names="h", looker="m", stream=1_000)
GUEST = ClaimLimits(slots=100, types="w", guest=True, lanes=(SEND,))
MOST = 8


def message(due_ms: int, **parts: Any) -> NewTask:
    return NewTask(due_ms=due_ms, payload=b"x", **parts)


def work(due_ms: int, **parts: Any) -> NewTask:
    return NewTask(**{"type": TaskType.WORKER, "queue": "mail", "name": "send", "due_ms": due_ms, **parts})


def taken(reply: Any) -> int:
    """Leased and fired."""
    return len(reply[2]) // 2 + len(reply[3])


async def begun(lab: Lab) -> None:
    """In the middle of a home bucket, with something behind what will be due."""
    await lab.claim()
    await lab.move(100)
    await lab.add(message(lab.now + 900), work(lab.now + 950))


@pytest.mark.parametrize("count", [0, 1, 2, 3, MOST])
@pytest.mark.parametrize("names", ["", "h", "r"])
async def test_messages_that_came_due(lab: Lab, count: int, names: str) -> None:
    await begun(lab)
    await lab.add(*(message(lab.now + 10 + i // 2) for i in range(count)))
    await lab.move(20)
    reply = await both(lab, FEW_ALONE, ClaimLimits(slots=0, types="", channel="c", names=names))
    assert taken(reply) == count and reply[1] == lab.now + 880
    assert await lab.problems() == []


async def test_messages_of_several_queues_and_to_a_stream(lab: Lab) -> None:
    await begun(lab)
    await lab.add(*(message(lab.now + 10, queue=queue) for queue in ("a", "b", "a")), message(lab.now + 5))
    await lab.move(20)
    reply = await both(lab, FEW_ALONE, KEEPER)
    assert reply[5] == {b"pa": 2, b"pb": 1, b"p": 1}
    assert await lab.client.xlen(keys.stream(lab.tag)) == 4
    assert await lab.problems() == []


async def test_what_is_fired_and_what_is_leased(lab: Lab) -> None:
    """A body that lies apart, commands, and with them messages."""
    await begun(lab)
    command = {"type": TaskType.SHELL_CMD, "name": "backup"}
    await lab.add(message(lab.now + 10), work(lab.now + 10, **command), message(lab.now + 11))
    await lab.add(NewTask(due_ms=lab.now + 10, payload=bytes(5_000)))
    await lab.move(20)
    reply = await both(lab, FEW_ALONE, KEEPER)
    assert (len(reply[2]) // 2, len(reply[3])) == (2, 2)
    assert await lab.problems() == []


@pytest.mark.parametrize("count", [1, 2, MOST])
async def test_tasks_of_workers(lab: Lab, count: int) -> None:
    await begun(lab)
    await lab.add(*(work(lab.now + 10, payload=b"%d" % i, idempotency_key=f"{i}") for i in range(count)))
    await lab.move(20)
    reply = await both(lab, FEW_ALONE, GUEST)
    assert taken(reply) == count and reply[1] == lab.now + 930
    assert await lab.problems() == []


async def test_tasks_of_queues_while_another_has_rules(lab: Lab) -> None:
    await Rules(lab.store).set("steered", QueueRules(weight=2.0))
    await begun(lab)
    await lab.add(work(lab.now + 10), work(lab.now + 10), work(lab.now + 12))
    await lab.move(20)
    assert taken(await both(lab, FEW_ALONE, GUEST)) == 3
    assert await lab.problems() == []


async def test_that_no_more_is_near(lab: Lab) -> None:
    await lab.claim()
    await lab.add(work(lab.now + 10), work(lab.now + 10))
    await lab.move(20)
    reply = await both(lab, FEW_ALONE, GUEST)
    assert taken(reply) == 2 and reply[1] == -1


@pytest.mark.parametrize(
    "why",
    [
        "too many", "two priorities", "two buckets", "another lane", "a message key", "paused", "as many as slots",
        "as many as asked for", "the second has gone", "ready work",
    ],
)  # fmt: skip
async def test_all_else_goes_the_way_of_all_others(lab: Lab, why: str) -> None:
    limits = GUEST
    await begun(lab)
    tasks = [work(lab.now + 10), work(lab.now + 11)]
    match why:
        case "too many":
            tasks *= MOST
        case "two priorities":
            tasks.append(work(lab.now + 10, priority=Priority.HIGH))
        case "two buckets":
            await lab.move(895)
            tasks = [work(lab.now + 3), work(lab.now + 7)]
        case "another lane":
            tasks.append(work(lab.now + 12, name="other"))
        case "a message key":
            limits, tasks = KEEPER, [message(lab.now + 10), message(lab.now + 10, idempotency_key="k")]
        case "paused":
            await Rules(lab.store).set("mail", QueueRules(paused=True))
        case "as many as slots":
            limits = replace(GUEST, slots=2)
        case "as many as asked for":
            limits = replace(GUEST, items=2)
        case "ready work":
            await lab.add(*(work(lab.now + 1) for _ in range(3)))
            await lab.move(200)
            await lab.claim(types="w", slots=1)
            tasks = [work(lab.now + 10)]
    ids = await lab.add(*tasks)
    if why == "the second has gone":
        await lab.client.hdel(keys.bucket(lab.tag, lab.now // 1_000), ids[1])
        lab.dirty = True
    await lab.move(20)
    this, other = FEW_ALONE
    before = await content(lab)
    assert await claim_by(lab, this, limits) == ANOTHER
    assert await content(lab) == before, "and nothing was written before"
    await claim_by(lab, other, limits)
