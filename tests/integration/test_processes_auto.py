"""`--processes auto` on a whole node: a process more before a peak that the forecast shows, one less after it."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

from tests.integration.test_several_of_a_kind import children
from tests.nodes import Node, node

PEAK = 20_000
AHEAD_S = 15
FAST = ("--set", "processes.most=2", "--set", "processes.lead=8s", "--set", "processes.coolDown=3s")


def kinds(running: Node) -> Counter[str]:
    # The embedded server has no kind.
    return Counter(kind for kind in children(running.process.pid).values() if kind)


def test_a_process_is_added_before_a_peak_and_retired_after_it(tmp_path: Path) -> None:
    arguments = ("--data-dir", str(tmp_path / "d"), "--http-port", "0", "--processes", "auto", *FAST)
    with node(*arguments, folder=tmp_path) as running:
        assert kinds(running) == {"clock": 1, "grpc": 1, "rest": 1}
        due_ms = round((time.time() + AHEAD_S) * 1_000)
        for _ in range(PEAK // 10_000):
            tasks = {"tasks": [{"at": due_ms, "payload": "x"}] * 10_000}
            assert running.call("POST", "/v1/tasks/batch", tasks)[0] == 200
        assert kinds(running)["clock"] == 1

        running.wait_for("adding a clock process, to 2: ")
        running.until(lambda: kinds(running)["clock"] == 2)
        assert time.time() * 1_000 < due_ms, "the peak began before the process was there"
        # Both are members of the one node, and look after partitions together.
        running.until(
            lambda: (
                len([m for m in running.call("GET", "/v1/nodes")[2]["nodes"][0]["members"] if m["kind"] == "clock"])
                == 2
            )
        )

        fired = f'delaybox_fired_tasks_total{{mode="in_place",type="PUB_SUB"}} {PEAK:.1f}'
        running.until(lambda: fired in running.call("GET", "/metrics")[2].decode())
        running.wait_for("retiring a clock process, to 1: ")
        running.until(lambda: kinds(running)["clock"] == 1)
        # What the retired one counted stays; nothing failed and nothing is left.
        metrics = running.call("GET", "/metrics")[2].decode()
        assert fired in metrics
        for left in ("pending", "ready", "in_flight", "dead"):
            assert re.search(rf"^delaybox_{left}_tasks 0\.0$", metrics, re.MULTILINE), left
        assert running.call("GET", "/readyz")[0] == 200
        assert "was ended by" not in running.output() and "was not ready" not in running.output()
        assert running.stop() == 0
