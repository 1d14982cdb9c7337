"""Idempotency keys after their task: cancelled ones answer so, freed ones are free, and no task touches another's."""

from __future__ import annotations

from delaybox.core.task import NewTask
from delaybox.store import keys
from delaybox.store.record import draft
from delaybox.store.replies import Stored
from delaybox.store.store import Batch
from tests.lab import Lab

TASK = NewTask(payload=b"pay", due_ms=10**13, idempotency_key="k")


async def again(lab: Lab, task: NewTask = TASK) -> Stored:
    answer = (await lab.store.schedule([Batch(0, [draft(task)])]))[0]
    assert not isinstance(answer, BaseException)
    return answer[0]


async def test_the_key_of_a_cancelled_task_says_so_for_a_day(lab: Lab) -> None:
    (first,) = await lab.add(TASK)
    assert await lab.store.cancel([first]) == ["cancelled"]
    for task in (TASK, NewTask(payload=b"other", idempotency_key="k")):
        found = await again(lab, task)
        assert (found.task_id, found.created, found.conflict, found.cancelled) == (first, False, False, True)
    assert await lab.ttl_of("k") == 86_400
    assert (await lab.store.counts())[0].pending == 0


async def test_a_cancel_can_free_the_key_at_once_or_later(lab: Lab) -> None:
    (first,) = await lab.add(TASK)
    assert await lab.store.cancel([first], free_key=True) == ["cancelled"]
    second = await again(lab)
    assert second.created and second.task_id != first
    assert await lab.store.cancel([second.task_id]) == ["cancelled"]
    assert (await again(lab)).cancelled
    assert await lab.store.cancel([second.task_id], free_key=True) == ["cancelled"]
    assert await lab.store.cancel([second.task_id], free_key=True) == ["unknown"], "it was freed already"
    third = await again(lab)
    assert third.created
    assert await lab.store.cancel([second.task_id, first], free_key=True) == ["unknown", "unknown"]
    assert (await again(lab)).task_id == third.task_id, "a task that is long gone frees nobody's key"
    assert await lab.names("*:cancelled:*") == []


async def test_the_key_of_a_task_that_was_cancelled_while_it_ran_says_so_too(lab: Lab) -> None:
    first, second = await lab.add(NewTask(idempotency_key="k"), NewTask(idempotency_key="other"))
    await lab.lease(b"L")
    kept = [(first, 60_000, b"r"), (second, 60_000, b"r")]
    assert await lab.store.complete(0, b"L", kept, cancelled={first}) == []
    assert (await again(lab, NewTask(idempotency_key="k"))).cancelled
    assert not (await again(lab, NewTask(idempotency_key="other"))).refused
    assert await lab.store.cancel([first, second], free_key=True) == ["cancelled", "unknown"]
    assert (await again(lab, NewTask(idempotency_key="k"))).created


async def test_a_key_is_freed_only_for_the_task_that_it_names(lab: Lab) -> None:
    (first, other) = await lab.add(TASK, NewTask(due_ms=10**13))
    await lab.store.cancel([first])
    # The entry expired and another task took the key, before the memory of the cancel went.
    entry = f"{lab.tag}:idem:k".encode()
    await lab.client.set(entry, other + b"12345678")
    assert await lab.store.cancel([first], free_key=True) == ["cancelled"]
    assert await lab.client.get(entry) == other + b"12345678"
    await lab.client.delete(entry)


async def test_the_end_of_a_task_leaves_a_key_alone_that_names_another(lab: Lab) -> None:
    for end in ("ack", "cancel", "discard", "complete"):
        (task,) = await lab.add(NewTask(idempotency_key="k"))
        entry = f"{lab.tag}:idem:k".encode()
        await lab.client.set(entry, b"x" * 16 + b"12345678")
        if end == "cancel":
            assert await lab.store.cancel([task]) == ["cancelled"]
        else:
            await lab.lease(b"L")
            if end == "ack":
                await lab.store.ack(0, b"L", [task])
            elif end == "complete":
                await lab.store.complete(0, b"L", [(task, 0, b"r")])
            else:
                await lab.store.fail(0, b"L", [(task, None, "no")])
                await lab.store.discard(0, [task])
        assert await lab.ttl_of("k") is None, end
        assert keys.cancelled(lab.tag, task) not in await lab.names("*:cancelled:*")
        await lab.client.delete(entry)


async def test_tasks_without_keys_leave_nothing_behind(lab: Lab) -> None:
    (task,) = await lab.add(NewTask(due_ms=10**13))
    assert await lab.store.cancel([task]) == ["cancelled"]
    assert await lab.store.cancel([task], free_key=True) == ["unknown"]
    assert await lab.names("*:cancelled:*") == []


async def test_the_same_task_in_another_trace_is_the_same_task(lab: Lab) -> None:
    def in_trace(span: bytes, **more: bytes) -> NewTask:
        return NewTask(due_ms=10**13, idempotency_key="k", header={"traceparent": span, "x": b"y"} | more)

    (first,) = await lab.add(in_trace(b"1"))
    assert (await again(lab, in_trace(b"2"))).task_id == first
    assert (await again(lab, in_trace(b"3", tracestate=b"a=b"))).task_id == first
    assert (await again(lab, in_trace(b"1", other=b"z"))).conflict
