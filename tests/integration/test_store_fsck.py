"""fsck finds each kind of damage, mends what can be mended without losing anything, and never cries wolf."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from delaybox.core import ids
from delaybox.core.history import HistoryRules
from delaybox.core.task import FailedAttempt, NewTask, Priority
from delaybox.store import failures, keys, label_entries, label_index
from delaybox.store.fsck import fsck
from delaybox.store.fsck_kinds import KINDS
from delaybox.store.record import draft
from delaybox.store.servers import Servers
from delaybox.store.store import Batch, ClaimLimits, Store
from tests import labelled
from tests.lab import Lab
from tests.waiting import until_async

HOUR = 3_600_000
MENDABLE = {"label-missing", "label-dangling",
    "leased-not-indexed",
    "leased-dangling",
    "no-hint", "late-hint", "bucket-not-listed", "bucket-empty", "lease-without-expiry", "expiry-without-lease",
    "dead-without-time", "time-without-dead", "quarantine-without-time", "time-without-quarantine", "key-expires",
    "key-orphan", "result-without-time", "time-without-result", "group-missing", "group-dangling",
}  # fmt: skip


class Full:
    """A store with one task of every sort."""

    leased: bytes
    dead: bytes
    sour: bytes
    soon: bytes
    large: bytes
    keyed: bytes
    far: bytes
    moved: bytes
    moved_to: int
    ready: bytes
    urgent: bytes
    grouped: bytes

    def __init__(self, lab: Lab) -> None:
        self.lab, self.tag, self.client = lab, lab.tag, lab.client

    @classmethod
    async def make(cls, lab: Lab) -> Full:
        self = cls(lab)
        self.leased, self.dead, self.sour = await lab.add(NewTask(idempotency_key="leased"), NewTask(), NewTask())
        await lab.lease(b"L")
        await lab.store.fail(0, b"L", [(self.dead, None, "no")])
        await lab.client.hset(keys.lease(lab.tag, b"L"), self.sour, b"\x01bad")
        await lab.store.release(0, b"L", [])
        await lab.client.hdel(keys.lease(lab.tag, b"L"), self.sour)
        await lab.client.hdel(keys.leased(lab.tag), self.sour)
        await lab.client.hset(f"{lab.tag}:quarantine", self.sour, b"\x01bad")
        await lab.client.zadd(f"{lab.tag}:quarantine:at", {self.sour: lab.now})
        self.soon, self.large, self.keyed = await lab.add(
            NewTask(delay_ms=20_000, labels={"customer": "7"}), NewTask(delay_ms=20_000, payload=bytes(3_000)),
            NewTask(delay_ms=20_000, idempotency_key="k"),
        )  # fmt: skip
        self.far, self.moved = await lab.add(NewTask(delay_ms=HOUR), NewTask(delay_ms=3 * HOUR))
        self.moved_to = lab.now + 2 * HOUR
        await lab.store.reschedule(self.moved, due_ms=self.moved_to)
        self.ready, self.urgent = await lab.add(NewTask(), NewTask(priority=Priority.CRITICAL))
        (self.grouped,) = await lab.add(NewTask(delay_ms=HOUR, group="g"))
        await lab.expand()
        await lab.claim(slots=0)
        return self

    def bucket(self, task_id: bytes) -> str:
        return keys.bucket(self.tag, ids.due_ms(task_id) // 1_000)

    async def raw(self, task_id: bytes) -> bytes:
        found: bytes = await self.client.hget(self.bucket(task_id), task_id)
        return found


async def lose_near(f: Full) -> None:
    await f.client.zrem(keys.near(f.tag, 2), f.soon + b"p")


async def late_near(f: Full) -> None:
    await f.client.zadd(keys.near(f.tag, 2), {f.soon + b"p": f.lab.now + 20_001})


async def wrong_priority_near(f: Full) -> None:
    await f.client.zrem(keys.near(f.tag, 2), f.soon + b"p")
    await f.client.zadd(keys.near(f.tag, 1), {f.soon + b"p": f.lab.now + 20_000})


async def lose_pointer(f: Full) -> None:
    n = f.moved_to // 1_000
    await f.client.hdel(keys.bucket(f.tag, n), f.moved)
    await f.client.zrem(keys.buckets(f.tag), n)


async def lose_ready(f: Full) -> None:
    await f.client.zrem(f"{f.tag}:ready:p", f.ready)


async def lose_active(f: Full) -> None:
    await f.client.delete(f"{f.tag}:active:p:critical")


async def two_places_lease(f: Full) -> None:
    await f.client.hset(keys.lease(f.tag, b"L"), f.soon, await f.raw(f.soon))


async def two_places_dead(f: Full) -> None:
    await f.client.hset(keys.dead(f.tag), f.soon, bytes(10) + await f.raw(f.soon))
    await f.client.zadd(keys.dead_at(f.tag), {f.soon: 1})


async def two_places_hidden_lease(f: Full) -> None:
    await f.client.hset(keys.lease(f.tag, b"hidden"), f.soon, await f.raw(f.soon))


async def wrong_bucket(f: Full) -> None:
    await f.client.hset(f.bucket(f.far), f.soon, await f.raw(f.soon))
    await f.client.hdel(f.bucket(f.soon), f.soon)
    await f.client.zrem(keys.near(f.tag, 2), f.soon + b"p")


async def wrong_partition(f: Full) -> None:
    stray = f.far[:6] + ids.tails(7, os.urandom(8))[0]
    await f.client.hset(f.bucket(f.far), stray, await f.raw(f.far))


async def unreadable(f: Full) -> None:
    await f.client.hset(f.bucket(f.soon), f.soon, b"\x03?")


async def unreadable_leased(f: Full) -> None:
    await f.client.hset(keys.lease(f.tag, b"L"), f.leased, b"")


async def dangling(f: Full) -> None:
    n = int(await f.client.hget(keys.clock(f.tag), "expanded")) - 1
    await f.client.hset(keys.bucket(f.tag, n), f.far[:10] + bytes(6), b"")
    await f.client.zadd(keys.buckets(f.tag), {str(n): n})


async def unlisted(f: Full) -> None:
    await f.client.zrem(keys.buckets(f.tag), ids.due_ms(f.far) // 1_000)


async def listed_empty(f: Full) -> None:
    await f.client.zadd(keys.buckets(f.tag), {"99": 99})


async def leased_unindexed(full: Full) -> None:
    await full.client.hdel(keys.leased(full.tag), full.leased)


async def leased_dangling(full: Full) -> None:
    await full.client.hset(keys.leased(full.tag), full.soon, b"L")


async def no_expiry(f: Full) -> None:
    await f.client.zrem(keys.leases(f.tag), b"L")


async def no_lease(f: Full) -> None:
    await f.client.zadd(keys.leases(f.tag), {b"M": f.lab.now})


async def dead_no_time(f: Full) -> None:
    await f.client.zrem(keys.dead_at(f.tag), f.dead)


async def time_no_dead(f: Full) -> None:
    await f.client.zadd(keys.dead_at(f.tag), {f.soon: 1})


async def quarantine_no_time(f: Full) -> None:
    await f.client.zrem(f"{f.tag}:quarantine:at", f.sour)


async def time_no_quarantine(f: Full) -> None:
    await f.client.zadd(f"{f.tag}:quarantine:at", {f.soon: 1})


async def result_no_time(f: Full) -> None:
    await f.client.hset(keys.results(f.tag), f.soon, bytes(4))


async def time_no_result(f: Full) -> None:
    await f.client.zadd(keys.results_at(f.tag), {f.soon: 1})


async def key_gone(f: Full) -> None:
    await f.client.delete(f"{f.tag}:idem:k")


async def key_of_another(f: Full) -> None:
    await f.client.set(f"{f.tag}:idem:leased", f.soon + bytes(8))


async def key_expires(f: Full) -> None:
    await f.client.expire(f"{f.tag}:idem:leased", 100)


async def key_orphan(f: Full) -> None:
    await f.client.set(f"{f.tag}:idem:nobody", os.urandom(24))


async def body_gone(f: Full) -> None:
    await f.client.delete(keys.body(f.tag, f.large))


async def body_orphan(f: Full) -> None:
    await f.client.set(keys.body(f.tag, f.soon[:10] + bytes(6)), b"?")


async def body_of_small(f: Full) -> None:
    await f.client.set(keys.body(f.tag, f.soon), b"?")


async def group_missing(f: Full) -> None:
    await f.client.zrem(keys.groups(f.tag), b"g\0" + f.grouped)


async def group_of_nobody(f: Full) -> None:
    await f.client.zadd(keys.groups(f.tag), {b"g\0" + f.soon[:10] + bytes(6): 0})


async def group_of_another(f: Full) -> None:
    await f.client.zadd(keys.groups(f.tag), {b"h\0" + f.grouped: 0, b"g\0" + f.leased: 0})


async def watermark_wrong(f: Full) -> None:
    await f.client.hset(keys.kafka(f.tag), "topic/0", "far")


async def watermark_of_nothing(f: Full) -> None:
    await f.client.hset(keys.kafka(f.tag), "topic", "5")


async def label_gone(f: Full) -> None:
    await labelled.into_sets(f.lab.store, [ids.render(f.soon)], "customer")
    await f.client.delete(keys.label(f.tag, int.from_bytes(label_entries.place("customer", "7")[:2], "big")))


async def label_not_listed(f: Full) -> None:
    await label_index.completed(f.lab.store, 0, ("customer",))
    await f.client.rpush(keys.listed(f.tag, 0), bytes(4) + f.soon)


async def label_of_nothing(f: Full) -> None:
    await f.client.sadd(keys.label(f.tag, 5), f.soon[:10] + bytes(10))


async def history_unlisted(f: Full) -> None:
    await f.client.hset(keys.history_hash(f.tag, b"s1:0"), f.soon, b"?")


async def events_miscounted(f: Full) -> None:
    await f.client.hincrby(keys.events_sums(f.tag), "events", 3)


async def history_miscounted(f: Full) -> None:
    await f.client.hincrby(keys.history(f.tag), "entries:s", 3)


async def explained(f: Full) -> None:
    why = FailedAttempt(attempt=1, fired_ms=1, failed_ms=2, reason="it broke")
    call = failures.remember_call(f.lab.store, 0, HistoryRules(), [(f.soon, failures.failure(1, why))])
    await f.lab.store.runner.run(call)


async def failures_unlisted(f: Full) -> None:
    await explained(f)
    await f.client.zrem(keys.failures_at(f.tag), f.soon)


async def failures_miscounted(f: Full) -> None:
    await explained(f)
    await f.client.incrby(keys.failures_bytes(f.tag), 3)


DAMAGE: list[tuple[Callable[[Full], Awaitable[None]], list[str]]] = [
    (lose_near, ["no-hint"]),
    (late_near, ["late-hint"]),
    (wrong_priority_near, ["no-hint"]),
    (lose_pointer, ["no-hint"]),
    (lose_ready, ["no-hint"]),
    (lose_active, ["no-hint"]),
    (two_places_lease, ["two-places"]),
    (two_places_dead, ["two-places"]),
    (two_places_hidden_lease, ["lease-without-expiry", "two-places"]),
    (wrong_bucket, ["wrong-bucket"]),
    (wrong_partition, ["wrong-partition"]),
    (unreadable, ["unreadable"]),
    (unreadable_leased, ["unreadable"]),
    (dangling, ["pointer-dangling"]),
    (unlisted, ["bucket-not-listed"]),
    (listed_empty, ["bucket-empty"]),
    (no_expiry, ["lease-without-expiry"]),
    (leased_unindexed, ["leased-not-indexed"]),
    (leased_dangling, ["leased-dangling"]),
    (no_lease, ["expiry-without-lease"]),
    (dead_no_time, ["dead-without-time"]),
    (time_no_dead, ["time-without-dead"]),
    (quarantine_no_time, ["quarantine-without-time"]),
    (time_no_quarantine, ["time-without-quarantine"]),
    (result_no_time, ["result-without-time"]),
    (time_no_result, ["time-without-result"]),
    (key_gone, ["key-missing"]),
    (key_of_another, ["key-missing", "key-wrong"]),
    (key_expires, ["key-expires"]),
    (key_orphan, ["key-orphan"]),
    (body_gone, ["body-missing"]),
    (body_orphan, ["body-orphan"]),
    (body_of_small, ["body-orphan"]),
    (group_missing, ["group-missing"]),
    (group_of_nobody, ["group-dangling"]),
    (group_of_another, ["group-dangling", "group-dangling"]),
    (watermark_wrong, ["watermark-wrong"]),
    (watermark_of_nothing, ["watermark-wrong"]),
    (label_gone, ["label-missing"]),
    (label_not_listed, ["label-missing"]),
    (label_of_nothing, ["label-dangling"]),
    (history_unlisted, ["history-not-listed"]),
    (history_miscounted, ["history-not-counted"]),
    (events_miscounted, ["events-not-counted"]),
    (failures_unlisted, ["failures-not-listed"]),
    (failures_miscounted, ["failures-not-counted"]),
]


def test_every_kind_is_damaged_here() -> None:
    permits = {"permit-missing", "permit-stray", "permits-over"}
    known = {kind for _, kinds in DAMAGE for kind in kinds} | permits | {"fair-orphan", "key-not-held"}
    assert known == KINDS.keys(), "test_store_permits, test_store_key_limits and test_fairness have the others"


@pytest.mark.parametrize(("damage", "kinds"), DAMAGE, ids=[d.__name__ for d, _ in DAMAGE])
async def test_damage_is_found_and_mended_without_loss(
    lab: Lab, damage: Callable[[Full], Awaitable[None]], kinds: list[str]
) -> None:
    lab.dirty = True
    full = await Full.make(lab)
    assert await lab.problems() == []
    await damage(full)
    before = await everything(lab)
    assert await lab.kinds() == kinds
    assert await everything(lab) == before, "a look changes nothing"

    report = await fsck(lab.store, repair=True)
    assert sorted(p.partition(":")[0] for p in report.problems) == kinds, "the report says what was found"
    assert await lab.kinds() == [k for k in kinds if k not in MENDABLE]
    after = await everything(lab)
    for name, value in before.items():
        if b":b:" in name or b":lease:" in name or b":body:" in name or name.endswith((b":dead", b":quarantine")):
            assert after.get(name) == value, f"repair must not touch {name!r}"


async def everything(lab: Lab) -> dict[bytes, bytes]:
    return {name: await lab.client.dump(name) for name in await lab.names("*")}


async def test_a_clean_store_is_counted(lab: Lab) -> None:
    await Full.make(lab)
    report = await fsck(lab.store)
    assert report.problems == []
    assert {k: report.counts[k] for k in ("pending", "in flight", "dead", "quarantined", "pointers", "bodies")} == {
        "pending": 8, "in flight": 1, "dead": 1, "quarantined": 1, "pointers": 1, "bodies": 1,
    }  # fmt: skip
    assert report.counts["keys of live tasks"] == 2


async def test_a_newer_record_is_no_problem(lab: Lab) -> None:
    (task_id,) = await lab.add(NewTask(delay_ms=1_000))
    await lab.client.hset(keys.bucket(lab.tag, ids.due_ms(task_id) // 1_000), task_id, b"\x30?")
    report = await fsck(lab.store)
    assert report.problems == [] and report.counts["of a newer format"] == 1


async def test_a_store_at_work_gives_no_false_alarm(client: Redis, prefix: str) -> None:
    """Everything moves while fsck looks: schedule, claim, ack, fail, release, reap, expand, reschedule, cancel."""
    store = await Store.open(Servers(client), prefix=prefix, partitions=2, bucket_ms=100)
    stop = asyncio.Event()
    pending: list[bytes] = []
    looks = 0

    async def produce(rng: random.Random) -> None:
        n = 0
        while not stop.is_set():
            await asyncio.sleep(0.005)
            if n > 200 * (looks + 1):
                continue  # on a busy machine each look would find more than the one before, and take longer
            p, new = rng.randrange(2), []
            for _ in range(5):
                n += 1
                key = f"{rng.random()}" if n % 3 == 0 else None
                key = key if key is None or store.partition_of(key.encode()) == p else None
                size = 2_000 if n % 7 == 0 else 10
                new.append(NewTask(payload=bytes(size), delay_ms=rng.randrange(2_000), idempotency_key=key))
            answers = (await store.schedule([Batch(p, [draft(t) for t in new])]))[0]
            assert not isinstance(answers, BaseException)
            pending.extend(a.task_id for a in answers[::5])

    async def consume(rng: random.Random) -> None:
        while not stop.is_set():
            await asyncio.sleep(0.002)  # what moves must leave fsck its share of the server
            p, lease_id = rng.randrange(2), os.urandom(16)
            limits = ClaimLimits(slots=rng.randrange(20), types="pshw", lease_ms=50)
            got = (await store.claim(p, lease_id, limits)).leased[0::2]
            parts = got[0::4], got[1::4], got[2::4]
            if parts[0]:
                await store.ack(p, lease_id, parts[0])
            if parts[1]:
                await store.fail(p, lease_id, [(i, rng.choice([0, 1_000, None]), "no") for i in parts[1]])
            if parts[2]:
                await store.release(p, lease_id, parts[2])
            await store.reap(p, lease_ms=50, losses_cap=3)

    async def control(rng: random.Random) -> None:
        while not stop.is_set():
            await asyncio.sleep(0.002)
            if pending:
                task_id = pending.pop(rng.randrange(len(pending)))
                await store.reschedule(task_id, delay_ms=rng.randrange(3_000), priority=rng.choice([None, 0, 1]))
                await store.cancel([rng.choice([task_id, pending[0] if pending else task_id])])
            p = rng.randrange(2)
            look = await store.expand(p, lead_ms=200)
            if look.bucket >= 0:
                await store.index(p, look.bucket, b"0", count=10_000)
                await store.expand(p, lead_ms=200, done=look.bucket)

    work = [asyncio.create_task(job(random.Random(i))) for i, job in enumerate((produce, consume, consume, control))]
    twice = 0

    async def look() -> bool:
        nonlocal looks, twice
        report = await fsck(store)
        looks += 1
        assert report.problems == []
        twice += report.counts["looked at twice"]
        assert not [t for t in work if t.done()]
        return looks >= 15 and twice > 0

    try:
        # Whether something moves in the middle of one look is luck, so it looks until it was so at least once.
        await until_async(look, lambda: f"nothing moved in {looks} looks: the test proves nothing")
    finally:
        stop.set()
        await asyncio.gather(*work)
    assert (await fsck(store)).problems == []


async def test_of_very_many_problems_some_are_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delaybox.store.fsck.MOST_NAMED", 3)
    await lab.add(*(NewTask(delay_ms=10) for _ in range(10)))
    await lab.expand()
    await lab.client.delete(*keys.nears(lab.tag))
    report = await fsck(lab.store)
    assert {problem.partition(":")[0] for problem in report.problems} == {"no-hint"}
    assert (len(report.problems), report.counts["problems that are not named"]) == (3, 7)
    await fsck(lab.store, repair=True)
    assert (await fsck(lab.store)).problems == [], "all of them are mended"
