"""A dead letter keeps the last traceback of its task, and every way of looking at it shows it."""

from __future__ import annotations

from delaybox.client import AsyncClient, TaskFailed
from delaybox.core import ids
from delaybox.service import Service
from delaybox.wire.gen import scheduler_pb2 as pb
from delaybox.wire.json import rendering
from tests.yard import Yard, yard

__all__ = ["yard"]  # the fixture


async def test_a_dead_letter_keeps_the_last_traceback(yard: Yard) -> None:
    await yard.worker()
    (task,) = await yard.call("fails", 9)
    found = await yard.ends(task)
    assert (found.state, found.reason) == (pb.TASK_STATE_FAILED, "ConnectionError: attempt 2")
    assert "in fails" in found.traceback and found.traceback.rstrip().endswith("ConnectionError: attempt 2")
    assert not found.HasField("result"), "no result was asked for"
    # Lists stay small.
    pages = [page async for page in yard.rpc.scheduler.ListDead(pb.ListRequest(limit=10))]
    ((listed,),) = [page.tasks for page in pages if page.tasks]
    assert (listed.reason, listed.traceback) == ("ConnectionError: attempt 2", "")
    # REST, Python, and who waits for it.
    view = await Service(yard.store).get(task)
    assert rendering.task(view).traceback == found.traceback
    async with AsyncClient(yard.rpc.address) as client:
        assert (await client.get(task)).traceback == found.traceback
        try:
            await client.result(task, timeout=10)
        except TaskFailed as error:
            assert error.reason == "ConnectionError: attempt 2"
    # Brought back, it is a task like any other.
    assert await yard.store.replay([ids.parse(task)]) == ["replayed"]
    assert "ConnectionError: attempt 2" in (await yard.ends(task)).traceback
    await yard.store.discard(ids.partition(ids.parse(task)), [ids.parse(task)])
    await yard.sound()
