"""Negative controls on real servers: the product is broken on purpose, an invariant at a time; the checker must say so.

Most break a script's text in the process under test, which fails loudly once that text has changed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from delaybox.core.task import NewTask, TaskType
from tests.faults.harness.checker import Harm, Limits
from tests.faults.harness.leaks import leaks, used
from tests.faults.harness.look import payload
from tests.faults.harness.oracle import OK, Ack, now_us
from tests.faults.harness.rig import LEASE_MS, Rig, soon
from tests.faults.harness.spy import mutated

pytestmark = pytest.mark.faults

COUNT = 20


def in_claims(change: tuple[str, str]) -> dict[str, list[tuple[str, str]]]:
    """The same change in both scripts that claim."""
    return {script: [change] for script in ("claim", "claims")}


# Records leave their bucket and go nowhere: what the claim took lives in the node's memory alone.
POP_THEN_PUSH = in_claims(
    ("redis.call('HSET', lease, unpack(leased, first, math.min(first + 999, #leased)))", "local _ = first")
)
NO_KEYS = {"schedule": [("local held = redis.call('GET', key)", "local held = false")]}
EARLY = in_claims(("local now = now_ms()", "local now = now_ms() + 400"))
ACK_FORGETS = {"ack": [("redis.call('HDEL', lease, unpack(mine))", "local _ = mine")]}
NO_FENCE = {"ack": [("stale[#stale + 1] = id", "local _ = id")]}
NOT_LISTED = {"schedule": [("redis.call('ZADD', K_BUCKETS, unpack(index))", "local _ = #index")]}
LATE_REAP = {"reap": [("if tonumber(ending[i + 1]) > now then", "if tonumber(ending[i + 1]) > now - 4000 then")]}
LATE_CLAIM = in_claims(("local now = now_ms()", "local now = now_ms() - 250"))


async def test_i1_pop_then_push_loses_tasks(tmp_path: Path) -> None:
    async with Rig(tmp_path, "control-I1") as rig:
        worker = await rig.worker(mutate=POP_THEN_PUSH)
        await rig.produce(await rig.service(), COUNT, due_ms=lambda n: None, work={"w": 60_000})
        await rig.reached(COUNT)
        async with rig.nemesis.during("kill", pid=worker.pid):
            await worker.end()
        verdict = await rig.judge()
        assert "I1" in verdict.broken()
        assert verdict.figures["lost"] == COUNT


async def test_i2_without_keys_a_retry_makes_a_second_task(tmp_path: Path) -> None:
    async with Rig(tmp_path, "control-I2") as rig:
        await rig.worker()
        service = await rig.service()
        with mutated(NO_KEYS):
            for _ in range(2):
                await rig.produce(service, COUNT, due_ms=lambda n: None)
        await rig.drained(2 * COUNT)
        verdict = await rig.judge()
        assert verdict.broken() == {"I2"}
        assert verdict.figures["dup_sched"] == COUNT


async def test_i3_a_fast_clock_in_claim_is_early(tmp_path: Path) -> None:
    async with Rig(tmp_path, "control-I3") as rig:
        await rig.worker(mutate=EARLY)
        # Over two seconds: a machine that stands still for a moment makes some of them late instead.
        await rig.produce(await rig.service(), COUNT, due_ms=lambda n: soon(900 + 100 * n))
        await rig.reached(COUNT)
        verdict = await rig.judge(Limits(drained=False))
        assert "I3" in verdict.broken()
        assert verdict.figures["early"] > 0


async def test_i4_an_ack_that_deletes_nothing_runs_tasks_again(tmp_path: Path) -> None:
    async with Rig(tmp_path, "control-I4") as rig:
        await rig.worker(mutate=ACK_FORGETS)
        await rig.produce(await rig.service(), COUNT, due_ms=lambda n: None)
        await rig.reader.until(lambda h: len(h.starts) >= 2 * COUNT, timeout_s=60, what="second executions")
        verdict = await rig.judge(Limits(drained=False))
        assert {"I4", "I5"} <= verdict.broken()


async def test_i5_without_the_fence_a_zombie_completes_too(tmp_path: Path) -> None:
    """The zombie's late acks are accepted; with the fence on (last of the two) they are refused and counted."""
    for mode, mutation in (("no_fence", NO_FENCE), ("fence", {})):
        folder = tmp_path / mode
        folder.mkdir()
        async with Rig(folder, "control-I5") as rig:
            rig.mode = mode
            zombie = await rig.worker(mutate=mutation)
            # Long enough for it to be stopped before it has ended the first one.
            await rig.produce(await rig.service(), COUNT, due_ms=lambda n: None, work={"w": 1_500})
            await rig.reached(COUNT)
            async with rig.nemesis.during("stop", pid=zombie.pid):
                zombie.send(signal.SIGSTOP)
                await rig.worker(mutate=mutation)
                await rig.reader.until(
                    lambda h: sum(a.op == "ack" and a.outcome == OK for a in h.acks) >= COUNT,
                    timeout_s=60,
                    what="completions by the second node",
                )
            zombie.send(signal.SIGCONT)

            def zombie_answered(acks: list[Ack], pid: int = zombie.pid) -> bool:
                return sum(a.pid == pid and a.outcome != "sent" for a in acks) >= COUNT

            await rig.reader.until(lambda h: zombie_answered(h.acks), timeout_s=60, what="the zombie's acks")
            verdict = await rig.judge()
            if mode == "no_fence":
                assert verdict.broken() == {"I5"}
                assert verdict.figures["double_completed"] == COUNT
            else:
                assert not verdict.violations
                assert verdict.figures["stale_acks"] == COUNT


async def test_i6_a_bucket_that_no_list_names_is_found(tmp_path: Path) -> None:
    async with Rig(tmp_path, "control-I6") as rig:
        service = await rig.service()
        with mutated(NOT_LISTED):
            await rig.produce(service, COUNT, due_ms=lambda n: soon(30_000))
        verdict = await rig.judge(Limits(drained=False))
        assert verdict.broken() == {"I6"}


async def test_i7_a_reaper_that_waits_too_long_is_slow_recovery(tmp_path: Path) -> None:
    async with Rig(tmp_path, "control-I7") as rig:
        doomed = await rig.worker(lease_ms=1_000)
        service = await rig.service()
        await rig.produce(service, COUNT, due_ms=lambda n: None, work={"w": 60_000})
        await rig.reached(COUNT)
        await rig.produce(service, COUNT, start=COUNT, due_ms=lambda n: None)
        async with rig.nemesis.during("kill", pid=doomed.pid):
            await doomed.end()
        await rig.worker(mutate=LATE_REAP)
        begun = len(rig.reader.history.starts)
        await rig.reader.until(lambda h: len(h.starts) >= begun + COUNT, timeout_s=60, what="executions after the kill")
        await rig.reader.until(
            lambda h: len({s.task_id for s in h.starts if s.token > 1}) >= COUNT, timeout_s=60, what="second executions"
        )
        verdict = await rig.judge(Limits(drained=False, recovery_ms=LEASE_MS + 1_000))
        assert verdict.broken() == {"I7"}


async def test_i8_a_slow_clock_in_claim_is_unpunctual(tmp_path: Path) -> None:
    async def broken(mode: str, mutation: dict[str, list[tuple[str, str]]]) -> set[str]:
        folder = tmp_path / mode
        folder.mkdir()
        async with Rig(folder, "control-I8") as rig:
            rig.mode = mode
            await rig.worker(mutate=mutation)
            await rig.produce(await rig.service(), COUNT, due_ms=lambda n: soon(500 + 5 * n))
            await rig.drained(COUNT)
            return (await rig.judge(Limits(lateness_p99_ms=200))).broken()

    assert await broken("slow", LATE_CLAIM) == {"I8"}
    # A busy machine may make a right one late; it does not each time.
    for n in range(5):
        if not (found := await broken(f"right-{n}", {})):
            return
        assert found == {"I8"}
    raise AssertionError("the right one is as late as the slow one")


async def test_i9_what_shares_a_server_that_stands_still_is_not_spared(tmp_path: Path) -> None:
    """All tasks are said to lie elsewhere, but there is one server."""
    async with Rig(tmp_path, "control-I9") as rig:
        await rig.worker()
        service = await rig.service()
        await rig.produce(service, COUNT, due_ms=lambda n: soon(200 + 10 * n))
        await rig.drained(COUNT)
        first = soon(2_000)
        await rig.produce(service, COUNT, start=COUNT, due_ms=lambda n: first + 10 * (n - COUNT))
        await asyncio.sleep(max(0, first - 100 - soon()) / 1_000)
        began = now_us()
        async with rig.nemesis.during("net"):
            os.kill(rig.server.pid, signal.SIGSTOP)
            await asyncio.sleep(max(0, first + 10 * COUNT + 600 - soon()) / 1_000)
            os.kill(rig.server.pid, signal.SIGCONT)
        harm = Harm(began, now_us(), lambda task_id: True)
        await rig.drained(2 * COUNT)
        verdict = await rig.judge(Limits(harms=[harm]))
        assert verdict.broken() == {"I9"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_i10_a_node_that_keeps_what_it_opened_leaks(tmp_path: Path) -> None:
    for mode, kb in (("leak", 1_000), ("right", 0)):
        folder = tmp_path / mode
        folder.mkdir()
        async with Rig(folder, "control-I10") as rig:
            rig.mode = mode
            node = await rig.worker(leak_kb=kb)
            service = await rig.service()
            await rig.produce(service, COUNT, due_ms=lambda n: None)
            await rig.drained(COUNT)
            before = used(node.pid)
            await rig.produce(service, 5 * COUNT, start=COUNT, due_ms=lambda n: None)
            await rig.drained(6 * COUNT)
            found = leaks(before, used(node.pid))
            assert len(found) == (2 if kb else 0), found
            await rig.passes(Limits(), extra=used(node.pid).more_than(before))


async def test_a_task_is_not_lost_by_being_unreadable_to_the_harness(tmp_path: Path) -> None:
    """The harness's own control: a clean run without any fault is clean."""
    async with Rig(tmp_path, "control-clean") as rig:
        # No lease may end before its time, whatever the machine does.
        await rig.workers(2, lease_ms=15_000)
        service = await rig.service()
        await rig.produce(service, 200, due_ms=lambda n: soon(300 + n))
        # Bodies over 1 KiB lie apart from their records; the handler must see them whole.
        big = NewTask(
            payload=payload("big", w=1) + b" " * 5_000, delay_ms=100, type=TaskType.WORKER, idempotency_key="big"
        )
        await rig.submit(service, {"big": big})
        await rig.drained(201)
        verdict = await rig.passes(Limits(lateness_p99_ms=10_000))
        assert verdict.figures["dups"] == verdict.figures["stale_acks"] == 0
        assert any(s.key == "big" for s in rig.reader.history.starts)
        await asyncio.sleep(0)
