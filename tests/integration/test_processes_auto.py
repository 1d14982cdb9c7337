"""`--processes auto` on a whole node: a process more before a peak that the forecast shows, one less after it."""

from __future__ import annotations

import contextlib
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.test_several_of_a_kind import children
from tests.nodes import Node, node

PEAK = 16_000
"""Of each kind, where the lead is as asked for."""
AHEAD_S = 13
LEAD_S = 8
FAST = ("--set", "processes.most=2", "--set", f"processes.lead={LEAD_S}s", "--set", "processes.coolDown=6s")


APP = """
import asyncio
from pathlib import Path

from delaybox import Worker

worker = Worker("naps", concurrency=20)


@worker.task
async def nap(number: int) -> None:
    with Path("naps").open("a") as taken:
        taken.write(f"{number}\\n")
    await asyncio.sleep(1.5)
"""


def kinds(running: Node) -> Counter[str]:
    # The embedded server has no kind.
    return Counter(kind for kind in children(running.process.pid).values() if kind)


def store(running: Node, count: int, **task: Any) -> float:
    """How many seconds it took."""
    began = time.monotonic()
    assert running.call("POST", "/v1/tasks/batch", {"tasks": [{"payload": "x", **task}] * count})[0] == 200
    return time.monotonic() - began


@contextlib.contextmanager
def workers(running: Node, folder: Path, count: int) -> Iterator[None]:
    """So many processes of a worker that naps, each with a connection of its own."""
    (folder / "naps_app.py").write_text(APP)
    command = [sys.executable, "-m", "delaybox", "worker", "naps_app:worker", "--processes", str(count)]
    command += ["--server", f"127.0.0.1:{running.grpc_port}"]
    with (folder / "worker.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def test_processes_are_added_before_a_peak_and_retired_after_it(tmp_path: Path) -> None:
    arguments = ("--data-dir", str(tmp_path / "d"), "--http-port", "0", "--processes", "auto", *FAST)
    with node(*arguments, folder=tmp_path) as running:
        assert kinds(running) == {"clock": 1, "grpc": 1, "rest": 1}
        took_s = store(running, 10_000, delay="10h")
        # Where processes take long to start, the lead is as long, and the same peak is less a second of it.
        lead_s = running.call("GET", f"/v1/scaling?lead={LEAD_S}s")[2]["lead_ms"] / 1_000
        peak = 10_000 * math.ceil(PEAK / 10_000 * lead_s / LEAD_S)
        # On a busy machine storing takes its time, and the peak must still be ahead.
        due_ms = round((time.time() + max(AHEAD_S, lead_s + 3 * peak / 10_000 * took_s)) * 1_000)
        for kind in ({}, {"type": "worker", "name": "later"}):
            for _ in range(peak // 10_000):
                store(running, 10_000, at=due_ms, **kind)
        running.wait_for("adding a clock process, to 2: ")
        running.wait_for("adding a gRPC process, to 2: ")
        assert time.time() * 1_000 < due_ms, "the peak began before processes were added"
        running.until(lambda: kinds(running)["clock"] == kinds(running)["grpc"] == 2)

        naps: list[str] = []
        with workers(running, tmp_path, 6):

            def retired() -> bool:
                """Naps are taken all the time, so that the gRPC process that ends has some in hand."""
                if len(naps) < 300 and running.call("GET", "/v1/workers")[2]["count"]:
                    nap = {"type": "worker", "name": "nap", "payload_json": [len(naps)], "keep_result": "1h"}
                    naps.append(running.call("POST", "/v1/tasks", nap)[2]["id"])
                return kinds(running) == {"clock": 1, "grpc": 1, "rest": 1}

            running.until(retired)
            assert naps
            for task_id in naps:
                running.until(lambda: running.call("GET", f"/v1/tasks/{task_id}")[2].get("state") == "succeeded")  # noqa: B023
        # Nothing ran twice, and no attempt was charged.
        taken = [int(number) for number in (tmp_path / "naps").read_text().split()]
        assert sorted(taken) == list(range(len(naps)))
        running.wait_for("retiring a clock process, to 1: ")
        running.wait_for("retiring a gRPC process, to 1: ")

        # What the retired ones counted stays in the sums.
        fired = f'delaybox_fired_tasks_total{{mode="in_place",type="PUB_SUB"}} {peak:.1f}'
        running.until(lambda: fired in running.call("GET", "/metrics")[2].decode())
        metrics = running.call("GET", "/metrics")[2].decode()
        assert f'delaybox_fired_tasks_total{{mode="leased",type="WORKER"}} {len(naps):.1f}' in metrics
        for none in ("delaybox_dead_tasks", "delaybox_in_flight_tasks", "delaybox_lost_leases_total"):
            assert re.search(rf"^{none} 0\.0$", metrics, re.MULTILINE), none
        assert "delaybox_retries_total{" not in metrics
        assert running.call("GET", "/readyz")[0] == 200
        assert "was ended by" not in running.output() and "was not ready" not in running.output()
        assert running.stop() == 0
