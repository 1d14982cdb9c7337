"""`delaybox nodes` and `delaybox workers` on a whole node with a worker process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.nodes import Node, node
from tests.waiting import PATIENCE_S

APP = """
from delaybox import Worker

worker = Worker("shop")


@worker.task
async def remind(customer: str) -> None: ...
"""

FACTS = """
from delaybox import Client


def facts(client):
    ((worker, *_),) = [node["workers"] for node in client.nodes()]
    return client.publish("x", delay="1h").id, worker["since_ms"]


"""


def test_a_nodes_processes_are_no_nodes_and_its_workers_are_told(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    with node("--data-dir", str(tmp_path / "d"), "--http-port", "0", folder=tmp_path) as running:
        assert "no worker is connected" in shown(running, "workers")
        environ = {"DELAYBOX_GRPC_SERVERS": f"127.0.0.1:{running.grpc_port}", "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-m", "delaybox", "worker", "shop:worker"]
        began = time.time()
        worker = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL)
        try:
            # Asked over REST until there is one: a command takes a second to start.
            running.until(lambda: running.call("GET", "/v1/workers")[2]["workers"])
            sessions = asked(running, "workers")["workers"]
            # What members report of themselves comes with a heartbeat.
            running.until(lambda: in_order(running.call("GET", "/v1/nodes")[2]["nodes"]))
            (one,) = asked(running, "nodes")["nodes"]
            assert one["roles"] == ["api", "clock", "work"] and "worker" in one["types"]
            assert {session["node"] for session in sessions} == {one["id"]}
            assert all("shop on " in session["identity"] and session["connected"] for session in sessions)
            assert asked(running, "workers")["count"] == len(sessions)
            assert "shop on " in shown(running, "workers")
            since = [datetime.fromisoformat(session["since"]).timestamp() for session in sessions]
            assert all(began - 1 < at < time.time() + 1 for at in since), "by the clock of the server"
            assert f"{datetime.fromtimestamp(since[0]).astimezone():%F %T}" in shown(running, "workers")
            table = shown(running, "nodes")
            assert one["id"] in table and one["id"] in shown(running, "workers"), "both name it alike"
            assert len(one["members"]) > 1 and all(str(member["pid"]) in table for member in (one, *one["members"]))
            assert "  grpc" in table and "16: 0-15" in table
            # By the variable that workers know a Python client finds the node as well.
            client = f"{FACTS}with Client() as client: print(*facts(client))"
            done = subprocess.run([sys.executable, "-c", client], env=environ, capture_output=True, timeout=PATIENCE_S)
            assert done.returncode == 0, done.stderr
            task_id, since_ms = done.stdout.split()
            assert len(task_id) == 36 and round(since[0] * 1000) == int(since_ms)
        finally:
            worker.terminate()
            assert worker.wait(PATIENCE_S) == 0


def in_order(nodes: Any) -> bool:
    """Whether the node's processes report what they are, and that their clocks are the server's."""
    (one,) = nodes
    found = {member["kind"]: (member["types"], member["partition_count"]) for member in one["members"]}
    wanted = {"clock": (["pub_sub"], 16), "grpc": (["worker"], 0), "rest": ([], 0)}
    return found == wanted and all(abs(member["clock_offset_ms"]) < 500 for member in one["members"])


def shown(running: Node, *arguments: str) -> str:
    server = f"http://127.0.0.1:{running.port}"
    command = [sys.executable, "-m", "delaybox", *arguments, "--server", server]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout


def asked(running: Node, command: str) -> Any:
    return json.loads(shown(running, command, "--json"))
