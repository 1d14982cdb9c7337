"""The index of labels: kept by the scripts, mended, built for what was there before, and used by lists and changes."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.errors import InvalidTask
from delaybox.core.query import TaskQuery
from delaybox.core.task import NewTask, OnConflict, TaskState, TaskType
from delaybox.engine.labeller import Labeller
from delaybox.engine.ownership import Ownership
from delaybox.engine.scrubber import Scrubber
from delaybox.service import Selection, Service
from delaybox.store import groups, keys, label_entries, label_index, page_cursors, task_lists
from delaybox.store.fsck import fsck
from delaybox.store.record import read
from delaybox.store.store import Store, Verdict
from tests.labelled import LEASE, built, found, into_sets, look_through, store, submit, without_lists

__all__ = ["store"]  # the fixture

CUSTOMER = {"customer": "7"}


def later(**options: object) -> NewTask:
    return NewTask(delay_ms=900_000, **options)  # type: ignore[arg-type]


async def indexed(store: Store, value: str = "7") -> int:
    """How many tasks the index names, once it was looked through."""
    await look_through(store, every=True)
    return len([one async for found in label_index.candidates(store, "customer", value) for one in found])


async def test_a_list_by_an_indexed_label_does_not_scan(store: Store) -> None:
    service = await built(store, "customer", "order")
    await submit(service, *(later(labels={"customer": str(n % 5), "env": "prod"}) for n in range(40)))
    mine = await submit(
        service,
        later(labels=CUSTOMER),
        later(labels={**CUSTOMER, "order": "1"}),
        later(labels=CUSTOMER, payload=bytes(5_000)),
    )
    for limit in (1, 2, 100):
        assert await found(service, TaskQuery(labels=CUSTOMER), limit=limit) == sorted(mine)
    assert await found(service, TaskQuery(labels={"customer": "7", "order": "1"})) == [mine[1]]
    assert await found(service, TaskQuery(labels={"customer": "nobody"})) == []
    other = await service.list_tasks(TaskQuery(labels={"env": "prod"}))
    assert other.scanned and len(other.items) == 40
    assert (await service.bulk.cancel(Selection(wanted=TaskQuery(labels={"env": "x"}), dry_run=True))).scanned


async def test_entries_have_the_ids_that_tasks_got(store: Store) -> None:
    """Ids are those that were sent where all are due at a moment to come; else the script makes them."""
    service = await built(store, "customer", "order")
    due_ms = await store.ping() + 900_000
    both = {**CUSTOMER, "order": "9"}
    sure = await submit(service, *(NewTask(due_ms=due_ms + n, labels=both) for n in range(3)))
    others = await submit(
        service,
        later(labels=CUSTOMER),
        NewTask(due_ms=due_ms, labels=both),
        NewTask(type=TaskType.WORKER, name="f", labels=CUSTOMER),
    )
    keyed = [NewTask(due_ms=due_ms, labels=CUSTOMER, idempotency_key=f"k{n}") for n in (1, 1, 2)]
    (first, again, second) = await submit(service, *keyed)
    repeated = await submit(service, *keyed, NewTask(due_ms=due_ms, labels=CUSTOMER))
    assert first == again == repeated[0] and second == repeated[2]
    assert await found(service, TaskQuery(labels=CUSTOMER)) == sorted({*sure, *others, *repeated})
    assert await found(service, TaskQuery(labels={"order": "9"})) == sorted([*sure, others[1]])
    assert await indexed(store) == 9


async def test_a_label_with_too_many_entries_is_scanned_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await built(store, "customer")
    mine = await submit(service, *(later(labels=CUSTOMER) for _ in range(4)))
    await into_sets(store, mine, "customer")
    await without_lists(store)
    for most, scanned in ((4, False), (3, True)):
        monkeypatch.setattr(label_index, "LOOKED_UP", most)
        page = await service.list_tasks(TaskQuery(labels=CUSTOMER))
        assert (page.scanned, sorted(view.task_id for view in page.items)) == (scanned, sorted(mine))


async def test_every_way_out_leaves_the_index(store: Store) -> None:
    service = await built(store, "customer")
    now = NewTask(type=TaskType.WORKER, name="f", labels=CUSTOMER)
    made = [ids.parse(one) for one in await submit(service, *(now for _ in range(8)))]
    keyed = await submit(service, later(labels=CUSTOMER, idempotency_key="k"))
    assert await indexed(store) == 9
    leased: dict[bytes, tuple[int, bytes]] = {}
    for p in range(2):
        claimed = await store.claim(p, bytes([p]) * 20, LEASE)
        leased |= {task_id: (p, bytes([p]) * 20) for task_id in claimed.leased[0::2]}
    assert await found(service, TaskQuery(labels=CUSTOMER, state=TaskState.RUNNING)) == sorted(map(ids.render, made))
    acked, kept, dead, again, lost, back, *rest = made
    await store.ack(*leased[acked], [acked])
    await store.complete(*leased[kept], [(kept, 60_000, b"")])
    await store.fail(*leased[dead], [Verdict(dead, None, "no")])
    await store.fail(*leased[again], [Verdict(again, 60_000, "later")])
    await store.lose(*leased[lost], [lost], losses_cap=1)
    await store.release(*leased[back], [back], delay_ms=60_000)
    assert await indexed(store) == 7, "dead letters stay in the index until they are discarded"
    assert sorted(map(ids.render, [again, back])) == sorted(
        set(await found(service, TaskQuery(labels=CUSTOMER, state=TaskState.SCHEDULED))) - set(keyed)
    )
    await store.discard(leased[dead][0], [dead])
    await store.discard(leased[lost][0], [lost])
    for task_id in (again, back):
        await service.cancel(ids.render(task_id))
    await service.cancel(keyed[0], free_key=True)
    for task_id in rest:
        await store.ack(*leased[task_id], [task_id])
    assert await indexed(store) == 0


async def test_changed_labels_are_found_and_the_old_ones_are_not(store: Store) -> None:
    service = await built(store, "customer")
    (task_id,) = await submit(service, later(labels={"customer": "1", "x": "y"}))
    await service.update(task_id, labels=CUSTOMER)
    assert await found(service, TaskQuery(labels=CUSTOMER)) == [task_id]
    assert await found(service, TaskQuery(labels={"customer": "1"})) == []
    await service.update(task_id, payload=b"new")
    assert await found(service, TaskQuery(labels=CUSTOMER)) == [task_id]
    await service.update(task_id, labels={})
    assert await indexed(store) == 0
    (keyed,) = await submit(service, later(labels={"customer": "2"}, idempotency_key="k"))
    replaced = await service.submit(
        later(labels=CUSTOMER, idempotency_key="k", on_conflict=OnConflict.REPLACE, payload=b"2")
    )
    assert (replaced.task_id, await indexed(store)) == (keyed, 1)
    assert await found(service, TaskQuery(labels={"customer": "2"})) == [], "an entry of old labels does no harm"
    await service.cancel(keyed)
    assert (await indexed(store), await indexed(store, "2"), await indexed(store, "1")) == (0, 0, 1)


async def test_changes_by_filter_use_it(store: Store) -> None:
    service = await built(store, "customer")
    made = await submit(service, *(later(labels=CUSTOMER) for _ in range(7)), later(labels={"customer": "1"}))
    moved = await service.bulk.reschedule(Selection(wanted=TaskQuery(labels=CUSTOMER)), delay_ms=1_800_000)
    assert (moved.changed, moved.scanned) == (7, False)
    gone = await service.bulk.cancel(Selection(wanted=TaskQuery(labels=CUSTOMER), limit=5))
    assert (gone.changed, gone.scanned, len(await found(service, TaskQuery(labels=CUSTOMER)))) == (5, False, 2)
    assert (await service.get(made[-1])).state is TaskState.SCHEDULED


@pytest.mark.parametrize("by", ["queue", "group", "label"])
async def test_a_change_by_filter_goes_on_in_steps(store: Store, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a page does that must not wait for all of them: each step is over after one round trip."""
    monkeypatch.setattr(task_lists, "_AT_ONCE", 10)
    monkeypatch.setattr(groups, "PAGE", 10)
    monkeypatch.setattr(label_index, "_ENTRIES_AT_ONCE", 1)
    service = await built(store, "customer")
    some = [
        NewTask(delay_ms=900_000 + n % 3 * 60_000, queue="mail", group="g", labels=CUSTOMER, payload=bytes(n))
        for n in range(60)
    ]
    await submit(service, *some, *(later(labels={"customer": "1"}) for _ in range(5)))
    wanted = {"queue": TaskQuery(queue="mail"), "group": TaskQuery(group="g"), "label": TaskQuery(labels=CUSTOMER)}[by]
    cursor, counted, steps = "", 0, 0
    while (cursor or not steps) and steps < 100:
        done = await service.bulk.cancel(Selection(wanted=wanted, dry_run=True, in_time_s=1e-9, cursor=cursor))
        counted, cursor, steps = counted + done.matched, done.cursor, steps + 1
    assert counted == 60 and steps > 3
    # A limit in the middle of what one round trip brought leaves out nothing.
    changed: list[int] = []
    while (cursor or not changed) and len(changed) < 100:
        done = await service.bulk.cancel(Selection(wanted=wanted, limit=7, cursor=cursor))
        changed.append(done.changed)
        cursor = done.cursor
    assert sum(changed) == 60 and changed[0] == 7
    assert (await service.bulk.cancel(Selection(wanted=TaskQuery(), dry_run=True))).matched == 5
    elsewhere = {"queue": TaskQuery(group="g"), "group": TaskQuery(), "label": TaskQuery(queue="mail")}[by]
    done = await service.bulk.cancel(Selection(wanted=TaskQuery(), dry_run=True, in_time_s=1e-9))
    with pytest.raises(InvalidTask, match="not one of this list"):
        await service.bulk.cancel(Selection(wanted=elsewhere, cursor=done.cursor if by == "queue" else _forged(by)))


def _forged(by: str) -> str:
    return page_cursors.encode(by, [0, "xyz"] if by == "group" else ["customer", 0, "xyz"])


async def test_tasks_from_before_are_indexed_and_until_then_a_list_scans(store: Store) -> None:
    service = Service(store)
    made = await submit(service, later(labels=CUSTOMER), later(labels=CUSTOMER, payload=bytes(5_000)), later())
    (failed,) = await submit(service, NewTask(type=TaskType.WORKER, name="f", labels=CUSTOMER))
    p = ids.partition(ids.parse(failed))
    await store.claim(p, b"L" * 20, LEASE)
    await store.fail(p, b"L" * 20, [Verdict(ids.parse(failed), None, "no")])
    await label_index.declare(store, ["customer"])
    page = await service.list_tasks(TaskQuery(labels=CUSTOMER))
    assert page.scanned and len(page.items) == 2
    labeller = Labeller(store, Ownership(store.partitions))
    assert await labeller.step() > 1, "writers get some time to learn of it"
    service = await built(store, "customer")
    assert await found(service, TaskQuery(labels=CUSTOMER)) == sorted(made[:2])
    assert await indexed(store) == 3
    await service.replay(failed)
    assert failed in await found(service, TaskQuery(labels=CUSTOMER))


async def test_a_lost_entry_of_a_set_comes_back_and_a_wrong_one_goes(client: Redis, store: Store) -> None:
    service = await built(store, "customer")
    made = await submit(service, later(labels=CUSTOMER))
    await into_sets(store, made, "customer")
    await without_lists(store)
    raw = ids.parse(made[0])
    where = label_entries.place("customer", "7")
    key = keys.label(store.tags[ids.partition(raw)], int.from_bytes(where[:2], "big"))
    await client.delete(key)
    await client.sadd(key, raw[:10] + bytes(6) + where[2:])
    kinds = {problem.partition(":")[0] for problem in (await fsck(store)).problems}
    assert kinds == {"label-missing", "label-dangling"}
    scrubber = Scrubber(store)
    while await scrubber.step() < 1:
        pass
    assert await client.smembers(key) == {raw + where[2:]}


async def test_records_say_nothing_of_lists(store: Store) -> None:
    service = await built(store, "customer")
    made = await submit(service, later(), later(labels={"env": "prod"}), later(labels=CUSTOMER))
    for task_id in made:
        raw = ids.parse(task_id)
        key = keys.bucket(store.tags[ids.partition(raw)], ids.bucket(raw, store.bucket_ms))
        assert (await store.servers.ask("HGET", key, raw))[0] == 0x10


async def test_tasks_in_sets_are_claimed_and_acked_as_any_other(store: Store) -> None:
    """Scripts read an extension that holds labels alone in a way of their own; one that is cut off is unreadable."""
    service = await built(store, "customer", "order")
    due_ms = await store.ping() + 200
    both = {**CUSTOMER, "order": "9"}
    options: list[dict[str, object]] = [{}, {"fairness_key": "a"}, {"group": "g"}, {"idempotency_key": "k"}]
    made = [
        await submit(service, NewTask(type=TaskType.WORKER, name="f", due_ms=due_ms, labels=both, **more))  # type: ignore[arg-type]
        for more in options
    ]
    sure = [ids.parse(task_id) for (task_id,) in made]
    (cut,) = [ids.parse(task_id) for task_id in await submit(service, later(labels=CUSTOMER))]
    await into_sets(store, [ids.render(task_id) for task_id in (*sure, cut)], "customer", "order")
    await without_lists(store)
    home = keys.bucket(store.tags[ids.partition(cut)], ids.bucket(cut, store.bucket_ms))
    whole = await store.servers.ask("HGET", home, cut)
    before = {task_id: (await store.get(task_id)).value for task_id in sure}
    while await store.ping() <= due_ms:
        pass
    claims = [await store.claim(p, bytes([p]) * 20, LEASE) for p in range(2)]
    leased = {task_id: raw for c in claims for task_id, raw in zip(c.leased[0::2], c.leased[1::2], strict=True)}
    assert set(leased) == set(sure)
    for task_id, raw in leased.items():
        new, old = read(task_id, raw), read(task_id, before[task_id])
        assert (new.deliveries, new.attempt, new.due_ms) == (1, 0, old.due_ms)
        assert (new.lane, new.extension, new.key, new.body) == (old.lane, old.extension, old.key, old.body)
        p = ids.partition(task_id)
        assert await store.ack(p, bytes([p]) * 20, [task_id]) == []
    assert await indexed(store) == 1
    p = ids.partition(cut)
    await store.servers.ask("HSET", home, cut, whole[: 3 + whole[2] + 2 + 4])
    near = keys.near(store.tags[p], whole[1] & 3, chr(whole[3]))
    await store.servers.ask("ZADD", near, 1, cut + whole[3 : 3 + whole[2]])
    assert (await store.claim(p, b"Q" * 20, LEASE)).quarantined == 1
