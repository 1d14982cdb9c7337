"""Groups in the store: entered with the task, left when it is gone, found by name, and mended both ways."""

from __future__ import annotations

import pytest

from delaybox.core.history import HistoryRules
from delaybox.core.query import TaskQuery
from delaybox.core.task import DeliveryMode, NewTask, OnConflict, TaskType
from delaybox.service.bulk import Bulk, Selection
from delaybox.service.history import History
from delaybox.store import groups, keys
from delaybox.store.record import draft
from delaybox.store.replies import Batch
from tests.lab import Lab

HOUR = 3_600_000


def member(group: str, task_id: bytes) -> bytes:
    return group.encode() + b"\0" + task_id


async def listed(lab: Lab) -> list[bytes]:
    found: list[bytes] = await lab.client.zrange(keys.groups(lab.tag), 0, -1)
    return found


async def of_group(lab: Lab, group: str) -> list[bytes]:
    return [m.record.task_id async for page in groups.members(lab.store, 0, group) for m in page]


@pytest.mark.parametrize("payload", [b"x", bytes(2_000)])
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_task_is_in_its_group_until_it_has_ended(lab: Lab, payload: bytes, key: str | None) -> None:
    one, two = await lab.add(
        NewTask(payload=payload, type=TaskType.WORKER, name="f", idempotency_key=key, group="g"),
        NewTask(type=TaskType.WORKER, name="f", delivery=DeliveryMode.AT_MOST_ONCE, group="g"),
    )
    assert set(await listed(lab)) == {member("g", one), member("g", two)}
    assert len(await lab.lease(b"a lease of both")) == 2
    assert set(await of_group(lab, "g")) == {one, two}
    assert await lab.store.fail(0, b"a lease of both", [(one, None, "no")]) == ([], 0)
    assert await lab.store.ack(0, b"a lease of both", [two]) == []
    # A dead letter keeps its place, for it may be brought back.
    assert await listed(lab) == [member("g", one)]
    assert (await of_group(lab, "g"), await lab.problems()) == ([], [])
    assert await lab.store.replay([one]) == ["replayed"]
    assert await of_group(lab, "g") == [one]
    assert await lab.store.cancel([one], group="h") == ["unknown"]
    assert await lab.store.cancel([one], group="g") == ["cancelled"]
    assert await listed(lab) == []


async def test_a_task_without_a_group_costs_nothing(lab: Lab) -> None:
    new = NewTask(payload=b"x", delay_ms=HOUR)
    (task_id,) = await lab.add(new)
    assert (await lab.find(task_id)).value == draft(new).record
    assert await lab.client.exists(keys.groups(lab.tag)) == 0


async def test_whoever_takes_a_tasks_place_brings_its_own_group(lab: Lab) -> None:
    def asked(group: str) -> Batch:
        new = NewTask(delay_ms=HOUR, idempotency_key="k", on_conflict=OnConflict.REPLACE, group=group)
        return Batch(0, [draft(new)], True)

    ids = []
    for group in ("g", "h", "", "h"):
        (answers,) = await lab.store.schedule([asked(group)])
        assert not isinstance(answers, BaseException)
        ids.append(answers[0].task_id)
        assert await listed(lab) == ([member(group, ids[0])] if group else [])
    assert len(set(ids)) == 1


async def test_bulk_finds_a_group_by_its_name_in_bounded_pages(lab: Lab) -> None:
    many = [NewTask(delay_ms=HOUR + i, group="g", labels={"odd": str(i % 2)}) for i in range(1_200)]
    ids = [i for at in range(0, 1_200, 400) for i in await lab.add(*many[at : at + 400])]
    (other,) = await lab.add(NewTask(delay_ms=HOUR, group="g2"))
    bulk = Bulk(lab.store, History(lab.store, HistoryRules()))
    odd = Selection(wanted=TaskQuery(group="g", labels={"odd": "1"}), dry_run=True)
    assert (await bulk.run_now(odd)).matched == 600
    some = await bulk.cancel(Selection(wanted=TaskQuery(group="g"), limit=100))
    assert (some.matched, some.changed) == (100, 100)
    moved = await bulk.reschedule(Selection(wanted=TaskQuery(group="g")), due_ms=lab.now + 5_000)
    assert (moved.matched, moved.changed, moved.skipped) == (1_100, 1_100, 0)
    assert {(await lab.record(task_id)).due_ms for task_id in ids[100::100]} == {lab.now + 5_000}
    released = await bulk.run_now(Selection(wanted=TaskQuery(group="g")))
    assert (released.matched, released.changed) == (1_100, 1_100)
    assert (await lab.record(other)).due_ms == lab.now + HOUR
    assert (await bulk.cancel(Selection(wanted=TaskQuery(group="g")))).changed == 1_100
    assert await listed(lab) == [member("g2", other)]


async def test_the_scrubber_mends_both_ways(lab: Lab) -> None:
    waiting, leased, gone = await lab.add(
        NewTask(delay_ms=HOUR, group="g"), NewTask(type=TaskType.WORKER, name="f", group="g"), NewTask(delay_ms=HOUR)
    )
    await lab.lease(b"a lease of one..")
    assert await lab.store.cancel([gone]) == ["cancelled"]
    index = keys.groups(lab.tag)
    await lab.client.zadd(index, {member("g", gone): 0, member("h", waiting): 0, member("h", leased): 0})
    await lab.client.zrem(index, member("g", waiting))
    seen = dropped = 0
    after = b""
    while True:
        after, some, away = await groups.regroup(lab.store, 0, after, count=2)
        seen, dropped = seen + some, dropped + away
        if not after:
            break
    assert (seen, dropped) == (4, 3)
    await lab.index((lab.now + HOUR) // 1_000)
    assert await listed(lab) == sorted([member("g", waiting), member("g", leased)])
