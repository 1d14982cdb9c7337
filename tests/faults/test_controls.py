"""Negative controls on real servers: the product is broken on purpose, an invariant at a time; the checker must say so.

Most break a script's text in the process under test, which fails loudly once that text has changed.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from delaybox.core.task import NewTask, TaskType
from tests.faults.harness.checker import Limits
from tests.faults.harness.lab import LEASE_MS, Lab, soon
from tests.faults.harness.look import payload
from tests.faults.harness.oracle import OK, Ack
from tests.faults.harness.spy import mutated

pytestmark = pytest.mark.faults

COUNT = 20

# Records leave their bucket and go nowhere: what the claim took lives in the node's memory alone.
POP_THEN_PUSH = {
    "claim": [("redis.call('HSET', lease, unpack(leased, from, math.min(from + 999, #leased)))", "local _ = from")]
}
NO_KEYS = {"schedule": [("local held = redis.call('GET', key)", "local held = false")]}
EARLY = {"claim": [("local now = now_ms()", "local now = now_ms() + 400")]}
ACK_FORGETS = {"ack": [("redis.call('HDEL', lease, unpack(mine))", "local _ = mine")]}
NO_FENCE = {"ack": [("stale[#stale + 1] = id", "local _ = id")]}
NOT_LISTED = {"schedule": [("redis.call('ZADD', K_BUCKETS, unpack(index,", "local _ = math.min(unpack(index,")]}
LATE_REAP = {"reap": [("if tonumber(ending[i + 1]) > now then", "if tonumber(ending[i + 1]) > now - 4000 then")]}
LATE_CLAIM = {"claim": [("local now = now_ms()", "local now = now_ms() - 250")]}


async def test_i1_pop_then_push_loses_tasks(tmp_path: Path) -> None:
    async with Lab(tmp_path, "control-I1") as lab:
        worker = await lab.worker(mutate=POP_THEN_PUSH)
        await lab.produce(await lab.service(), COUNT, due_ms=lambda n: None, work={"w": 60_000})
        await lab.reached(COUNT)
        async with lab.nemesis.during("kill", pid=worker.pid):
            await worker.end()
        verdict = await lab.judge()
        assert "I1" in verdict.broken()
        assert verdict.figures["lost"] == COUNT


async def test_i2_without_keys_a_retry_makes_a_second_task(tmp_path: Path) -> None:
    async with Lab(tmp_path, "control-I2") as lab:
        await lab.worker()
        service = await lab.service()
        with mutated(NO_KEYS):
            for _ in range(2):
                await lab.produce(service, COUNT, due_ms=lambda n: None)
        await lab.drained(2 * COUNT)
        verdict = await lab.judge()
        assert verdict.broken() == {"I2"}
        assert verdict.figures["dup_sched"] == COUNT


async def test_i3_a_fast_clock_in_claim_is_early(tmp_path: Path) -> None:
    async with Lab(tmp_path, "control-I3") as lab:
        await lab.worker(mutate=EARLY)
        await lab.produce(await lab.service(), COUNT, due_ms=lambda n: soon(900))
        await lab.reached(COUNT)
        verdict = await lab.judge(Limits(drained=False))
        assert "I3" in verdict.broken()
        assert verdict.figures["early"] > 0


async def test_i4_an_ack_that_deletes_nothing_runs_tasks_again(tmp_path: Path) -> None:
    async with Lab(tmp_path, "control-I4") as lab:
        await lab.worker(mutate=ACK_FORGETS)
        await lab.produce(await lab.service(), COUNT, due_ms=lambda n: None)
        await lab.reader.until(lambda h: len(h.starts) >= 2 * COUNT, timeout_s=20, what="second executions")
        verdict = await lab.judge(Limits(drained=False))
        assert {"I4", "I5"} <= verdict.broken()


async def test_i5_without_the_fence_a_zombie_completes_too(tmp_path: Path) -> None:
    """The zombie's late acks are accepted; with the fence on (last of the two) they are refused and counted."""
    for mode, mutation in (("no_fence", NO_FENCE), ("fence", {})):
        folder = tmp_path / mode
        folder.mkdir()
        async with Lab(folder, "control-I5") as lab:
            lab.mode = mode
            zombie = await lab.worker(mutate=mutation)
            await lab.produce(await lab.service(), COUNT, due_ms=lambda n: None, work={"w": 300})
            await lab.reached(COUNT)
            async with lab.nemesis.during("stop", pid=zombie.pid):
                zombie.send(signal.SIGSTOP)
                await lab.worker(mutate=mutation)
                await lab.reader.until(
                    lambda h: sum(a.op == "ack" and a.outcome == OK for a in h.acks) >= COUNT,
                    timeout_s=20,
                    what="completions by the second node",
                )
            zombie.send(signal.SIGCONT)

            def zombie_answered(acks: list[Ack], pid: int = zombie.pid) -> bool:
                return sum(a.pid == pid and a.outcome != "sent" for a in acks) >= COUNT

            await lab.reader.until(lambda h: zombie_answered(h.acks), timeout_s=20, what="the zombie's acks")
            verdict = await lab.judge()
            if mode == "no_fence":
                assert verdict.broken() == {"I5"}
                assert verdict.figures["double_completed"] == COUNT
            else:
                assert not verdict.violations
                assert verdict.figures["stale_acks"] == COUNT


async def test_i6_a_bucket_that_no_list_names_is_found(tmp_path: Path) -> None:
    async with Lab(tmp_path, "control-I6") as lab:
        service = await lab.service()
        with mutated(NOT_LISTED):
            await lab.produce(service, COUNT, due_ms=lambda n: soon(30_000))
        verdict = await lab.judge(Limits(drained=False))
        assert verdict.broken() == {"I6"}


async def test_i7_a_reaper_that_waits_too_long_is_slow_recovery(tmp_path: Path) -> None:
    async with Lab(tmp_path, "control-I7") as lab:
        doomed = await lab.worker(lease_ms=1_000)
        service = await lab.service()
        await lab.produce(service, COUNT, due_ms=lambda n: None, work={"w": 60_000})
        await lab.reached(COUNT)
        await lab.produce(service, COUNT, start=COUNT, due_ms=lambda n: None)
        async with lab.nemesis.during("kill", pid=doomed.pid):
            await doomed.end()
        await lab.worker(mutate=LATE_REAP)
        begun = len(lab.reader.history.starts)
        await lab.reader.until(lambda h: len(h.starts) >= begun + COUNT, timeout_s=20, what="executions after the kill")
        await lab.reader.until(
            lambda h: len({s.task_id for s in h.starts if s.token > 1}) >= COUNT, timeout_s=20, what="second executions"
        )
        verdict = await lab.judge(Limits(drained=False, recovery_ms=LEASE_MS + 1_000))
        assert verdict.broken() == {"I7"}


async def test_i8_a_slow_clock_in_claim_is_unpunctual(tmp_path: Path) -> None:
    for mode, mutation in (("slow", LATE_CLAIM), ("right", {})):
        folder = tmp_path / mode
        folder.mkdir()
        async with Lab(folder, "control-I8") as lab:
            lab.mode = mode
            await lab.worker(mutate=mutation)
            await lab.produce(await lab.service(), COUNT, due_ms=lambda n: soon(500 + 5 * n))
            await lab.drained(COUNT)
            verdict = await lab.judge(Limits(lateness_p99_ms=200))
            assert verdict.broken() == ({"I8"} if mode == "slow" else set())


async def test_a_task_is_not_lost_by_being_unreadable_to_the_harness(tmp_path: Path) -> None:
    """The harness's own control: a clean run without any fault is clean."""
    async with Lab(tmp_path, "control-clean") as lab:
        await lab.workers(2)
        service = await lab.service()
        await lab.produce(service, 200, due_ms=lambda n: soon(300 + n))
        # Bodies over 1 KiB lie apart from their records; the handler must see them whole.
        big = NewTask(
            payload=payload("big", w=1) + b" " * 5_000, delay_ms=100, type=TaskType.WORKER, idempotency_key="big"
        )
        await lab.submit(service, {"big": big})
        await lab.drained(201)
        verdict = await lab.passes(Limits(lateness_p99_ms=1_000))
        assert verdict.figures["dups"] == verdict.figures["stale_acks"] == 0
        assert any(s.key == "big" for s in lab.reader.history.starts)
        await asyncio.sleep(0)
