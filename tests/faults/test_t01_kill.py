"""T1: nodes die by SIGKILL at random moments."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from pathlib import Path

import pytest

from tests.faults.harness.checker import Limits
from tests.faults.harness.lab import LEASE_MS, Lab, soon, spread
from tests.faults.harness.look import payload
from tests.faults.harness.oracle import FAIL, OK, UNKNOWN, Call, now_us
from tests.faults.harness.rest import Rest
from tests.faults.harness.scale import WHOLE, scaled

pytestmark = [pytest.mark.faults, pytest.mark.timeout(scaled(120, 1_800))]

REAP_MS = 100
CONCURRENCY = 64


async def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    count, kills = scaled(2_000, WHOLE), scaled(5, 50)
    async with Lab(tmp_path, "T1") as lab:
        workers = await lab.workers(2, concurrency=CONCURRENCY)
        service = await lab.service()

        async def kill() -> None:
            n = lab.nemesis.random.randrange(len(workers))
            async with lab.nemesis.during("kill", pid=workers[n].pid):
                await workers[n].end()
            workers[n] = await lab.worker(concurrency=CONCURRENCY)

        killing = asyncio.create_task(lab.nemesis.strike(kill, times=kills, within_s=(0.1, scaled(0.4, 1.5))))
        due = spread(soon(200), scaled(1_000, 1_000))
        await lab.produce(service, count, due_ms=due, chunk=200, pause_s=0.05, work={"w": 25})
        await killing
        await lab.drained(count, timeout_s=scaled(60, 900))
        # What a dead node held is due again when its lease ends; one second more for the reap and for starting.
        verdict = await lab.passes(Limits(recovery_ms=LEASE_MS + REAP_MS + 1_000), extra={"bound": kills * CONCURRENCY})
        assert 0 < verdict.figures["dups"] <= kills * CONCURRENCY


async def test_killed_nodes_that_fire_in_place_lose_and_double_nothing(tmp_path: Path) -> None:
    """Two `delaybox serve` on one server; REST clients send again with the same key; one SIGKILL after the other."""
    count, kills, clients = scaled(600, WHOLE), scaled(2, 20), 16
    async with Lab(tmp_path, "T1", partitions=16) as lab:
        lab.mode = "serve"
        await lab.listen()
        nodes = list(await asyncio.gather(lab.serve(), lab.serve()))
        rests = [Rest(node.port) for node in nodes]
        begin_ms = soon(300)

        async def schedule(n: int) -> None:
            key, due = f"k{n}", begin_ms + scaled(4 * n, n)
            body = {
                "parameter": {"executionTimestamp": due, "idempotencyKey": key},
                "pyload": b64encode(payload(key)).decode(),
            }
            turn = n
            while True:
                turn += 1
                sent_us = now_us()
                try:
                    answer = await rests[turn % len(rests)].call("POST", "/task", json.dumps(body).encode())
                except (OSError, EOFError):
                    lab.writer.write(Call("schedule", key, "", due, UNKNOWN, sent_us, now_us()))
                    await asyncio.sleep(0.02)
                    continue
                if answer.status == 200:
                    task_id = answer.json()["taskUuid"]
                    # A past due time counts from the moment of scheduling, which the id carries.
                    due = max(due, int(task_id.replace("-", "")[:12], 16))
                    lab.writer.write(Call("schedule", key, task_id, due, OK, sent_us, now_us()))
                    return
                lab.writer.write(
                    Call("schedule", key, "", due, UNKNOWN if answer.status == 503 else FAIL, sent_us, now_us())
                )
                assert answer.status in (429, 503), answer
                await asyncio.sleep(0.05)

        todo = iter(range(count))

        async def client() -> None:
            for n in todo:
                await schedule(n)

        async def kill() -> None:
            n = len(lab.nemesis.faults) % len(nodes)
            async with lab.nemesis.during("kill", pid=nodes[n].process.pid):
                await nodes[n].process.end()
            nodes[n] = await lab.serve(port=nodes[n].port)

        killing = asyncio.create_task(lab.nemesis.strike(kill, times=kills, within_s=(0.2, scaled(0.6, 3.0))))
        await asyncio.gather(*(client() for _ in range(clients)))
        await killing
        await lab.reached(count, timeout_s=scaled(60, 600))
        await lab.settled()
        for rest in rests:
            await rest.close()
        verdict = await lab.passes(Limits(recovery_ms=5_000))
        assert verdict.figures["dups"] == 0, "firing in place is one script: a kill can double nothing"
