"""The lists of the index of labels: what a look takes at most, and what is found while one goes on or is cut off."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.errors import StoreUnavailable
from delaybox.core.query import TaskQuery
from delaybox.core.task import NewTask
from delaybox.engine.labeller import Labeller
from delaybox.engine.ownership import Ownership
from delaybox.service import Selection, Service
from delaybox.store import keys, label_index, label_lists
from delaybox.store.label_entries import LISTS, SETS, TOGETHER, elements
from delaybox.store.loader import ScriptCall
from delaybox.store.store import Store
from tests.labelled import built, entries, into_sets, look_through, store, submit, without_lists

__all__ = ["store"]  # the fixture

CUSTOMER = {"customer": "7"}


def task(**labels_: str) -> NewTask:
    return NewTask(delay_ms=900_000, labels=labels_ or CUSTOMER)


async def filled(service: Service, calls: int = 6) -> list[str]:
    return [one for _ in range(calls) for one in await submit(service, *(task() for _ in range(20)))]


async def candidates(store: Store, value: str = "7") -> Counter[str]:
    return Counter(
        [ids.render(task_id) async for some in label_index.candidates(store, "customer", value) for _, task_id in some]
    )


async def test_a_look_takes_a_part_at_a_time(client: Redis, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tag, run = store.tags[0], store.runner.run
    sent: list[ScriptCall] = []

    async def noted(call: ScriptCall) -> Any:
        sent.append(call)
        return await run(call)

    monkeypatch.setattr(store.runner, "run", noted)
    later = [(1 << 47).to_bytes(6, "big") + n.to_bytes(10, "big") + bytes(4) for n in range(30 * TOGETHER)]
    await client.rpush(keys.listing(tag), *(element for one in later[:300] for element in elements([one])))
    assert await label_lists.look(store, 0, -1, 300) == (256, 256, False)
    await client.delete(keys.listing(tag))
    await client.rpush(keys.listing(tag), *elements(later))
    taken, kept, _ = await label_lists.look(store, 0, -1, 30)
    assert 1 < taken <= 20 and kept == taken * TOGETHER
    assert max(sum(len(arg) for arg in call.args if isinstance(arg, bytes)) for call in sent) <= 20 * 10_000 + 40
    # With each asked for by its id.
    sent.clear()
    assert await label_lists.look(store, 0, -1, 10, every=True) == (1, 0, False)
    assert [len(call.args[1]) for call in sent if call.script == "remain"] == [16 * TOGETHER]
    # So many buckets are asked for at most.
    for count, known in ((499, True), (500, False)):
        await client.zadd(keys.buckets(tag), {str(n): n for n in range(1, count + 1)})
        _, named = await run(ScriptCall("remain", tag, (store.bucket_ms, b"")))
        assert (named != b"-") == known
    await client.delete(keys.buckets(tag), keys.listing(tag))
    await without_lists(store)


async def test_a_label_that_too_many_tasks_have_is_scanned_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await built(store, "customer", "env")
    made = await submit(service, *(task(customer=str(n % 20), env="prod") for n in range(60)))
    await look_through(store)
    assert await label_index.usable(store, {"env": "prod"}) == "env"
    assert await label_index.usable(store, {"env": "prod", "customer": "3"}) == "customer", "that fewer tasks have"
    monkeypatch.setattr(label_index, "LOOKED_UP", 40)
    assert await label_index.usable(store, {"env": "prod"}) == ""
    assert await label_index.usable(store, {"customer": "3"}) == "customer"
    page = await service.list_tasks(TaskQuery(labels={"env": "prod"}), limit=100)
    assert page.scanned and {view.task_id for view in page.items} == set(made)


async def test_a_look_that_is_cut_off_leaves_everything_where_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a process did until it died: elements are exchanged in one step."""
    mine = await filled(await built(store, "customer"))
    run = store.runner.run

    async def dies(call: ScriptCall) -> Any:
        if call.script == "relist":
            raise StoreUnavailable("killed")
        return await run(call)

    for before in ((len(mine), 0), (0, len(mine))):
        assert await entries(store) == before
        with monkeypatch.context() as patched:
            patched.setattr(store.runner, "run", dies)
            for p in range(2):
                for number in range(-1, LISTS):
                    if await store.servers.ask("EXISTS", label_lists._key(store.tags[p], number)):
                        with pytest.raises(StoreUnavailable):
                            await label_lists.look(store, p, number, 100)
        assert await entries(store) == before
        assert await candidates(store) == Counter(mine)
        await look_through(store)


async def test_after_a_fail_over_nothing_is_taken_by_what_was_read_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that took over may have lost what the caller read, or ends of tasks by which it judged."""
    service = await built(store, "customer")
    mine = await filled(service)
    await service.cancel(mine[0])

    async def other(*_: object) -> bytes:
        return b"0" * 40

    with monkeypatch.context() as patched:
        patched.setattr(label_lists, "run_id", other)
        await look_through(store, every=True)
    assert await entries(store) == (len(mine), 0)
    await look_through(store, every=True)
    assert await entries(store) == (0, len(mine) - 1)


async def test_look_ups_find_each_task_once_while_lists_are_looked_through(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Counter(await filled(await built(store, "customer")))
    run = store.runner.run
    looks = 0

    async def between(call: ScriptCall) -> Any:
        nonlocal looks
        assert await candidates(store) == mine
        reply = await run(call)
        assert await candidates(store) == mine
        looks += call.script == "relist"
        return reply

    monkeypatch.setattr(store.runner, "run", between)
    for every in (False, True):
        await look_through(store, every=every)
    assert looks >= 6


async def test_pages_go_on_while_lists_are_looked_through(store: Store) -> None:
    service = await built(store, "customer")
    mine = await filled(service)
    shown: list[str] = []
    cursor = ""
    while True:
        page = await service.list_tasks(TaskQuery(labels=CUSTOMER), cursor=cursor, limit=7)
        assert not page.scanned
        shown += [view.task_id for view in page.items]
        # Another order each time: what is looked at goes to the end.
        await look_through(store, every=len(shown) % 2 == 0)
        mine += await filled(service, 1) if len(shown) == 7 else []
        cursor = page.cursor
        if not cursor:
            break
    assert len(shown) == len(set(shown)) and set(mine[:120]) <= set(shown)
    changed, cursor = 0, ""
    while True:
        some = await service.bulk.cancel(Selection(wanted=TaskQuery(labels=CUSTOMER), limit=9, cursor=cursor))
        changed, cursor = changed + some.changed, some.cursor
        await look_through(store)
        if not cursor:
            break
    assert changed == len(mine)
    await look_through(store, every=True)
    assert await entries(store) == (0, 0)


async def test_sets_of_earlier_commits_are_read_and_go_with_their_tasks(client: Redis, store: Store) -> None:
    """Nothing is converted: their records say that sets have them."""
    service = await built(store, "customer")
    before = await filled(service, 2)
    await into_sets(store, before, "customer")
    await without_lists(store)
    # Their records keep them out of lists, also where the walk begins anew.
    for tag in store.tags:
        await client.hdel(keys.clock(tag), "labels")
    labeller = Labeller(store, Ownership(store.partitions))
    while await labeller.step() < 1:
        pass
    new = await filled(service, 1)
    assert await entries(store) == (len(new), 0)
    assert await candidates(store) == Counter([*before, *new])
    await service.bulk.cancel_ids(before)
    assert not await client.exists(*(keys.label(tag, n) for tag in store.tags for n in range(SETS)))
    assert await candidates(store) == Counter(new)
