"""What one call of a script does at most: callers split what is more, and scripts take no more than they say."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from delaybox.core import ids
from delaybox.core.events import EventRules, StoredEvent
from delaybox.core.history import HistoryRules
from delaybox.core.limits import DEFAULT_PAYLOAD_BYTES
from delaybox.core.membership import Member
from delaybox.core.query import TaskQuery
from delaybox.core.queue import LiveRules, QueueRules
from delaybox.core.task import NewTask, OnConflict, TaskResult, TaskType
from delaybox.engine.kept_permits import KeptPermits
from delaybox.service import Selection, Service
from delaybox.service.export_store import Export
from delaybox.service.failures import FailureNotes
from delaybox.service.import_store import ImportStore
from delaybox.store import (
    fairness,
    groups,
    history,
    identity,
    keys,
    label_index,
    nodes,
    permits,
    quarantine,
    roster,
    rules,
    scrubbed,
    upcoming,
)
from delaybox.store.apart import Apart
from delaybox.store.by_id import Lookup
from delaybox.store.fsck import fsck
from delaybox.store.kafka import Span, Stream, ingest
from delaybox.store.label_entries import SETS, entry, place, places
from delaybox.store.leases import adopt
from delaybox.store.leftovers import promote
from delaybox.store.loader import ScriptCall
from delaybox.store.record import LABELS, draft, with_entry
from delaybox.store.resuming import resume
from delaybox.store.snooze import Snooze, snooze
from delaybox.store.states import states
from delaybox.store.store import Batch, Store, Verdict
from delaybox.store.writable import writable
from delaybox.wire import members
from delaybox.wire import result as wire_result
from delaybox.wire.encoded import encode
from delaybox.wire.exported import LONGEST, read_header
from tests.lab import Lab
from tests.labelled import into_sets

SCRIPTS = Path(__file__).parents[2] / "src/delaybox/store/scripts"
MANY = 1_200
ENDED = wire_result.encode(TaskResult(ok=True, finished_ms=1, output=b""))

HEADS = {
    "ack": (4, 1), "adopt": (4, 1), "cancel": (6, 1), "complete": (6, 3), "discard": (2, 1), "emit": (3, 2),
    "evict": (3, 1), "remember_failures": (4, 2), "extend": (1, 1), "fail": (6, 5), "keep": (1, 2),
    "ledger": (0, 3), "lose": (8, 1), "peek": (1, 1), "permits": (2, 5), "release": (5, 1), "replace": (5, 6),
    "replay": (2, 1), "reschedule": (6, 1), "restore": (2, 1), "resume": (2, 2), "rules": (3, 3), "snooze": (6, 6),
    "states": (2, 1), "sweep": (0, 2),
}  # fmt: skip
"""Arguments of a script before its items, and those of each item."""
COUNTED = {"schedule": 5, "ingest": 7}
"""Of others the argument that says how many items there are."""


def bound(script: str) -> int:
    """The number that a script's head says: the first one."""
    head = re.search(r"^-- BOUND (.*)", (SCRIPTS / f"{script}.lua").read_text(), re.MULTILINE)
    number = re.search(r"\d[\d,]*", head[1]) if head else None
    assert number is not None
    return int(number[0].replace(",", ""))


class Meter:
    """Notes how many items each call of a script has."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.items: dict[str, list[int]] = {}
        run, run_many = store.runner.run, store.runner.run_many

        async def one(call: ScriptCall) -> Any:
            self._note(call)
            return await run(call)

        async def many(calls: Sequence[ScriptCall]) -> Any:
            for call in calls:
                self._note(call)
            return await run_many(calls)

        monkeypatch.setattr(store.runner, "run", one)
        monkeypatch.setattr(store.runner, "run_many", many)

    def _note(self, call: ScriptCall) -> None:
        if call.script in HEADS:
            head, width = HEADS[call.script]
            count, rest = divmod(len(call.args) - head, width)
            assert not rest, call.script
        elif call.script in COUNTED:
            count = int(call.args[COUNTED[call.script]])
        else:
            # Of these an item has one id.
            count = sum(isinstance(arg, bytes) and len(arg) == 16 for arg in call.args)
        self.items.setdefault(call.script, []).append(count)


async def due(lab: Lab, count: int = MANY, **parts: Any) -> list[bytes]:
    found: list[bytes] = []
    for at in range(0, count, 400):
        found += await lab.add(*(NewTask(**parts) for _ in range(min(400, count - at))))
    return found


async def leased(lab: Lab, lease: bytes) -> list[bytes]:
    """Ids of very many tasks, of which this lease has some."""
    found = await due(lab)
    await lab.lease(lease)
    return found


async def dead(lab: Lab) -> None:
    await due(lab)
    while taken := list(await lab.lease(lease := os.urandom(20))):
        await lab.store.fail(0, lease, [Verdict(task_id, None, "no") for task_id in taken])


async def settle(lab: Lab, script: str) -> None:
    lease, s = os.urandom(20), lab.store
    found = await leased(lab, lease)
    match script:
        case "ack":
            await s.ack(0, lease, found)
        case "adopt":
            await adopt(s, 0, lease, os.urandom(20), found, lease_ms=15_000)
        case "complete":
            await s.complete(0, lease, [(task_id, 60_000, ENDED) for task_id in found])
        case "fail":
            await s.fail(0, lease, [(task_id, None, "no") for task_id in found])
        case "lose":
            await s.lose(0, lease, found, losses_cap=3)
        case "release":
            await s.release(0, lease, found)
        case "snooze":
            await snooze(s, 0, lease, [Snooze(task_id, 1_000, 60_000, "later") for task_id in found])


async def change(lab: Lab, script: str) -> None:
    service, all_ = Service(lab.store), Selection(wanted=TaskQuery())
    if script in ("cancel", "reschedule"):
        await due(lab, delay_ms=60_000)
    else:
        await dead(lab)
    match script:
        case "cancel":
            done = await service.bulk.cancel(all_)
        case "discard":
            done = await service.bulk.discard(all_)
        case "replay":
            done = await service.bulk.replay(all_)
        case _:
            done = await service.bulk.reschedule(all_, delay_ms=120_000)
    assert done.changed == MANY
    await service.close()


async def look(lab: Lab, script: str) -> None:
    found = await due(lab, delay_ms=60_000)
    if script == "states":
        await states(lab.store, found)
    elif script == "resume":
        await resume(lab.store, {0: [(task_id, lab.now + 60_000) for task_id in found]})
    elif script == "restore":
        await quarantine.restore(lab.store, found)
    elif script == "evict":
        await quarantine.evict(lab.store, found)
    else:
        finder = Lookup(lab.store)
        await asyncio.gather(*(finder.find(task_id) for task_id in found))


async def store(lab: Lab, script: str) -> None:
    service = Service(lab.store)
    if script == "schedule":
        await service.submit_many([NewTask(delay_ms=60_000)] * MANY)
    elif script == "replace":
        again = [NewTask(delay_ms=60_000, idempotency_key=f"k{n}", on_conflict=OnConflict.REPLACE) for n in range(250)]
        await service.submit_many(again)
    elif script == "ingest":
        new = [encode(NewTask(delay_ms=60_000)) for _ in range(500)]
        await ingest(lab.store, [Span(Stream("A" * 22, 0), 0, 500, list(range(500)), new, True)])
    else:
        await due(lab, delay_ms=3_600_000)
        await Export(lab.store, file := io.BytesIO()).run()
        await service.bulk.cancel(Selection(wanted=TaskQuery()))
        file.seek(0)
        done = await ImportStore(lab.store, file, "f", read_header(file.readline(LONGEST), "f")).run()
        assert done.stored == MANY
    await service.close()


async def note(lab: Lab, script: str) -> None:
    s = lab.store
    if script == "extend":
        await s.extend(0, [os.urandom(20) for _ in range(MANY)], 15_000)
    elif script == "remember_failures":
        found = await due(lab, 250, delay_ms=60_000)
        failures = FailureNotes(s, HistoryRules(), "n")
        failures._waiting = {0: [(task_id, b"0000\x90") for task_id in found]}
        lab.dirty = True  # these say nothing
        await s.runner.run_many(list(failures.calls()))
    elif script == "keep":
        live = LiveRules()
        kept = KeptPermits(s, live, lambda *_: None)
        tasks: Any = [SimpleNamespace(lane=b"wq:f", task_id=os.urandom(16), limit_keys=()) for _ in range(MANY)]
        await s.runner.run_many(kept._calls(0, tasks, 1_000))
    elif script == "permits":
        await s.runner.run_many(permits.visit_calls(s, 0, {b"cq%d" % n: None for n in range(450)}, lab.now))
    elif script == "ledger":
        lab.dirty = True
        await permits.swap(s, [(b"cq%d" % n, b"", b"\x80") for n in range(450)], Apart(lambda: [0]))
    elif script == "sweep":
        old = {f"m{n}": members.encode(Member(id=f"m{n}", seen_ms=1)) for n in range(1_100)}
        await lab.client.hset(keys.nodes(s.prefix), mapping=old)
        assert await nodes.forget(s, lab.now, 60_000) == 1_100
    elif script == "rules":
        await rules.begin(s, {f"q{n}": QueueRules(weight=2.0) for n in range(1_000)})
    elif script == "emit":
        # It has the runner of before the test's clock.
        s.events._runner, s.events.rules = s.runner, EventRules()
        s.events._waiting = [StoredEvent("scheduled", os.urandom(16), lab.now, b"p") for _ in range(5_000)]
        await s.events.flush()
    else:
        await due(lab, 250, delay_ms=10)
        await lab.expand()
        await lab.client.delete(*keys.nears(lab.tag))
        await fsck(s, repair=True)


ALL: dict[str, Callable[[Lab, str], Awaitable[None]]] = {
    **dict.fromkeys(("ack", "adopt", "complete", "fail", "lose", "release", "snooze"), settle),
    **dict.fromkeys(("cancel", "discard", "replay", "reschedule"), change),
    **dict.fromkeys(("evict", "peek", "restore", "resume", "states"), look),
    **dict.fromkeys(("import", "ingest", "replace", "schedule"), store),
    **dict.fromkeys(
        ("check", "emit", "extend", "keep", "ledger", "permits", "remember_failures", "rules", "sweep"), note
    ),
}


@pytest.mark.parametrize("script", sorted(ALL))
async def test_callers_split_what_is_more_than_a_script_takes(
    lab: Lab, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(lab.store, monkeypatch)
    await ALL[script](lab, script)
    monkeypatch.undo()
    assert max(meter.items[script]) == bound(script), meter.items[script]


async def test_scripts_that_walk_take_a_part_at_a_time(lab: Lab) -> None:
    """The server gives about as many as it is asked for."""
    found = await due(lab, 1_000, delay_ms=3_600_000, group="g", labels={"a": "b"}, type=TaskType.WORKER, name="f")
    await into_sets(lab.store, [ids.render(task_id) for task_id in found], "a")
    (number,) = await label_index.sets(lab.store, 0, 0, SETS)
    _, seen, dropped = await label_index.dangling(lab.store, 0, number, b"0", count=50)
    assert 50 <= seen <= 200 and dropped == 0
    _, seen, dropped = await groups.regroup(lab.store, 0, b"", count=50)
    assert (seen, dropped) == (50, 0)
    (numbered,) = [int(name.rpartition(b":")[2]) for name in await lab.names("b:*")]
    _, seen, _ = await lab.store.index(0, numbered, b"0", count=50)
    assert 50 <= seen <= 200
    await due(lab, 1_000)
    for _ in range(2):
        await lab.lease(os.urandom(20))
    _, dropped, added, _ = await lab.store.reindex(0, b"0", await lab.client.zrange(keys.leases(lab.tag), 0, -1))
    assert (dropped, added) == (0, 0)
    await lab.add(*(NewTask(fairness_key=f"k{n}", queue=f"q{n}", delay_ms=100) for n in range(400)))
    after, gone = await fairness.forget_lanes(lab.store, 0)
    assert gone == 0 and after is not None


async def test_what_becomes_ready_in_one_call_is_bounded(lab: Lab) -> None:
    await due(lab, 1_200, type=TaskType.WORKER, name="f")
    await lab.move(200)
    assert [(await promote(lab.store, 0, late_ms=100)).moved for _ in range(3)] == [500, 500, 200]


async def test_what_becomes_ready_in_one_call_is_of_a_bounded_number_of_lanes(lab: Lab) -> None:
    for n in range(150):
        await lab.add(NewTask(type=TaskType.WORKER, name="f", queue=f"q{n}"))
    await lab.move(200)
    found = [await promote(lab.store, 0, late_ms=100) for _ in range(3)]
    assert [(one.moved, one.more) for one in found] == [(64, True), (64, True), (22, False)]


async def test_a_forecast_of_very_many_minutes_goes_on_in_further_calls(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(0, 2_400, 400):
        await lab.add(*(NewTask(due_ms=lab.now + 100_000 + 1_000 * (at + n)) for n in range(400)))
    meter = Meter(lab.store, monkeypatch)
    first = (lab.now + 100_000) // 1_000
    sums = await lab.store.forecast(first, first + 2_400, 2_400)
    assert sum(sums.values()) == 2_400 and len(meter.items["forecast"]) == 2
    monkeypatch.undo()


async def test_a_change_of_a_task_takes_a_payload_up_to_its_limit(lab: Lab) -> None:
    service = Service(lab.store)
    (task_id,) = await due(lab, 1, delay_ms=60_000)
    view = await service.update(ids.render(task_id), payload=b"x" * DEFAULT_PAYLOAD_BYTES)
    assert len(view.payload) == DEFAULT_PAYLOAD_BYTES
    await service.close()


async def test_ends_that_are_old_go_some_at_a_time(lab: Lab) -> None:
    lab.dirty = True
    for n in range(60):
        for family in "sf":
            name = f"{family}{n}:0"
            await lab.client.zadd(keys.history_at(lab.tag, family), {name: n})
            await lab.client.hset(keys.history_hash(lab.tag, name.encode()), "c", "x")
    assert [await history.fade(lab.store, 0, HistoryRules()) for _ in range(3)] == [100, 20, 0]


async def test_a_look_ahead_counts_a_bounded_number_of_buckets(lab: Lab) -> None:
    for at in range(0, 800, 400):
        await lab.add(*(NewTask(due_ms=lab.now + 100_000 + 1_000 * (at + n)) for n in range(400)))
    found = await upcoming.upcoming(lab.store, 60_000, upcoming.MAX_STEPS)
    assert sum(found.steps) == 500, "those of the first 500 seconds"


async def test_constant_scripts_cost_the_same_in_a_store_of_any_size(lab: Lab) -> None:
    """By the commands that the server carries out."""
    s = lab.store

    async def cost() -> dict[str, int]:
        found: dict[str, int] = {}
        works: dict[str, Callable[[], Awaitable[object]]] = {
            "ping": s.look,
            "ready": lambda: writable(s, Apart(lambda: [0])),
            "hold": lambda: s.hold_role("role", "n", 1_000),
            "leave": lambda: roster.leave(s, "m0"),
            "expand": lambda: s.expand(0, lead_ms=1_000),
            "stamp": lambda: identity.mark(s.servers, s.prefix, s.presence.shape),
            "scrubbed": lambda: scrubbed.note(s, 0, b"run"),
            "create_store": lambda: Store.open(s.servers, prefix=s.prefix),
        }
        for name, work in works.items():
            await roster.beat(s, "m0", b"record")
            await work()
            await s.servers.ask("CONFIG", "RESETSTAT")
            await roster.beat(s, "m0", b"record")
            await work()
            stats: Any = await lab.client.info("commandstats")
            found[name] = sum(Counter({at: one["calls"] for at, one in stats.items()}).values())
        return found

    before = await cost()
    await due(lab, 2_000, delay_ms=3_600_000, group="g")
    for n in range(1, 50):
        await roster.beat(s, f"m{n}", b"record")
    after = await cost()
    # Where there is a next bucket, that is read.
    assert all(0 <= after[name] - before[name] <= 2 for name in before), (before, after)


@pytest.mark.parametrize("keyed", [False, True], ids=["labels alone", "keyed"])
async def test_the_labels_of_a_whole_call_may_lie_in_one_set(lab: Lab, *, keyed: bool) -> None:
    """A script passes on fewer than 8,000 values at once: the ack failed when the tasks had left their lease."""
    names = [f"n{i}" for i in range(16)]
    one_set = {name: next(v for v in map(str, range(10_000)) if place(name, v)[:2] == b"\0\0") for name in names}
    new = [
        draft(NewTask(type=TaskType.WORKER, name="f", labels=one_set, idempotency_key=f"k{i}" if keyed else None))
        for i in range(500)
    ]
    where = entry(names, one_set)
    for one in new:
        one.record = with_entry(one.record, LABELS, where)
    await lab.store.schedule([Batch(0, new)])
    tasks = await lab.lease(b"L")
    entries = keys.label(lab.tag, 0)
    await lab.client.sadd(entries, *(task_id + part[2:] for task_id in tasks for part in places(where)))
    assert (len(tasks), await lab.client.scard(entries)) == (500, 8_000)
    assert await lab.store.ack(0, b"L", list(tasks)) == []
    assert await lab.client.scard(entries) == 0
