"""The index of functions: each way in is indexed, and look-ups by a function do not scan."""

from __future__ import annotations

from delaybox.core import ids
from delaybox.core.query import TaskQuery
from delaybox.core.task import NewTask, OnConflict, TaskState, TaskType
from delaybox.service import Selection, Service
from delaybox.service.records import RecordService
from delaybox.store import keys
from delaybox.store.kafka import Span, Stream
from delaybox.store.store import Store
from delaybox.wire.encoded import encode
from tests.labelled import LEASE, built, store, submit

__all__ = ["store"]  # the fixture


def later(name: str, **options: object) -> NewTask:
    return NewTask(type=TaskType.WORKER, name=name, delay_ms=900_000, **options)  # type: ignore[arg-type]


async def found(service: Service, **wanted: object) -> list[str]:
    page = await service.list_tasks(TaskQuery(**wanted), limit=100)  # type: ignore[arg-type]
    assert not page.scanned and not page.cursor
    return sorted(view.task_id for view in page.items)


async def test_each_way_in_is_indexed_by_the_function(store: Store) -> None:
    before = await submit(Service(store), later("f"), later("f", labels={"customer": "7"}), later("g"))
    scans = await Service(store).list_tasks(TaskQuery(name="f"))
    assert scans.scanned and sorted(view.task_id for view in scans.items) == sorted(before[:2])
    service = await built(store, "customer", functions=True)
    mine = await submit(
        service,
        later("f"),
        later("f", labels={"customer": "7"}, priority=0),
        NewTask(type=TaskType.WORKER, name="f", due_ms=await store.ping() + 800_000),
        later("f", idempotency_key="k"),
        later("f", idempotency_key="k"),
        later("f", idempotency_key="r", on_conflict=OnConflict.REPLACE),
        later("other", labels={"customer": "7"}),
        NewTask(delay_ms=900_000),
    )
    one = await service.submit(NewTask(type=TaskType.SHELL_CMD, name="f", delay_ms=900_000))
    batch = await service.submit_batch([encode(later("f", payload=b"p")), encode(later("f", payload=bytes(5_000)))])
    records = RecordService(store)
    from_kafka = Span(Stream("A" * 22, 3), 0, 2, [0, 1], [encode(later("f")), encode(later("h"))], first=True)
    (ingested,) = await records.ingest([from_kafka])
    every = await found(service, name="f")
    assert len(every) == 2 + 5 + 1 + 2 + 1, (every, ingested)
    assert {*before[:2], *mine[:6], one.task_id, *(ids.render(a.task_id) for a in batch)} < set(every)  # type: ignore[union-attr]
    assert await found(service, name="f", labels={"customer": "7"}) == sorted((before[1], mine[1]))
    assert await found(service, labels={"customer": "7"}) == sorted((before[1], mine[1], mine[6]))
    assert len(await found(service, name="h")) == 1 and await found(service, name="nobody") == []
    assert len(await found(service, name="f", type=TaskType.SHELL_CMD)) == 1


async def test_changes_by_a_function_use_it_and_changed_tasks_stay(store: Store) -> None:
    service = await built(store, "customer", functions=True)
    mine = await submit(service, *(later("f") for _ in range(3)), later("g"))
    await service.update(mine[0], labels={"customer": "7"})
    await service.update(mine[0], payload=b"new")
    assert await found(service, name="f", labels={"customer": "7"}) == [mine[0]]
    await service.update(mine[0], labels={})
    looked = await service.bulk.cancel(Selection(wanted=TaskQuery(name="f"), dry_run=True))
    assert (looked.matched, looked.scanned) == (3, False)
    step = await service.bulk.cancel(Selection(wanted=TaskQuery(name="f"), limit=1))
    done = await service.bulk.cancel(Selection(wanted=TaskQuery(name="f"), cursor=step.cursor))
    assert (step.changed, done.changed, done.scanned) == (1, 2, False)
    assert await found(service, name="f") == [] and await found(service, name="g") == [mine[3]]
    await service.run_now(mine[3])
    claimed = [await store.claim(p, bytes([p]) * 20, LEASE) for p in range(2)]
    p = next(p for p in range(2) if claimed[p].leased)
    assert await found(service, name="g", state=TaskState.RUNNING) == [mine[3]]
    await store.ack(p, bytes([p]) * 20, [ids.parse(mine[3])])
    assert await found(service, name="g") == []


async def test_without_the_setting_a_task_has_no_entry(store: Store) -> None:
    service = Service(store)
    (task_id,) = await submit(service, later("f"))
    raw = ids.parse(task_id)
    key = keys.bucket(store.tags[ids.partition(raw)], ids.bucket(raw, store.bucket_ms))
    assert (await store.servers.ask("HGET", key, raw))[0] == 0x10
