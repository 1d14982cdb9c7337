"""The lists of the index of labels: new tasks come in, ended ones go."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.query import TaskQuery
from delaybox.core.task import NewTask, TaskType
from delaybox.engine.labeller import Labeller
from delaybox.engine.ownership import Ownership
from delaybox.engine.relister import Relister
from delaybox.service import Selection, Service
from delaybox.store import keys, label_entries, label_index, label_lists
from delaybox.store.fsck import fsck
from delaybox.store.loader import ScriptCall
from delaybox.store.store import ClaimLimits, Store
from tests.labelled import LEASE, built, entries, found, into_sets, look_through, store, submit, without_lists

__all__ = ["store"]  # the fixture

CUSTOMER = {"customer": "7"}


def task(**options: object) -> NewTask:
    return NewTask(**{"delay_ms": 900_000, "labels": CUSTOMER, **options})  # type: ignore[arg-type]


async def named(service: Service) -> set[str]:
    return set(await found(service, TaskQuery(labels=CUSTOMER), limit=500))


async def run(relister: Relister) -> None:
    while await relister.step() < 1:
        pass


async def test_what_comes_in_each_way_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_lists, "NEW", 1)
    monkeypatch.setattr(label_lists, "MANY_NEW", 1)
    service = await built(store, "customer", "order")
    due_ms = await store.ping() + 900_000
    mine: list[str] = []
    # Ids as they were sent; made by the script; with some that are known already; with and without labels, one or two.
    mine += await submit(service, *(task(delay_ms=None, due_ms=due_ms + n) for n in range(400)))
    mine += await submit(service, *(task(labels={**CUSTOMER, "order": str(n)}) for n in range(400)))
    keyed = [task(idempotency_key=f"k{n}") for n in range(400)]
    again = await submit(service, *keyed[:200])
    mine += await submit(service, *keyed)
    assert set(again) < set(mine)
    assert await entries(store) == (1_600, 0)
    for turn in range(20):
        some = await submit(service, *(task(labels={"customer": str(n % 9)} if n % 3 else {}) for n in range(100)))
        mine += some[7::9]
        one = await submit(service, task(labels={"order": "17"} if turn % 2 else CUSTOMER))
        mine += one if turn % 2 == 0 else []
    assert await named(service) == set(mine)
    before = await entries(store)
    await run(Relister(store, Ownership(store.partitions)))
    assert await entries(store) == (0, sum(before))
    assert await named(service) == set(mine)
    where = label_entries.number_of(label_entries.place("customer", "7"))
    elements = [n for tag in store.tags for n in await store.servers.ask("LRANGE", keys.listed(tag, where), 0, -1)]
    assert max(len(one) for one in elements) == 20 * label_entries.TOGETHER
    looked = await service.bulk.cancel(Selection(wanted=TaskQuery(labels={"order": "17"})))
    assert (looked.changed, looked.scanned) == (11, False)


async def test_ended_tasks_go_when_as_much_came(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_lists, "FEW", 20)
    service = await built(store, "customer")
    relister = Relister(store, Ownership(store.partitions))
    stays = await submit(service, *(task() for _ in range(400)))
    ends = await submit(service, *(task(delay_ms=None, type=TaskType.WORKER, name="f") for _ in range(400)))
    (failed,) = await submit(service, task(delay_ms=None, type=TaskType.WORKER, name="f"))
    dead = ids.parse(failed)
    for p in range(2):
        n = 0
        while (claimed := await store.claim(p, bytes([p, n]) * 10, LEASE)).leased:
            held = claimed.leased[0::2]
            await store.ack(p, bytes([p, n]) * 10, [one for one in held if one != dead])
            if dead in held:
                await store.fail(p, bytes([p, n]) * 10, [(dead, None, "no")])
            n += 1
    await service.cancel(stays[0])
    assert await entries(store) == (801, 0)
    await run(relister)
    assert await entries(store) == (801, 0), "these are too few to be looked at"
    monkeypatch.setattr(label_lists, "NEW", 1)
    monkeypatch.setattr(label_lists, "MANY_NEW", 1)
    await run(relister)
    assert await entries(store) == (0, 401), "the dead letter and what waits; that something was cancelled is not known"
    await look_through(store, every=True)
    assert await entries(store) == (0, 400)
    assert await named(service) == set(stays[1:]) and ends
    # As long as less came than there was, these are not looked at.
    await service.cancel(stays[1])
    await run(relister)
    assert await entries(store) == (0, 400)
    for _ in range(12):
        await submit(service, *(task(delay_ms=None, type=TaskType.WORKER, name="f") for _ in range(20)))
        await run(relister)
    assert await entries(store) == (0, 640), "all of these are there"
    for p in range(2):
        while (claimed := await store.claim(p, bytes([p, 99]) * 10, LEASE)).leased:
            await store.ack(p, bytes([p, 99]) * 10, claimed.leased[0::2])
    # In each partition, once as much came as there was.
    for rounds in range(1, 80):
        await submit(service, *(task() for _ in range(30)))
        await run(relister)
        if await entries(store) == (0, 400 + 30 * rounds):
            break
    else:
        raise AssertionError(await entries(store))
    assert rounds > 5
    await store.discard(ids.partition(dead), [dead])


async def test_two_processes_that_look_at_once_lose_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a change of owner, and beside the scrubber: whoever finds that elements were taken meanwhile does
    nothing."""
    service = await built(store, "customer")
    mine = [one for _ in range(6) for one in await submit(service, *(task() for _ in range(40)))]
    run_ = store.runner.run
    once: list[int] = []
    beside: list[int] = []

    async def other_first(call: ScriptCall) -> object:
        if call.script == "relist" and once:
            beside.append((await label_lists.look(store, once.pop(), -1, 3)).taken)
            # What comes meanwhile is not in the way.
            mine.extend(await submit(service, *(task() for _ in range(10))))
        return await run_(call)

    monkeypatch.setattr(store.runner, "run", other_first)
    for p in range(2):
        once.append(p)
        assert (await label_lists.look(store, p, -1, 3)).taken == 0
    assert beside == [3, 3]
    monkeypatch.undo()
    assert await named(service) == set(mine)
    await look_through(store)
    assert await entries(store) == (0, len(mine)), "none is there twice"
    assert await named(service) == set(mine)
    await service.bulk.cancel_ids(mine)
    await look_through(store, every=True)
    assert await entries(store) == (0, 0)


async def test_what_is_still_there_is_asked_for_by_id_where_that_is_much(client: Redis, store: Store) -> None:
    service = await built(store, "customer")
    mine = await submit(service, *(task(delay_ms=None, type=TaskType.WORKER, name="f") for _ in range(30)))
    for tag in store.tags:
        await client.hset(keys.leased(tag), mapping={str(n).zfill(16).encode(): bytes(20) for n in range(10_001)})
        assert (await store.runner.run(ScriptCall("remain", tag, (store.bucket_ms, b""))))[1] == b"-"
    await look_through(store)
    assert await entries(store) == (0, 30)
    await service.cancel(mine[0])
    await look_through(store)
    assert await entries(store) == (0, 29)
    for tag in store.tags:
        await client.delete(keys.leased(tag))


async def test_tasks_in_sets_and_in_lists_are_found_once_each(store: Store) -> None:
    service = await built(store, "customer")
    before = await submit(service, *(task() for _ in range(5)))
    await into_sets(store, before, "customer")
    new = await submit(service, *(task() for _ in range(5)))
    assert await named(service) == {*before, *new}
    await service.update(new[0], labels={"customer": "8"})
    await service.update(new[0], labels=CUSTOMER)
    assert await named(service) == {*before, *new}
    await service.cancel(before[0])
    await service.cancel(new[1])
    assert await named(service) == {*before[1:], new[0], *new[2:]}
    # A walk, as after an import, enters nothing twice.
    await look_through(store, every=True)
    await walk(store)
    assert await entries(store) == (0, 8)
    assert await label_index.complete(store, [0, 1]) == [{"customer"}] * 2
    # Without them it enters what sets do not have.
    await without_lists(store)
    await walk(store)
    assert await entries(store) == (3, 0)
    assert await named(service) == {*before[1:], new[0], *new[2:]}


async def walk(store: Store) -> None:
    for p in range(2):
        await store.servers.ask("HDEL", keys.clock(store.tags[p]), "labels", "functions")
    labeller = Labeller(store, Ownership(store.partitions))
    while await labeller.step() < 1:
        pass


async def test_a_lost_entry_of_a_list_is_found_and_mended(client: Redis, store: Store) -> None:
    service = await built(store, "customer", functions=True)
    made = await submit(service, task(), task(type=TaskType.WORKER, name="f", payload=bytes(5_000)))
    assert (await fsck(store)).problems == []
    await without_lists(store)
    assert len((await fsck(store)).problems) == 2, "each task is named once"
    report = await fsck(store, repair=True)
    assert {problem.partition(":")[0] for problem in report.problems} == {"label-missing"}
    assert report.counts["repaired"] == 3
    assert (await fsck(store)).problems == []
    assert await named(service) == set(made)


async def test_a_published_task_with_a_label_is_fired_in_place(store: Store) -> None:
    service = await built(store, "customer")
    (task_id,) = await submit(service, task(delay_ms=None))
    claimed = await store.claim(
        ids.partition(ids.parse(task_id)), b"P" * 20, ClaimLimits(slots=10, types="wsp", channel="c")
    )
    assert (claimed.leased, len(claimed.lateness_ms)) == ([], 1)
