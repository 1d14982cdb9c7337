"""A worker's report is confirmed when its outcome is stored, and not before."""

from __future__ import annotations

import asyncio

from delaybox.core.delivery import DONE, HAND_BACK
from delaybox.engine.stored import StoreProgress
from tests.desk import Desk, delivery, messages_of, tasks_of
from tests.waiting import PATIENCE_S


def seen(desk: Desk) -> int:
    (session,) = desk.pool.sessions
    (message,) = messages_of(session, idle=True)
    return message.seen


async def handed_out(desk: Desk, count: int) -> list[int]:
    session = desk.open(credit=count, moves=True)
    asyncio.get_running_loop().create_task(desk.pool.deliver([delivery() for _ in range(count)], desk.engine.report))
    await asyncio.sleep(0)
    return [task.sequence for task in tasks_of(messages_of(session))]


async def test_seen_waits_until_the_round_with_the_outcome_is_through() -> None:
    desk = Desk()
    one, two = await handed_out(desk, 2)
    session, stored = desk.pool.sessions[0], desk.host.stored
    stored.reported()
    desk.receive(session, number=2, done=[one])
    stored.begins()
    stored.reported()
    desk.receive(session, number=3, done=[two])
    assert seen(desk) == 1
    stored.ends(all_=True)
    assert seen(desk) == 2
    stored.begins()
    stored.ends(all_=False)
    assert seen(desk) == 2, "the store was away"
    stored.begins()
    stored.ends(all_=True)
    assert seen(desk) == 3


async def test_a_node_that_ends_handles_nothing_more() -> None:
    """Else it would confirm a report on a task that it has left to others."""
    desk = Desk()
    one, two = await handed_out(desk, 2)
    session = desk.pool.sessions[0]
    desk.receive(session, number=2, done=[one])
    desk.gateway.part()
    desk.receive(session, number=3, done=[two])
    assert seen(desk) == 2
    assert next(iter(desk.engine.outcomes.values())) == DONE
    assert HAND_BACK not in desk.engine.outcomes.values()


async def test_waiting_ends_when_all_is_stored() -> None:
    stored = StoreProgress()
    stored.reported()
    mark = stored.mark
    waiting = asyncio.create_task(stored.wait(mark, within_s=30))
    stored.begins()
    await asyncio.sleep(0)
    assert not waiting.done()
    stored.ends(all_=True)
    await asyncio.wait_for(waiting, PATIENCE_S)
    await stored.wait(mark, within_s=0)
