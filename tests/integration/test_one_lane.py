"""A claim of one limited lane with a backlog takes a way of its own (lib/one_lane.lua). It does what all others do."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core.lane import lane_of
from delaybox.core.limit_keys import KeyLimit
from delaybox.core.queue import QueueRules
from delaybox.core.queue_limits import rate_of
from delaybox.core.task import NewTask, Priority, TaskType, UniqueWhile
from delaybox.service.rules import Rules
from delaybox.store import keys
from delaybox.store.replies import ClaimLimits
from tests.integration.test_store_permits import SEND, Bench, call
from tests.lab import CLOCK_KEY, Lab, leased
from tests.ways import ANOTHER, LEASE, both, claim_by, content, ways

OTHER = lane_of(TaskType.WORKER, "other", "send")
TAKES = ClaimLimits(slots=100, types="w", guest=True, lanes=(SEND, OTHER))
SECOND = {"rate": rate_of("1/s")}


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab)


async def run(lab: Lab, source: str, limits: ClaimLimits = TAKES) -> Any:
    return await claim_by(lab, source, limits)


async def same(lab: Lab, limits: ClaimLimits = TAKES) -> int:
    """Both ways answer and store the same. How many tasks they take; what the usual claim did stays."""
    return len((await both(lab, ways("lib/one_lane.lua"), limits))[2]) // 2


async def held(bench: Bench, *tasks: NewTask, **limits: Any) -> None:
    """As many of these run as may, and the others wait."""
    await bench.set(**limits)
    await bench.lab.add(*(tasks or [call() for _ in range(12)]))
    assert await bench.claim(guest=True, lanes=(SEND, OTHER))


@pytest.mark.parametrize("critical", [False, True])
@pytest.mark.parametrize(
    ("limits", "takes"),
    [
        (SECOND, 1),
        ({"rate": rate_of("4/s")}, 4),
        ({"rate": rate_of("4/s"), "burst": 2}, 2),
        ({"rate": rate_of("2/s"), "concurrency": 5}, 2),
    ],
)
async def test_where_time_frees_permits(bench: Bench, limits: dict[str, Any], takes: int, critical: bool) -> None:
    lab = bench.lab
    await held(bench, *(call(priority=Priority(0 if critical else 2)) for _ in range(12)), **limits)
    await lab.move(1_001)
    assert await same(lab) == takes
    assert await lab.problems() == []


@pytest.mark.parametrize("rate", [None, rate_of("5/s")])
async def test_where_an_end_frees_permits(bench: Bench, rate: Any) -> None:
    """The lane is active then."""
    lab = bench.lab
    await held(bench, concurrency=2, rate=rate)
    first = await lab.client.hgetall(keys.leased(lab.tag))
    (task_id, lease), *_ = first.items()
    await lab.store.ack(0, lease, [task_id])
    assert await same(lab) == 1
    assert await bench.used() == 2 and await lab.problems() == []


async def test_what_its_records_hold_is_kept(bench: Bench) -> None:
    """A key, a body that lies apart, a task that was tried before."""
    lab = bench.lab
    kinds = [call(idempotency_key="k"), call(payload=bytes(5_000)), call(idempotency_key="l", payload=bytes(5_000))]
    await held(bench, *kinds, *(call() for _ in range(9)), rate=rate_of("3/s"))
    tried = leased(await lab.claim(LEASE))
    assert tried == {}
    (lease,) = set((await lab.client.hgetall(keys.leased(lab.tag))).values())
    back = await lab.client.hkeys(keys.leased(lab.tag))
    assert len(back) == 3
    await lab.store.fail(0, lease, [(task_id, 0, "again") for task_id in back])
    await lab.claim(types="w")
    await lab.move(1_001)
    assert await same(lab) == 3
    await lab.move(1_001)
    assert await same(lab, TAKES) == 3
    assert await lab.problems() == []


async def test_other_queues_and_times_are_told(bench: Bench) -> None:
    """When to look next is the earliest of what is due in near, what is held, and what stands apart."""
    lab = bench.lab
    await held(bench, **SECOND)
    await lab.add(call("other", delay_ms=1_500))
    await lab.move(1_001)
    assert await same(lab) == 1
    await lab.move(499)
    assert len(leased(await lab.claim(types="w"))) == 1
    await Rules(lab.store).set("other", QueueRules(concurrency=1))
    await lab.add(call("other"))
    await lab.claim(types="w")
    await lab.client.zadd(keys.held(lab.tag), {b"other": lab.now + 700})
    await lab.move(503)
    assert await same(lab) == 1


@pytest.mark.parametrize(
    "why",
    [
        "another task is due", "another lane", "a group", "a lock", "a fairness key", "not served", "paused",
        "few slots", "few wait", "limits by key", "fresh alone", "a plan", "fires in place", "the first has gone",
    ],
)  # fmt: skip
async def test_all_else_goes_the_way_of_all_others(bench: Bench, why: str) -> None:
    lab, limits = bench.lab, TAKES
    odd: dict[str, dict[str, Any]] = {
        "a group": {"group": "g"}, "a lock": {"idempotency_key": "k", "unique_while": UniqueWhile.PENDING},
        "a fairness key": {"fairness_key": "f"}, "limits by key": {"labels": {"c": "x"}},
    }  # fmt: skip
    by_key = (KeyLimit(by="label:c", rate=rate_of("1/s")),) if why == "limits by key" else ()
    tasks = [call(), *(call(**odd.get(why, {})) for _ in range(1 if why == "few wait" else 5))]
    await held(bench, *tasks, **SECOND, keys=by_key or None)
    if why == "another lane":
        await lab.add(NewTask(type=TaskType.WORKER, queue="mail", name="other"))
        await lab.claim(types="w")
    elif why == "paused":
        await lab.client.hset(keys.clock(lab.tag), "steered", 1)
        await Rules(lab.store).set("mail", QueueRules(paused=True))
    elif why == "the first has gone":
        (first,) = (await lab.ready(SEND.decode()))[:1]
        await lab.client.hdel(keys.bucket(lab.tag, lab.now // 1_000), first)
    await lab.move(1_001)
    if why == "another task is due":
        await lab.add(call("other"))
    changes: dict[str, dict[str, Any]] = {
        "not served": {"lanes": (OTHER,)}, "few slots": {"slots": 1}, "fresh alone": {"fresh_ms": 500},
        "a plan": {"plan": b"s"}, "fires in place": {"channel": "c"},
    }  # fmt: skip
    limits = ClaimLimits(**{"slots": 100, "types": "w", "guest": True, "lanes": (SEND, OTHER), **changes.get(why, {})})
    this, other = ways("lib/one_lane.lua")
    before = await content(lab)
    assert await run(lab, this, limits) == ANOTHER
    assert await content(lab) == before, "and nothing was written before"
    await run(lab, other, limits)
    assert CLOCK_KEY.encode() in before
    lab.dirty = why == "the first has gone"
