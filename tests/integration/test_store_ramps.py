"""What waited during a pause begins at the queue's resume rate, in its order, and then the queue goes at full speed."""

from __future__ import annotations

from typing import Any

import pytest

from delaybox.core.errors import PartAway
from delaybox.core.lane import lane_of
from delaybox.core.limit_keys import KeyLimit
from delaybox.core.membership import Activity, ConnectedWorker, Member
from delaybox.core.needs import WorkerNeeds
from delaybox.core.queue import LiveRules, QueueRules, Ramp
from delaybox.core.queue_limits import Rate, rate_of
from delaybox.core.task import NewTask, Priority, TaskType
from delaybox.engine.clock_estimate import Clocks
from delaybox.engine.ownership import Ownership
from delaybox.engine.permit_dealer import PermitDealer
from delaybox.engine.rules import RuleReader
from delaybox.service.rules import Rules
from delaybox.store import keys, nodes, ramps, rules
from tests.lab import Lab, leased

TWO = rate_of("2/s")


def call(queue: str = "mail", **parts: Any) -> NewTask:
    return NewTask(type=TaskType.WORKER, queue=queue, name="send", **parts)


class Bench:
    """A lab, with a time keeper that brings permits and ends ramps."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.service = Rules(lab.store)
        self.live = LiveRules()
        ownership = Ownership(lab.store.partitions)
        ownership.assign(frozenset({0}), frozenset())
        self._dealer = PermitDealer(lab.store, self.live, ownership, Clocks(), keeps=True)
        self._reader = RuleReader(lab.store, self.live, ownership, keeps=True)

    async def look(self) -> None:
        """What a time keeper does about rules within a second."""
        for _ in range(3):
            await self._reader.step()

    async def set(
        self, queue: str = "mail", *, clear: tuple[str, ...] = (), whole: bool = False, **changes: Any
    ) -> Any:
        shown = await self.service.set(queue, QueueRules(**changes), clear=clear, whole=whole)
        await self.look()
        return shown

    async def ramp(self, queue: str = "mail") -> Ramp | None:
        return (await self.service.of(queue)).effect.ramp

    async def claim(self, **limits: Any) -> list[bytes]:
        """What claims take now, once permits were brought to where work waits."""
        took: list[bytes] = []
        for _ in range(6):
            claimed = await self.lab.claim(**{"types": "w", **limits})
            took += leased(claimed)
            pools = [pool.name for name in claimed.waits for pool in self._dealer._rules_of(name).pools_of(name)]
            if pools:
                await self._dealer._settle({0: dict.fromkeys(pools)}, [])
        return took


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab)


async def test_it_begins_in_order_at_its_rate_and_then_all_at_once(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(paused=True, resume_rate=TWO)
    high, critical, *normal = await lab.add(
        call(priority=Priority.HIGH), call(priority=Priority.CRITICAL), *(call(delay_ms=n) for n in range(1, 4))
    )
    await lab.move(60_000)
    assert await bench.claim() == []
    shown = await bench.set(paused=False)
    assert shown.effect.ramp == Ramp(lab.now, lab.now + 2_500)
    late = await lab.add(*(call(delay_ms=n) for n in range(1, 4)))
    order = [critical, high, *normal]
    assert await bench.claim() == order[:2]
    why = (
        "waits: what waited during the pause of queue 'mail' begins at 2/s, until about 2027-01-15T08:01:02.500Z; the "
    )
    assert (await bench.service.of("mail")).waits.startswith(why)
    await lab.move(999)
    assert await bench.claim() == []
    await lab.move(2)
    assert await bench.claim() == order[2:4]
    await lab.move(1_001)
    assert await bench.claim() == [order[4], late[0]], "what came due meanwhile waits behind it"
    await bench.look()
    assert await bench.ramp() is not None
    await lab.move(499)
    await bench.look()
    assert await bench.ramp() is not None, "two are left that may have waited as well, by their slack"
    await lab.move(1_000)
    assert await bench.claim() == late[1:]
    await bench.look()
    assert await bench.ramp() is None
    assert (await bench.service.of("mail")).own == QueueRules(paused=False, resume_rate=TWO)
    many = await lab.add(*(call() for _ in range(50)))
    assert set(await bench.claim()) == set(many)
    await bench.service.unset("mail")
    assert await lab.problems() == []


async def test_it_takes_longer_while_nobody_takes_it_and_ends_however_fast_others_come(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(paused=True, resume_rate=TWO)
    held = await lab.add(*(call() for _ in range(4)))
    await lab.claim(types="w")
    await bench.set(paused=False)
    await lab.move(10_000)
    await bench.look()
    assert await bench.ramp() == Ramp(lab.now - 10_000, lab.now + 2_000), "no worker was there"
    took: list[bytes] = []
    for _ in range(8):
        await lab.add(*(call() for _ in range(10)))
        took += await bench.claim()
        await lab.move(1_001)
    assert set(held) <= set(took) and len(took) == 16, "as many as before come due a second, and more"
    # Behind the slack of the queue no task counts for one that waited.
    await lab.move(60_000)
    await bench.claim()
    for _ in range(60):
        await lab.add(*(call() for _ in range(3)))
        if await bench.ramp() is None:
            break
        await bench.claim()
        await lab.move(1_001)
        await bench.look()
    else:
        raise AssertionError("it never ends")


async def test_another_rate_another_pause_and_none(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(paused=True, resume_rate=TWO)
    await lab.add(*(call() for _ in range(60)))
    await lab.claim(types="w")
    assert await bench.ramp() is None
    await bench.set(paused=False)
    assert await bench.ramp() == Ramp(lab.now, lab.now + 30_000)
    began = lab.now
    await lab.move(1_000)
    await bench.set(paused=False, timeout_ms=5_000)
    assert await bench.ramp() == Ramp(began, began + 30_000), "it goes on whatever else is set"
    await bench.set(resume_rate=rate_of("60/m"))
    assert await bench.ramp() == Ramp(began, lab.now + 60_000)
    await bench.set(rate=rate_of("1/m"))
    assert (await bench.service.of("mail")).effect.pace == Rate(1, 60_000), "the slower one of the two holds"
    await bench.set(clear=("rate", "resume_rate"))
    assert await bench.ramp() is None and len(await bench.claim()) == 60
    await bench.set(paused=True, resume_rate=TWO, whole=True)
    await lab.add(call(), call())
    await lab.claim(types="w")
    await bench.set(paused=False)
    assert await bench.ramp() is not None
    await bench.set(paused=True)
    assert await bench.ramp() is None
    # All rules go, the pause among them: nothing is left by which it could be let go.
    await bench.set(whole=True)
    assert await bench.ramp() is None and len(await bench.claim()) == 2
    await bench.set(paused=True, resume_rate=TWO)
    await bench.set(paused=False)
    assert await bench.ramp() is None, "nothing waited"


async def test_of_all_queues_those_that_were_held_are_let_go_at_the_rate(bench: Bench) -> None:
    lab = bench.lab
    await bench.set("*", paused=True, resume_rate=TWO)
    await bench.set("vip", paused=False)
    await bench.set("slow", resume_rate=rate_of("1/s"))
    await bench.set("off", paused=True)
    mail = await lab.add(*(call() for _ in range(6)))
    slow = await lab.add(*(call("slow") for _ in range(5)))
    off = await lab.add(*(call("off") for _ in range(100)))
    assert await bench.claim() == []
    await bench.set("*", paused=False)
    assert await bench.ramp("*") == Ramp(lab.now, lab.now + 5_000), "as long as any of them needs"
    vip = await lab.add(*(call("vip") for _ in range(20)))
    got = set(await bench.claim())
    assert (len(got & set(mail)), len(got & set(slow)), set(vip) <= got, len(got)) == (2, 1, True, 23)
    assert await bench.ramp("vip") is None
    copied = await lab.client.hget(keys.steered(lab.tag), rules.steered_group(b"vip"))
    assert b"\0vip\1--" in copied, "as all others paused, and none of their other rules"
    await lab.move(5_001)
    await bench.claim()
    await lab.move(1_001)
    await bench.claim()
    for _ in range(10):
        await bench.look()
        await lab.move(1_001)
        await bench.claim()
    await bench.look()
    assert await bench.ramp("*") is None
    await bench.set("off", paused=False)
    assert (await bench.ramp("off") or Ramp(0, 0)).until_ms == lab.now + 50_000
    assert len(await bench.claim()) == 2 and len(off) == 100
    assert await lab.problems() == []


async def test_tasks_that_stand_apart_by_their_key_count_as_well(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(paused=True, resume_rate=TWO, keys=(KeyLimit(by="group", concurrency=1),))
    await lab.add(*(call(group="g") for _ in range(6)))
    await lab.claim(types="w")
    await bench.set(paused=False)
    assert await bench.ramp() == Ramp(lab.now, lab.now + 3_000)
    assert len(await bench.claim()) == 1
    await lab.move(3_000)
    await bench.look()
    assert await bench.ramp() == Ramp(lab.now - 3_000, lab.now + 2_500)


async def test_a_ramp_is_stored_with_the_rules_and_an_older_version_keeps_it(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(paused=True, resume_rate=TWO)
    await lab.add(call())
    await lab.claim(types="w")
    await bench.set(paused=False)
    (raw,) = await lab.client.hmget(keys.rules(lab.store.prefix), "mail")
    found = rules.StoredRules.read(raw)
    assert found.rules.ramp == Ramp(lab.now, lab.now + 500) and rules.encode(found.rules, {}) == raw
    assert [one.queue for one in await bench.service.every()] == ["mail"]


async def test_a_task_that_nobody_takes_does_not_change_the_rules_all_the_time(bench: Bench) -> None:
    lab = bench.lab
    await bench.set(paused=True, resume_rate=rate_of("100/s"))
    await lab.add(call())
    await lab.move(60_000)
    await bench.set(paused=False)
    await bench.service.set("others", QueueRules(paused=True))
    versions = [await rules.version(lab.store)]
    for _ in range(20):
        await lab.move(50)
        await bench.look()
        versions.append(await rules.version(lab.store))
    assert await bench.ramp() is not None, "it waits still"
    number = versions[-1]
    assert len(set(versions)) <= 3, "each version is read by all processes, and copied into all partitions"
    assert (await rules.copies(lab.store, [0], number)).behind == []
    for _ in range(20):
        await lab.move(60_000)
        await bench.look()
    assert len(await bench.claim()) == 1
    await lab.move(60_000)
    await bench.look()
    assert await bench.ramp() is None


async def test_what_nobody_serves_makes_it_longer_for_ten_minutes(bench: Bench) -> None:
    """A task of a function that no worker has, or with a label that none has, kept its queue at the rate for ever."""
    lab = bench.lab
    lane = lane_of(TaskType.WORKER, "mail", "send")
    worker = ConnectedWorker(concurrency=9)
    activity = Activity(types="w", lanes=(lane,), lane_count=1, workers=(worker,), worker_count=1)

    async def alive() -> None:
        await nodes.beat(lab.store, Member(id="a", seen_ms=lab.now, activity=activity))

    await bench.set(paused=True, resume_rate=TWO)
    for new in (call(), call(needs=WorkerNeeds(requires=("gpu",))), NewTask(type=TaskType.SHELL_CMD, queue="mail")):
        await lab.add(new)
    await lab.move(60_000)
    await bench.set(paused=False)
    await lab.move(590_000)
    await alive()
    await bench.look()
    assert len(await bench.claim(lanes=(lane,))) == 1
    assert await bench.ramp() is not None, "workers may be on their way"
    await lab.move(70_000)
    await alive()
    await bench.look()
    assert await bench.ramp() is None


async def test_what_somebody_serves_makes_it_longer_for_as_long_as_it_waits(bench: Bench) -> None:
    lab = bench.lab
    lane = lane_of(TaskType.WORKER, "mail", "send")
    await bench.set(paused=True, resume_rate=TWO)
    await lab.add(call())
    await lab.move(60_000)
    await bench.set(paused=False)
    for _ in range(3):
        await lab.move(590_000)
        activity = Activity(types="w", lanes=(lane,), lane_count=1, worker_count=1)
        await nodes.beat(lab.store, Member(id="a", seen_ms=lab.now, activity=activity))
        await bench.look()
        assert await bench.ramp() is not None


@pytest.mark.parametrize("what", ["partition", "members"])
async def test_while_a_part_of_the_store_is_away_a_ramp_goes_on_and_other_rules_are_copied(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    lab = bench.lab
    await bench.set(paused=True, resume_rate=TWO)
    await lab.add(*(call() for _ in range(6)))
    await lab.move(60_000)
    await bench.set(paused=False)
    before = await bench.ramp()
    assert before is not None
    await lab.move(before.until_ms + 1 - lab.now + (600_000 if what == "members" else 0))

    async def away(*_: object) -> None:
        raise PartAway("a part of the store is on its way to another server")

    with monkeypatch.context() as patched:
        if what == "members":
            patched.setattr("delaybox.engine.rules.living", away)
        else:
            patched.setattr(ramps, "_left", away)
        await Rules(lab.store).set("post", QueueRules(paused=True))
        await bench.look()
        assert bench.live.of("post").paused and await bench.ramp() == before
        copied = await lab.client.hget(keys.clock(lab.tag), "rules")
        assert int(copied) == bench.live.version
    await bench.look()
    after = await bench.ramp()
    if what == "members":
        assert after is None, "nobody serves what is left"
    else:
        assert after is not None and after.until_ms > before.until_ms, "nobody has taken any"
